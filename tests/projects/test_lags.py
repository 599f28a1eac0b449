"""A source's lag is what its reader told lately; of one that stopped nobody knows it."""

from __future__ import annotations

from typing import Any

import pytest

from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND
from apps.projects.lags import Lag, lag_of

NOW = 1_795_262_400 * SECOND


@pytest.mark.parametrize(
    ("kind", "settings", "age", "known"),
    [
        ("consumer", {}, 2 * SECOND, True),
        ("consumer", {}, 30 * SECOND, True),
        ("consumer", {}, 31 * SECOND, False),
        # A consumer has no rounds, whatever its settings say.
        ("consumer", {"every": "10m"}, 31 * SECOND, False),
        ("poller", {}, 45 * SECOND, True),
        ("poller", {}, 46 * SECOND, False),
        ("poller", {"every": "10m"}, 30 * MINUTE, True),
        ("poller", {"every": "10m"}, 31 * MINUTE, False),
        ("poller", {"every": ["odd"]}, 46 * SECOND, False),
    ],
)
def test_a_number_is_believed_while_its_reader_could_not_have_told_another(
    kind: str, settings: dict[str, Any], age: int, known: bool
) -> None:
    told_at = NOW - age

    lag = lag_of(kind, settings, 120, micros.to_datetime(told_at), NOW)

    assert lag == (Lag(120) if known else Lag(None, 120, told_at))


def test_what_no_reader_told_is_not_known_and_not_old_either() -> None:
    assert lag_of("consumer", {}, None, micros.to_datetime(NOW - MINUTE), NOW) == Lag(None)
    assert lag_of("consumer", {}, 7, None, NOW) == Lag(7)
