"""Geometry of the small charts: x in percent of the width, y in pixels. No colours, no text but axis labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.lib.micros import Micros

HEIGHT = 186.0
#: Left part of the field, in percent, that holds the labels of the vertical axis.
LEFT = 5.5
_NICE = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar from the ground up; `bad_*` is its red foot."""

    x: str
    width: str
    y: str
    height: str
    bad_y: str
    bad_height: str
    label: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars with horizontal lines at round values and times below."""

    bars: list[Bar]
    #: (y of the line, y of its text, text)
    lines: list[tuple[str, str, str]]
    #: (x in percent, anchor, time)
    times: list[tuple[str, str, Micros]]
    total: int
    highest: int


def bar_chart(values: Sequence[tuple[Micros, int, int, str]]) -> BarChart:
    """A chart of (time, value, bad part, label in words), oldest first. An empty field when all are zero."""
    highest = max((max(value, bad) for _, value, bad, _ in values), default=0)
    top = _round_up(highest)
    step = (100 - LEFT) / max(1, len(values))
    bars = []
    for index, (_, value, bad, label) in enumerate(values):
        height = HEIGHT * value / top if top else 0
        # Something bad is never thinner than a hairline that can be seen.
        bad_height = max(3.0, HEIGHT * bad / top) if bad and top else 0
        bars.append(
            Bar(
                x=f"{LEFT + index * step:.2f}%",
                width=f"{step * 0.78:.2f}%",
                y=f"{HEIGHT - height:.1f}",
                height=f"{height:.1f}",
                bad_y=f"{HEIGHT - bad_height:.1f}",
                bad_height=f"{bad_height:.1f}",
                label=label,
            )
        )
    lines = []
    if top:
        for share in (0.5, 1.0):
            y = HEIGHT * (1 - share)
            lines.append((f"{y:.1f}", f"{max(y, 6) + 4:.1f}", short_number(top * share)))
    times = [
        (f"{LEFT + (100 - LEFT) * share:.2f}%", anchor, values[min(len(values) - 1, int(len(values) * share))][0])
        for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end"))
        if values
    ]
    return BarChart(bars, lines, times, sum(value for _, value, _, _ in values), highest)


def _round_up(value: float) -> float:
    """The next round number at or above a value; 0 for nothing."""
    if value <= 0:
        return 0
    power = 10 ** (len(str(int(value))) - 1)
    return next(nice * power for nice in _NICE if nice * power >= value)


def short_number(value: float) -> str:
    """5000 → 5 k, 2500 → 2.5 k, 1200000 → 1.2 M."""
    for size, unit in ((1_000_000, " M"), (1_000, " k")):
        if value >= size:
            return f"{value / size:.1f}".rstrip("0").rstrip(".") + unit
    return f"{value:.1f}".rstrip("0").rstrip(".")
