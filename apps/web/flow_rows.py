"""Flows as rows of a table: health at a glance, the window's curve, and the last hour against the usual."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apps.lib.micros import Micros
from apps.sagas import queries
from apps.sagas.flow_series import Slots, flow_series
from apps.sagas.usual import Compared, flows_now
from apps.web.wording import percent_text


def flow_rows(
    project_id: int, summaries: Iterable[queries.FlowSummary], now: Micros, window: Micros
) -> list[dict[str, Any]]:
    """A row for each flow, those that need somebody first. Raises ReadTooLongError."""
    found = sorted(summaries, key=lambda flow: (-flow.stuck_count, -flow.started, flow.name))
    names = [flow.name for flow in found]
    slots = Slots.of(now, window)
    series = flow_series(project_id, names, slots)
    present = flows_now(project_id, names, now)
    rows = []
    for flow in found:
        state = present[flow.name]
        rows.append(
            {
                "flow": flow,
                "health": health(flow),
                "p95": series[flow.name].quantile(0.95, slots),
                "starts": series[flow.name].of("started", slots),
                "now": state,
                "p95_now": None if state.p95.now is None else round(state.p95.now),
                "p95_usual": None if state.p95.usual is None else round(state.p95.usual),
                "started_words": versus(state.started),
                "p95_words": versus(state.p95) if state.p95.ratio is None or not 0.8 <= state.p95.ratio <= 1.25 else "",
                "p95_tone": "late" if state.is_slow else "",
            }
        )
    return rows


def versus(compared: Compared) -> str:
    """`×1.8` of the usual; nothing where it is about the usual or nobody can tell."""
    if compared.ratio is None:
        return ""
    if not compared.differs:
        return "as usual"
    return f"×{compared.ratio:.1f}" if compared.ratio < 10 else f"×{compared.ratio:.0f}"


def health(flow: queries.FlowSummary) -> dict[str, Any]:
    """A bar of what became of the sagas that ended in the window, with those that are stuck now."""
    parts = [
        ("ok", "completed", flow.completed),
        ("undone", "undone", flow.compensated),
        ("fail", "failed", flow.failed),
        ("late", "stuck", flow.stuck_count),
    ]
    total = sum(count for _, _, count in parts)
    segments = []
    at = 0.0
    for tone, _, count in parts:
        if count:
            # What is rare is drawn a hairline wide at least, so that nothing bad hides in a rounding.
            width = max(100 * count / total, 2.0)
            segments.append({"tone": tone, "x": f"{min(at, 100 - width):.2f}%", "width": f"{width:.2f}%"})
            at += 100 * count / total
    words = ", ".join(f"{count:,} {word} ({percent_text(count / total)})" for _, word, count in parts if count)
    return {"segments": segments, "words": words or "nothing ended"}
