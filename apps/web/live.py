"""`/live`: a WebSocket that says "look again", and nothing else.

No content passes here: the page re-fetches its fragment through its ordinary view, which checks who is asking. What is
checked here is who may listen: the exact origin and the session at the handshake (403 otherwise), the membership then
and every `RECHECK_SECONDS`, and at once when somebody signs out or loses a membership. Close codes: 4401 not signed in
any more, 4403 not a member any more. Pages have nothing to say: text closes with 1008, bytes with 1003, long
messages with 1009.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.auth import AuthMiddlewareStack
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.sessions.backends.base import SessionBase
from django.http.request import split_domain_port, validate_host
from django.urls import path, re_path

from apps.lib.interpreter import CycleCollector
from apps.projects import second_factors
from apps.projects.models import Project
from apps.web.access import projects_of, role_in
from apps.web.ticks import Page, leave, listen

RECHECK_SECONDS = 60.0
#: Pages that one person may keep open per web process.
MOST_SOCKETS = 50
LONGEST_MESSAGE = 1024
SIGNED_OUT, NOT_A_MEMBER = 4401, 4403

#: What is said to an open page, and what the server raises when the page is gone.
_SAID_TO_PAGES = frozenset({"websocket.send", "websocket.close"})
_OVER = (RuntimeError, OSError)

_open_sockets: Counter[int] = Counter()
#: Session, user, tasks and the server's own part of a connection point at each other.
_leftovers = CycleCollector(after=100)


def end_session(session_key: str | None) -> None:
    """Close the sockets of a session that has just ended."""
    _tell(_session_group(session_key), "recheck")


def recheck_user(user_id: int) -> None:
    """Let the sockets of a user ask again whether they may listen: a membership has changed."""
    _tell(_user_group(user_id), "recheck")


def _tell(group: str, kind: str) -> None:
    layer = get_channel_layer()
    if layer is not None:
        with contextlib.suppress(Exception):  # the regular check finds out, only later
            async_to_sync(layer.group_send)(group, {"type": kind})


def _session_group(session_key: str | None) -> str:
    return "session." + hashlib.sha256((session_key or "").encode()).hexdigest()[:32]


def _user_group(user_id: int) -> str:
    return f"user.{user_id}"


class LiveConsumer(AsyncWebsocketConsumer):
    """One open page: listens to its project, passes on the ticks that concern what the page shows."""

    project_id: int
    user_id: int | None = None
    session_key: str
    page: Page | None = None
    watch: asyncio.Task | None = None

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Serve one connection; whatever ends it, nothing of it stays behind."""

        async def say(message: dict[str, Any]) -> None:
            # The server closes a connection by itself when no ping is answered, and refuses what comes then. That it
            # is over is told next, by `websocket.disconnect`.
            with contextlib.suppress(*(_OVER if message["type"] in _SAID_TO_PAGES else ())):
                await send(message)

        try:
            await super().__call__(scope, receive, say)
        finally:
            await self._leave()

    async def connect(self) -> None:
        """Accept whoever may see the project; deny the handshake otherwise."""
        query = {key: values[-1] for key, values in parse_qs(self.scope["query_string"].decode("latin-1")).items()}
        user, session = self.scope["user"], self.scope["session"]
        project_id = await _project_id(user, session, query.get("project") or session.get("project"))
        correlation = _uuid(query.get("correlation"))
        if project_id is None or (query.get("correlation") and correlation is None):
            await self.close()
            return
        if _open_sockets[user.pk] >= MOST_SOCKETS:
            await self.close()
            return
        self.project_id, self.user_id, self.session_key = project_id, user.pk, session.session_key
        _open_sockets[user.pk] += 1
        for group in self._groups(user.pk):
            await self.channel_layer.group_add(group, self.channel_name)
        self.page = Page(correlation, self._tell)
        await listen(project_id, self.page)
        await self.accept()
        self.watch = asyncio.create_task(self._watch())

    async def disconnect(self, code: int) -> None:
        """Leave every group and stop checking."""
        await self._leave()

    async def _leave(self) -> None:
        user_id, self.user_id = self.user_id, None
        if user_id is None:
            return
        _open_sockets[user_id] -= 1
        if self.page is not None:
            leave(self.project_id, self.page)
        if self.watch is not None and self.watch is not asyncio.current_task():
            self.watch.cancel()
        _leftovers.one_has_gone()
        for group in self._groups(user_id):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Pages have nothing to say: whatever comes ends the connection."""
        if len(text_data or bytes_data or "") > LONGEST_MESSAGE:
            await self.close(1009)
        else:
            await self.close(1003 if bytes_data is not None else 1008)

    async def _tell(self, incidents: bool) -> None:
        await self.send(json.dumps({"type": "tick", "incidents": incidents}))

    async def recheck(self, message: dict[str, Any]) -> None:
        """Somebody signed out or a membership changed: look whether this page may go on listening."""
        await self._check()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            await self._check()

    async def _check(self) -> None:
        verdict = await _verdict(self.scope["session"].__class__, self.session_key, self.user_id, self.project_id)
        if verdict is not None:
            await self.close(verdict)

    def _groups(self, user_id: int) -> list[str]:
        return [_session_group(self.session_key), _user_group(user_id)]


@database_sync_to_async
def _project_id(user: Any, session: SessionBase, slug: str | None) -> int | None:
    """The project that the page shows, if the user may see it."""
    if not user.is_authenticated or not user.is_active or second_factors.is_owed(user, session):
        return None
    if slug:
        project = Project.objects.filter(slug=slug).first()
        return project.pk if project is not None and role_in(user, project.pk) else None
    return next((project.pk for project, _ in projects_of(user)), None)


@database_sync_to_async
def _verdict(store: type[SessionBase], session_key: str, user_id: int | None, project_id: int) -> int | None:
    """None while the session still stands for the user and the user may see the project; else the close code."""
    # get_user also compares the password hash, so that a changed password ends every other session.
    request = type("Request", (), {"session": store(session_key)})()
    user = get_user(request)
    if user.pk is None or user.pk != user_id or not user.is_active or second_factors.is_owed(user, request.session):
        return SIGNED_OUT
    return None if role_in(user, project_id) else NOT_A_MEMBER


def _uuid(text: str | None) -> str | None:
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


class NoSuchSocket(AsyncWebsocketConsumer):
    """Denies the handshake of every other path."""

    async def connect(self) -> None:
        """Close before accepting: 403."""
        await self.close()


class ExactOrigin:
    """Denies handshakes of other sites: the Origin must be our own, scheme, host and port."""

    def __init__(self, application: Callable[..., Awaitable[None]]) -> None:
        self.application = application

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Pass the connection on, or close it before it was accepted, which answers 403."""
        if is_own_origin(scope):
            await self.application(scope, receive, send)
            return
        await send({"type": "websocket.close", "code": 1008})


def is_own_origin(scope: dict[str, Any]) -> bool:
    """True when the one Origin header names the host that was asked for, or an origin that the settings trust."""
    origins = [value for name, value in scope.get("headers", []) if name == b"origin"]
    hosts = [value for name, value in scope.get("headers", []) if name == b"host"]
    if len(origins) != 1 or len(hosts) != 1:
        return False
    origin, host = origins[0].decode("latin-1").lower(), hosts[0].decode("latin-1").lower()
    if origin in settings.CSRF_TRUSTED_ORIGINS or origin == settings.PUBLIC_URL.lower():
        return True
    domain, _ = split_domain_port(host)
    allowed = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    if not domain or not validate_host(domain, allowed):
        return False
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    schemes = {"https"} if scope.get("scheme") == "wss" else {"http", "https"}
    return parts.scheme in schemes and parts.netloc == host and not parts.path


#: What `config.asgi` mounts for every WebSocket connection.
websocket_application = ExactOrigin(
    AuthMiddlewareStack(URLRouter([path("live", LiveConsumer.as_asgi()), re_path(r"", NoSuchSocket.as_asgi())]))
)
