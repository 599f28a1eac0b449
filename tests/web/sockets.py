"""A WebSocket client that talks ASGI to the application, without a server between."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from asgiref.testing import ApplicationCommunicator


class Socket(ApplicationCommunicator):
    """One connection to `application`."""

    def __init__(self, application: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        path, _, query = path.partition("?")
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": unquote(path),
            "query_string": query.encode(),
            "headers": headers,
            "subprotocols": [],
        }
        super().__init__(application, scope)

    async def connect(self) -> bool:
        """Shake hands; True when that was accepted."""
        await self.send_input({"type": "websocket.connect"})
        return (await self.receive_output(3))["type"] == "websocket.accept"

    async def send(self, *, text: str | None = None, data: bytes | None = None) -> None:
        """Say something to the server."""
        await self.send_input({"type": "websocket.receive", "text": text, "bytes": data})

    async def receive(self) -> str:
        """What the server says next."""
        sent = await self.receive_output(3)
        assert sent["type"] == "websocket.send", sent
        return sent["text"]

    async def close_code(self) -> int:
        """The code with which the server ends the connection."""
        sent = await self.receive_output(3)
        assert sent["type"] == "websocket.close", sent
        return sent["code"]

    async def leave(self) -> None:
        """Close from our side, and wait until the application is done."""
        await self.send_input({"type": "websocket.disconnect", "code": 1005})
        await self.wait(3)
