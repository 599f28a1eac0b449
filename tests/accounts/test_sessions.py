"""One's sessions: listed, ended one by one or all at once, and not for ever."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.models import Session
from django.db import OperationalError, connection
from django.test import Client

from apps.projects.models import Membership, Project
from apps.web import live
from apps.web.accounts import sessions
from apps.web.tasks import forget_sessions
from tests.web.conftest import PASSWORD, SignIn, text_of
from tests.web.sockets import Socket

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def signed_in(address: str = "127.0.0.1", agent: str = FIREFOX) -> Client:
    client = Client(REMOTE_ADDR=address, headers={"user-agent": agent})
    assert client.post("/login", {"username": "viewer", "password": PASSWORD}).status_code == 302
    return client


def proven(client: Client) -> Client:
    """The same client, having just proved its password once more."""
    assert client.post("/sign-in/again", {"password": PASSWORD}).status_code == 302
    return client


def test_ones_sessions_are_listed_with_where_they_are(sign_in: SignIn) -> None:
    sign_in("viewer")
    here, phone = signed_in(), signed_in("203.0.113.9", "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0) Safari/605.1")

    page = text_of(here.get("/settings/account"))

    assert "Firefox on Linux" in page
    assert "Safari on iPhone" in page
    assert "203.0.113.9" in page
    assert page.index("this one") < page.index("Safari on iPhone")
    assert phone.get("/").status_code == 200


def test_an_ended_session_opens_nothing(sign_in: SignIn) -> None:
    sign_in("viewer")
    here, stolen = signed_in(), signed_in("203.0.113.9")
    number = UserSession.objects.get(ip="203.0.113.9").pk

    proven(here).post("/settings/account", {"action": "end", "session": number, "project": "shop"})

    assert stolen.get("/").status_code == 302
    assert stolen.get("/api/v1/instances").status_code == 401
    assert here.get("/").status_code == 200
    assert "203.0.113.9" not in text_of(here.get("/settings/account"))


def test_all_others_end_at_once(sign_in: SignIn) -> None:
    sign_in("viewer")
    here, others = signed_in(), [signed_in(f"203.0.113.{number}") for number in (1, 2)]

    proven(here).post("/settings/account", {"action": "end_others", "project": "shop"})

    assert [client.get("/").status_code for client in (here, *others)] == [200, 302, 302]


def test_ending_sessions_needs_the_password_once_more_and_then_goes_on(sign_in: SignIn) -> None:
    sign_in("viewer")
    here, other = signed_in(), signed_in("203.0.113.1")

    asked = here.post("/settings/account", {"action": "end_others", "project": "shop"})

    assert asked.headers["Location"].startswith("/sign-in/again?next=")
    assert other.get("/").status_code == 200
    assert here.post(asked.headers["Location"], {"password": PASSWORD}).status_code == 302
    assert other.get("/").status_code == 302
    assert here.get("/").status_code == 200


def test_an_administrator_ends_the_sessions_of_somebody_and_an_admin_of_a_project_does_not(
    sign_in: SignIn, shop: Project
) -> None:
    viewer, admin = sign_in("viewer"), sign_in("admin")
    viewer.get("/")
    number = Membership.objects.get(user__username="viewer").pk
    asked = {"action": "end_sessions", "member": number, "project": "shop"}

    assert admin.post("/settings/members", asked).status_code == 403
    assert "Sign out" not in text_of(admin.get("/settings/members")).partition("<main")[2]
    assert viewer.get("/").status_code == 200

    get_user_model().objects.filter(username="admin").update(is_superuser=True)
    assert "Sign viewer out everywhere?" in text_of(admin.get("/settings/members"))
    admin.post("/settings/members", asked)
    assert viewer.get("/").status_code == 302


def test_nobody_ends_the_sessions_of_somebody_else(sign_in: SignIn) -> None:
    victim, admin = sign_in("viewer"), sign_in("admin")
    victim.get("/")
    number = UserSession.objects.get(user__username="viewer").pk

    proven(admin).post("/settings/account", {"action": "end", "session": number, "project": "shop"})

    assert victim.get("/").status_code == 200


def test_a_session_gets_another_key_when_somebody_signs_in(sign_in: SignIn) -> None:
    sign_in("viewer")
    client = Client()
    client.get("/join/x")
    client.get("/?project=shop")
    planted = client.session
    planted["project"] = "shop"
    planted.save()
    client.cookies[django_settings.SESSION_COOKIE_NAME] = planted.session_key

    client.post("/login", {"username": "viewer", "password": PASSWORD})

    assert client.get("/").status_code == 200
    assert client.session.session_key != planted.session_key


def test_a_session_ends_after_its_longest_time_however_much_it_is_used(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in("viewer")
    client = signed_in()
    begun = client.session["begun"]
    clock = {"now": begun}
    monkeypatch.setattr(sessions.time, "time", lambda: clock["now"])

    for days in (10, 20, 29.9):
        clock["now"] = begun + days * 86400
        assert client.get("/").status_code == 200
    clock["now"] = begun + 30 * 86400 + 1

    assert client.get("/").status_code == 302


def test_a_session_that_is_used_lasts_longer_than_one_that_is_not(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in("viewer")
    client = signed_in()
    client.get("/")

    later = client.session["seen"] + sessions.SEEN_SECONDS + 1
    monkeypatch.setattr(sessions.time, "time", lambda: later)
    answer = client.get("/")

    assert answer.cookies[django_settings.SESSION_COOKIE_NAME]["max-age"] == django_settings.SESSION_COOKIE_AGE
    assert client.session["seen"] == later
    # Written down every few minutes, not with each request.
    assert django_settings.SESSION_COOKIE_NAME not in client.get("/").cookies


@pytest.mark.parametrize("table", ["usersessions_usersession", "django_session"])
def test_pages_are_read_while_nothing_can_be_written(
    sign_in: SignIn, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    """As on a disk that is full."""
    sign_in("viewer")
    client = signed_in()
    client.get("/")
    seen = client.session["seen"]
    later = seen + sessions.SEEN_SECONDS + 1
    monkeypatch.setattr(sessions.time, "time", lambda: later)

    def full(execute: Any, sql: str, *more: Any) -> Any:
        if sql.startswith(("INSERT", "UPDATE")) and table in sql:
            raise OperationalError("No space left on device")
        return execute(sql, *more)

    with connection.execute_wrapper(full):
        answer = client.get("/instances")
    assert (answer.status_code, client.session["seen"]) == (200, seen)

    assert client.get("/instances").status_code == 200
    assert client.session["seen"] == later


def test_sessions_that_ended_by_themselves_are_forgotten(sign_in: SignIn) -> None:
    sign_in("viewer")
    Session.objects.all().delete()
    here, left = signed_in(), signed_in("203.0.113.9")
    Session.objects.filter(session_key=left.session.session_key).update(expire_date="2020-01-01T00:00:00Z")

    forget_sessions()

    assert list(UserSession.objects.values_list("ip", flat=True)) == ["127.0.0.1"]
    assert Session.objects.filter(session_key=here.session.session_key).exists()
    assert Session.objects.count() == 1
    assert here.get("/").status_code == 200


def test_cookies_are_closed_to_scripts_and_other_sites(sign_in: SignIn) -> None:
    sign_in("viewer")
    cookie = signed_in().cookies[django_settings.SESSION_COOKIE_NAME]

    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert re.fullmatch(r"[a-z0-9]{32,}", cookie.value)


# Live connections


@pytest.fixture
async def socket_of() -> AsyncIterator[Any]:
    opened: list[Socket] = []

    async def connect(client: Client) -> Socket:
        cookie = client.cookies[django_settings.SESSION_COOKIE_NAME].value
        headers = [
            (b"host", b"testserver"),
            (b"origin", b"http://testserver"),
            (b"cookie", f"{django_settings.SESSION_COOKIE_NAME}={cookie}".encode()),
        ]
        socket = Socket(live.websocket_application, "/live?project=shop", headers)
        assert await socket.connect()
        opened.append(socket)
        return socket

    yield connect
    for socket in opened:
        await socket.leave()


def two_sessions() -> tuple[Client, Client]:
    shop = Project.objects.create(slug="shop", name="Shop")
    user = get_user_model().objects.create_user("viewer", password=PASSWORD)
    Membership.objects.create(project=shop, user=user, role="viewer")
    return signed_in(), signed_in("203.0.113.9")


@pytest.mark.django_db(transaction=True)
async def test_the_connections_of_an_ended_session_close_at_once(socket_of: Any) -> None:
    here, stolen = await sync_to_async(two_sessions)()
    await sync_to_async(proven)(here)
    mine, theirs = await socket_of(here), await socket_of(stolen)

    number = (await UserSession.objects.aget(ip="203.0.113.9")).pk
    await sync_to_async(here.post)("/settings/account", {"action": "end", "session": number, "project": "shop"})

    assert await theirs.close_code() == live.SIGNED_OUT
    assert await mine.receive_nothing(timeout=0.05)


@pytest.mark.django_db(transaction=True)
async def test_a_new_password_closes_the_connections_of_other_sessions(socket_of: Any) -> None:
    here, stolen = await sync_to_async(two_sessions)()
    theirs = await socket_of(stolen)

    new = "quite another one"
    given = {"old_password": PASSWORD, "new_password1": new, "new_password2": new, "project": "shop"}
    await sync_to_async(here.post)("/settings/account", given)

    assert await theirs.close_code() == live.SIGNED_OUT
