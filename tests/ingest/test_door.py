"""The ingest door as senders meet it: who may send, what counts, and what happens when something is away."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import DataError, OperationalError
from django.test import Client

from apps.ingest import asgi, door, taking_in
from apps.ingest.formats import Rejection
from apps.ingest.rejected import count_rejected, keep, list_rejected
from apps.lib import micros
from apps.projects import tokens
from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from apps.sagas.group_commit import OverloadedError
from apps.sagas.models import Correlation, Event
from apps.sagas.recording import Outcome
from tests.ingest.sending import BATCH, JSON, NDJSON, STRUCTURED, Door, Reply, assert_promised, event, text_of

pytestmark = pytest.mark.django_db

PATH = "/api/v1/events"


@pytest.fixture
def project() -> Iterator[Project]:
    tokens.forget_cached()
    yield Project.objects.create(slug="shop", name="Shop")
    tokens.forget_cached()


@pytest.fixture
def source(project: Project) -> Source:
    return Source.objects.create(project=project, name="sender")


@pytest.fixture
def token(project: Project, source: Source) -> str:
    return create_token(project, ["ingest"], source=source)


@pytest.fixture
def inner(token: str) -> Door:
    """The ASGI door in this process; its token is known already, so that no thread has to ask for it."""
    tokens.identify(token)
    return Door(asgi.application, token)


def post(token: str | None, body: Any, content_type: str = JSON, **headers: str) -> Reply:
    """POST through Django's own view."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        given["authorization"] = f"Bearer {token}"
    content = body if isinstance(body, bytes) else text_of(body)
    answer = Client(enforce_csrf_checks=True).generic("POST", PATH, content, content_type, headers=given)
    reply = Reply(answer.status_code, {name.lower(): value for name, value in answer.items()}, answer.content)
    assert_promised(reply)
    return reply


# --- who may send -----------------------------------------------------------------------------------------------------


def test_a_good_event_is_stored_under_its_source(token: str, source: Source) -> None:
    reply = post(token, event())

    assert (reply.status, reply.json) == (200, {"accepted": 1, "duplicates": 0, "rejected": []})
    assert reply.headers["cache-control"] == "no-store"
    stored = Event.objects.get()
    assert (stored.event_id, stored.source_ref) == ("e-1", source.pk)


@pytest.mark.parametrize("given", [None, "", "nonsense", "sgo_ingest_" + "A" * 32 + "_000000"])
def test_without_a_valid_token_nobody_gets_in(project: Project, given: str | None) -> None:
    reply = post(given, event())

    assert (reply.status, reply.json["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert Event.objects.count() == 0


def test_a_token_that_may_only_read_is_403(project: Project) -> None:
    assert post(create_token(project, ["read", "operate"]), event()).status == 403


def test_a_session_opens_nothing(project: Project, django_user_model: Any) -> None:
    client = Client()
    client.force_login(django_user_model.objects.create_user("somebody"))

    for content_type in (JSON, "text/plain"):
        assert client.post(PATH, text_of(event()), content_type=content_type).status_code == 401


def test_the_token_is_not_taken_from_the_url(token: str) -> None:
    answer = Client().post(f"{PATH}?access_token={token}", text_of(event()), content_type=JSON)
    assert answer.status_code == 401


def test_59_the_same_id_in_another_project_is_another_event(token: str) -> None:
    other = Project.objects.create(slug="other", name="Other")

    assert post(token, event()).json["accepted"] == 1
    assert post(create_token(other, ["ingest"]), event(data={"amount": 99})).json["accepted"] == 1
    assert Correlation.objects.filter(correlation_id="order-1").count() == 2


# --- how it may be sent -----------------------------------------------------------------------------------------------


def test_every_mode_gets_in(token: str) -> None:
    assert post(token, event(1), STRUCTURED).json["accepted"] == 1
    assert post(token, [event(2), event(3)], BATCH).json["accepted"] == 2
    assert post(token, event(4), JSON + "; charset=UTF-8").json["accepted"] == 1
    assert post(token, [event(5)], JSON).json["accepted"] == 1
    assert post(token, text_of(event(6)) + b"\r\n" + text_of(event(7)), NDJSON).json["accepted"] == 2
    binary = {f"ce_{name}": value for name, value in event(8, data=None).items()}
    assert post(token, {"amount": 5}, JSON, **binary).json["accepted"] == 1
    assert post(token, b"plain text", "text/plain", **binary | {"ce_id": "e-9"}).json["accepted"] == 1
    assert set(Event.objects.values_list("event_id", flat=True)) == {f"e-{n}" for n in range(1, 10)}


def test_binary_attributes_are_percent_decoded(token: str) -> None:
    binary = {f"ce_{name}": value for name, value in event(data=None, subject="Gr%C3%BCezi%20du").items()}

    assert post(token, b"{}", JSON, **binary).json["accepted"] == 1
    assert "Grüezi du" in Event.objects.get().attributes


@pytest.mark.parametrize("value", ["caf\xe9", "a\x01b", "%ff", "%zz", "%C0%AF"])
async def test_89_unclean_binary_attributes_are_400(inner: Door, value: str) -> None:
    attributes = {f"ce-{name}": text for name, text in event(data=None).items()} | {"ce-subject": value}
    reply = await inner.post(b"{}", JSON, attributes)
    assert (reply.status, reply.json["code"]) == (400, "invalid_header")


async def test_89_an_attribute_twice_is_400(inner: Door) -> None:
    headers = [("host", "localhost"), ("authorization", f"Bearer {inner.token}"), ("content-type", JSON)]
    reply = await inner.request("POST", [*headers, ("ce-id", "a"), ("ce-id", "b")], b"{}")
    assert (reply.status, reply.json["code"]) == (400, "invalid_header")


def test_nul_in_a_binary_attribute_refuses_the_event(token: str) -> None:
    binary = {f"ce_{name}": value for name, value in event(data=None, subject="a%00b").items()}
    assert post(token, b"{}", JSON, **binary).codes == ["nul_character"]


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "text/html", "application/xml", "multipart/form-data; boundary=x",
     "application/x-www-form-urlencoded", "application/json; charset=utf-16", "application/json;charset=iso-8859-1",
     "application/cloudevents+xml", "application/json, text/plain"],
)  # fmt: skip
async def test_12_to_15_other_content_types_are_415(inner: Door, content_type: str | None) -> None:
    reply = await inner.post(text_of(event()), content_type, {"cookie": "session=x"})
    assert (reply.status, reply.json["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("form", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
async def test_a_form_is_no_binary_event_either(inner: Door, form: str) -> None:
    attributes = {f"ce-{name}": text for name, text in event(data=None).items()}
    assert (await inner.post(b"a=b", form, attributes)).status == 415


@pytest.mark.parametrize("encoding", ["br", "foo", "deflate", "gzip, gzip", "gzip, br", "zstd"])
async def test_16_20_other_encodings_are_415(inner: Door, encoding: str) -> None:
    reply = await inner.post(text_of(event()), JSON, {"content-encoding": encoding})
    assert (reply.status, reply.json["code"]) == (415, "unsupported_encoding")


GZIPPED = gzip.compress(text_of(event()))
MEGABYTE = 1024 * 1024


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (text_of(event()), 400, "invalid_gzip"),
        (GZIPPED[:-1], 400, "invalid_gzip"),
        (GZIPPED[:-12], 400, "invalid_gzip"),
        (GZIPPED[:-8] + b"\0\0\0\0" + GZIPPED[-4:], 400, "invalid_gzip"),
        (GZIPPED + b"x", 400, "invalid_gzip"),
        (gzip.compress(b"") * 200, 400, "invalid_gzip"),
        (b"", 400, "empty_body"),
        (gzip.compress(b""), 400, "empty_body"),
        (gzip.compress(GZIPPED), 415, "unsupported_encoding"),
        (gzip.compress(bytes(20 * MEGABYTE)), 413, "body_too_large"),
        (gzip.compress(b" " * 4 * MEGABYTE), 413, "body_too_large"),
        (GZIPPED + gzip.compress(bytes(20 * MEGABYTE)), 413, "body_too_large"),
    ],
    ids=["17-plain", "18-cut", "18-cut-more", "18-bad-crc", "18-garbage-after", "many-members", "empty", "empty-member",
         "20-twice", "19-bomb", "19-ratio", "21-bomb-behind"],
)  # fmt: skip
async def test_17_to_21_damaged_and_exploding_gzip(inner: Door, body: bytes, status: int, code: str) -> None:
    reply = await inner.post(body, JSON, {"content-encoding": "gzip"})
    assert (reply.status, reply.json["code"]) == (status, code)


def test_gzip_is_welcome(token: str) -> None:
    body = gzip.compress(text_of([event(n) for n in range(500)]))
    assert post(token, body, JSON, content_encoding="gzip").json["accepted"] == 500


def test_19_a_bomb_takes_no_memory() -> None:
    import tracemalloc

    from apps.ingest.gzip_body import gunzip
    from apps.ingest.strict_json import Unreadable

    bomb = gzip.compress(bytes(20 * MEGABYTE))
    tracemalloc.start()
    with pytest.raises(Unreadable):
        gunzip(bomb, 5 * MEGABYTE)
    assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    tracemalloc.stop()


async def test_22_30_too_long_by_its_own_word_is_413_before_reading(inner: Door) -> None:
    headers = {"content-length": str(5 * MEGABYTE + 1), "expect": "100-continue"}
    reply = await inner.post(b"x", JSON, headers)

    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert inner.parts_read == 0


async def test_23_24_a_stream_without_end_is_cut_at_the_limit(inner: Door) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * 65_536

    headers = [("host", "localhost"), ("authorization", f"Bearer {inner.token}"), ("content-type", JSON)]
    reply = await inner.stream("POST", headers, endless())

    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert inner.parts_read == 5 * MEGABYTE // 65_536 + 1


@pytest.mark.parametrize("length", ["+3", "-1", "3, 3", "0x3", "9" * 30])
async def test_26_odd_lengths_are_refused(inner: Door, length: str) -> None:
    assert (await inner.post(b"abc", JSON, {"content-length": length})).status in {400, 413}


async def test_26_a_length_and_chunks_contradict(inner: Door) -> None:
    reply = await inner.post(b"abc", JSON, {"content-length": "3", "transfer-encoding": "chunked"})
    assert (reply.status, reply.headers["connection"]) == (400, "close")


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["evil.example"], ["localhost@evil"], [""]])
async def test_29_one_known_host_or_400(inner: Door, hosts: list[str]) -> None:
    headers = [("authorization", f"Bearer {inner.token}"), ("content-type", JSON)]
    reply = await inner.request("POST", [*headers, *(("host", host) for host in hosts)], text_of(event()))
    assert (reply.status, reply.json["code"]) == (400, "invalid_host")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_31_other_methods_are_405(inner: Door, method: str) -> None:
    reply = Reply(405, {}, b"")
    if method == "HEAD":
        sent: list[Any] = []
        scope = {"type": "http", "method": method, "path": PATH, "headers": [(b"host", b"localhost")]}

        async def send(message: Any) -> None:
            sent.append(message)

        await asgi.application(scope, None, send)  # type: ignore[arg-type]
        assert sent[0]["status"] == 405
        assert sent[1]["body"] == b""
        return
    reply = await inner.request(method, [("host", "localhost")])
    assert (reply.status, reply.headers["allow"]) == (405, "POST, OPTIONS")


def test_31_so_they_are_in_django() -> None:
    answer = Client().get(PATH)
    assert (answer.status_code, answer["Allow"]) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("path", ["/api/v1/events/", "//api/v1/events", "/api/v1/events/%00", "/api/v1/..%2fevents"])
def test_32_other_paths_are_404_as_a_problem(path: str) -> None:
    answer = Client().generic("POST", path, b"{}", JSON)
    assert (answer.status_code, answer["Content-Type"]) == (404, "application/problem+json")


async def test_webhook_validation_is_answered(inner: Door) -> None:
    asked = [("host", "localhost"), ("webhook-request-origin", "events.example.com")]
    reply = await inner.request("OPTIONS", asked)
    assert (reply.status, reply.headers["webhook-allowed-origin"]) == (200, "*")
    assert (await inner.request("OPTIONS", asked[:1])).status == 204
    assert Client().options(PATH, headers={"webhook-request-origin": "x"})["WebHook-Allowed-Origin"] == "*"


async def test_25_a_sender_that_goes_away_leaves_nothing(inner: Door, caplog: pytest.LogCaptureFixture) -> None:
    coming = iter(
        [
            {"type": "http.request", "body": b"[", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        raise AssertionError("there is nobody to answer")

    headers = [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {inner.token}".encode()),
        (b"content-type", b"application/json"),
    ]
    await asgi.application({"type": "http", "method": "POST", "path": PATH, "headers": headers}, receive, send)

    assert caplog.records == []
    assert asgi._held_bytes == 0


async def test_a_sender_that_dawdles_is_told_to_stop(inner: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "READ_SECONDS", 0.01)

    async def receive() -> Any:
        await asyncio.Event().wait()

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"host", b"localhost"),
        (b"authorization", f"Bearer {inner.token}".encode()),
        (b"content-type", b"application/json"),
    ]
    await asgi.application({"type": "http", "method": "POST", "path": PATH, "headers": headers}, receive, send)

    assert sent[0]["status"] == 408


# --- what counts ------------------------------------------------------------------------------------------------------


def test_duplicates_and_conflicts_are_told_apart(token: str, source: Source) -> None:
    post(token, [event(1), event(2)])

    reply = post(token, [event(1), event(2, data={"amount": 6}), event(3)])

    assert (reply.status, reply.json["accepted"], reply.json["duplicates"]) == (200, 1, 2)
    assert [(r["index"], r["id"], r["code"]) for r in reply.json["rejected"]] == [(1, "e-2", "conflict")]
    (kept,) = list_rejected(source.project_id)
    assert (kept.code, kept.excerpt) == ("conflict", '{"amount":6}')


def test_refused_items_are_kept_without_their_secrets(token: str, source: Source) -> None:
    post(token, [event(1, id=None, data={"password": "planted"}), event(2)])

    (kept,) = list_rejected(source.project_id, source_id=source.pk)
    assert (kept.index, kept.code, kept.event_id) == (0, "missing_id", "")
    assert "planted" not in kept.excerpt
    assert "[Filtered]" in kept.excerpt


def test_a_planted_secret_is_nowhere_in_the_database(token: str) -> None:
    from django.db import connection

    post(token, [event(1, data={"card": {"number": "planted"}, "a": [{"accessToken": "planted"}]}, apikey="planted")])
    post(token, [event(1, data={"cvv": "planted"}, password="planted")])

    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE %s', ["%planted%"])
            assert cursor.fetchone()[0] == 0, table


def test_a_flood_of_refused_items_is_counted_but_not_all_kept(source: Source) -> None:
    now = micros.now()
    for start in range(0, 3_000, 500):
        bad = [Rejection(n, f"e-{n}", "missing_type", "type is missing", "x") for n in range(start, start + 500)]
        keep(source.project_id, source.pk, bad, now)

    assert count_rejected([source.pk], now - micros.HOUR) == {source.pk: 3_000}
    kept = list_rejected(source.project_id, limit=5_000)
    assert 1_000 <= len(kept) <= 1_200
    assert kept[0].event_id == "e-2999"
    assert list_rejected(source.project_id, limit=1, before=kept[0].pk)[0].event_id == "e-2998"


# --- when something is away -------------------------------------------------------------------------------------------


def away(*_: Any) -> Outcome:
    raise OperationalError("the connection was refused")


def test_without_postgresql_senders_are_told_to_come_again(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "record", away)

    reply = post(token, [event(), event(2, id=None)])

    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert list_rejected(Project.objects.get().pk) == []


def test_without_postgresql_tokens_cannot_be_checked(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_look_up", away)
    assert post(token, event()).status == 503


async def test_a_failed_commit_is_503_for_everybody_who_waited(inner: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: Any) -> asyncio.Future[Outcome]:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        future.set_exception(OperationalError("the server closed the connection"))
        return future

    monkeypatch.setattr(taking_in, "submitted", submit)
    assert (await inner.post(text_of(event()))).status == 503


async def test_too_much_waiting_is_503(inner: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: Any) -> asyncio.Future[Outcome]:
        raise OverloadedError

    monkeypatch.setattr(taking_in, "submitted", submit)
    assert (await inner.post(text_of(event()))).status == 503


async def test_too_many_bytes_at_once_are_503(inner: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "MOST_HELD_BYTES", 100)
    assert (await inner.post(text_of(event()))).status == 503
    assert asgi._held_bytes == 0


def test_an_event_that_cannot_be_stored_does_not_take_its_neighbours_along(
    token: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(project_id: int, source_id: int, events: Any) -> Outcome:
        if any(found.id == "e-25" for found in events):
            raise DataError("poison")
        return Outcome(accepted=len(events))

    monkeypatch.setattr(door, "record", record)

    reply = post(token, [event(n) for n in range(50)])

    assert (reply.status, reply.json["accepted"]) == (200, 49)
    assert [(r["index"], r["code"]) for r in reply.json["rejected"]] == [(25, "not_storable")]


async def test_the_event_is_answered_only_after_its_commit(inner: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(taking_in, "submitted", lambda *_: future)

    answer = asyncio.ensure_future(inner.post(text_of(event())))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not answer.done()

    future.set_result(Outcome(accepted=1))
    assert json.loads((await answer).body)["accepted"] == 1
