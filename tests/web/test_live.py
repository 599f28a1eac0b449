"""`/live`: who may listen, what is heard, and when the connection ends (hostile-input rows 99 to 101)."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client

from apps.projects.models import Membership, Project
from apps.sagas.feed import project_group
from apps.web import live, ticks
from tests.web.conftest import PASSWORD
from tests.web.sockets import Socket

pytestmark = pytest.mark.django_db(transaction=True)

OURS = "http://testserver"

#: Opens a socket: connect(client, path, origin) -> the socket and whether it was accepted.
Connect = Callable[..., Awaitable[tuple[Socket, bool]]]


@pytest.fixture
def shop() -> Project:
    return Project.objects.create(slug="shop", name="Shop")


@pytest.fixture
def rival() -> Project:
    return Project.objects.create(slug="rival", name="Rival")


@pytest.fixture
def viewer(shop: Project) -> Client:
    user = get_user_model().objects.create_user("viewer", password=PASSWORD)
    Membership.objects.create(project=shop, user=user, role="viewer")
    client = Client()
    client.force_login(user)
    return client


def socket_of(
    client: Client | None, application: Any, path: str = "/live?project=shop", origin: str | None = OURS
) -> Socket:
    """A socket of somebody's browser that has not shaken hands yet."""
    headers = [(b"host", b"testserver")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    if client is not None:
        cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
        headers.append((b"cookie", f"{settings.SESSION_COOKIE_NAME}={cookie}".encode()))
    return Socket(application, path, headers)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    opened: list[Socket] = []

    async def open_socket(
        client: Client | None, path: str = "/live?project=shop", origin: str | None = OURS
    ) -> tuple[Socket, bool]:
        socket = socket_of(client, live.websocket_application, path, origin)
        accepted = await socket.connect()
        if accepted:
            opened.append(socket)
        return socket, accepted

    yield open_socket
    for socket in opened:
        await socket.leave()


async def say(project: Project, correlations: list[UUID] | None, *, incidents: bool = False) -> None:
    """What `feed.announce` says."""
    named = None if correlations is None else [str(uuid) for uuid in correlations]
    tick = {"type": "tick", "correlations": named, "incidents": incidents}
    await get_channel_layer().group_send(project_group(project.pk), tick)


async def test_a_member_hears_that_something_changed_and_nothing_of_it(
    connect: Connect, viewer: Client, shop: Project
) -> None:
    socket, accepted = await connect(viewer)
    assert accepted

    await say(shop, [uuid4()], incidents=True)

    assert json.loads(await socket.receive()) == {"type": "tick", "incidents": True}


async def test_a_page_of_one_correlation_hears_only_of_that_one(
    connect: Connect, viewer: Client, shop: Project
) -> None:
    mine, other = uuid4(), uuid4()
    socket, _ = await connect(viewer, f"/live?project=shop&correlation={mine}")

    await say(shop, [other])
    assert await socket.receive_nothing(timeout=0.05)
    await say(shop, [other, mine])
    assert await socket.receive()
    await say(shop, None)  # too many to be named
    assert await socket.receive()


async def test_a_page_hears_nothing_of_another_project(
    connect: Connect, viewer: Client, shop: Project, rival: Project
) -> None:
    socket, _ = await connect(viewer)

    await say(rival, [uuid4()])

    assert await socket.receive_nothing(timeout=0.05)


@pytest.mark.parametrize(
    "origin",
    [None, "null", "http://evil.example", "http://testserver:8001", "http://testserver.evil.example", "testserver"],
)
async def test_other_origins_are_refused_at_the_handshake(origin: str | None, connect: Connect, viewer: Client) -> None:
    _, accepted = await connect(viewer, origin=origin)

    assert not accepted


async def test_a_page_of_plain_http_cannot_listen_to_a_secure_site(connect: Connect, viewer: Client) -> None:
    headers = {"host": b"testserver", "origin": b"http://testserver"}
    scope = {"scheme": "wss", "headers": [(name.encode(), value) for name, value in headers.items()]}

    assert not live.is_own_origin(scope)
    assert live.is_own_origin({**scope, "scheme": "ws"})


async def test_nobody_listens_without_a_session(connect: Connect, shop: Project) -> None:
    assert not (await connect(None))[1]


async def test_nobody_listens_who_must_set_up_a_second_factor_first(
    connect: Connect, viewer: Client, settings: Any
) -> None:
    settings.REQUIRE_SECOND_FACTOR = True
    _, accepted = await connect(viewer)
    assert not accepted


@pytest.mark.parametrize("path", ["/live?project=rival", "/live?project=nowhere", "/live?correlation=x", "/other"])
async def test_nobody_listens_to_what_is_not_theirs(
    path: str, connect: Connect, viewer: Client, rival: Project
) -> None:
    assert not (await connect(viewer, path))[1]


async def test_signing_out_ends_the_connections_of_that_session(connect: Connect, viewer: Client) -> None:
    socket, _ = await connect(viewer)

    await sync_to_async(viewer.post)("/logout")

    assert await socket.close_code() == live.SIGNED_OUT


async def test_losing_the_membership_ends_the_connection(connect: Connect, viewer: Client, shop: Project) -> None:
    socket, _ = await connect(viewer)
    member = await Membership.objects.aget(project=shop)

    await member.adelete()
    await sync_to_async(live.recheck_user)(member.user_id)

    assert await socket.close_code() == live.NOT_A_MEMBER


async def test_a_session_that_ended_unannounced_is_found_by_the_regular_check(
    connect: Connect, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RECHECK_SECONDS", 0.02)
    socket, _ = await connect(viewer)

    await get_user_model().objects.filter(username="viewer").aupdate(is_active=False)

    assert await socket.close_code() == live.SIGNED_OUT


async def test_the_regular_check_leaves_good_connections_alone(
    connect: Connect, viewer: Client, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RECHECK_SECONDS", 0.01)
    socket, _ = await connect(viewer)
    await asyncio.sleep(0.1)

    await say(shop, [uuid4()])

    assert await socket.receive()


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"text": '{"subscribe": "project.1"}'}, 1008),
        ({"text": "not json"}, 1008),
        ({"data": b"\x00\x01"}, 1003),
        ({"text": "x" * 100_000}, 1009),
    ],
)
async def test_pages_have_nothing_to_say(sent: dict[str, Any], code: int, connect: Connect, viewer: Client) -> None:
    socket, _ = await connect(viewer)

    await socket.send(**sent)

    assert await socket.close_code() == code


async def test_one_person_keeps_only_so_many_pages_open(
    connect: Connect, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_SOCKETS", 2)
    first, _ = await connect(viewer)
    assert (await connect(viewer))[1]
    assert not (await connect(viewer))[1]

    await first.leave()

    assert (await connect(viewer))[1]


async def test_a_page_that_the_server_gave_up_leaves_nothing_behind(
    viewer: Client, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that gets no answer to its ping closes by itself, and raises at what is sent before it says so."""
    monkeypatch.setattr(live, "MOST_SOCKETS", 1)
    refused = asyncio.Event()

    async def given_up(scope: Any, receive: Any, send: Any) -> None:
        async def deaf(message: Any) -> None:
            if message["type"] == "websocket.send":
                refused.set()
                raise RuntimeError("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'.")
            await send(message)

        await live.websocket_application(scope, receive, deaf)

    for _ in range(2):
        socket = socket_of(viewer, given_up)
        assert await socket.connect()
        refused.clear()
        await say(shop, [uuid4()])
        await asyncio.wait_for(refused.wait(), 3)
        await socket.leave()


async def test_whatever_ends_a_connection_its_place_is_free_again(
    connect: Connect, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_SOCKETS", 1)

    async def broken(*_: Any, **__: Any) -> None:
        raise ValueError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(live.LiveConsumer, "receive", broken)
        socket = socket_of(viewer, live.websocket_application)
        assert await socket.connect()
        await socket.send(text="hello")
        with pytest.raises(ValueError, match="a bug"):
            await socket.wait(3)

    assert (await connect(viewer))[1]


async def test_nobody_waits_for_a_page_that_does_not_read(
    connect: Connect, viewer: Client, shop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticks, "PAUSE_SECONDS", 0)
    reads = asyncio.Event()
    sent: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        async def waits(message: Any) -> None:
            if message["type"] == "websocket.send":
                await reads.wait()
                sent.append(message["text"])
            await send(message)

        await live.websocket_application(scope, receive, waits)

    silent = socket_of(viewer, slow)
    assert await silent.connect()
    reader, _ = await connect(viewer)
    for number in range(10):
        await say(shop, [uuid4()], incidents=number == 5)
        assert await reader.receive()

    assert not sent
    reads.set()
    assert [json.loads(await silent.receive())["incidents"] for _ in range(2)] == [False, True]
    assert await silent.receive_nothing(timeout=0.05)
    await silent.leave()


async def test_a_burst_is_told_at_once_and_then_together(connect: Connect, viewer: Client, shop: Project) -> None:
    socket, _ = await connect(viewer)

    for _ in range(20):
        await say(shop, [uuid4()])

    assert await socket.receive()
    assert await socket.receive()
    assert await socket.receive_nothing(timeout=0.3)


async def test_pages_that_are_gone_give_their_memory_back(
    connect: Connect, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> int:
        return sum(type(each) is live.LiveConsumer for each in gc.get_objects())

    gc.collect()
    gc.disable()
    monkeypatch.setattr(live._leftovers, "after", 5)
    try:
        for _ in range(20):
            socket = socket_of(viewer, live.websocket_application)
            assert await socket.connect()
            await socket.leave()
        assert kept() <= 2 * 5
    finally:
        gc.enable()
