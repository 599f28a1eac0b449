"""Engines' own history documents: what a format of this kind takes and gives. Pure.

A history grows. Each of its entries therefore becomes an event whose id and body follow from that entry and from what
came before it, never from what comes after: importing a longer history later adds only what is new.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, Protocol

import msgspec

from apps.ingest.formats.decoding import Decoded
from apps.sagas.events import Micros, SagaEvent, digest_of

#: Names of steps that undo something, where an engine has no means of its own to say so.
COMPENSATION_NAMES = r"(?i)^(compensate|undo|rollback|roll_back|revert|reverse|cancel|refund|release|void)"


@lru_cache(maxsize=4096)
def _matches(names: str, step: str) -> bool:
    """A history names the same few steps over and over."""
    return re.search(names, step) is not None


class HistoryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a source wants its histories read; every field has a default that works."""

    #: The correlation ID of everything in the document; None = by the other options, else the engine's own id.
    correlation_id: str | None = None
    #: JSONPath into the workflow's input, e.g. `$.order.id`.
    correlation_path: str | None = None
    #: Name of a memo entry, search attribute, header or variable that holds it.
    correlation_key: str | None = None
    #: The flow's name; None = the engine's name of the workflow.
    flow: str | None = None
    #: Which of several engines of one kind it is: namespace, domain, cluster, account …; part of every event id.
    namespace: str | None = None
    #: Workflow and run, for documents that do not name themselves.
    workflow_id: str | None = None
    run_id: str | None = None
    #: Steps whose name matches undo something ("" = none do).
    compensation_names: str = COMPENSATION_NAMES
    #: What a compensation undoes: step → forward step. Others undo `*`.
    compensations: Mapping[str, str] = {}

    def compensates(self, step: str) -> str | None:
        """What `step` undoes by this configuration; None for a forward step."""
        if (forward := self.compensations.get(step)) is not None:
            return forward
        return "*" if self.compensation_names and _matches(self.compensation_names, step) else None


class HistoryError(ValueError):
    """The document is not what the format expects; the message names the format, the place and the reason."""


class HistoryDecoder(Protocol):
    """A history format: the parsed document, the options, the time of receipt.

    Large arrays of the document may be `arrays.Array`s; no more than one of their items is kept at a time. Events go
    `into` what is given. Raises HistoryError when nothing can be made of the document; an entry that cannot be read
    becomes a rejection and the others stay.
    """

    def __call__(
        self, document: Any, options: HistoryOptions, received_at: Micros, /, *, into: Decoded | None = None
    ) -> Decoded: ...


#: What an event says. In the order of the names, so that nobody has to sort them once per event.
_SAID = sorted(set(SagaEvent.__struct_fields__) - {"received_at", "sealed", "digest"})
_said_by = attrgetter(*_SAID)
_Said = msgspec.defstruct("_Said", _SAID)


def with_digest(event: SagaEvent) -> SagaEvent:
    """The event with the digest of all that it says, `received_at` apart."""
    return msgspec.structs.replace(event, digest=digest_of(_Said(*_said_by(event))))
