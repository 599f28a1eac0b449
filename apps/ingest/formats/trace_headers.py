"""Which trace a message belongs to, by its headers: W3C Trace Context, else B3 (in one or several), else X-Ray. Pure.

Sources: W3C Trace Context level 1; github.com/openzipkin/b3-propagation; AWS X-Ray's trace header. What is invalid is
ignored, as they all demand; it is never a reason to refuse an event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from apps.ingest.formats.engine_entries import trace_of

_B3 = re.compile(r"([0-9a-f]{32}|[0-9a-f]{16})-([0-9a-f]{16})(-[01d](-[0-9a-f]{16})?)?", re.IGNORECASE)
_TRACE = re.compile(r"[0-9a-f]{32}|[0-9a-f]{16}", re.IGNORECASE)
_SPAN = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)
_XRAY_ROOT = re.compile(r"(?:^|;)\s*Root=1-([0-9a-f]{8})-([0-9a-f]{24})(?=;|$)", re.IGNORECASE)
_XRAY_PARENT = re.compile(r"(?:^|;)\s*Parent=([0-9a-f]{16})(?=;|$)", re.IGNORECASE)

Ids = tuple[str | None, str | None]


def trace_of_headers(headers: Mapping[str, str]) -> Ids:
    """Trace and span id. Names of headers come in lower case, without dashes and underscores."""
    traceparent = headers.get("traceparent") or headers.get("cetraceparent")
    found: Ids = trace_of(traceparent.strip()) if traceparent else (None, None)
    if found[0] is None:
        found = _b3(headers)
    return found if found[0] is not None else _xray(headers)


def _b3(headers: Mapping[str, str]) -> Ids:
    match = _B3.fullmatch(headers.get("b3", "").strip())
    if match is not None:
        return _ids(match[1], match[2])
    trace, span = headers.get("xb3traceid", ""), headers.get("xb3spanid", "")
    return _ids(trace, span) if _TRACE.fullmatch(trace) and _SPAN.fullmatch(span) else (None, None)


def _xray(headers: Mapping[str, str]) -> Ids:
    text = headers.get("xamzntraceid") or headers.get("awstraceheader") or ""
    root, parent = _XRAY_ROOT.search(text), _XRAY_PARENT.search(text)
    if root is None:
        return None, None
    trace, span = root[1].lower() + root[2].lower(), parent[1].lower() if parent else None
    return (trace, span if span and span.strip("0") else None) if trace.strip("0") else (None, None)


def _ids(trace: str, span: str) -> Ids:
    trace, span = trace.lower().rjust(32, "0"), span.lower()
    return (trace, span) if trace.strip("0") and span.strip("0") else (None, None)
