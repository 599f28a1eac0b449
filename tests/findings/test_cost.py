"""What judging costs grows with the events of a saga, and not with their square."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.findings import event_cycle
from apps.sagas.findings.facts import CorrelationFacts, Policy
from apps.sagas.interpretation import Meaning
from tests.sagas.stories import said


class Counted(list[tuple[SagaEvent, Meaning]]):
    """Events that know how often they were all looked at."""

    walks = 0

    def __iter__(self) -> Iterator[tuple[SagaEvent, Meaning]]:
        self.walks += 1
        return super().__iter__()


@pytest.mark.parametrize("many", [10, 1_000])
def test_a_ring_of_causes_is_looked_for_in_a_few_walks_over_all_events(many: int) -> None:
    told = [said("info", number) for number in range(many)]
    events = Counted((event, Meaning("order", "", EventKind.INFO)) for event in told)

    assert event_cycle.find(CorrelationFacts(events, [], Policy(), now=0)) == []

    assert events.walks <= 5
