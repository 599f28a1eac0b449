"""The Temporal poller: the real client against a frontend that serves given histories over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from apps.ingest.transports import polling, temporal
from apps.ingest.transports.options import unseal
from apps.ingest.transports.polling import EngineAwayError, Polling
from apps.ingest.transports.workflow_polling import OVERLAP
from apps.lib import micros
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import InstanceView
from tests.ingest.formats.temporal_history import RUN, History
from tests.ingest.transports.temporal_server import COMPLETED, FAILED, Frontend, Workflow, grpc, serving


@pytest.fixture(scope="module")
def server() -> Iterator[Frontend]:
    with serving() as frontend:
        yield frontend


@pytest.fixture
def frontend(server: Frontend) -> Frontend:
    server.workflows.clear()
    server.requests.clear()
    server.queries.clear()
    server.failure = None
    return server


class Reader:
    """A source that polls the frontend; asked again it goes on with the same process."""

    def __init__(self, frontend: Frontend, **options: str) -> None:
        project = Project.objects.create(slug="temporal", name="Temporal")
        settings = {"address": frontend.address, "requests_per_second": "1000", **options}
        self.source = Source.objects.create(
            project=project, name="temporal", kind=SourceKind.POLLER, system="temporal", settings=settings
        )
        self.polling = self.restarted()

    def restarted(self) -> Polling:
        """Another process of the same source."""
        values = unseal((*temporal.OPTIONS, *polling.HISTORY_OPTIONS), self.source.settings)

        def opened() -> polling.Poller:
            return temporal.KIND.open(values, polling.history_options(values), polling.pace(values))

        self.polling = Polling(self.source, opened)
        return self.polling

    def round(self) -> tuple[int, int, int]:
        """Poll once: accepted, duplicates, refused of this round."""
        before = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        self.polling.round()
        after = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def only(self, correlation_id: str = "order-7") -> InstanceView:
        view = find_correlation(self.source.project_id, correlation_id)
        assert view is not None
        (instance,) = view.instances
        return instance

    @property
    def watermark(self) -> Any:
        self.source.refresh_from_db()
        return self.source.settings["watermark"]


@pytest.fixture
def reader(frontend: Frontend, db: None) -> Iterator[Reader]:
    made = Reader(frontend)
    yield made
    made.polling._leave()


def running(history: History) -> Workflow:
    return Workflow("order-7", RUN, history.events)


def test_a_growing_workflow_is_read_piece_by_piece_and_nothing_twice(frontend: Frontend, reader: Reader) -> None:
    history = History()
    workflow = frontend.add(running(history))
    history.activity("reserve-stock")
    assert reader.round() == (4, 0, 0)
    assert reader.only().instance.status == "running"

    assert reader.round() == (0, 0, 0)
    assert "history" not in frontend.requests[-2:], "what did not change is not fetched"

    history.activity("charge-payment")
    assert reader.round() == (3, 0, 0)
    assert frontend.requests[-1] == "reverse", "only what is new is fetched"

    history.add("WORKFLOW_EXECUTION_COMPLETED")
    workflow.status = COMPLETED
    assert reader.round() == (1, 0, 0)
    assert reader.only().instance.status == "completed"
    assert reader.round() == (0, 0, 0)


def test_a_long_history_comes_page_by_page(frontend: Frontend, reader: Reader) -> None:
    history = History()
    while len(history.events) < 1_700:
        history.activity("charge-payment")
    frontend.add(running(history))

    assert reader.round() == (len(history.events), 0, 0)
    assert frontend.requests.count("history") == 4


def test_another_process_goes_on_without_doubling(frontend: Frontend, reader: Reader) -> None:
    history = History()
    history.activity("reserve-stock")
    frontend.add(running(history))
    reader.round()
    closed_since = reader.watermark["closed_since"]

    reader.restarted()
    history.activity("charge-payment")
    accepted, duplicates, refused = reader.round()

    assert (accepted, duplicates, refused) == (3, 4, 0)
    assert reader.watermark["closed_since"] > closed_since


def test_closed_workflows_are_asked_for_since_the_last_round(frontend: Frontend, reader: Reader) -> None:
    reader.round()
    reader.round()

    asked = [query for query in frontend.queries if "CloseTime" in query]
    since = reader.watermark["closed_since"]
    assert len(asked) == 2
    # The second round asks from shortly before the first one began, not for a whole day again.
    moment = asked[1].split('"')[1]
    assert micros.isoformat(since - 2 * OVERLAP) < moment < micros.isoformat(since)


def test_each_error_of_an_activity_that_is_retried_is_remembered(frontend: Frontend, reader: Reader) -> None:
    history = History()
    history.add("ACTIVITY_TASK_SCHEDULED", activityId="a1", activityType={"name": "charge-payment"})
    workflow = frontend.add(running(history))
    for attempt in (2, 3, 4):
        workflow.pending = [pending(attempt)]
        reader.round()
        if attempt == 3:
            # What was seen is remembered by another process, too.
            assert reader.watermark["attempts"] == {RUN: {"a1": 2}}
            reader.restarted()
    (step,) = reader.only().steps
    assert step.status == "running"
    assert [each.error for each in step.attempts] == ["declined 1", "declined 2", "declined 3", None]

    # At last it succeeds; the history itself knows only the last failure.
    workflow.pending, workflow.status = [], COMPLETED
    history.add("ACTIVITY_TASK_STARTED", scheduledEventId="2", attempt=4, lastFailure={"message": "declined 3"})
    history.add("ACTIVITY_TASK_COMPLETED", scheduledEventId="2", startedEventId="3")
    history.add("WORKFLOW_EXECUTION_COMPLETED")
    assert reader.round()[2] == 0

    one = reader.only()
    (step,) = one.steps
    assert (one.instance.status, step.status) == ("completed", "completed")
    assert [(each.outcome, each.error) for each in step.attempts] == [
        ("failed", "declined 1"),
        ("failed", "declined 2"),
        ("failed", "declined 3"),
        ("completed", None),
    ]
    assert one.instance.retry_count == 3
    assert "attempts" not in reader.watermark


def pending(attempt: int, **more: Any) -> dict[str, Any]:
    return {
        "activityId": "a1",
        "activityType": {"name": "charge-payment"},
        "state": "PENDING_ACTIVITY_STATE_STARTED",
        "attempt": attempt,
        "lastStartedTime": f"2026-11-19T13:10:0{attempt}.500Z",
        "lastAttemptCompleteTime": f"2026-11-19T13:10:0{attempt}Z",
        "lastFailure": {"message": f"declined {attempt - 1}"},
        **more,
    }


def test_attempts_that_nobody_saw_are_counted(frontend: Frontend, reader: Reader) -> None:
    history = History()
    history.add("ACTIVITY_TASK_SCHEDULED", activityId="a1", activityType={"name": "charge-payment"})
    frontend.add(running(history)).pending = [pending(5)]

    reader.round()

    (step,) = reader.only().steps
    assert [each.error for each in step.attempts] == [None, None, None, "declined 4", None]
    assert reader.only().instance.retry_count == 4


def test_an_activity_that_times_out_between_two_attempts_ends_its_last_attempt(
    frontend: Frontend, reader: Reader
) -> None:
    history = History()
    history.add("ACTIVITY_TASK_SCHEDULED", activityId="a1", activityType={"name": "charge-payment"})
    workflow = frontend.add(running(history))
    workflow.pending = [pending(3, state="PENDING_ACTIVITY_STATE_SCHEDULED")]
    reader.round()
    workflow.pending = []
    timeout = {"timeoutFailureInfo": {"timeoutType": "TIMEOUT_TYPE_SCHEDULE_TO_CLOSE"}, "message": "activity timeout"}
    history.add("ACTIVITY_TASK_TIMED_OUT", scheduledEventId="2", failure=timeout)

    reader.round()

    (step,) = reader.only().steps
    assert step.status == "timed_out"
    assert [each.outcome for each in step.attempts] == ["failed", "failed", "timed_out"]
    assert step.attempts[2].error == "timed out (ScheduleToClose): activity timeout"


def test_a_description_that_the_history_has_overtaken_tells_nothing_wrong(frontend: Frontend, reader: Reader) -> None:
    history = History()
    history.activity("charge-payment")
    frontend.add(running(history)).pending = [pending(2, activityId="2")]

    assert reader.round()[2] == 0

    assert [step.status for step in reader.only().steps] == ["completed"]


def test_a_deleted_workflow_stops_nobody(frontend: Frontend, reader: Reader) -> None:
    frontend.add(Workflow("gone", "run-gone", History(workflow="gone", run="run-gone").events)).is_deleted = True
    frontend.add(running(History()))

    assert reader.round() == (1, 0, 0)


def test_many_workflows_are_listed_page_by_page(frontend: Frontend, reader: Reader) -> None:
    for number in range(1_203):
        run = f"run-{number:04}"
        history = History(workflow=f"order-{number}", run=run)
        frontend.add(Workflow(f"order-{number}", run, history.events, COMPLETED if number % 2 else FAILED))

    assert reader.round() == (1_203, 0, 0)
    assert frontend.requests.count("list") == 4
    assert reader.round() == (0, 0, 0)


def test_a_filter_narrows_what_is_listed(frontend: Frontend, db: None) -> None:
    narrow = Reader(frontend, filter="WorkflowType IN ('order')")

    narrow.round()
    narrow.polling._leave()

    assert all(query.startswith("(WorkflowType IN ('order')) AND ") for query in frontend.queries)


def test_a_failure_in_the_middle_loses_nothing(frontend: Frontend, reader: Reader) -> None:
    history = History()
    history.activity("reserve-stock")
    frontend.add(running(history))
    frontend.failure = (grpc.StatusCode.UNAVAILABLE, "try later")
    with pytest.raises(EngineAwayError, match="cannot be reached"):
        reader.round()
    assert reader.source.watermark_at is None

    frontend.failure = None
    reader.polling._leave()

    assert reader.round() == (4, 0, 0)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "does not let us in: check the API key or certificate"),
        (grpc.StatusCode.PERMISSION_DENIED, "does not let us in: check the API key or certificate"),
        (grpc.StatusCode.NOT_FOUND, "knows no namespace 'default'"),
        (grpc.StatusCode.INVALID_ARGUMENT, "does not understand the filter"),
    ],
)
def test_what_is_wrong_is_told_in_words(
    frontend: Frontend, reader: Reader, status: grpc.StatusCode, message: str
) -> None:
    frontend.failure = (status, "no")

    with pytest.raises(CommandError) as told:
        call_command("poll", "temporal", project=reader.source.project.slug, once=True)

    assert f"Temporal at {frontend.address} {message}" in str(told.value)


def test_the_connection_can_be_tried(frontend: Frontend, reader: Reader, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("poll", "temporal", project=reader.source.project.slug, check=True)

    assert capsys.readouterr().out == "reached Temporal 1.29.0-test, namespace default\n"
