"""One POST for a message, by the guarded client: 2xx is success, everything else says why it is not.

410 means "never again"; redirects are not followed; the beginning of the answer is kept for the log of deliveries.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from apps.alerts.receivers.outcome import DeliveryError, Sent
from apps.lib import http

#: Of an answer's body that is looked at.
_LOOKED_AT = 2000


def posted(url: str, body: bytes, headers: Mapping[str, str], *, also_fine: Collection[int] = ()) -> Sent:
    """POST a body; `also_fine` are statuses beside 2xx that mean success. Raises DeliveryError."""
    try:
        answer = http.post(url, body, headers)
    except http.RefusedError as error:
        raise DeliveryError(f"not called: {error}") from None
    except http.RequestError as error:
        raise DeliveryError(str(error)) from None
    text = answer.body[:_LOOKED_AT].decode("utf-8", "replace")
    if 200 <= answer.status < 300 or answer.status in also_fine:
        return Sent(answer.status, text)
    reason = "redirects are not followed" if 300 <= answer.status < 400 else "not a success"
    raise DeliveryError(
        f"answered {answer.status}: {reason}",
        gone=answer.status == 410,
        http_status=answer.status,
        retry_after=_retry_after(answer.headers.get("retry-after", "")),
        answer=text,
    )


def posted_json(url: str, body: Any, headers: Mapping[str, str] | None = None, **more: Any) -> Sent:
    """POST something as JSON. Raises DeliveryError."""
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return posted(url, encoded, {"Content-Type": "application/json", **(headers or {})}, **more)


def _retry_after(text: str) -> float | None:
    """Seconds of a Retry-After header, in either of its forms; None when it says nothing useful."""
    if text.isascii() and text.isdigit() and len(text) < 9:
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
