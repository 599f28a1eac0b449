"""Bad and hostile input through the real HTTP door, row by row of the bad-input contract (numbers in the ids).

Every item that is refused or flagged is sent alone and as item 25 of a batch of 50: its neighbours must be stored.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from apps.ingest.rejected import list_rejected
from tests.ingest.conftest import WebDoor, unique
from tests.ingest.sending import BATCH, JSON, NDJSON, STRUCTURED, event, text_of

#: What the web process commits is seen by these tests; they themselves write nothing.
pytestmark = pytest.mark.django_db

GOOD = text_of(event())
PROTO = '{"__proto__":{"a":1},"constructor":2}'


def with_data(data: str) -> bytes:
    """A good event whose payload is spelt out, as JSON text."""
    return text_of(event(data=None, id="ID", correlationid="CORRELATION"))[:-1] + b',"data":' + data.encode() + b"}"


def with_more(text: str | bytes) -> bytes:
    """A good event with further members spelt out."""
    more = text if isinstance(text, bytes) else text.encode()
    return text_of(event(id="ID", correlationid="CORRELATION"))[:-1] + b"," + more + b"}"


def changed(**changes: Any) -> bytes:
    return text_of(event(**({"id": "ID", "correlationid": "CORRELATION"} | changes)))


def placed(item: bytes) -> tuple[bytes, str]:
    """The item with ids that no other test uses, and its correlation ID."""
    correlation_id = unique("row")
    return item.replace(b'"ID"', text_of(unique("id"))).replace(
        b'"CORRELATION"', text_of(correlation_id)
    ), correlation_id


def batch(item: bytes, correlation_id: str) -> bytes:
    """49 good events of a correlation, and the item among them as number 25."""
    items = [text_of(event(id=unique("good"), correlationid=correlation_id)) for _ in range(50)]
    items[25] = item
    return b"[" + b",".join(items) + b"]"


def deep(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


UNREADABLE = {
    "1-empty": (b"", "empty_body"),
    "2-whitespace": (b" \r\n\t ", "empty_body"),
    "3-null": (b"null", "not_an_object"),
    "3-number": (b"3", "not_an_object"),
    "3-string": (b'"x"', "not_an_object"),
    "5-truncated-object": (GOOD[:-1], "invalid_json"),
    "5-truncated-array": (b"[" + GOOD, "invalid_json"),
    "6-garbage": (GOOD + b" x", "invalid_json"),
    "6-two-documents": (GOOD + GOOD, "invalid_json"),
    "6-two-lines": (GOOD + b"\n" + GOOD, "invalid_json"),
    "7-trailing-comma": (b"[" + GOOD + b",]", "invalid_json"),
    "7-comment": (b"[" + GOOD + b"/* */]", "invalid_json"),
    "7-single-quotes": (GOOD.replace(b'"', b"'"), "invalid_json"),
    "7-plus": (with_data("+1"), "invalid_json"),
    "7-leading-zero": (with_data("01"), "invalid_json"),
    "7-hex": (with_data("0x10"), "invalid_json"),
    "9-utf16": (GOOD.decode().encode("utf-16"), "invalid_json"),
    "9-utf16le": (GOOD.decode().encode("utf-16-le"), "invalid_json"),
    "9-utf32": (GOOD.decode().encode("utf-32"), "invalid_json"),
    "10-invalid": (with_more(b'"subject":"\xff"'), "invalid_utf8"),
    "10-overlong": (with_more(b'"subject":"\xc0\xaf"'), "invalid_utf8"),
    "10-surrogate": (with_more(b'"subject":"\xed\xa0\x80"'), "invalid_utf8"),
    "11-control": (with_more(b'"subject":"a\x01b"'), "invalid_json"),
    "11-raw-nul": (with_more(b'"subject":"a\x00b"'), "invalid_json"),
    "33-nan": (with_data("NaN"), "invalid_json"),
    "33-infinity": (with_data("[Infinity]"), "invalid_json"),
    "33-minus-infinity": (with_data('{"a":-Infinity}'), "invalid_json"),
    "41-lone-value": (with_data('"\\ud800"'), "invalid_json"),
    "41-lone-low": (with_data('"\\udc00x"'), "invalid_json"),
    "41-lone-key": (with_data('{"\\ud800":1}'), "invalid_json"),
    "42-deep-1000": (with_data(deep(1_000)), "too_deep"),
    "42-deep-200000": (with_data(deep(200_000)), "too_deep"),
    "42-deep-mixed": (with_data('{"a":[' * 100_000 + "1" + "]}" * 100_000), "too_deep"),
    "42-deep-unclosed": (b"[" * 200_000, "too_deep"),
}


@pytest.mark.parametrize(("body", "code"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_body_is_400_and_nothing_is_stored(web_door: WebDoor, body: bytes, code: str) -> None:
    item, correlation_id = placed(body)
    before = web_door.count_stored()

    reply = web_door.post(item)

    assert (reply.status, reply.json["code"]) == (400, code)
    assert web_door.count_stored() == before
    assert web_door.stored(correlation_id) == []


WHOLE_DOCUMENT = ["7-plus", "7-leading-zero", "7-hex", "11-control", "33-nan", "41-lone-value", "41-lone-key",
                  "42-deep-1000", "42-deep-200000"]  # fmt: skip


@pytest.mark.parametrize("row", WHOLE_DOCUMENT)
def test_a_document_level_fault_refuses_a_whole_batch_but_only_one_line(web_door: WebDoor, row: str) -> None:
    item, correlation_id = placed(UNREADABLE[row][0])

    whole = web_door.post(batch(item, correlation_id), BATCH)
    assert (whole.status, whole.json["code"]) == (400, UNREADABLE[row][1])
    assert web_door.stored(correlation_id) == []

    lines = batch(item, correlation_id)[1:-1].replace(b"},{", b"}\n{")
    reply = web_door.post(lines, NDJSON)
    assert (reply.status, reply.json["accepted"]) == (200, 49)
    assert [(r["index"], r["code"]) for r in reply.json["rejected"]] == [(25, UNREADABLE[row][1])]


REFUSED = {
    "34-out-of-range": (with_data("1e400"), "number_out_of_range"),
    "35-number-bomb": (with_data("[" + ",".join(["1e131071"] * 1_000) + "]"), "number_out_of_range"),
    "36-many-numbers": (with_data("[" + ",".join(["1e308"] * 100_000) + "]"), "too_many_nodes"),
    "37-typed-2^63": (with_more('"sagaattempt":9223372036854775808'), "invalid_attempt"),
    "37-typed-30-digits": (with_more('"sagaattempt":' + "9" * 30), "invalid_attempt"),
    "38-5000-digits": (with_data("9" * 5_000), "number_out_of_range"),
    "40-nul-value": (with_data('"a\\u0000b"'), "nul_character"),
    "40-nul-key": (with_data('{"a\\u0000":1}'), "nul_character"),
    "40-nul-attribute": (with_more('"subject":"\\u0000"'), "nul_character"),
    "42-depth-33": (with_data(deep(32)), "too_deep"),
    "42-depth-33-objects": (with_data('{"a":' * 32 + "1" + "}" * 32), "too_deep"),
    "43-many-keys": (with_data("{" + ",".join(f'"k{n}":0' for n in range(50_000)) + "}"), "too_many_nodes"),
    "44-long-key": (with_data('{"' + "k" * 1_000_000 + '":1}'), "key_too_long"),
    "46-duplicate-key": (with_data('{"a":1,"a":2}'), "duplicate_key"),
    "46-duplicate-spaced": (with_data('{"a" : 1, "a" : 2}'), "duplicate_key"),
    "46-duplicate-attribute": (with_more('"subject":"a","subject":"b"'), "duplicate_key"),
    "51-bool-for-int": (with_more('"sagaattempt":true'), "wrong_type"),
    "51-text-for-int": (with_more('"sagaattempt":"5"'), "wrong_type"),
    "51-float-for-int": (with_more('"sagaattempt":1.0'), "wrong_type"),
    "51-bool-for-text": (with_more('"sagarun":true'), "wrong_type"),
    "52-object-for-text": (with_more('"sagarun":{"a":1}'), "wrong_type"),
    "54-no-id": (changed(id=None), "missing_id"),
    "54-null-id": (changed(id=None)[:-1] + b',"id":null}', "missing_id"),
    "55-empty-id": (changed(id=""), "empty_value"),
    "55-blank-id": (changed(id="   "), "empty_value"),
    "55-id-257": (changed(id="x" * 257), "too_long"),
    "55-id-100k": (changed(id="x" * 100_000), "too_long"),
    "56-number-id": (changed(id=5), "wrong_type"),
    "60-no-correlation": (changed(correlationid=None), "missing_correlation"),
    "60-empty-correlation": (changed(correlationid=""), "empty_value"),
    "60-correlation-100k": (changed(correlationid="x" * 100_000), "too_long"),
    "63-year-10000": (changed(time="10000-01-01T00:00:00Z"), "invalid_time"),
    "63-before-christ": (changed(time="-0044-03-15T00:00:00Z"), "invalid_time"),
    "63-infinity": (changed(time="infinity"), "invalid_time"),
    "63-year-1": (changed(time="0001-01-01T00:00:00+14:00"), "invalid_time"),
    "64-last-microsecond": (changed(time="9999-12-31T23:59:59.999999Z"), "invalid_time"),
    "69-hour-24": (changed(time="2026-11-19T24:00:00Z"), "invalid_time"),
    "69-offset-99": (changed(time="2026-11-19T14:00:00+99:00"), "invalid_time"),
    "70-epoch-seconds": (changed(time=1795098570), "wrong_type"),
    "70-epoch-text": (changed(time="1795098570000"), "invalid_time"),
    "88-specversion-0.3": (changed(specversion="0.3"), "unsupported_specversion"),
    "88-specversion-2.0": (changed(specversion="2.0"), "unsupported_specversion"),
    "88-no-source": (changed(source=None), "missing_source"),
    "90-data-twice": (with_more('"data_base64":"AA=="'), "data_twice"),
    "90-bad-base64": (changed(data=None, data_base64="*"), "invalid_base64"),
    "attempt-0": (with_more('"sagaattempt":0'), "invalid_attempt"),
}  # fmt: skip


@pytest.mark.parametrize(("item", "code"), REFUSED.values(), ids=REFUSED)
def test_a_bad_item_is_refused_alone(web_door: WebDoor, item: bytes, code: str) -> None:
    item, correlation_id = placed(item)
    before = web_door.count_stored()

    reply = web_door.post(item, STRUCTURED)
    assert (reply.status, reply.codes) == (422, [code])
    assert web_door.count_stored() == before
    kept = list_rejected(web_door.project.pk, limit=1)[0]
    assert (kept.code, kept.index, kept.source_id) == (code, 0, web_door.source.pk)

    neighbours = unique("neighbours")
    reply = web_door.post(batch(item, neighbours), BATCH)
    assert (reply.status, reply.json["accepted"], reply.json["duplicates"]) == (200, 49, 0)
    assert [(r["index"], r["code"]) for r in reply.json["rejected"]] == [(25, code)]
    assert len(web_door.stored(neighbours)) == 49
    assert web_door.stored(correlation_id) == []


@pytest.mark.parametrize("subject", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80"], ids=["10-ff", "10-overlong", "10-cesu"])
def test_invalid_utf8_refuses_one_item_of_a_batch(web_door: WebDoor, subject: bytes) -> None:
    item, _ = placed(with_more(b'"subject":"' + subject + b'"'))
    neighbours = unique("neighbours")

    reply = web_door.post(batch(item, neighbours), BATCH)

    assert (reply.json["accepted"], reply.codes) == (49, ["invalid_utf8"])


def test_52_an_array_for_an_event_is_refused_alone(web_door: WebDoor) -> None:
    neighbours = unique("neighbours")
    reply = web_door.post(batch(b"[]", neighbours), BATCH)
    assert (reply.json["accepted"], reply.codes) == (49, ["not_an_object"])


def same_data(expected: Any) -> Callable[[Any], bool]:
    return lambda found: json.loads(found.data) == expected


def has_flag(flag: str) -> Callable[[Any], bool]:
    return lambda found: flag in found.flags


STORED = {
    "8-bom": (b"\xef\xbb\xbf" + changed(), lambda found: found.flags == ()),
    "37-payload-2^63": (with_data('{"n":9223372036854775808}'), same_data({"n": "9223372036854775808"})),
    "37-payload-30-digits": (with_data("9" * 30), same_data("9" * 30)),
    "37-payload-int64": (with_data("[9223372036854775807]"), same_data([9223372036854775807])),
    "39-minus-zero": (with_data("[-0.0,1E-400]"), lambda found: found.data == "[-0.0,0.0]"),
    "42-depth-32": (with_data(deep(31)), lambda found: found.data == deep(31)),
    "45-long-string": (with_data('"' + "x" * 65_537 + '"'), has_flag("truncated")),
    "45-string-64k": (with_data('"' + "x" * 65_536 + '"'), lambda found: found.flags == ()),
    "47-proto": (with_data(PROTO), same_data(json.loads(PROTO))),
    "49-bidi": (changed(subject="a\u202eb\u200b"), lambda found: found.subject == "a\u202eb\u200b"),
    "50-noncharacters": (changed(subject="\ufffe\U0010ffff"), lambda found: found.subject == "\ufffe\U0010ffff"),
    "53-unknown-field": (with_more('"tenant":"acme"'), lambda found: found.attributes["tenant"] == "acme"),
    "61-unknown-type": (changed(type="com.unheard.Of"), lambda found: found.type == "com.unheard.Of"),
    "61-unknown-kind": (changed(sagakind="step.exploded"), has_flag("unknown_kind")),
    "62-no-time": (changed(time=None), lambda found: found.time_quality == "received"),
    "64-last-day-but-one": (changed(time="9999-12-30T23:59:59.999999Z"), has_flag("clock_skew")),
    "65-epoch": (changed(time="1970-01-01T00:00:00Z"), has_flag("clock_skew")),
    "66-in-ten-years": (changed(time="2046-11-19T00:00:00Z"), has_flag("clock_skew")),
    "67-no-timezone": (changed(time="2026-11-19T14:29:30"), has_flag("assumed_utc")),
    "68-leap-second": (changed(time="2016-12-31T23:59:60Z"), has_flag("leap_second")),
    "71-nanoseconds": (
        changed(time="2026-11-19T14:29:30.123456789Z"),
        lambda found: found.attributes["time"] == "2026-11-19T14:29:30.123456789Z",
    ),
    "76-own-cause": (changed(id="ID", causationid="ID"), lambda found: found.causation_ids == (found.id,)),
    "102-markup": (changed(subject="<script>alert(1)</script>"), lambda found: "<script>" in found.subject),
    "103-newline": (changed(sagaservice="a\r\nb"), lambda found: found.service == "a\r\nb"),
    "106-format-strings": (changed(sagaerror="\x1b[31m %s ${jndi:x}"), lambda found: "%s" in found.error),
}  # fmt: skip


@pytest.mark.parametrize(("item", "holds"), STORED.values(), ids=STORED)
def test_an_odd_item_is_stored_and_can_be_read(web_door: WebDoor, item: bytes, holds: Callable[[Any], bool]) -> None:
    alone, correlation_id = placed(item)
    reply = web_door.post(alone, STRUCTURED)
    assert (reply.status, reply.json) == (200, {"accepted": 1, "duplicates": 0, "rejected": []})
    (found,) = web_door.stored(correlation_id)
    assert holds(found)

    again = web_door.post(alone, STRUCTURED)
    assert (again.status, again.json["accepted"], again.json["duplicates"]) == (200, 0, 1)

    among, correlation_id = placed(item.removeprefix(b"\xef\xbb\xbf"))
    reply = web_door.post(batch(among, correlation_id), BATCH)
    assert (reply.status, reply.json["accepted"], reply.json["rejected"]) == (200, 50, [])
    found = web_door.stored(correlation_id)
    assert len(found) == 50
    assert [holds(each) for each in found if each.id.startswith("id-")] == [True]


def test_49_lookalike_ids_are_different_events(web_door: WebDoor) -> None:
    correlation_id = unique("twins")
    ids = ["é", "e\u0301", "a\u200bb", "ab", "a\u202eb"]
    stem = unique("twin")

    reply = web_door.post(text_of([event(id=stem + each, correlationid=correlation_id) for each in ids]))

    assert reply.json["accepted"] == 5
    assert {found.id for found in web_door.stored(correlation_id)} == {stem + each for each in ids}


def test_57_58_the_same_id_again(web_door: WebDoor) -> None:
    correlation_id = unique("again")
    item = event(id=unique("id"), correlationid=correlation_id)
    web_door.post(text_of(item))

    same = web_door.post(text_of(dict(reversed(item.items()))))
    other = web_door.post(text_of(item | {"data": {"amount": 6}}))

    assert same.json == {"accepted": 0, "duplicates": 1, "rejected": []}
    assert (other.status, other.json["accepted"], other.codes) == (200, 0, ["conflict"])
    (found,) = web_door.stored(correlation_id)
    assert found.data == '{"amount":5}'


def test_80_one_bad_item_of_a_thousand(web_door: WebDoor) -> None:
    correlation_id = unique("thousand")
    items = [event(id=f"{correlation_id}-{n}", correlationid=correlation_id) for n in range(1_000)]
    items[500].pop("type")

    reply = web_door.post(text_of(items))

    assert (reply.json["accepted"], [r["index"] for r in reply.json["rejected"]]) == (999, [500])


def test_79_more_items_than_allowed_are_refused_as_a_whole(web_door: WebDoor) -> None:
    correlation_id = unique("many")
    items = [event(id=f"{correlation_id}-{n}", correlationid=correlation_id) for n in range(1_001)]

    for body, content_type in ((text_of(items), BATCH), (b"\n".join(map(text_of, items)), NDJSON)):
        reply = web_door.post(body, content_type)
        assert (reply.status, reply.json["code"]) == (413, "too_many_items")
    assert web_door.stored(correlation_id) == []


def test_48_many_keys_that_differ_little_are_answered_soon(web_door: WebDoor) -> None:
    keys = ",".join(f'"{n * 2**61 - n}":0' for n in range(9_000))
    item, _ = placed(with_data("{" + keys + "}"))
    started = time.monotonic()

    assert web_door.post(item).status == 200

    assert time.monotonic() - started < 5


def test_every_item_refused_is_422_and_kept(web_door: WebDoor) -> None:
    reply = web_door.post(text_of([event(id=None), event(correlationid=None)]))

    assert (reply.status, reply.codes) == (422, ["missing_id", "missing_correlation"])
    newest = list_rejected(web_door.project.pk, limit=2)
    assert [row.code for row in newest] == ["missing_correlation", "missing_id"]


def test_conflicts_and_ndjson_use_positions_of_the_request(web_door: WebDoor) -> None:
    first = event(id=unique("id"), correlationid=unique("positions"))
    web_door.post(text_of(first))
    lines = [b"", b"no json", text_of(event(id=unique("id"))), text_of(first | {"data": {"amount": 7}})]

    reply = web_door.post(b"\n".join(lines), NDJSON)

    assert [(r["index"], r["code"]) for r in reply.json["rejected"]] == [(0, "invalid_json"), (2, "conflict")]
    assert reply.json["rejected"][1]["id"] == first["id"]


@pytest.mark.parametrize("body", [b"[]", b" [ ] "])
def test_4_an_empty_list_is_fine(web_door: WebDoor, body: bytes) -> None:
    for content_type in (JSON, BATCH):
        reply = web_door.post(body, content_type)
        assert (reply.status, reply.json) == (200, {"accepted": 0, "duplicates": 0, "rejected": []})
