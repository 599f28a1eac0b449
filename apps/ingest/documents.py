"""Whole documents on their way in: read strictly, decoded by the format that was named, recorded in slices.

Serves the HTTP routes (`apps.ingest.pushes`) and `manage.py import_history` alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from apps.ingest import strict_json
from apps.ingest.event_spool import EventSpool, spooled
from apps.ingest.formats import HISTORIES, Decoded, Rejection, arrays, excerpt_of, json_path
from apps.ingest.formats.histories import COMPENSATION_NAMES, HistoryError, HistoryOptions
from apps.ingest.strict_json import Unreadable
from apps.sagas.events import Micros, SagaEvent
from apps.sagas.projection import order_of
from apps.sagas.recording import Outcome

JSON = "application/json"
NDJSON = "application/x-ndjson"
NOT_A_HISTORY = "not_a_history"
#: Events per transaction: bounds how long its locks are held, whatever a document holds.
SLICE = 2_500
_MOST_CHARACTERS = 1_024
_IDENTITY_BYTES = 256
#: Options by their name in a source's settings and in a command.
TEXT_OPTIONS = ("correlation_id", "correlation_path", "correlation_key", "flow", "namespace", "workflow_id", "run_id")


class OptionError(ValueError):
    """An option cannot be what was given; the message names it and says why."""


def options_of(settings: Mapping[str, Any], given: Mapping[str, str]) -> HistoryOptions:
    """How to read a document: by a source's settings, and before them by what was asked for. Raises OptionError."""
    found: dict[str, Any] = {}
    for name in TEXT_OPTIONS:
        value = given.get(name) or settings.get(name)
        if not isinstance(value, str) or not value:
            continue
        if "\0" in value or len(value) > _MOST_CHARACTERS:
            raise OptionError(f"{name} must be text of at most {_MOST_CHARACTERS} characters")
        found[name] = value
    if len(found.get("correlation_id", "").encode(errors="replace")) > _IDENTITY_BYTES:
        raise OptionError(f"correlation_id may have {_IDENTITY_BYTES} bytes")
    if "correlation_path" in found:
        try:
            json_path.parse(found["correlation_path"])
        except ValueError as error:
            raise OptionError(f"correlation_path: {error}") from None
    names = settings.get("compensation_names")
    found["compensation_names"] = names if isinstance(names, str) else COMPENSATION_NAMES
    try:
        re.compile(found["compensation_names"])
    except re.error as error:
        raise OptionError(f"compensation_names of the source is no pattern: {error}") from None
    found["compensations"] = _compensations(settings.get("compensations"))
    return HistoryOptions(**found)


def _compensations(given: Any) -> dict[str, str]:
    """What undoes what, from an object or from text such as `refund=charge, release=reserve`."""
    if isinstance(given, dict):
        return {str(step): str(forward) for step, forward in given.items()}
    pairs = (part.partition("=") for part in given.split(",")) if isinstance(given, str) else ()
    return {step.strip(): forward.strip() for step, _, forward in pairs if step.strip() and forward.strip()}


def read(body: bytes, content_type: str, name: str, *, is_history: bool = False) -> tuple[Any, list[Rejection]]:
    """The document, and the lines that could not be read where it is one per line. Raises Unreadable.

    `name` is the format that was expected, to be said where nothing can be read. Large arrays of a history are
    `arrays.Array`s.
    """
    body = strict_json.without_bom(body)
    if not body.strip():
        raise Unreadable("empty_body", f"{name}: the body is empty")
    if content_type == NDJSON:
        lines, broken = _lines(body)
        return (lines if is_history and len(body) >= arrays.SMALL_BYTES else list(lines)), broken
    try:
        strict_json.check_syntax(body)
        return _decoded(body, arrays.read if is_history else strict_json.decode), []
    except Unreadable as unreadable:
        raise Unreadable(unreadable.code, f"{name}: {unreadable.detail}", unreadable.status) from None


def _decoded(body: bytes | memoryview, decode: Callable[[Any], Any]) -> Any:
    try:
        return decode(body)
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "the body is not valid UTF-8") from None
    except RecursionError:
        raise Unreadable("too_deep", "the body is nested too deeply to be read") from None
    except ValueError as error:
        raise Unreadable("invalid_json", f"the body is not valid JSON: {error}") from None


def _lines(body: bytes) -> tuple[arrays.Array, list[Rejection]]:
    """The lines that can be read; of each line that cannot be the reason."""
    lines = arrays.Lines(body)
    rejections: list[Rejection] = []
    for index, line in enumerate(lines):
        try:
            _decoded(line, strict_json.decode)
        except Unreadable as unreadable:
            detail = unreadable.detail.replace("the body", "the line")
            rejections.append(Rejection(index, "", unreadable.code, detail, excerpt_of(bytes(line))))
    return arrays.Array(lines.without([rejection.index for rejection in rejections])), rejections


def place_for(body: bytes) -> Decoded | None:
    """Where the events of a history of this length are put; None = into memory."""
    return spooled() if len(body) >= arrays.SMALL_BYTES else None


def decode_history(
    name: str, document: Any, options: HistoryOptions, received_at: Micros, into: Decoded | None = None
) -> Decoded:
    """The events of a document, put `into` what is given.

    One that is none of the format's is one rejection that says what was expected.
    """
    try:
        return HISTORIES[name](document, options, received_at, into=into)
    except HistoryError as error:
        return Decoded([], [], [Rejection(0, "", NOT_A_HISTORY, str(error), _excerpt(document))])
    except RecursionError:
        detail = f"{name}: the document is nested too deeply to be read"
        return Decoded([], [], [Rejection(0, "", "too_deep", detail, "")])


def _excerpt(document: Any) -> str:
    try:
        if isinstance(document, dict):
            document = {name: value[:3] if arrays.is_array(value) else value for name, value in document.items()}
        shown = document[:3] if arrays.is_array(document) else document
        return excerpt_of(msgspec.json.encode(shown)[:8_000])
    except (ValueError, TypeError, RecursionError, UnicodeEncodeError):
        return ""


def store_in_slices(
    decoded: Decoded, store: Callable[[list[SagaEvent]], tuple[Outcome, list[int]]]
) -> tuple[Outcome, list[int]]:
    """Record all events, `SLICE` at a time; what `store` says of positions is said of the whole.

    The earliest come first, whatever order the document has: any order gives the same projections, but an event that
    comes later than its place in time may make recording look back over all that is stored, once per slice.
    """
    events = decoded.events
    if isinstance(events, EventSpool):
        order = sorted(range(len(events)), key=events.times.__getitem__)
    else:
        order = sorted(range(len(events)), key=lambda position: order_of(events[position]))
    whole, refused = Outcome(), []
    for begin in range(0, len(order), SLICE):
        slice_ = order[begin : begin + SLICE]
        outcome, bad = store(
            events.at(slice_) if isinstance(events, EventSpool) else [events[position] for position in slice_]
        )
        whole.accepted += outcome.accepted
        whole.duplicates += outcome.duplicates
        whole.conflicts += [slice_[position] for position in outcome.conflicts]
        whole.erased += [slice_[position] for position in outcome.erased]
        refused += [slice_[position] for position in bad]
    return whole, sorted(refused)
