"""What a page of a correlation shows, as a command that asks the API for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from urllib.parse import quote

from django.conf import settings

from apps.sagas.shapes import CorrelationView
from apps.web.correlation_address import Address

#: Tabs that are drawn from events rather than from steps.
_OF_EVENTS = ("events", "sequence", "causation")


def as_curl(view: CorrelationView, address: Address) -> str:
    """The command, ready for a shell, with a place for the reader's token."""
    path, parameters = _asked(view, address)
    lines = [f"curl -G {shlex.quote(f'{settings.PUBLIC_URL}/api/v1/{path}')}"]
    lines.append('  -H "Authorization: Bearer $SAGASCOPE_TOKEN"')
    lines += [f"  --data-urlencode {shlex.quote(one)}" for one in parameters]
    return " \\\n".join(lines)


def _asked(view: CorrelationView, address: Address) -> tuple[str, list[str]]:
    """Path below the API and parameters."""
    saga = f"correlations/{quote(view.correlation_id, safe='')}"
    if address.tab == "findings":
        return "findings", list(_flow_of(view))
    if address.tab == "letters":
        return "dead-letters", [f"correlation_id={view.correlation_id}"]
    if address.tab in _OF_EVENTS or address.event_id:
        ends = ["start=end"] if address.values.get("end") == "1" else []
        return f"{saga}/events", ["limit=1000", *ends]
    return saga, []


def _flow_of(view: CorrelationView) -> Iterator[str]:
    """All flows when the correlation is of several: the API takes one."""
    flows = {one.instance.flow for one in view.instances}
    if len(flows) == 1:
        yield f"flow={flows.pop()}"
