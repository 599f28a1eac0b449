"""Time limits of coroutines: who takes longer is stopped, who is done in time never notices."""

from __future__ import annotations

import asyncio

import pytest

from apps.lib import time_limit
from apps.lib.time_limit import TimeLimit


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "STEP_SECONDS", 0.001)


async def test_what_takes_longer_ends_in_a_timeout_and_the_task_goes_on() -> None:
    with pytest.raises(TimeoutError), TimeLimit(0.0):
        await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_many_end_one_by_one_and_the_rest_is_left_alone() -> None:
    async def under(seconds: float) -> str:
        try:
            with TimeLimit(seconds):
                await asyncio.Event().wait()
        except TimeoutError:
            return "late"
        return "never"

    long = asyncio.create_task(under(3600.0))
    assert await asyncio.gather(*(under(0.0) for _ in range(50))) == ["late"] * 50
    assert not long.done()
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long


async def test_what_is_done_in_time_and_what_it_raises_pass_through() -> None:
    with TimeLimit(3600.0):
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="ours"), TimeLimit(3600.0):
        raise ValueError("ours")


async def test_somebody_elses_cancellation_stays_one() -> None:
    async def work() -> None:
        with TimeLimit(3600.0):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_begins_anew_after_a_while_without_any() -> None:
    with pytest.raises(TimeoutError), TimeLimit(0.0):
        await asyncio.Event().wait()
    loop = asyncio.get_running_loop()
    while loop in time_limit._running:  # noqa: ASYNC110 - the look around that finds nobody
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError), TimeLimit(0.0):
        await asyncio.Event().wait()


def test_limits_of_closed_event_loops_are_forgotten() -> None:
    async def work() -> None:
        with TimeLimit(3600.0):
            pass

    for _ in range(3):
        asyncio.run(work())
    assert len(time_limit._running) <= 1
