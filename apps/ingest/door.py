"""The whole of `POST /api/v1/events`, framework-free: authenticate, bound, decode, record, answer.

`receive` is all of it in one call. The ASGI adapter calls the same steps one by one, because only some of them may
wait: `admit` (who and what, before any byte of the body is read), `decode`, `store`, `answer`.

Promises: 2xx only after COMMIT; a request that is refused as a whole left nothing behind; whatever cannot be stored is
refused item by item and kept with its reason; when PostgreSQL is away the sender is told to come again (503).
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec
from django.conf import settings
from django.db import DatabaseError, transaction

from apps.ingest import answers, blame, redaction, rejected
from apps.ingest.answers import Answer, Refusal
from apps.ingest.blame import Fault
from apps.ingest.formats import FORMATS, Decoded, Payload, Rejection, excerpt_of
from apps.ingest.gzip_body import gunzip
from apps.ingest.strict_json import Limits, Unreadable
from apps.lib import micros, telemetry
from apps.lib.redaction import Policy
from apps.projects import privacy, tokens
from apps.projects.models import Scope
from apps.sagas.events import Micros, SagaEvent
from apps.sagas.recording import Outcome, record

logger = logging.getLogger(__name__)

CONFLICT = "conflict"
NOT_STORABLE = "not_storable"
ERASED = "erased"
CLOUDEVENTS_PREFIX = "ce-"

_MEDIA_TYPES = frozenset({"application/cloudevents+json", "application/cloudevents-batch+json", "application/json"})
_NDJSON = "application/x-ndjson"
#: What a browser sends without asking first: never an event, whatever else the request says.
_FORMS = ("multipart/", "application/x-www-form-urlencoded")
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_VISIBLE = re.compile(rb"[\x20-\x7e]*")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


#: Whoever met a bug of ours, by source.
_tries = blame.Tries()


class BrokenError(Refusal):
    """Nothing of it can be recorded for a bug of ours. It is in the log; the events can be sent again."""

    def __init__(self) -> None:
        super().__init__(answers.unavailable("a fault of ours kept it from being stored; send it again"))


class IngestRequest(msgspec.Struct, frozen=True):
    """A request as it arrived: headers as (lower-case name, value) in their order, body as sent."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Admission(msgspec.Struct, frozen=True):
    """A sender who may send, and how to read what comes."""

    project_id: int
    source_id: int
    content_type: str
    is_gzip: bool
    attributes: Mapping[str, str]
    #: What is taken out of its events: see `apps.projects.privacy.portable`.
    redaction: str = ""


def limits() -> Limits:
    """The bounds of one request, from the settings."""
    return Limits(items=settings.INGEST_MAX_ITEMS, item_bytes=settings.INGEST_MAX_EVENT_BYTES)


def receive(request: IngestRequest, received_at: Micros | None = None) -> Answer:
    """Take in the events of one request. Never raises for what was sent, nor when PostgreSQL is away, nor for a bug."""
    received_at = micros.now() if received_at is None else received_at
    started = perf_counter()
    try:
        with telemetry.span("ingest"):
            admission = admit(request.headers)
            decoded = decode(admission, request.body, received_at)
            outcome, refused = store(admission, decoded.events)
            answer = conclude(admission, decoded, outcome, refused, received_at)
    except Refusal as refusal:
        answer = refusal.answer
    except Exception as error:
        answer = failed(error)
    telemetry.ingest_duration.record(perf_counter() - started)
    return answer


# --- the steps --------------------------------------------------------------------------------------------------------


def admit(headers: Sequence[tuple[bytes, bytes]], *, may_wait: bool = True) -> Admission:
    """Decide by the headers alone. Raises Refusal; where it may not wait for the database, tokens.NotCachedError."""
    check_length(headers, settings.INGEST_MAX_BODY_BYTES)
    sender = authenticate(headers, may_wait=may_wait)
    attributes = _binary_attributes(headers)
    content_type = _content_type(headers, is_binary=bool(attributes))
    return Admission(sender.project_id, sender.source_id, content_type, is_gzip(headers), attributes, sender.redaction)


class Sender(NamedTuple):
    """Whom a token stands for, and what is taken out of what they send."""

    project_id: int
    source_id: int
    redaction: str


def authenticate(headers: Sequence[tuple[bytes, bytes]], *, may_wait: bool = True) -> Sender:
    """Project and source that the token stands for. Raises as `admit` does."""
    identity = _identity(headers, may_wait=may_wait)
    if identity.source_id is None or Scope.INGEST not in identity.scopes:
        raise Refusal(answers.problem(403, "forbidden", "this token may not send events: it needs the scope ingest"))
    return Sender(identity.project_id, identity.source_id, identity.redaction)


def policy_of(source_id: int) -> Policy | None:
    """What is taken out of the events of a source, for those who know it without a token. Raises Refusal."""
    try:
        return privacy.policy_of(privacy.portable_of_source(source_id))
    except DatabaseError as error:
        logger.warning("the rules of a source could not be read: %s", error)
        raise Refusal(answers.unavailable()) from error


def decode(admission: Admission, body: bytes, received_at: Micros) -> Decoded:
    """The events and refusals of a body. Raises Refusal when nothing of it can be read."""
    try:
        if len(body) > settings.INGEST_MAX_BODY_BYTES:
            raise Refusal(too_large())
        if admission.is_gzip:
            body = gunzip(body, settings.INGEST_MAX_BODY_BYTES)
        payload = Payload(body=body, content_type=admission.content_type, attributes=admission.attributes)
        with redaction.applying(privacy.policy_of(admission.redaction)):
            return FORMATS["cloudevents"](payload, received_at, limits())
    except Unreadable as unreadable:
        raise Refusal(answers.problem(unreadable.status, unreadable.code, unreadable.detail)) from None


def store(admission: Admission, events: Sequence[SagaEvent]) -> tuple[Outcome, list[int]]:
    """Record events. Returns what became of them, and the positions of those that cannot be stored at all.

    Raises Refusal when PostgreSQL is away: then none of them counts as received. Raises BrokenError when nothing of
    them can be recorded for a bug of ours: then neither.
    """
    met_a_bug: list[int] = []
    outcome, refused = _isolate(admission, events, 0, met_a_bug)
    if met_a_bug and not outcome.accepted and not outcome.duplicates:
        first = events[met_a_bug[0]]
        if _tries.count(admission.source_id, first) < blame.MOST_TRIES or not _can_record(admission):
            raise BrokenError
        _tries.forget(admission.source_id, first)
    return outcome, refused


def _isolate(
    admission: Admission, events: Sequence[SagaEvent], begin: int, met_a_bug: list[int]
) -> tuple[Outcome, list[int]]:
    """Record events, halved until whoever cannot be stored stands alone; notes who met a bug, counted from `begin`."""
    if not events:
        return Outcome(), []
    try:
        return record(admission.project_id, admission.source_id, events), []
    except Exception as error:
        fault = blame.fault_of(error)
        if fault is Fault.DATABASE:
            logger.warning("events could not be recorded: %s", error)
            raise Refusal(answers.unavailable()) from error
        if len(events) == 1:
            logger.exception("an event could not be stored")
            if fault is Fault.OURS:
                met_a_bug.append(begin)
            return Outcome(), [0]
        # Where nothing at all can be recorded, halving a thousand events finds nobody.
        if fault is Fault.OURS and not met_a_bug and not _can_record(admission):
            logger.exception("nothing can be recorded for a fault of ours")
            raise BrokenError from error
    # Whatever one of them did to us, its neighbours are innocent: halve until it stands alone.
    half = len(events) // 2
    first, bad_first = _isolate(admission, events[:half], begin, met_a_bug)
    second, bad_second = _isolate(admission, events[half:], begin + half, met_a_bug)
    conflicts = [*first.conflicts, *(position + half for position in second.conflicts)]
    gone = [*first.erased, *(position + half for position in second.erased)]
    outcome = Outcome(first.accepted + second.accepted, first.duplicates + second.duplicates, conflicts, gone)
    return outcome, [*bad_first, *(position + half for position in bad_second)]


def _can_record(admission: Admission) -> bool:
    """Whether a saga of our own making can be recorded, of which nothing stays."""
    try:
        with transaction.atomic():
            record(admission.project_id, admission.source_id, blame.trial(micros.now()))
            transaction.set_rollback(True)
    except Exception:
        return False
    return True


def conclude(
    admission: Admission, decoded: Decoded, outcome: Outcome, refused: Sequence[int], received_at: Micros
) -> Answer:
    """Keep what was refused, count, and answer. Raises Refusal when it cannot be kept."""
    rejections = list(decoded.rejections)
    for position in outcome.conflicts:
        detail = "this id is taken by an event with another content, which is kept"
        rejections.append(_rejection(decoded, position, CONFLICT, detail))
    rejections += [erased(decoded, position) for position in outcome.erased]
    for position in refused:
        detail = "the event could not be stored; the log of the server says why"
        rejections.append(_rejection(decoded, position, NOT_STORABLE, detail))
    if rejections:
        rejections.sort(key=lambda rejection: rejection.index)
        try:
            rejected.keep(admission.project_id, admission.source_id, rejections, received_at)
        except DatabaseError as error:
            logger.warning("refused items could not be kept: %s", error)
            # What was recorded stays so: sent again, it will count as duplicate.
            raise Refusal(answers.unavailable("refused items could not be kept; send it again")) from error
        telemetry.ingested_events.add(len(rejections), {"outcome": "rejected"})
    telemetry.ingested_events.add(outcome.accepted, {"outcome": "accepted"})
    telemetry.ingested_events.add(outcome.duplicates, {"outcome": "duplicate"})
    return answers.counts(outcome.accepted, outcome.duplicates, rejections)


def failed(error: BaseException) -> Answer:
    """The answer when something of ours broke: not the sender's fault, who may keep the events and come again."""
    log = logger.warning if is_away(error) else logger.exception
    log("a request could not be answered: %s", error)
    return answers.unavailable()


def is_away(error: BaseException) -> bool:
    """True when the database or a disk is the trouble, neither the event nor we: then all can be sent again."""
    return blame.fault_of(error) is Fault.DATABASE


def too_large(limit: int | None = None) -> Answer:
    """413, and no more is read from this connection."""
    limit = settings.INGEST_MAX_BODY_BYTES if limit is None else limit
    return answers.problem(413, "body_too_large", f"a body may have {limit} bytes", (("connection", "close"),))


def erased(decoded: Decoded, position: int) -> Rejection:
    """The refusal of an event whose correlation was erased: of the event itself nothing is kept, not even its id."""
    return Rejection(decoded.positions[position], "", ERASED, "its correlation was erased; nothing of it is kept", "")


def _rejection(decoded: Decoded, position: int, code: str, detail: str) -> Rejection:
    event = decoded.events[position]
    return Rejection(decoded.positions[position], event.id, code, detail, excerpt_of(event.data or ""))


# --- headers ----------------------------------------------------------------------------------------------------------


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def check_length(headers: Sequence[tuple[bytes, bytes]], limit: int) -> None:
    """Raise Refusal when the length is stated in a contradictory way, or is beyond the limit."""
    lengths = _values(headers, b"content-length")
    if not lengths:
        return
    if len(lengths) > 1 or not lengths[0].isdigit() or _values(headers, b"transfer-encoding"):
        detail = "the length of the body is stated in a contradictory way"
        raise Refusal(answers.problem(400, "invalid_length", detail, (("connection", "close"),)))
    if len(lengths[0]) > 18 or int(lengths[0]) > limit:
        raise Refusal(too_large(limit))


def _token(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    values = _values(headers, b"authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].decode("latin-1").partition(" ")
    if scheme.lower() == "basic":
        # Systems that can only send a user name and a password send the token as the password.
        try:
            return base64.b64decode(token.strip(), validate=True).decode("latin-1").partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    return token.strip() if scheme.lower() == "bearer" else None


def _identity(headers: Sequence[tuple[bytes, bytes]], *, may_wait: bool) -> tokens.Identity:
    token = _token(headers)
    try:
        identity = None if token is None else tokens.identify(token, may_wait=may_wait)
    except DatabaseError as error:
        logger.warning("a token could not be checked: %s", error)
        raise Refusal(answers.unavailable()) from error
    if identity is None:
        detail = "send a valid token: Authorization: Bearer sgo_…"
        challenge = (("www-authenticate", 'Bearer realm="sagascope"'),)
        raise Refusal(answers.problem(401, "unauthorized", detail, challenge))
    return identity


def _content_type(headers: Sequence[tuple[bytes, bytes]], *, is_binary: bool) -> str:
    values = _values(headers, b"content-type")
    text = values[0].decode("latin-1") if len(values) == 1 else ""
    media_type = text.partition(";")[0].strip().lower()
    detail = ""
    if len(values) > 1 or (not media_type and not is_binary):
        detail = "say with one Content-Type what the body is"
    elif media_type.startswith(_FORMS):
        detail = "a form is no event"
    elif not is_binary and media_type not in _MEDIA_TYPES and media_type != _NDJSON:
        detail = f"send {', '.join(sorted(_MEDIA_TYPES))} or {_NDJSON}"
    elif (charset := _CHARSET.search(text)) and charset[1].lower() not in _UTF8:
        detail = "send UTF-8"
    if detail:
        raise Refusal(answers.problem(415, "unsupported_media_type", detail))
    return media_type


def is_gzip(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether the body is packed. Raises Refusal for every other encoding."""
    encoding = b",".join(_values(headers, b"content-encoding")).strip().lower()
    if encoding in {b"", b"identity"}:
        return False
    if encoding in {b"gzip", b"x-gzip"}:
        return True
    raise Refusal(answers.problem(415, "unsupported_encoding", "send the body as it is or as gzip, once"))


def _binary_attributes(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The attributes of the binary mode; empty in the others. A body that says to be a CloudEvent is one."""
    media_type = b"".join(_values(headers, b"content-type")).lower()
    if media_type.startswith(b"application/cloudevents"):
        return {}
    attributes: dict[str, str] = {}
    for key, value in headers:
        if not key.startswith(b"ce-"):
            continue
        name = key[len(CLOUDEVENTS_PREFIX) :].decode("latin-1")
        if name in attributes or not name:
            raise Refusal(answers.problem(400, "invalid_header", "a ce- header has no name or occurs twice"))
        attributes[name] = _header_text(value)
    return attributes


def _header_text(value: bytes) -> str:
    """CloudEvents' HTTP binding, section 3.1.3.2: visible ASCII, perhaps quoted, everything else percent-encoded."""
    if _VISIBLE.fullmatch(value) is None:
        raise Refusal(answers.problem(400, "invalid_header", "write other than visible ASCII in ce- headers as %XX"))
    text = value.decode("ascii").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    if "%" not in text:
        return text
    try:
        if _BAD_PERCENT.search(text):
            raise ValueError
        return unquote_to_bytes(text).decode()
    except ValueError:
        raise Refusal(answers.problem(400, "invalid_header", "a ce- header has %XX that is not UTF-8")) from None
