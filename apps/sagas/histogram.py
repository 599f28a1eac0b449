"""Latencies as mergeable counts: the exponential histogram of OpenTelemetry at scale 4. Pure.

https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram: with base = 2^(1/16), bucket i counts
what lies in (base^i, base^(i+1)]. A quantile is answered by the geometric middle of its bucket, hence off by at most
2^(1/32) - 1 = 2.2 %. Because buckets are fixed, histograms of any rows, minutes and processes add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

SCALE = 4
#: Buckets per doubling.
_RESOLUTION = 1 << SCALE
#: Its own bucket for durations of 0, below all others (1 µs lies in bucket -1).
ZERO_BUCKET = -1024

_ceil = math.ceil
_log2 = math.log2


def bucket_of(duration_us: int) -> int:
    """The bucket of a duration in microseconds. Raises ValueError for a negative one."""
    if duration_us > 0:
        return _ceil(_log2(duration_us) * _RESOLUTION) - 1
    if duration_us == 0:
        return ZERO_BUCKET
    raise ValueError("a duration cannot be negative")


def bounds(bucket: int) -> tuple[float, float]:
    """The durations (lower, upper] in microseconds that a bucket counts; (0, 0) for the bucket of zeros."""
    if bucket == ZERO_BUCKET:
        return (0.0, 0.0)
    return (2.0 ** (bucket / _RESOLUTION), 2.0 ** ((bucket + 1) / _RESOLUTION))


def merge(*histograms: Mapping[int, int]) -> dict[int, int]:
    """The histogram of everything that the given ones counted."""
    merged: dict[int, int] = {}
    for histogram in histograms:
        for bucket, count in histogram.items():
            merged[bucket] = merged.get(bucket, 0) + count
    return merged


def quantile(buckets: Mapping[int, int], q: float) -> float | None:
    """The duration in microseconds that a share `q` (0 to 1) of all does not exceed; None when nothing was counted.

    Nearest rank: the result lies within 2.2 % of the ⌈q·n⌉-th smallest duration. Raises ValueError for another `q`.
    """
    if not 0.0 <= q <= 1.0:
        raise ValueError("a quantile lies between 0 and 1")
    total = sum(buckets.values())
    if total <= 0:
        return None
    rank = max(1, _ceil(q * total))
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            lower, upper = bounds(bucket)
            return math.sqrt(lower * upper)
    return None  # pragma: no cover - the last bucket always reaches the rank


def to_flat(histogram: Mapping[int, int]) -> list[int]:
    """As it is stored: [bucket, count, bucket, count …], by bucket."""
    return [number for bucket in sorted(histogram) for number in (bucket, histogram[bucket])]


def from_flat(flat: Sequence[int]) -> dict[int, int]:
    """The histogram of a stored array; a bucket may stand in it more than once."""
    histogram: dict[int, int] = {}
    for bucket, count in zip(flat[::2], flat[1::2], strict=True):
        histogram[bucket] = histogram.get(bucket, 0) + count
    return histogram


def of(durations: Iterable[int]) -> dict[int, int]:
    """The histogram of durations in microseconds."""
    histogram: dict[int, int] = {}
    for duration in durations:
        bucket = bucket_of(duration)
        histogram[bucket] = histogram.get(bucket, 0) + 1
    return histogram
