"""What is kept of dear values: bounded by weight and time; and a long correlation is never shown as it was before."""

from __future__ import annotations

import pytest

from apps.sagas import remembered
from apps.sagas.remembered import Remembered


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(remembered.time, "monotonic", lambda: now[0])
    return now


def test_a_value_is_made_once_while_it_is_kept(clock: list[float]) -> None:
    kept: Remembered[list[int]] = Remembered(most=10, seconds=60)
    first = kept.find_or("a", lambda: [1], len)
    assert kept.find_or("a", lambda: [2], len) is first
    clock[0] += 60
    assert kept.find_or("a", lambda: [3], len) == [3]


def test_what_was_not_asked_for_longest_goes_first(clock: list[float]) -> None:
    kept: Remembered[str] = Remembered(most=10, seconds=60)
    for key in ("a", "b"):
        kept.keep(key, key, 4)
    assert kept.find("a") == "a"
    kept.keep("c", "c", 4)
    assert [kept.find(key) for key in ("a", "b", "c")] == ["a", None, "c"]


def test_what_weighs_more_than_all_may_is_answered_and_not_kept(clock: list[float]) -> None:
    kept: Remembered[str] = Remembered(most=10, seconds=60)
    kept.keep("small", "small", 1)
    assert kept.keep("large", "large", 11) == "large"
    assert kept.find("large") is None
    assert kept.find("small") == "small"


def test_keeping_a_key_again_does_not_weigh_twice(clock: list[float]) -> None:
    kept: Remembered[int] = Remembered(most=10, seconds=60)
    for number in range(20):
        kept.keep("a", number, 5)
    kept.keep("b", 0, 5)
    assert (kept.find("a"), kept.find("b")) == (19, 0)
    kept.forget()
    assert kept.find("a") is None
