"""`manage.py send` brings files to the door as they are and says of every refused item where it stands."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.ingest.posting import Door, WaitEndedError
from tests.ingest.door import TOKEN, StandInDoor, standing_in


@pytest.fixture
def door() -> Iterator[StandInDoor]:
    with standing_in() as opened:
        yield opened


def event(number: int, **more: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": f"e-{number}", "source": "/shop", "type": "com.acme.Done", **more}


def lines(*events: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in events)


def send(door: StandInDoor, *files: Path | str, **options: Any) -> tuple[int, list[str]]:
    """Exit code and the lines printed."""
    out = io.StringIO()
    code = 0
    options = {"url": door.url, "token": TOKEN, "patience": 30.0, **options}
    try:
        call_command("send", *map(str, files), stdout=out, stderr=io.StringIO(), **options)
    except SystemExit as stopped:
        code = int(str(stopped.code))
    return code, out.getvalue().splitlines()


def put(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def ids(door: StandInDoor) -> set[str]:
    return {event_id for _, event_id in door.stored}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("two.ndjson", lines(event(1), event(2)), id="a line each"),
        pytest.param("two.txt", lines(event(1), event(2)), id="a line each, by content"),
        pytest.param("two.ndjson", b"\n" + lines(event(1)) + b"\r\n\n" + lines(event(2)).strip(), id="blank lines"),
        pytest.param("two.json", json.dumps([event(1), event(2)]).encode(), id="array"),
        pytest.param("two.json", json.dumps([event(1), event(2)], indent=2).encode(), id="array over lines"),
        pytest.param("two.json", b"\xef\xbb\xbf" + json.dumps([event(1), event(2)]).encode(), id="byte order mark"),
        pytest.param("two.ndjson.gz", gzip.compress(lines(event(1), event(2))), id="gzipped lines"),
        pytest.param("two", gzip.compress(json.dumps([event(1), event(2)]).encode()), id="gzip by content"),
    ],
)
def test_every_kind_of_file_arrives(door: StandInDoor, tmp_path: Path, name: str, content: bytes) -> None:
    assert send(door, put(tmp_path, name, content)) == (0, ["2 accepted, 0 duplicates, 0 refused"])
    assert ids(door) == {"e-1", "e-2"}


def test_one_object_over_several_lines_is_one_event(door: StandInDoor, tmp_path: Path) -> None:
    file = put(tmp_path, "one.json", json.dumps(event(7, data={"a": [1]}), indent=2).encode())
    assert send(door, file) == (0, ["1 accepted, 0 duplicates, 0 refused"])
    assert door.stored["/shop", "e-7"]["data"] == {"a": [1]}


def test_a_dash_is_standard_input(door: StandInDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines(event(1))))))
    assert send(door, "-") == (0, ["1 accepted, 0 duplicates, 0 refused"])


def test_several_files_add_up_and_repeats_are_duplicates(door: StandInDoor, tmp_path: Path) -> None:
    first = put(tmp_path, "a.ndjson", lines(event(1), event(2)))
    second = put(tmp_path, "b.ndjson", lines(event(2), event(3)))
    assert send(door, first, second) == (0, ["3 accepted, 1 duplicates, 0 refused"])


def test_a_large_file_goes_in_batches_of_500(door: StandInDoor, tmp_path: Path) -> None:
    file = put(tmp_path, "many.ndjson", lines(*(event(n) for n in range(1_201))))
    assert send(door, file) == (0, ["1201 accepted, 0 duplicates, 0 refused"])
    assert door.batches == [500, 500, 201]


def test_refused_items_are_named_with_file_and_line(door: StandInDoor, tmp_path: Path) -> None:
    bad = {key: value for key, value in event(2).items() if key != "source"}
    good = [event(n) for n in range(10, 700)]
    file = put(tmp_path, "some.ndjson", lines(event(1), bad) + b"{oops\n\n" + lines(*good, 3))
    code, printed = send(door, file)
    assert code == 1
    assert printed[0].startswith(f"{file}:3: refused: is not JSON")
    assert printed[1] == f"{file}:2: refused: invalid: source must be a non-empty string (id e-2)"
    assert printed[2] == f"{file}:695: refused: invalid: an event is an object"
    assert printed[3] == "691 accepted, 0 duplicates, 3 refused"


def test_refused_items_of_an_array_are_named_with_their_index(door: StandInDoor, tmp_path: Path) -> None:
    file = put(tmp_path, "some.json", json.dumps([event(1), {"id": "x"}]).encode())
    code, printed = send(door, file)
    assert (code, printed[0]) == (1, f"{file}[1]: refused: invalid: source must be a non-empty string (id x)")


def test_when_every_item_is_refused_each_is_named(door: StandInDoor, tmp_path: Path) -> None:
    code, printed = send(door, put(tmp_path, "bad.ndjson", lines({}, {})))
    assert (code, len(printed), printed[-1]) == (1, 3, "0 accepted, 0 duplicates, 2 refused")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.json", b'[{"id": "a"}, {"id"'),
        ("cut.gz", gzip.compress(lines(event(1)) * 50)[:-30]),
        ("words.json", b"hello"),
        ("latin.json", b'{"id": "\xe9"}'),
        ("deep.json", b"[" * 200_000),
    ],
    # Made by name: gzip writes the time into what it packs, and pytest-xdist's workers must find the same tests.
    ids=["cut", "cut-gzip", "words", "latin", "deep"],
)
def test_an_unreadable_file_is_refused_with_its_name(
    door: StandInDoor, tmp_path: Path, name: str, content: bytes
) -> None:
    code, printed = send(door, put(tmp_path, name, content))
    assert code == 1
    assert any(name in line and "is not" in line for line in printed)


def test_an_empty_file_is_nothing(door: StandInDoor, tmp_path: Path) -> None:
    assert send(door, put(tmp_path, "empty.ndjson", b"\n")) == (0, ["0 accepted, 0 duplicates, 0 refused"])


def test_what_is_written_is_what_is_sent(door: StandInDoor, tmp_path: Path) -> None:
    text = '[{"specversion":"1.0","id":"n","source":"/s","type":"t","data":{"amount":12345678901234567890.10}}]'
    send(door, put(tmp_path, "n.json", text.encode()))
    assert door.bodies == [text.encode()]


def test_a_busy_door_is_tried_again(door: StandInDoor, tmp_path: Path) -> None:
    door.moods = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"}), (502, {})]
    assert send(door, put(tmp_path, "a.ndjson", lines(event(1)))) == (0, ["1 accepted, 0 duplicates, 0 refused"])
    assert door.moods == []


def test_a_body_that_is_too_large_is_split_until_the_culprit_is_found(door: StandInDoor, tmp_path: Path) -> None:
    door.max_bytes = 5_000
    fat = event(99, data="x" * 6_000)
    file = put(tmp_path, "fat.ndjson", lines(*(event(n) for n in range(60)), fat, event(61)))
    code, printed = send(door, file)
    assert code == 1
    assert printed == [
        f"{file}:61: refused: http_413: 413 Request Entity Too Large: the body is too large",
        "61 accepted, 0 duplicates, 1 refused",
    ]


def test_an_unknown_token_ends_it_at_once(door: StandInDoor, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="401 Unauthorized: unknown token"):
        send(door, put(tmp_path, "a.ndjson", lines(event(1))), token="nobody")


def test_a_token_is_needed(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="SAGASCOPE_TOKEN"):
        call_command("send", str(put(tmp_path, "a.ndjson", lines(event(1)))), token=None)


def test_a_missing_file_is_said_so(door: StandInDoor) -> None:
    with pytest.raises(CommandError, match=r"nowhere\.json: No such file"):
        send(door, "nowhere.json")


def test_a_closed_door_is_waited_for_until_patience_ends(tmp_path: Path) -> None:
    with standing_in() as gone:
        pass
    with pytest.raises(CommandError, match="gave up: no answer from"):
        send(gone, put(tmp_path, "a.ndjson", lines(event(1))), patience=0.0)


def test_waiting_for_a_closed_door_ends_when_told_to_stop() -> None:
    with standing_in() as gone:
        pass
    stop = threading.Event()
    stop.set()
    with pytest.raises(WaitEndedError, match="stopped"):
        Door(gone.url, TOKEN, stop=stop).post([b"{}"])
