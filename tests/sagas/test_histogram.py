"""Latency histograms: bounded error, mergeable, and the buckets that OpenTelemetry defines."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.sagas import histogram

DURATIONS = st.integers(min_value=0, max_value=10 * 365 * 86_400 * 1_000_000)
SHARES = st.floats(min_value=0, max_value=1)


@given(DURATIONS)
def test_a_duration_lies_in_its_bucket(duration: int) -> None:
    lower, upper = histogram.bounds(histogram.bucket_of(duration))
    assert lower * (1 - 1e-12) <= duration <= upper * (1 + 1e-12)


@pytest.mark.parametrize(("duration", "bucket"), [(1, -1), (2, 15), (4, 31), (1024, 159), (3, 25), (1_000_000, 318)])
def test_buckets_are_those_of_opentelemetry_at_scale_4(duration: int, bucket: int) -> None:
    assert histogram.bucket_of(duration) == bucket


def test_zero_has_a_bucket_of_its_own_below_all_others() -> None:
    assert histogram.bucket_of(0) == histogram.ZERO_BUCKET < histogram.bucket_of(1)
    assert histogram.bounds(histogram.ZERO_BUCKET) == (0.0, 0.0)
    assert histogram.quantile({histogram.ZERO_BUCKET: 3, histogram.bucket_of(100): 1}, 0.5) == 0.0


def test_a_negative_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        histogram.bucket_of(-1)


@given(st.lists(DURATIONS, min_size=1, max_size=200), SHARES)
def test_a_quantile_is_within_two_and_a_half_percent(durations: list[int], q: float) -> None:
    exact = sorted(durations)[max(1, math.ceil(q * len(durations))) - 1]
    answer = histogram.quantile(histogram.of(durations), q)
    assert answer is not None
    assert abs(answer - exact) <= 0.025 * exact


@given(st.lists(DURATIONS), st.lists(DURATIONS), st.lists(DURATIONS))
def test_histograms_add_up_in_any_grouping(one: list[int], two: list[int], three: list[int]) -> None:
    whole = histogram.of([*one, *two, *three])
    assert histogram.merge(histogram.of(three), histogram.merge(histogram.of(one), histogram.of(two))) == whole
    assert histogram.from_flat(histogram.to_flat(whole)) == whole


def test_a_stored_bucket_may_stand_twice() -> None:
    assert histogram.from_flat([5, 1, 7, 2, 5, 3]) == {5: 4, 7: 2}


def test_nothing_counted_has_no_quantile() -> None:
    assert histogram.quantile({}, 0.99) is None


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram.quantile({1: 1}, q)
