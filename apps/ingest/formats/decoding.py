"""What goes into a format and what comes out of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from apps.ingest.redaction import redact_text
from apps.ingest.strict_json import Limits
from apps.sagas.events import Micros, SagaEvent

#: How much of a refused item is kept for people to look at, in characters.
EXCERPT_CHARACTERS = 2_000


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """A message as its transport delivered it, decompressed and bounded.

    `content_type` is the bare media type in lower case. `attributes` are the CloudEvents attributes of the binary
    mode, without the transport's prefix (`ce-`, `ce_`, `cloudEvents:`) and decoded as text; empty in all other modes.
    """

    body: bytes
    content_type: str = ""
    attributes: Mapping[str, str] = {}


class Rejection(msgspec.Struct, frozen=True):
    """One refused item. `detail` says what is wrong and never repeats what the sender wrote."""

    #: Its position in the request; of NDJSON the position among the lines that are not blank.
    index: int
    #: The event's id where it could be read, else "".
    id: str
    code: str
    detail: str
    #: The beginning of the item, redacted, for people to recognise it.
    excerpt: str = ""


class Decoded(msgspec.Struct):
    """The good and the bad items of one message. `positions[i]` is where `events[i]` stood in it."""

    events: list[SagaEvent]
    positions: list[int]
    rejections: list[Rejection]


#: A format: bytes in, events and refusals out. Raises `strict_json.Unreadable` when nothing can be made of it.
Decoder = Callable[[Payload, Micros, Limits], Decoded]


def excerpt_of(item: bytes | str) -> str:
    """The beginning of an item that was refused, without secrets and without what PostgreSQL cannot store."""
    text = item if isinstance(item, str) else item[: EXCERPT_CHARACTERS * 4].decode(errors="replace")
    # Redacted before it is cut, so that no cut hides the end of a secret from the pattern.
    return redact_text(text[: EXCERPT_CHARACTERS * 2]).replace("\0", "\ufffd")[:EXCERPT_CHARACTERS]
