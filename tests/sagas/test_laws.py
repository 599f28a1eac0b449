"""The four laws of the projection, against the real database."""

from __future__ import annotations

import itertools
import os
import random
import threading

import pytest
from django.db import connection
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.projects.models import Project, Source
from apps.sagas import catalog, rebuild
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import SagaEvent
from apps.sagas.models import Correlation, Flow, FlowVersion
from apps.sagas.recording import record
from tests.sagas.histories import TRIP, histories, random_history
from tests.sagas.stored import projections

_numbers = itertools.count(1)
#: More examples for a long search: SAGASCOPE_LAWS=20 make test.
_MORE = int(os.environ.get("SAGASCOPE_LAWS", "1"))


def new_source() -> Source:
    """A source in a project of its own, with a definition."""
    project = Project.objects.create(slug=f"law-{next(_numbers)}-{random.getrandbits(48):x}", name="Law")
    with catalog.changing(project.id):
        flow = Flow.objects.create(project=project, name="trip")
        FlowVersion.objects.create(flow=flow, version="1", text=TRIP)
    return Source.objects.create(project=project, name="bus")


def recorded(batches: list[list[SagaEvent]]) -> Source:
    source = new_source()
    for batch in batches:
        record(source.project_id, source.id, batch)
    return source


@pytest.mark.django_db
class TestLaws:
    @settings(max_examples=12 * _MORE)
    @given(history=histories(), data=st.data())
    def test_once_recording_again_changes_nothing(self, history: list[SagaEvent], data: st.DataObject) -> None:
        source = recorded([history])
        before = projections(source.project_id)
        again = data.draw(st.lists(st.sampled_from(history), min_size=1, max_size=10))
        outcome = record(source.project_id, source.id, again)
        assert (outcome.accepted, outcome.duplicates, outcome.conflicts) == (0, len(again), [])
        assert projections(source.project_id) == before

    @settings(max_examples=40 * _MORE)
    @given(history=histories(), data=st.data())
    def test_any_order_and_any_split_give_the_same_projections(
        self, history: list[SagaEvent], data: st.DataObject
    ) -> None:
        straight = recorded([history])
        shuffled = data.draw(st.permutations(history))
        cuts = sorted(data.draw(st.sets(st.integers(1, max(len(history) - 1, 1)), max_size=6)))
        batches = [shuffled[a:b] for a, b in itertools.pairwise([0, *cuts, len(shuffled)])]
        other = recorded(batches)
        assert projections(other.project_id) == projections(straight.project_id)

    @settings(max_examples=12 * _MORE)
    @given(history=histories())
    def test_replay_gives_the_same_rows(self, history: list[SagaEvent]) -> None:
        source = recorded([[event] for event in history])
        before = projections(source.project_id)
        rebuild.start(source.project_id, "the law of replay")
        rebuild.run_open_reprojections()
        assert projections(source.project_id) == before

    @settings(max_examples=12 * _MORE)
    @given(history=histories())
    def test_readable_whatever_was_accepted_is_shown(self, history: list[SagaEvent]) -> None:
        source = recorded([history])
        for correlation in Correlation.objects.filter(project_id=source.project_id):
            view = find_correlation(source.project_id, correlation.correlation_id)
            assert view is not None
            assert view.event_count == sum(e.correlation_id == correlation.correlation_id for e in history)
            for instance in view.instances:
                for step in instance.steps:
                    assert step.status == "skipped" or step.attempts

    def test_another_body_under_a_known_id_is_a_conflict_and_the_first_is_kept(self) -> None:
        source = new_source()
        first = SagaEvent(
            source="/s", id="1", type="A", correlation_id="c", occurred_at=1, received_at=1, digest=b"one"
        )
        second = SagaEvent(
            source="/s", id="1", type="B", correlation_id="c", occurred_at=1, received_at=1, digest=b"two"
        )
        outcome = record(source.project_id, source.id, [first, second])
        assert (outcome.accepted, outcome.duplicates, outcome.conflicts) == (1, 1, [1])
        assert [row[3] for row in projections(source.project_id)["events"]] == ["A"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_concurrent_writers_give_the_same_projections(seed: int) -> None:
    """Real threads, each with a connection of its own, send overlapping shares of one history in their own order."""
    shuffle = random.Random(seed)
    history = _large_history(seed)
    straight = projections(recorded([history]).project_id)
    source = new_source()
    errors: list[BaseException] = []

    def write(share: list[SagaEvent]) -> None:
        try:
            for at in range(0, len(share), 7):
                record(source.project_id, source.id, share[at : at + 7])
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    shares = []
    for number in range(4):
        share = [event for at, event in enumerate(history) if at % 4 == number or shuffle.random() < 0.2]
        shuffle.shuffle(share)
        shares.append(share)
    threads = [threading.Thread(target=write, args=[share]) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert projections(source.project_id) == straight


def _large_history(seed: int) -> list[SagaEvent]:
    """About 120 events, the same for a seed."""
    return random_history(random.Random(seed), 150)
