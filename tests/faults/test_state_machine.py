"""A Hypothesis state machine against the oracle of `tests.faults.story`, which shares no code with the product.

Sagas are told in any order and any portions, told twice, told differently under the same ids, swept, rebuilt, erased
and told again; what is shown must be what the contract says of the events that were accepted. More steps for a long
search: SAGASCOPE_MACHINE=20.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from apps.alerts.sweeping import sweep
from apps.ingest.formats import cloudevents
from apps.ingest.formats.decoding import Payload
from apps.ingest.strict_json import Limits
from apps.lib import micros
from apps.projects.models import Project, Source
from apps.sagas import queries, rebuild
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import SagaEvent
from apps.sagas.models import Event
from apps.sagas.query import parse
from apps.sagas.recording import record
from tests.faults.story import expected, saga

_MORE = int(os.environ.get("SAGASCOPE_MACHINE", "1"))
_numbers = itertools.count(1)
NOW = 1_795_250_000 * micros.SECOND


def decoded(events: list[dict[str, Any]]) -> list[SagaEvent]:
    """As the door reads them."""
    body = json.dumps(events).encode()
    found = cloudevents.decode_batch(Payload(body=body, content_type=cloudevents.BATCH), NOW, Limits())
    assert found.rejections == []
    return found.events


class Telling(RuleBasedStateMachine):
    """One project, to which sagas are told in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: dict[str, list[dict[str, Any]]] = {}
        self.waiting: list[dict[str, Any]] = []
        self.told: dict[str, dict[str, Any]] = {}
        self.now = NOW

    @initialize()
    def begin(self) -> None:
        number = next(_numbers)
        self.project = Project.objects.create(slug=f"machine-{number}-{random.getrandbits(32):x}", name="Machine")
        self.source = Source.objects.create(project=self.project, name="ledger")

    def record(self, events: list[dict[str, Any]]) -> Any:
        return record(self.project.pk, self.source.pk, decoded(events))

    @rule(seed=st.integers(0, 10**6))
    def plan(self, seed: int) -> None:
        correlation_id = f"saga-{len(self.whole)}"
        self.whole[correlation_id] = saga(correlation_id, random.Random(seed))
        self.waiting += self.whole[correlation_id]

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        order = data.draw(st.permutations(range(len(self.waiting))))
        chosen = set(order[: data.draw(st.integers(1, len(order)))])
        portion = [self.waiting[number] for number in order if number in chosen]
        self.waiting = [each for number, each in enumerate(self.waiting) if number not in chosen]
        outcome = self.record(portion)
        assert (outcome.accepted, outcome.duplicates) == (len(portion), 0)
        self.told |= {each["id"]: each for each in portion}

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def tell_again(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.told)), min_size=1, max_size=5))
        outcome = self.record([self.told[each] for each in ids])
        assert (outcome.accepted, outcome.duplicates, outcome.conflicts) == (0, len(ids), [])

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def tell_differently(self, data: st.DataObject) -> None:
        known = self.told[data.draw(st.sampled_from(sorted(self.told)))]
        outcome = self.record([{**known, "data": {"other": True}}])
        assert (outcome.accepted, outcome.conflicts) == (0, [0])

    @rule()
    def look_for_trouble(self) -> None:
        self.now += 2 * micros.SECOND
        assert sweep(self.now).failures == []

    @rule()
    def project_anew(self) -> None:
        rebuild.start(self.project.pk, "the machine")
        rebuild.run_open_reprojections()

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def look_at_one(self, data: st.DataObject) -> None:
        self.check(data.draw(st.sampled_from(sorted({each["correlationid"] for each in self.told.values()}))))

    @rule(status=st.sampled_from(["completed", "compensated"]))
    def ask(self, status: str) -> None:
        """Sagas that were told to their end are found by how they ended."""
        page = queries.list_instances(self.project.pk, parse(f"status:{status}"), now=self.now, limit=1000)
        found = {row.correlation_id for row in page.items}
        for correlation_id, events in self.whole.items():
            if all(each["id"] in self.told for each in events):
                assert (correlation_id in found) == (expected(events).status == status)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if hasattr(self, "source"):
            stored = list(Event.objects.filter(source_ref=self.source.pk).values_list("event_id", flat=True))
            assert sorted(stored) == sorted(self.told)

    def teardown(self) -> None:
        for correlation_id in {each["correlationid"] for each in self.told.values()}:
            self.check(correlation_id)

    def check(self, correlation_id: str) -> None:
        """What is shown of a saga is what the oracle says; its status once it was told to its end."""
        told = [each for each in self.whole[correlation_id] if each["id"] in self.told]
        view, want = find_correlation(self.project.pk, correlation_id), expected(told)
        assert view is not None
        (shown,) = view.instances
        assert view.event_count == want.event_count
        assert {step.step: (step.status, len(step.attempts)) for step in shown.steps} == want.steps
        if len(told) == len(self.whole[correlation_id]):
            assert shown.instance.status == want.status


@pytest.mark.django_db
def test_whatever_is_told_in_whatever_way_is_shown_as_the_contract_says() -> None:
    run_state_machine_as_test(
        Telling, settings=settings(max_examples=10 * _MORE, stateful_step_count=20, deadline=None)
    )
