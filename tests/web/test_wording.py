"""How durations, times and shares are spelt."""

from __future__ import annotations

import pytest

from apps.lib.micros import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from apps.web.charts import bar_chart, short_number
from apps.web.wording import duration_text, elapsed_text, iso_text, moment_text, percent_text


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (7, "<1 ms"),
        (340 * MILLISECOND, "340 ms"),
        (4_200 * MILLISECOND, "4.2 s"),
        (59_940 * MILLISECOND, "59.9 s"),
        (59_960 * MILLISECOND, "1 m 00 s"),
        (24 * MINUTE + 5 * SECOND, "24 m 05 s"),
        (59 * MINUTE + 59_600 * MILLISECOND, "1 h 00 m"),
        (72 * MINUTE, "1 h 12 m"),
        (3 * DAY + 2 * HOUR, "3 d 02 h"),
        (23 * HOUR + 59 * MINUTE + 40 * SECOND, "1 d 00 h"),
        (-90 * SECOND, "-1 m 30 s"),
    ],
)
def test_a_duration_has_at_most_two_units(micros: int | None, text: str) -> None:
    assert duration_text(micros) == text


@pytest.mark.parametrize(
    ("micros", "text"),
    [(-5, "0 s"), (59 * SECOND, "59 s"), (751 * SECOND, "12 m 31 s"), (64 * MINUTE, "1 h 04 m"), (DAY, "1 d 00 h")],
)
def test_what_counts_on_is_told_in_whole_units(micros: int, text: str) -> None:
    assert elapsed_text(micros) == text


def test_moments_are_utc() -> None:
    at = 1_795_098_570_123_456

    assert moment_text(at, "full") == "19 Nov 2026 14:29:30"
    assert moment_text(at, "millis") == "14:29:30.123"
    assert iso_text(at) == "2026-11-19T14:29:30.123456Z"


@pytest.mark.parametrize("at", [2**63 - 1, -(2**63)])
def test_a_time_that_no_calendar_holds_is_still_shown(at: int) -> None:
    assert moment_text(at, "full").endswith(" s")
    assert iso_text(at) == ""


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0, "0"), (0.0004, "<0.1 %"), (0.008, "0.8 %"), (1, "100 %"), (0.9996, "100 %")]
)
def test_shares_are_never_rounded_to_nothing_or_to_all(share: float | None, text: str) -> None:
    assert percent_text(share) == text


def test_the_bars_stand_on_a_round_scale_and_what_is_bad_can_be_seen() -> None:
    chart = bar_chart([(0, 4_300, 0, ""), (60 * SECOND, 10, 1, "")])

    assert [text for _, _, text in chart.lines] == ["2.5 k", "5 k"]
    assert chart.bars[0].bad_height == "0.0"
    assert float(chart.bars[1].bad_height) >= 3


def test_an_empty_chart_has_no_scale() -> None:
    assert bar_chart([(0, 0, 0, "")]).lines == []
    assert short_number(1_250_000) == "1.2 M"
