"""What systems push by themselves, and engines' histories: one route each, the same promises as `POST /api/v1/events`.

`receive` is the whole of a request, framework-free: authenticate, bound, unpack, decode, record, keep what was refused,
answer. 2xx only after COMMIT. `/v1/traces` answers in OpenTelemetry's own words, errors included.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from time import monotonic, perf_counter
from typing import Any
from urllib.parse import parse_qs

import msgspec
from django.conf import settings
from django.db import DatabaseError

from apps.ingest import answers, documents, door, redaction
from apps.ingest.answers import Answer, Refusal
from apps.ingest.documents import JSON, NDJSON, OptionError
from apps.ingest.formats import HISTORIES, Decoded, Rejection, conductor, openlineage, otlp
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.gzip_body import gunzip
from apps.ingest.strict_json import Unreadable
from apps.lib import micros, telemetry
from apps.projects import privacy
from apps.projects.models import Source
from apps.sagas.events import Micros

logger = logging.getLogger(__name__)

TRACES = "/v1/traces"
HISTORIES_PREFIX = "/api/v1/histories/"
_PARAMETERS = ("correlation_id", "correlation_path", "correlation_key", "flow", "workflow_id", "dialect")
#: A source's settings are believed this long.
_SETTINGS_SECONDS = 5.0
_TEXT = "text/plain"

#: gRPC's codes for HTTP's, for `google.rpc.Status`.
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 408: 4, 413: 8, 415: 3, 422: 3, 429: 8, 503: 14}
_INTERNAL = 13


class PushRequest(msgspec.Struct, frozen=True):
    """A request as it arrived; `query` is the raw query string."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Delivery(msgspec.Struct, frozen=True):
    """What a route decodes."""

    body: bytes
    content_type: str
    headers: Mapping[str, str]
    parameters: Mapping[str, str]
    options: HistoryOptions
    received_at: Micros


class Route(msgspec.Struct, frozen=True):
    """One place where something is pushed to."""

    name: str
    decode: Callable[[Delivery], Decoded]
    media_types: tuple[str, ...] = (JSON,)
    #: The setting that bounds its bodies, unpacked.
    limit: str = "INGEST_MAX_BODY_BYTES"

    @property
    def most_bytes(self) -> int:
        """How many bytes a body may have, unpacked."""
        return int(getattr(settings, self.limit))


def route_of(path: str) -> Route | None:
    """The route of a path; None for a path that is none of ours. An unknown format is a route that answers 404."""
    if path.startswith(HISTORIES_PREFIX):
        name = path.removeprefix(HISTORIES_PREFIX)
        return _history(name) if name and "/" not in name else None
    return _ROUTES.get(path)


def serves(path: str) -> bool:
    """True when `receive` answers this path."""
    return path in _ROUTES or path.startswith(HISTORIES_PREFIX)


def most_bytes(path: str) -> int:
    """How many bytes the body of a request to this path may have."""
    route = route_of(path)
    return settings.INGEST_MAX_BODY_BYTES if route is None else route.most_bytes


def receive(request: PushRequest, received_at: Micros | None = None) -> Answer:
    """Take in what was pushed. Never raises for what was sent, nor when PostgreSQL is away."""
    answer = answered(request, micros.now() if received_at is None else received_at)
    return dressed(request.path, request.headers, answer)


def answered(request: PushRequest, received_at: Micros) -> Answer:
    """`receive`, with errors as problem documents whatever the path."""
    started = perf_counter()
    try:
        with telemetry.span("ingest"):
            answer = _answer(request, received_at)
    except Refusal as refusal:
        answer = refusal.answer
    except Exception as error:
        log = logger.warning if door.is_away(error) else logger.exception
        log("a push could not be answered: %s", error)
        answer = answers.unavailable()
    telemetry.ingest_duration.record(perf_counter() - started)
    return answer


def dressed(path: str, headers: Sequence[tuple[bytes, bytes]], answer: Answer) -> Answer:
    """An answer in the words that the senders of this path expect."""
    if answer.status == 401 and path != TRACES:
        kept = tuple(pair for pair in answer.headers if pair[0] != "www-authenticate")
        challenge = ("www-authenticate", 'Bearer realm="sagascope", Basic realm="sagascope"')
        return msgspec.structs.replace(answer, headers=(*kept, challenge))
    if path != TRACES or answer.status < 400:
        return answer
    as_json = not _is_protobuf(headers)
    body = msgspec.json.decode(answer.body)
    kept = tuple(pair for pair in answer.headers if pair[0] != "content-type")
    message = f"{body.get('code', '')}: {body.get('detail', '')}"
    status = otlp.encode_status(_GRPC.get(answer.status, _INTERNAL), message, as_json=as_json)
    return Answer(answer.status, (("content-type", otlp.JSON if as_json else otlp.PROTOBUF), *kept), status)


def admit(request: PushRequest) -> None:
    """Decide by the headers alone, before any of the body is read. Raises Refusal."""
    route = _checked_route(request)
    door.check_length(request.headers, route.most_bytes)
    door.authenticate(request.headers)
    _content_type(request.headers, route)
    door.is_gzip(request.headers)


def _checked_route(request: PushRequest) -> Route:
    route = route_of(request.path)
    if route is None:
        known = ", ".join(sorted(HISTORIES))
        raise Refusal(answers.problem(404, "unknown_format", f"histories are read of: {known}"))
    if request.method == "OPTIONS":
        asks = any(name == b"webhook-request-origin" for name, _ in request.headers)
        raise Refusal(answers.options(asks))
    if request.method != "POST":
        raise Refusal(answers.not_allowed())
    return route


def _answer(request: PushRequest, received_at: Micros) -> Answer:
    route = _checked_route(request)
    door.check_length(request.headers, route.most_bytes)
    project_id, source_id, rules = door.authenticate(request.headers)
    content_type = _content_type(request.headers, route)
    is_gzip = door.is_gzip(request.headers)
    parameters = _parameters(request.query)
    if len(request.body) > route.most_bytes:
        raise Refusal(door.too_large(route.most_bytes))
    try:
        body = gunzip(request.body, route.most_bytes) if is_gzip else request.body
        options = documents.options_of(_settings(source_id), parameters)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers}
        with redaction.applying(privacy.policy_of(rules)):
            decoded = route.decode(Delivery(body, content_type, headers, parameters, options, received_at))
    except Unreadable as unreadable:
        raise Refusal(answers.problem(unreadable.status, unreadable.code, unreadable.detail)) from None
    except OptionError as error:
        raise Refusal(answers.problem(422, "invalid_parameter", str(error))) from None
    admission = door.Admission(project_id, source_id, content_type, is_gzip, {})
    outcome, refused = documents.store_in_slices(decoded, lambda events: door.store(admission, events))
    answer = door.conclude(admission, decoded, outcome, refused, received_at)
    if request.path != TRACES:
        return answer
    return _traces_answer(decoded, refused, as_json=content_type == JSON)


def _traces_answer(decoded: Decoded, refused: Sequence[int], *, as_json: bool) -> Answer:
    bad = {rejection.index for rejection in decoded.rejections} | {decoded.positions[each] for each in refused}
    details = sorted({f"{rejection.code}: {rejection.detail}" for rejection in decoded.rejections})
    message = "; ".join(details[:5]) or ("some spans could not be stored" if refused else "")
    body = otlp.encode_success(len(bad), message, as_json=as_json)
    headers = (("content-type", otlp.JSON if as_json else otlp.PROTOBUF), ("cache-control", "no-store"))
    return Answer(200, headers, body)


# --- requests ---------------------------------------------------------------------------------------------------------


def _is_protobuf(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return any(name == b"content-type" and b"protobuf" in value.lower() for name, value in headers)


def _content_type(headers: Sequence[tuple[bytes, bytes]], route: Route) -> str:
    """The bare media type. Raises Refusal unless the route takes it."""
    values = [value.decode("latin-1") for name, value in headers if name == b"content-type"]
    media_type, _, rest = values[0].partition(";") if len(values) == 1 else ("", "", "")
    media_type = media_type.strip().lower()
    charset = rest.lower().replace(" ", "").partition("charset=")[2].strip('"')
    if media_type not in route.media_types or charset not in {"", "utf-8", "utf8", "us-ascii"}:
        detail = f"send {' or '.join(route.media_types)} in UTF-8"
        raise Refusal(answers.problem(415, "unsupported_media_type", detail))
    return media_type


def _parameters(query: str) -> dict[str, str]:
    found = parse_qs(query, keep_blank_values=True, max_num_fields=50) if query.count("&") < 50 else {"": ["", ""]}
    for name, values in found.items():
        if len(values) > 1:
            detail = f"{name if name in _PARAMETERS else 'a parameter'} is given more than once"
            raise Refusal(answers.problem(422, "invalid_parameter", detail))
    return {name: found[name][0] for name in _PARAMETERS if name in found}


_known_settings: dict[int, tuple[float, dict[str, Any]]] = {}


def _settings(source_id: int) -> dict[str, Any]:
    """How the source wants its documents read. Raises Refusal when PostgreSQL is away."""
    known = _known_settings.get(source_id)
    if known is not None and monotonic() < known[0]:
        return known[1]
    try:
        found = Source.objects.filter(pk=source_id).values_list("settings", flat=True).first()
    except DatabaseError as error:
        logger.warning("a source's settings could not be read: %s", error)
        raise Refusal(answers.unavailable()) from error
    if len(_known_settings) > 10_000:
        _known_settings.clear()
    _known_settings[source_id] = (monotonic() + _SETTINGS_SECONDS, found or {})
    return found or {}


# --- routes -----------------------------------------------------------------------------------------------------------


def _traces(delivery: Delivery) -> Decoded:
    decode = otlp.decode_json if delivery.content_type == JSON else otlp.decode_protobuf
    return decode(delivery.body, delivery.options, delivery.received_at)


def _history(name: str) -> Route | None:
    if name not in HISTORIES:
        return None

    def decode(delivery: Delivery) -> Decoded:
        document, broken = documents.read(delivery.body, delivery.content_type, name, is_history=True)
        into = documents.place_for(delivery.body)
        decoded = documents.decode_history(name, document, delivery.options, delivery.received_at, into)
        return _with(decoded, broken)

    return Route(f"histories/{name}", decode, (JSON, NDJSON), "INGEST_MAX_HISTORY_BYTES")


def _conductor(delivery: Delivery) -> Decoded:
    document, broken = documents.read(delivery.body, delivery.content_type, "conductor")
    try:
        return _with(conductor.decode_webhook(document, delivery.options, delivery.received_at), broken)
    except HistoryError as error:
        return _with(Decoded([], [], [Rejection(0, "", documents.NOT_A_HISTORY, str(error))]), broken)


def _openlineage(delivery: Delivery) -> Decoded:
    document, broken = documents.read(delivery.body, delivery.content_type, "openlineage")
    return _with(openlineage.decode(document, delivery.options, delivery.received_at), broken)


def _eventbridge(delivery: Delivery) -> Decoded:
    from apps.ingest.formats import eventbridge

    document, broken = documents.read(delivery.body, delivery.content_type, "eventbridge")
    return _with(eventbridge.decode(document, delivery.options, delivery.received_at, door.limits()), broken)


def _access_logs(delivery: Delivery) -> Decoded:
    from apps.ingest.formats import access_logs

    document, broken = documents.read(delivery.body, delivery.content_type, "access-logs")
    dialect = delivery.parameters.get("dialect", "")
    if dialect and dialect not in access_logs.DIALECTS:
        raise OptionError(f"dialect is one of {', '.join(access_logs.DIALECTS)}")
    return _with(access_logs.decode(document, delivery.options, delivery.received_at, dialect), broken)


def _sns(delivery: Delivery) -> Decoded:
    from apps.ingest import sns_subscription

    document, _ = documents.read(delivery.body, JSON, "sns")
    try:
        return sns_subscription.decode(
            document, delivery.body, delivery.headers, delivery.options, delivery.received_at, door.limits()
        )
    except sns_subscription.SubscriptionError as error:
        raise Refusal(answers.problem(error.status, error.code, str(error))) from None


def _with(decoded: Decoded, broken: list[Any]) -> Decoded:
    decoded.rejections.extend(broken)
    return decoded


_ROUTES: Mapping[str, Route] = {
    TRACES: Route("traces", _traces, (otlp.PROTOBUF, JSON), "INGEST_MAX_OTLP_BODY_BYTES"),
    "/api/v1/openlineage": Route("openlineage", _openlineage, (JSON, NDJSON)),
    # Where OpenLineage's clients post to, given nothing but OPENLINEAGE_URL.
    "/api/v1/lineage": Route("openlineage", _openlineage, (JSON, NDJSON)),
    "/api/v1/conductor": Route("conductor", _conductor, (JSON, NDJSON)),
    "/api/v1/sns": Route("sns", _sns, (_TEXT, JSON)),
    "/api/v1/eventbridge": Route("eventbridge", _eventbridge, (JSON, NDJSON)),
    "/api/v1/access-logs": Route("access-logs", _access_logs, (JSON, NDJSON)),
}
