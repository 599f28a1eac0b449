"""What the page of a flow shows: its map, steps over time, latencies as a picture, rates, variants and funnel.

Every number comes with the query that finds the instances behind it (`Links`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.urls import reverse

from apps.lib.micros import MINUTE, SECOND, Micros, isoformat
from apps.sagas import queries
from apps.sagas.definitions import FlowDefinition
from apps.sagas.flow_map import FlowMap, map_of
from apps.sagas.flow_paths import FlowVariants, first_seen, variants_of
from apps.sagas.flow_series import Series, Slots, step_series, wait_series
from apps.sagas.heatmap import Cell, heat_of
from apps.sagas.histogram import quantile
from apps.sagas.overview import stuck_by_step
from apps.sagas.variants import FAILURES, OPEN, VariantFigures, funnel
from apps.web.charts import BarChart, heat_chart, rate_chart
from apps.web.completion import spelt
from apps.web.map_drawing import StepFacts, pictures

#: Paths that a smaller share of the sagas went are left out of the map until somebody asks for them.
RARE = 0.001
#: Variants in the list, blocks of one, and all of them when asked for.
VARIANTS, BLOCKS, ALL_VARIANTS = 8, 12, 100
RATE_HEIGHT = 84.0
#: A p95 this much above its own median of the window is shown as late.
LATE = 1.5


@dataclass(frozen=True)
class Links:
    """Queries for the instances behind the numbers of one flow and window."""

    flow: str
    since: Micros

    def query(self, *terms: str, sort: str = "") -> str:
        """The list of instances of the flow that these terms mean."""
        values = {"q": " ".join([f"flow:{spelt(self.flow)}", *terms]), **({"sort": sort} if sort else {})}
        return f"{reverse('web:instances')}?{urlencode(values)}"

    def started(self, *terms: str, sort: str = "") -> str:
        """Of those that started in the window."""
        return self.query(*terms, f"started>={instant(self.since)}", sort=sort)

    def via(self, mark: str) -> str:
        """Of those whose path passes a step, an edge or an outcome."""
        return self.started(f"via:{spelt(mark)}")


def instant(at: Micros) -> str:
    """A time as queries spell it, to the second."""
    return isoformat(at // SECOND * SECOND).replace(".000000", "")


@dataclass(frozen=True)
class Asked:
    """What the reader chose on the page."""

    window: str
    latency: str = ""
    is_wait: bool = False
    without_undo: bool = False
    with_rare: bool = False
    all_variants: bool = False

    def url(self, **changes: Any) -> str:
        """The same page with something chosen otherwise."""
        values = {
            "window": self.window if self.window != "24h" else "",
            "latency": self.latency,
            "of": "wait" if self.is_wait else "",
            "undo": "hide" if self.without_undo else "",
            "rare": "show" if self.with_rare else "",
            "variants": "all" if self.all_variants else "",
            **changes,
        }
        return "?" + urlencode({name: value for name, value in values.items() if value})


def figures(
    project_id: int, name: str, definition: FlowDefinition | None, asked: Asked, span: Micros, now: Micros
) -> dict[str, Any]:
    """The context of the page. Raises ReadTooLongError."""
    slots = Slots.of(now, span)
    found = variants_of(project_id, name, since=now - span)
    links, exact = Links(name, found.since), Links(name, now - span)
    latencies = queries.step_latency(project_id, name, since=now - span, until=now + MINUTE)
    series = step_series(project_id, name, slots)
    stuck = stuck_by_step(project_id, name, queries.watermarks(project_id, now))
    return {
        "asked": asked,
        "variants_since": found.since,
        **_map(project_id, found, definition, latencies, stuck, links, asked),
        "steps": _steps(latencies, definition, series, slots, stuck, links, asked),
        "heat": _heat(project_id, name, series, slots, links, asked),
        "rates": _rates(series, slots, links),
        **_variants(found, links, asked),
        "funnel": _funnel(found, links),
        "links": {
            "started": exact.started(),
            **{
                name: exact.query(f"status:{words}", f"ended>={instant(exact.since)}")
                for name, words in (
                    ("completed", "completed"),
                    ("compensated", "compensated"),
                    ("failed", "failed,timed_out"),
                )
            },
        },
    }


def _map(
    project_id: int,
    found: FlowVariants,
    definition: FlowDefinition | None,
    latencies: list[queries.StepLatency],
    stuck: dict[str, int],
    links: Links,
    asked: Asked,
) -> dict[str, Any]:
    drawn = map_of(found.variants, definition, rare=0.0 if asked.with_rare else RARE)
    facts = {
        latency.step: StepFacts(
            None if latency.run.p95 is None else round(latency.run.p95 * SECOND), stuck.get(latency.step, 0)
        )
        for latency in latencies
    }
    shown = drawn
    if asked.without_undo:
        kept = {node.step for node in drawn.nodes if not node.is_undo}
        edges = [edge for edge in drawn.edges if {edge.before, edge.after} <= kept]
        shown = FlowMap(drawn.total, [node for node in drawn.nodes if node.step in kept], edges)
    drift = [
        {
            "step": step,
            "since": first_seen(project_id, links.flow, step),
            "count": next(node.count for node in drawn.nodes if node.step == step),
            "url": links.via(step),
        }
        for step in drawn.undeclared[:5]
    ]
    return {
        "map": drawn,
        "pictures": pictures(shown, facts, links.via) if found.variants else [],
        "map_edges": [
            {
                "edge": edge,
                "url": links.via(f"{edge.before}>{edge.after}"),
                "p50": None if edge.pause_p50 is None else round(edge.pause_p50),
                "p95": None if edge.pause_p95 is None else round(edge.pause_p95),
            }
            for edge in drawn.edges
        ],
        "drift": drift,
        "more_drift": max(0, len(drawn.undeclared) - len(drift)),
        "unseen": drawn.unseen,
    }


def _steps(
    latencies: list[queries.StepLatency],
    definition: FlowDefinition | None,
    series: dict[str, Series],
    slots: Slots,
    stuck: dict[str, int],
    links: Links,
    asked: Asked,
) -> list[dict[str, Any]]:
    """Steps in the declared order, compensations after the forward steps; what nobody declared keeps its own order."""
    declared: dict[str, tuple[int, str, str, str]] = {}
    if definition is not None:
        for place, step in enumerate(definition.steps):
            undo = step.compensation.name if step.compensation is not None else ""
            declared[step.name] = (place, step.service or "", step.role.value if step.role else "", undo)
            if step.compensation is not None:
                declared[undo] = (1_000_000 - place, step.compensation.service or "", "undo", "")
    rows = []
    for latency in latencies:
        name = latency.step
        default = (500_000, "", "undo" if latency.is_compensation else "", "")
        place, service, role, undo = declared.get(name, default)
        over_time = series.get(name, Series())
        p95 = over_time.quantile(0.95, slots)
        rows.append(
            {
                "place": place,
                "name": name,
                "service": service,
                "role": role,
                "is_drift": definition is not None and name not in declared,
                "latency": latency,
                "stuck": stuck.get(name, 0),
                "p95": p95,
                "p95_tone": "late" if _rises(p95) else "",
                "counts": over_time.of("started", slots),
                "url": links.via(name),
                "stuck_url": links.query("is:stuck", f"waiting:{spelt(name)}", sort="deadline"),
                "failed_url": links.started(f"via:{spelt(f'{name}=failed')},{spelt(f'{name}=timed_out')}"),
                "retried_url": links.started(f"via:{spelt(name)}", "is:retried", sort="-attempts"),
                "slow_url": links.started(f"via:{spelt(name)}", sort="-duration"),
                "undone_url": links.via(undo) if undo else "",
                "heat_url": asked.url(latency=name) + "#latency",
            }
        )
    seen = {latency.step for latency in latencies}
    rows += [
        {"place": place, "name": step, "service": service, "role": role, "latency": None, "p95": [], "counts": []}
        for step, (place, service, role, _) in declared.items()
        if step not in seen
    ]
    return sorted(rows, key=lambda row: row["place"])


def _rises(values: list[float | None]) -> bool:
    """True when the newest values lie well above the median of the window."""
    known = sorted(value for value in values if value is not None)
    last = next((value for value in reversed(values) if value is not None), None)
    return last is not None and len(known) >= 6 and last > LATE * known[len(known) // 2]


def _heat(
    project_id: int, name: str, series: dict[str, Series], slots: Slots, links: Links, asked: Asked
) -> dict[str, Any]:
    step = asked.latency if asked.latency in series else ""
    is_wait = asked.is_wait and bool(step)
    counts = wait_series(project_id, name, step, slots) if is_wait else series.get(step, Series()).runs
    heat = heat_of(counts)

    def url_of(cell: Cell) -> str:
        begin, end = slots.begin(cell.slot), slots.begin(cell.slot + 1)
        when = [f"ended>={instant(begin)}", f"ended<{instant(end)}"]
        if step:
            return links.query(f"via:{spelt(step)}", *when)
        lower, upper = heat.bands[cell.band]
        lengths = [f"duration>={lower // 1000}ms", *([f"duration<{upper // 1000}ms"] if upper is not None else [])]
        return links.query(*when, *lengths)

    return {
        "step": step,
        "steps": sorted(one for one in series if one),
        "is_wait": is_wait,
        "chart": heat_chart(heat, slots, "runs" if step else "sagas", url_of) if heat.cells else None,
        "highest": heat.highest,
        "total": heat.total,
        "table": [
            {
                "at": slots.begin(slot),
                "count": sum(histogram.values()),
                **{name: _rounded(quantile(histogram, q)) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
            }
            for slot, histogram in sorted(counts.items())
        ],
        "slot": slots.width,
    }


def _rounded(value: float | None) -> Micros | None:
    return None if value is None else round(value)


_ENDED = ("completed", "failed", "timed_out", "cancelled", "compensated")


def _rates(series: dict[str, Series], slots: Slots, links: Links) -> list[dict[str, Any]]:
    """Charts of retries, failures and compensations over time."""
    steps = [one for name, one in series.items() if name]
    sagas = series.get("", Series())
    retried = [
        (sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs))
        for pairs in zip(*(one.rate(("retried",), ("started",), slots) for one in steps), strict=True)
    ] or [(0, 0)] * slots.count

    def urls(*terms: str, key: str) -> list[str]:
        return [
            links.query(*terms, f"{key}>={instant(slots.begin(slot))}", f"{key}<{instant(slots.begin(slot + 1))}")
            for slot in range(slots.count)
        ]

    def chart(title: str, tone: str, rates: list[tuple[int, int]], word: str, bars: list[str]) -> dict[str, Any]:
        part, whole = sum(rate[0] for rate in rates), sum(rate[1] for rate in rates)
        drawn: BarChart = rate_chart(rates, slots, word, bars, RATE_HEIGHT)
        return {
            "title": title,
            "tone": tone,
            "chart": drawn,
            "share": part / whole if whole else None,
            "part": part,
            "whole": whole,
            "word": word,
        }

    return [
        chart("Retried", "in", retried, "attempts were retries", urls("is:retried", key="last")),
        chart(
            "Failed",
            "bad",
            sagas.rate(("failed", "timed_out"), _ENDED, slots),
            "ended sagas failed",
            urls("status:failed,timed_out", key="ended"),
        ),
        chart(
            "Compensated",
            "undo",
            sagas.rate(("compensated",), _ENDED, slots),
            "ended sagas were undone",
            urls("status:compensated", key="ended"),
        ),
    ]


def _variants(found: FlowVariants, links: Links, asked: Asked) -> dict[str, Any]:
    """The list of variants. Where sagas end at all, those that are still open are no variant yet."""
    ends = any(set(variant.statuses) - {OPEN} for variant in found.variants)
    ranked = [
        (variant, variant.count - variant.statuses.get(OPEN, 0) if ends else variant.count)
        for variant in found.variants
    ]
    ranked = sorted((item for item in ranked if item[1]), key=lambda item: (-item[1], item[0].identity))
    total = sum(count for _, count in ranked)
    shown = ranked[: ALL_VARIANTS if asked.all_variants else VARIANTS]
    usual = ranked[0][0] if ranked else None
    rows = [
        {
            "share": count / total,
            "count": count,
            "blocks": _blocks(variant),
            "width": min(BLOCKS, len(variant.path.nodes)) * 15,
            "more": max(0, len(variant.path.nodes) - BLOCKS),
            "words": _words(variant, usual),
            "path": _sentence(variant),
            "status": max(
                (word for word in variant.statuses if word != OPEN or not ends),
                key=lambda word: (variant.statuses[word], word),
            ),
            "p50": _rounded(quantile(variant.durations, 0.5)),
            "p95": _rounded(quantile(variant.durations, 0.95)),
            "url": links.started(f"variant:{variant.identity}", *(["is:ended"] if ends else [])),
        }
        for variant, count in shown
    ]
    return {
        "variants": rows,
        "variant_count": len(ranked) + max(0, found.variant_count - len(found.variants)),
        "variants_covered": sum(count for _, count in shown) / total if total else None,
        "variants_open": sum(variant.statuses.get(OPEN, 0) for variant in found.variants) if ends else 0,
        "open_url": links.started("is:open"),
    }


def _blocks(variant: VariantFigures) -> list[dict[str, str]]:
    """Small squares: what undoes is lower, what failed is marked by shape as well as colour."""
    blocks = []
    for place, node in enumerate(variant.path.nodes[:BLOCKS]):
        tone = "v-undo" if node.is_undo else "v-ok"
        if node.outcome in FAILURES:
            tone = "v-fail"
        elif node.outcome in (OPEN, "cancelled", "skipped"):
            tone = "v-eng"
        y, height = ("5", "7") if node.is_undo else ("0", "12")
        blocks.append({"x": str(place * 15), "y": y, "height": height, "tone": tone})
    return blocks


def _sentence(variant: VariantFigures) -> str:
    """The path in words, for those who do not see the squares."""
    return ", ".join(
        node.step + ("" if node.outcome == "completed" else f" {node.outcome.replace('_', ' ')}")
        for node in variant.path.nodes
    )


def _words(variant: VariantFigures, usual: VariantFigures | None) -> str:
    """What sets a variant apart, in a few words."""
    nodes = variant.path.nodes
    failed = [node.step for node in nodes if node.outcome in FAILURES]
    undone = [node for node in nodes if node.is_undo and node.outcome == "completed"]
    parts = []
    if failed:
        parts.append(f"{failed[0]} failed" + (f" and {len(failed) - 1} more" if len(failed) > 1 else ""))
    if undone:
        parts.append(f"{len(undone)} undone")
    waiting = [node.step for node in nodes if node.outcome == OPEN]
    if waiting:
        parts.append(f"{waiting[0]} not over")
    if not parts and usual is not None and usual is not variant:
        mine, theirs = set(variant.path.names), set(usual.path.names)
        parts += [f"with {name}" for name in sorted(mine - theirs)[:2]]
        parts += [f"without {name}" for name in sorted(theirs - mine)[:2]]
    if not parts:
        parts.append("in another order" if usual is not variant else f"{len(nodes)} steps, nothing failed")
    return ", ".join(parts)


def _funnel(found: FlowVariants, links: Links) -> list[dict[str, Any]]:
    """From started to completed, one row for each forward step."""
    total = sum(variant.count for variant in found.variants)
    if not total:
        return []
    completed = sum(variant.statuses.get("completed", 0) for variant in found.variants)
    rows: list[dict[str, Any]] = [{"name": "Started", "count": total, "url": links.started(), "is_end": True}]
    rows += [
        {
            "name": step.step,
            "count": step.reached,
            "completed": step.completed,
            "failed": step.failed,
            "open": step.open,
            "url": links.via(step.step),
            "completed_url": links.via(f"{step.step}=completed"),
            "failed_url": links.started(
                "via:" + ",".join(spelt(f"{step.step}={word}") for word in ("failed", "timed_out", "cancelled"))
            ),
            "open_url": links.via(f"{step.step}={OPEN}"),
        }
        for step in funnel(found.variants)[:40]
    ]
    rows.append({"name": "Completed", "count": completed, "url": links.started("status:completed"), "is_end": True})
    for row in rows:
        row["share"] = row["count"] / total
        row["width"] = f"{100 * row['count'] / total:.2f}%"
        row["done_width"] = f"{100 * row.get('completed', row['count']) / total:.2f}%"
    return rows
