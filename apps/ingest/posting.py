"""Posts events to a Sagascope's HTTP door (`POST /api/v1/events`), from outside, like any other sender.

Waits and tries again while the door is closed, busy (429, 503) or out of order (other 5xx); splits what is too large
or unreadable until the one item at fault is found. Used by the commands `send` and `simulate`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

BATCH = "application/cloudevents-batch+json"
#: What one request may hold at most; the door takes 1,000 items and 5 MiB.
MAX_ITEMS = 500
MAX_BYTES = 4 * 1024 * 1024
LONGEST_PAUSE_SECONDS = 15.0


class DoorError(Exception):
    """The door does not take anything from us: wrong address, wrong token. Trying again is of no use."""


class WaitEndedError(Exception):
    """Told to stop, or out of patience, while waiting for the door."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that the door refused; `index` counts from 0 in what was given to `post`."""

    index: int
    code: str
    detail: str
    event_id: str | None = None


@dataclass(slots=True)
class Answer:
    """What became of the items, added up."""

    accepted: int = 0
    duplicates: int = 0
    refusals: list[Refusal] = field(default_factory=list)

    def add(self, other: Answer, *, offset: int = 0) -> None:
        """Count another answer in, whose items began at `offset`."""
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        for refusal in other.refusals:
            self.refusals.append(Refusal(refusal.index + offset, refusal.code, refusal.detail, refusal.event_id))


class Door:
    """One Sagascope. `stop` ends any waiting; `patience_seconds` is how long one request is tried again (None = ever).

    `notice` is told, in a sentence, each time it starts to wait.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        stop: threading.Event | None = None,
        patience_seconds: float | None = None,
        notice: Callable[[str], object] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._stop = stop or threading.Event()
        self._patience_seconds = patience_seconds
        self._notice = notice or (lambda _sentence: None)
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "sagascope-sender"}
        # The environment's proxy settings are for the world outside, not for a server on this machine.
        self._client = httpx.Client(headers=headers, timeout=30.0, transport=transport, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def post(self, items: Sequence[bytes]) -> Answer:
        """Send CloudEvents, each the JSON text of one, in as many requests as it takes.

        Raises DoorError when nothing can be sent, WaitEndedError when told to stop.
        """
        answer = Answer()
        for begin, end in _portions(items):
            answer.add(self._post_portion(items[begin:end]), offset=begin)
        return answer

    def put_flow(self, name: str, definition: str) -> str | None:
        """Declare a flow, `definition` being YAML. None when done, else the door's objection. Raises as `post` does."""
        path = f"/api/v1/flows/{quote(name, safe='')}"
        response = self._request("PUT", path, definition.encode(), "application/yaml")
        return None if response.is_success else _problem(response)

    def _post_portion(self, items: Sequence[bytes]) -> Answer:
        response = self._request("POST", "/api/v1/events", b"[" + b",".join(items) + b"]", BATCH)
        if (counts := _counts(response)) is not None:
            return counts
        if response.status_code in (401, 403, 404, 405, 415) or response.is_redirect:
            raise DoorError(_problem(response))
        if len(items) == 1:
            return Answer(refusals=[Refusal(0, f"http_{response.status_code}", _problem(response))])
        middle = len(items) // 2
        answer = self._post_portion(items[:middle])
        answer.add(self._post_portion(items[middle:]), offset=middle)
        return answer

    def _request(self, method: str, path: str, body: bytes, content_type: str) -> httpx.Response:
        given_up_at = None if self._patience_seconds is None else time.monotonic() + self._patience_seconds
        for attempt in range(1_000_000):
            pause: float | None = None
            try:
                response = self._client.request(
                    method, self._url + path, content=body, headers={"Content-Type": content_type}
                )
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise DoorError(f"{self._url} is no address: {error}") from None
            except httpx.TransportError as error:
                why = f"no answer from {self._url} ({error or type(error).__name__})"
            else:
                if response.status_code != 429 and response.status_code < 500:
                    return response
                why = _problem(response)
                pause = _retry_after(response)
            if pause is None:
                pause = min(LONGEST_PAUSE_SECONDS, 0.25 * 2 ** min(attempt, 10)) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
            if given_up_at is not None and time.monotonic() + pause > given_up_at:
                raise WaitEndedError(f"gave up: {why}")
            if attempt in (0, 4) or attempt % 20 == 19:
                self._notice(f"{why}; trying again")
            if self._stop.wait(pause):
                raise WaitEndedError(f"stopped while waiting: {why}")
        raise WaitEndedError("gave up")


def _portions(items: Sequence[bytes]) -> list[tuple[int, int]]:
    """Ranges of items that fit into one request each."""
    portions, begin, size = [], 0, 0
    for index, item in enumerate(items):
        if index > begin and (index - begin >= MAX_ITEMS or size + len(item) > MAX_BYTES):
            portions.append((begin, index))
            begin, size = index, 0
        size += len(item) + 1
    if begin < len(items):
        portions.append((begin, len(items)))
    return portions


def _counts(response: httpx.Response) -> Answer | None:
    """The door's counts, which it gives with 200 and, when every item is bad, with 422; None for any other answer."""
    if response.status_code not in (200, 422):
        return None
    try:
        body = response.json()
    except ValueError:
        return None
    if not isinstance(body, dict) or "accepted" not in body:
        return None
    refusals = [
        Refusal(int(item["index"]), str(item.get("code", "")), str(item.get("detail", "")), item.get("id"))
        for item in body.get("rejected", [])
    ]
    return Answer(int(body["accepted"]), int(body.get("duplicates", 0)), refusals)


def _problem(response: httpx.Response) -> str:
    """What the answer says is wrong, from its problem document (RFC 9457) where it has one."""
    said: Any = None
    try:
        said = response.json()
    except ValueError:
        said = None
    detail = said.get("detail") or said.get("title") if isinstance(said, dict) else None
    return f"{response.status_code} {response.reason_phrase}" + (f": {detail}" if detail else "")


def _retry_after(response: httpx.Response) -> float | None:
    """Retry-After in seconds, within reason; the date form is not used by any Sagascope."""
    value = response.headers.get("retry-after", "")
    return min(float(value), 60.0) if value.isascii() and value.isdigit() else None
