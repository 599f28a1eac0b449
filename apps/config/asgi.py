"""What `uvicorn apps.config.asgi:application` serves: the ingest door, pages and API, live updates.

The ingest door stands in front of Django: no middleware, cookie or URL resolver touches an event.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import django
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")
django.setup(set_prefix=False)

from apps.config import celery  # noqa: E402, F401 - pages hand work to workers: to ours, by our broker
from apps.config.page_threads import BoundedHandler  # noqa: E402 - Django must be set up before models are imported
from apps.ingest import asgi as ingest  # noqa: E402
from apps.lib.interpreter import tune_for_serving  # noqa: E402
from apps.web.live import websocket_application  # noqa: E402

_django = BoundedHandler()

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Pass each connection to the part that it is for."""
    if scope["type"] == "http":
        await (ingest.application if ingest.serves(scope["path"]) else _django)(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket_application(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _live(receive, send)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            tune_for_serving()
            ingest.recorders.start(settings.INGEST_RECORDERS)
            await send({"type": "lifespan.startup.complete"})
        else:
            await ingest.recorders.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
