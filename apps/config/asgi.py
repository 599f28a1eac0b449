"""What `uvicorn apps.config.asgi:application` serves: the ingest door, pages and API, live updates.

The ingest door stands in front of Django: no middleware, cookie or URL resolver touches an event.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")
_django = get_asgi_application()

from apps.ingest import asgi as ingest  # noqa: E402 - Django must be set up before models are imported
from apps.web.live import websocket_application  # noqa: E402

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]

#: A batch of 500 events makes some 30,000 short-lived objects and no cycles; by default the collector would go through
#: them, and all that is older, dozens of times per batch. This costs a few megabytes and saves a fifth of the time.
_GC_THRESHOLDS = (50_000, 20, 50)


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Pass each connection to the part that it is for."""
    if scope["type"] == "http":
        await (ingest.application if scope["path"] == ingest.PATH else _django)(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket_application(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _live(receive, send)


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            gc.collect()
            # All that was imported stays: no collection needs to look at it again.
            gc.freeze()
            gc.set_threshold(*_GC_THRESHOLDS)
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
