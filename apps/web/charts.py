"""Geometry of the small charts: x in percent of the width, y in pixels. No colours, no text but axis labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apps.lib.micros import Micros
from apps.sagas.flow_series import Slots
from apps.sagas.heatmap import Cell, Heat
from apps.web.wording import duration_text, moment_text, percent_text

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
    #: What is behind it; "" where it leads nowhere.
    url: str = ""


@dataclass(frozen=True, slots=True)
class BarChart:
    """Bars with horizontal lines at round values and times below."""

    bars: list[Bar]
    #: (y of the line, y of its text, text)
    lines: list[tuple[str, str, str]]
    #: (x in percent, anchor, time)
    times: list[tuple[str, str, Micros]]
    total: float
    highest: float
    height: str = f"{HEIGHT:g}"
    foot: str = f"{HEIGHT + 18:g}"


@dataclass(frozen=True, slots=True)
class HeatChart:
    """Cells of time × duration; shortest durations at the bottom."""

    #: (class of the shade, x, y, width, height, label, URL)
    cells: list[tuple[str, str, str, str, str, str, str]]
    #: (y, text) of the lower end of each band.
    bands: list[tuple[str, str]]
    times: list[tuple[str, str, Micros]]
    height: str
    foot: str
    width: str


#: Height of a band of a heat chart, and the part of the width that its labels take, in percent.
BAND, HEAT_LEFT = 18.0, 8.0


def heat_chart(heat: Heat, slots: Slots, word: str, url_of: Callable[[Cell], str]) -> HeatChart:
    """The chart of a picture of latencies; `word` is what was counted (runs, sagas)."""
    step = (100 - HEAT_LEFT) / max(1, slots.count)
    top = len(heat.bands) - 1
    cells = []
    for cell in heat.cells:
        begin = slots.begin(cell.slot)
        words = f"{moment_text(begin, 'minute')}, {band_text(heat.bands[cell.band])}: {cell.count:,} {word}"
        x, y = f"{HEAT_LEFT + cell.slot * step:.2f}%", f"{(top - cell.band) * BAND:.0f}"
        cells.append((f"h{cell.level}", x, y, f"{step * 0.94:.2f}%", f"{BAND - 1:.0f}", words, url_of(cell)))
    bands = [(f"{(top - index) * BAND + 13:.0f}", duration_text(lower)) for index, (lower, _) in enumerate(heat.bands)]
    height = BAND * len(heat.bands)
    times = _times([slots.begin(slot) for slot in range(slots.count)], HEAT_LEFT)
    return HeatChart(cells, bands, times, f"{height:.0f}", f"{height + 18:.0f}", f"{100 - HEAT_LEFT:.2f}%")


def band_text(band: tuple[Micros, Micros | None]) -> str:
    """A band in words: 2.0 s to 3.0 s."""
    lower, upper = band
    return f"{duration_text(lower)} and more" if upper is None else f"{duration_text(lower)} to {duration_text(upper)}"


def rate_chart(
    rates: Sequence[tuple[int, int]], slots: Slots, word: str, urls: Sequence[str], height: float
) -> BarChart:
    """Bars of part ÷ whole in every slot, with an axis in percent; `word` says what the part is (failed, retried)."""
    shares = [part / whole if whole else 0.0 for part, whole in rates]
    values = []
    for slot, ((part, whole), share) in enumerate(zip(rates, shares, strict=True)):
        begin = slots.begin(slot)
        words = f"{moment_text(begin, 'minute')}: {part:,} of {whole:,} {word}, {percent_text(share)}"
        values.append((begin, share * 100, 0, words))
    return bar_chart(values, height=height, unit=" %", urls=urls)


def bar_chart(
    values: Sequence[tuple[Micros, float, float, str]],
    *,
    height: float = HEIGHT,
    unit: str = "",
    urls: Sequence[str] = (),
) -> BarChart:
    """A chart of (time, value, bad part, label in words), oldest first. An empty field when all are zero."""
    highest = max((max(value, bad) for _, value, bad, _ in values), default=0)
    top = _round_up(highest)
    step = (100 - LEFT) / max(1, len(values))
    bars = []
    for index, (_, value, bad, label) in enumerate(values):
        tall = height * value / top if top else 0
        # Something bad is never thinner than a hairline that can be seen.
        bad_height = max(3.0, height * bad / top) if bad and top else 0
        bars.append(
            Bar(
                x=f"{LEFT + index * step:.2f}%",
                width=f"{step * 0.78:.2f}%",
                y=f"{height - tall:.1f}",
                height=f"{tall:.1f}",
                bad_y=f"{height - bad_height:.1f}",
                bad_height=f"{bad_height:.1f}",
                label=label,
                url=urls[index] if index < len(urls) else "",
            )
        )
    lines = []
    if top:
        for share in (0.5, 1.0):
            y = height * (1 - share)
            lines.append((f"{y:.1f}", f"{max(y, 6) + 4:.1f}", short_number(top * share) + unit))
    times = _times([value[0] for value in values], LEFT)
    total = sum(value for _, value, _, _ in values)
    return BarChart(bars, lines, times, total, highest, f"{height:g}", f"{height + 18:g}")


def _times(moments: Sequence[Micros], left: float) -> list[tuple[str, str, Micros]]:
    """Five times under a chart, the first and the last among them."""
    return [
        (f"{left + (100 - left) * share:.2f}%", anchor, moments[min(len(moments) - 1, int(len(moments) * share))])
        for share, anchor in ((0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end"))
        if moments
    ]


def level_of(chart: BarChart, value: float) -> str | None:
    """The y of a value among the bars of a chart; None where it lies above all of it."""
    top = _round_up(chart.highest)
    return f"{float(chart.height) * (1 - value / top):.1f}" if top and value <= top else None


def _round_up(value: float) -> float:
    """The next round number at or above a value; 0 for nothing."""
    if value <= 0:
        return 0
    power = 10.0 ** math.floor(math.log10(value))
    return next(nice * power for nice in _NICE if nice * power >= value)


def short_number(value: float) -> str:
    """5000 → 5 k, 2500 → 2.5 k, 1200000 → 1.2 M."""
    for size, unit in ((1_000_000, " M"), (1_000, " k")):
        if value >= size:
            return f"{value / size:.1f}".rstrip("0").rstrip(".") + unit
    return f"{value:.1f}".rstrip("0").rstrip(".")
