"""One execution of an AWS Step Functions state machine: who it is, and the events of its own life. Pure.

The same change of an execution's status may arrive three ways: as an entry of its history, as an EventBridge event
and in `DescribeExecution`. All three become the same event: its id is made of execution, redrive and status, and its
digest of nothing else, so that whichever comes second is a duplicate, not a conflict.

Sources: the API reference of Step Functions (HistoryEvent, DescribeExecution) and its EventBridge event
`Step Functions Execution Status Change`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries, json_path
from apps.ingest.formats.event_time import parse_time
from apps.ingest.formats.histories import HistoryOptions, with_digest
from apps.ingest.strict_json import Refused
from apps.sagas.events import SECOND, EventKind, Micros, SagaEvent, TimeQuality, digest_of

#: Key that AWS asks parents to put into the input of executions that they start.
STARTED_BY = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID"

#: Status of an execution → what it says of the saga.
STATUSES = {
    "RUNNING": EventKind.SAGA_STARTED,
    "SUCCEEDED": EventKind.SAGA_COMPLETED,
    "FAILED": EventKind.SAGA_FAILED,
    "TIMED_OUT": EventKind.SAGA_TIMED_OUT,
    "ABORTED": EventKind.SAGA_CANCELLED,
    "PENDING_REDRIVE": EventKind.INFO,
}
#: What stands for times in histories that were cleaned for publication.
_TAKEN_OUT = frozenset({"timestamp", "date", "datetime", "start-date", "stop-date"})
_LAST_SECOND = 253_402_214_400
_TRACE_ROOT = re.compile(r"(?:^|;)\s*Root=1-([0-9a-f]{8})-([0-9a-f]{24})", re.IGNORECASE)
_TRACE_PARENT = re.compile(r"(?:^|;)\s*Parent=([0-9a-f]{16})", re.IGNORECASE)
_ERROR_CHARACTERS = 500


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """Who an execution is. `arn` identifies it in event ids; a name where nobody told the ARN."""

    arn: str
    name: str
    flow: str
    source: str
    correlation_id: str
    run: str = ""
    version: str | None = None
    alias: str | None = None
    parent_flow: str | None = None
    parent_run: str | None = None
    trace_id: str | None = None
    span_id: str | None = None

    def event_id(self, redrive: int, what: str) -> str:
        """Id of what happened to it; a hash stands for an ARN that would be too long."""
        found = f"sfn:{self.arn}/{redrive}/{what}"
        if len(found.encode()) <= engine_entries.IDENTITY_BYTES:
            return found
        return f"sfn:{hashlib.sha256(self.arn.encode()).hexdigest()}/{redrive}/{what}"


def execution_of(about: Mapping[str, Any], given_input: Any, options: HistoryOptions) -> Execution:
    """The execution that `about` (DescribeExecution, EventBridge detail, a log line) and its input speak of.

    Raises Refused when neither they nor the options say which execution it is.
    """
    arn = engine_entries.text_at(about, "executionArn", "execution_arn") or options.workflow_id or ""
    parts = arn.split(":") if arn.startswith("arn:") else []
    is_arn = len(parts) > 7
    given_input = engine_entries.parsed(given_input)
    wanted = options.correlation_id
    if wanted is None and options.correlation_path is not None:
        wanted = json_path.find_text(options.correlation_path, given_input)
        if wanted is None:
            raise Refused("missing_correlation", "correlation_path finds nothing in the input of the execution")
    if wanted is None and options.correlation_key is not None and isinstance(given_input, dict):
        wanted = json_path.scalar_text(given_input.get(options.correlation_key))
    name = engine_entries.text_at(about, "name") or (":".join(parts[7:]) if is_arn else arn) or wanted
    if name is None:
        raise Refused(
            "missing_execution",
            "which execution is it? Send DescribeExecution's answer beside the history, or name it: executionArn",
        )
    parent = given_input.get(STARTED_BY) if isinstance(given_input, dict) else None
    parent_parts = parent.split(":") if isinstance(parent, str) and parent.startswith("arn:") else []
    parent_name = ":".join(parent_parts[7:]) or None
    correlation_id = wanted or parent_name or name
    machine = parts[6] if is_arn else (engine_entries.text_at(about, "stateMachineArn") or "").rpartition(":")[2]
    place = f"{parts[4]}/{parts[3]}" if is_arn else "unknown"
    version = engine_entries.text_at(about, "stateMachineVersionArn")
    alias = engine_entries.text_at(about, "stateMachineAliasArn")
    trace_id, span_id = xray_ids(about.get("traceHeader"))
    return Execution(
        arn=arn or name,
        name=name,
        flow=options.flow or machine or "state-machine",
        source=f"stepfunctions://{options.namespace or place}",
        correlation_id=correlation_id,
        run="" if correlation_id == name else name,
        version=version.rpartition(":")[2] if version else None,
        alias=alias.rpartition(":")[2] if alias else None,
        parent_flow=parent_parts[6] if parent_name else None,
        # The parent's own run is its name where it runs under another correlation ID than that.
        parent_run=None if not parent_name else "" if correlation_id == parent_name else parent_name,
        trace_id=trace_id,
        span_id=span_id,
    )


def status_event(
    execution: Execution,
    status: str,
    redrive: int,
    occurred_at: Micros,
    received_at: Micros,
    *,
    payload: Any = None,
    error: str | None = None,
    given_input: Any = None,
    **more: Any,
) -> SagaEvent:
    """The event that an execution took this status, in its `redrive`-th redrive. Raises Refused."""
    kind = STATUSES.get(status, EventKind.INFO)
    if kind is EventKind.SAGA_STARTED and redrive:
        kind = EventKind.SAGA_CONTINUED
    attributes: dict[str, Any] = {"execution": execution.name, "alias": execution.alias}
    if kind is EventKind.SAGA_STARTED:
        attributes |= {"execution_arn": execution.arn, **scalars(engine_entries.parsed(given_input))}
    found = engine_entries.event(
        payload,
        source=execution.source,
        id=execution.event_id(redrive, status),
        type=more.pop("type", status),
        correlation_id=execution.correlation_id,
        occurred_at=occurred_at,
        received_at=received_at,
        kind=kind,
        flow=execution.flow,
        flow_version=execution.version,
        run=execution.run,
        parent_flow=execution.parent_flow,
        parent_run=execution.parent_run,
        trace_id=execution.trace_id,
        span_id=execution.span_id,
        error=error,
        attributes=attributes,
        **more,
    )
    digest = digest_of({"execution": execution.arn, "redrive": redrive, "status": status})
    return msgspec.structs.replace(found, digest=digest)


def scalars(value: Any) -> dict[str, Any]:
    """The small facts at the top of an input, to search by."""
    if not isinstance(value, dict):
        return {}
    return {
        name: found
        for name, found in value.items()
        if isinstance(found, str | int | float | bool) and len(str(found)) <= engine_entries.NAME_CHARACTERS
    }


def error_text(details: Mapping[str, Any]) -> str | None:
    """`Error: cause` in short. A cause that is JSON (Lambda's and nested executions') gives its own message."""
    name = engine_entries.text_at(details, "error")
    cause = engine_entries.parsed(details.get("cause"))
    if isinstance(cause, dict):
        cause = engine_entries.text_at(cause, "errorMessage", "Cause", "message", "Error", "errorType")
    cause = cause if isinstance(cause, str) and cause and cause != name else None
    return ": ".join(filter(None, (name, cause)))[:_ERROR_CHARACTERS] or None


def xray_ids(header: Any) -> tuple[str | None, str | None]:
    """Trace and span id of an X-Ray header, `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8`."""
    if not isinstance(header, str) or (root := _TRACE_ROOT.search(header)) is None:
        return None, None
    parent = _TRACE_PARENT.search(header)
    return (root[1] + root[2]).lower(), parent[1].lower() if parent else None


def time_of(value: Any, *, millis: bool = False) -> tuple[Micros | None, str]:
    """A timestamp in Micros and a flag or ""; None when nothing is stated.

    Text is RFC 3339 (also with a space, as SDKs print it); numbers are seconds since 1970, as in AWS' own JSON, or
    milliseconds (EventBridge, CloudWatch) where `millis`; SDKs give datetimes. Raises Refused.
    """
    if value is None:
        return None, ""
    if isinstance(value, datetime):
        value = value.isoformat() if value.tzinfo else f"{value.isoformat()}Z"
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            if value in _TAKEN_OUT:
                # The entry's place in the history still says when.
                return None, "invalid_time"
            try:
                return parse_time(value)
            except ValueError as error:
                raise Refused("invalid_time", f"the time {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused("invalid_time", "the time is neither text nor a number")
    seconds = value / 1000 if millis else value
    if not 0 <= seconds < _LAST_SECOND:
        raise Refused("invalid_time", "the time lies outside the years 1970 to 9999")
    # Milliseconds are whole numbers: no float may blur them.
    return (value * 1000, "") if millis and isinstance(value, int) else (round(seconds * SECOND), "")


def at_receipt(event: SagaEvent) -> SagaEvent:
    """An event whose time nobody stated: it happened when it came, and is the same event when it comes again."""
    undated = with_digest(msgspec.structs.replace(event, occurred_at=0, time_quality=TimeQuality.RECEIVED))
    return msgspec.structs.replace(undated, occurred_at=event.received_at)
