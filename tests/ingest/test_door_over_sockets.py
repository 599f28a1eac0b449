"""The ingest door behind a real server, down to the bytes of HTTP; numbers name rows of the bad-input contract."""

from __future__ import annotations

import http.client
import json
import socket
import threading

import pytest

from tests.ingest.conftest import WebDoor, unique
from tests.ingest.sending import JSON, event, text_of

#: What the web process commits is seen by these tests; they themselves write nothing.
pytestmark = pytest.mark.django_db


def raw(door: WebDoor, request: bytes, *, then_close: bool = False) -> bytes:
    """Send bytes as they are; returns all that comes back until the server closes, or for two seconds."""
    with socket.create_connection(door.address, timeout=2) as connection:
        connection.sendall(request)
        if then_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while part := connection.recv(65_536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return received


def head(door: WebDoor, *lines: str, host: str | None = "localhost") -> bytes:
    given = ["POST /api/v1/events HTTP/1.1"]
    if host is not None:
        given.append(f"Host: {host}")
    given += [f"Authorization: Bearer {door.token}", f"Content-Type: {JSON}", *lines]
    return "\r\n".join(given).encode("latin-1") + b"\r\n\r\n"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def test_25_a_body_that_is_cut_off_stores_nothing(web_door: WebDoor) -> None:
    before = web_door.count_stored()
    raw(web_door, head(web_door, "Content-Length: 1000") + b"[", then_close=True)
    assert web_door.count_stored() == before
    assert web_door.post(b"[]").status == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: +2"],
        ["Content-Length: -1"],
        ["Content-Length : 2"],
        ["Content-Length: 2", "X-Folded: a\r\n b"],
    ],
    ids=["cl-te", "two-cl", "plus", "minus", "space", "fold"],
)
def test_26_ambiguous_framing_stores_nothing_twice(web_door: WebDoor, lines: list[str]) -> None:
    before = web_door.count_stored()
    answer = raw(web_door, head(web_door, *lines) + b"[]" + b"\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(answer) == 400 or (lines[-1].startswith("X-Folded") and status(answer) == 200)
    assert web_door.count_stored() == before


def test_27_an_absurd_chunk_size_is_400(web_door: WebDoor) -> None:
    answer = raw(web_door, head(web_door, "Transfer-Encoding: chunked") + b"FFFFFFFFFFFFFFFFF\r\n[]\r\n0\r\n\r\n")
    assert status(answer) == 400


@pytest.mark.parametrize(
    "lines", [["X-Long: " + "x" * 100_000], [f"X-{n}: {n}" for n in range(5_000)]], ids=["long", "many"]
)
def test_28_huge_headers_do_no_harm(web_door: WebDoor, lines: list[str]) -> None:
    answer = raw(web_door, head(web_door, *lines, "Content-Length: 2", "Connection: close") + b"[]")
    assert status(answer) in {0, 200, 400, 431}
    assert web_door.post(b"[]").status == 200


@pytest.mark.parametrize("host", [None, "evil.example"])
def test_29_a_foreign_host_is_400(web_door: WebDoor, host: str | None) -> None:
    answer = raw(web_door, head(web_door, "Content-Length: 2", "Connection: close", host=host) + b"[]")
    assert status(answer) == 400


def test_29_two_hosts_are_400(web_door: WebDoor) -> None:
    answer = raw(web_door, head(web_door, "Host: localhost", "Content-Length: 2", "Connection: close") + b"[]")
    assert status(answer) == 400


def test_30_an_oversize_body_is_refused_before_it_is_sent(web_door: WebDoor) -> None:
    answer = raw(web_door, head(web_door, "Content-Length: 99999999", "Expect: 100-continue"))
    assert status(answer) == 413
    assert b"100 Continue" not in answer


def test_23_chunks_beyond_the_limit_are_413_and_the_connection_closes(web_door: WebDoor) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    with socket.create_connection(web_door.address, timeout=10) as connection:
        connection.sendall(head(web_door, "Transfer-Encoding: chunked"))
        try:
            for _ in range(200):
                connection.sendall(chunk)
        except OSError:
            pass
        try:
            answer = connection.recv(65_536)
        except ConnectionResetError:
            answer = b""
    assert status(answer) in {0, 413}
    assert web_door.post(b"[]").status == 200


def test_a_connection_takes_many_requests(web_door: WebDoor) -> None:
    connection = http.client.HTTPConnection(*web_door.address, timeout=10)
    headers = {"Authorization": f"Bearer {web_door.token}", "Content-Type": JSON}
    for _ in range(20):
        connection.request("POST", "/api/v1/events", text_of(event(id=unique("kept"))), headers)
        answer = connection.getresponse()
        assert json.loads(answer.read())["accepted"] == 1
    connection.close()


def test_sixty_four_senders_at_once_lose_nothing(web_door: WebDoor) -> None:
    correlation_id = unique("crowd")
    failures: list[object] = []

    def sender(number: int) -> None:
        connection = http.client.HTTPConnection(*web_door.address, timeout=20)
        headers = {"Authorization": f"Bearer {web_door.token}", "Content-Type": JSON}
        for turn in range(10):
            # Every second event is sent by two of the senders: one of them must hear of a duplicate.
            body = text_of(
                event(id=f"{correlation_id}-{number // 2 if turn % 2 else number}-{turn}", correlationid=correlation_id)
            )
            connection.request("POST", "/api/v1/events", body, headers)
            answer = connection.getresponse()
            counts = json.loads(answer.read())
            if answer.status != 200 or counts["accepted"] + counts["duplicates"] != 1:
                failures.append(counts)
        connection.close()

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(web_door.stored(correlation_id)) == 64 * 5 + 32 * 5
