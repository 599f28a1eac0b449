"""The Cadence poller: real HTTP against a gateway that serves recordings and given histories."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from apps.ingest.transports import cadence, polling
from apps.ingest.transports.options import OptionError, unseal
from apps.ingest.transports.polling import EngineAwayError, Polling
from apps.lib import micros
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import InstanceView
from tests.ingest.formats.test_cadence import History, as_thrift, as_web
from tests.ingest.formats.workflow_histories import sample, steps_of
from tests.ingest.transports.cadence_gateway import CLOSED, HISTORY, OPEN, Server, Workflow, serving


@pytest.fixture(scope="module")
def running_gateway() -> Iterator[Server]:
    with serving() as gateway:
        yield gateway


@pytest.fixture
def gateway(running_gateway: Server) -> Server:
    running_gateway.workflows.clear()
    running_gateway.asked.clear()
    running_gateway.offered = set(cadence.PROCEDURES)
    running_gateway.failure = None
    return running_gateway


class Reader:
    """A source that polls the gateway."""

    def __init__(self, gateway: Server, **options: str) -> None:
        project = Project.objects.create(slug="cadence", name="Cadence")
        settings = {"address": gateway.url, "domain": "shop", "requests_per_second": "1000", **options}
        # Recordings are years old.
        settings["lookback"] = "9999d"
        self.source = Source.objects.create(
            project=project, name="cadence", kind=SourceKind.POLLER, system="cadence", settings=settings
        )
        self.polling = self.restarted()

    def restarted(self) -> Polling:
        values = unseal((*cadence.OPTIONS, *polling.HISTORY_OPTIONS), self.source.settings)

        def opened() -> polling.Poller:
            return cadence.KIND.open(values, polling.history_options(values), polling.pace(values))

        self.polling = Polling(self.source, opened)
        return self.polling

    def round(self) -> tuple[int, int, int]:
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
def reader(gateway: Server, db: None) -> Iterator[Reader]:
    made = Reader(gateway)
    yield made
    made.polling._leave()


def test_recordings_arrive_as_if_they_had_been_imported(gateway: Server, reader: Reader) -> None:
    name = "cadence-java-client__testAsyncActivityRetryHistory"
    gateway.add(Workflow("order-7", "3382defe-f168-49e7-ab5d-761268729983", sample("cadence", name), is_open=False))

    assert reader.round() == (38, 0, 0)

    one = reader.only()
    assert one.instance.status == "failed"
    assert steps_of(one) == [("TestActivities::throwIO", "failed", 3)]
    assert one.instance.attributes["domain"] == "shop"


@pytest.mark.parametrize("dialect", [list, as_thrift, as_web], ids=["protobuf", "thrift", "web"])
def test_a_growing_workflow_is_read_in_every_dialect_and_nothing_twice(
    gateway: Server, reader: Reader, dialect: Any
) -> None:
    history = History()
    history.activity("reserve-stock")
    workflow = gateway.add(Workflow("order-7", "run-1", dialect(history.events)))
    assert reader.round() == (4, 0, 0)

    asked = gateway.count(HISTORY)
    assert reader.round() == (0, 0, 0)
    assert gateway.count(HISTORY) == asked, "what did not change is not fetched"

    history.activity("charge-payment", attempt=1)
    history.add("workflowExecutionCompleted")
    workflow.events, workflow.is_open = dialect(history.events), False
    # Three entries of the activity, one attempt that only their number tells of, and the end.
    assert reader.round() == (5, 0, 0)
    one = reader.only()
    assert one.instance.status == "completed"
    assert steps_of(one) == [("reserve-stock", "completed", 1), ("charge-payment", "completed", 2)]


def test_requests_are_what_the_gateway_wants(gateway: Server, reader: Reader) -> None:
    gateway.add(Workflow("order-7", "run-1", History().events))

    reader.round()

    for procedure, headers, request in gateway.asked:
        assert procedure.startswith("uber.cadence.api.v1.")
        assert headers["rpc-service"] == "cadence-frontend"
        assert headers["rpc-encoding"] == "json"
        assert headers["rpc-caller"] == "sagascope"
        assert int(headers["context-ttl-ms"]) > 0
        assert request["domain"] == "shop"
    assert {procedure for procedure, _, _ in gateway.asked} == set(cadence.PROCEDURES)


def test_long_histories_and_many_workflows_come_page_by_page(gateway: Server, reader: Reader) -> None:
    history = History()
    while len(history.events) < 1_200:
        history.activity("count")
    gateway.add(Workflow("order-7", "run-1", history.events))
    for number in range(510):
        gateway.add(Workflow(f"order-x{number}", f"run-x{number}", History().events, is_open=False))

    accepted, duplicates, refused = reader.round()

    assert (accepted, refused) == (len(history.events) + 510, 0)
    assert duplicates == 0
    assert gateway.count(CLOSED) == 2
    assert gateway.count(HISTORY) == 3 + 510


def test_a_workflow_that_ended_while_nobody_polled_is_read_by_the_next_process(gateway: Server, reader: Reader) -> None:
    history = History()
    # Begun before everything that is asked for by start time from now on.
    workflow = gateway.add(Workflow("order-7", "run-1", history.events, started_at="2026-01-01T00:00:00Z"))
    reader.round()
    assert reader.watermark["open"] == {"run-1": "order-7"}
    reader.restarted()
    history.add("workflowExecutionCompleted")
    workflow.is_open = False

    reader.round()

    asked = [request for procedure, _, request in gateway.asked if procedure == CLOSED]
    assert asked[-1]["startTimeFilter"]["earliestTime"] > "2026-01-02"
    assert reader.only().instance.status == "completed"
    assert "open" not in reader.watermark


def test_each_error_of_an_activity_that_is_retried_is_remembered(gateway: Server, reader: Reader) -> None:
    history = History()
    history.add("activityTaskScheduled", activityId="0", activityType={"name": "charge-payment"})
    workflow = gateway.add(Workflow("order-7", "run-1", history.events))
    for attempt in (1, 2):
        workflow.pending = [
            {
                "activityId": "0",
                "activityType": {"name": "charge-payment"},
                "state": "PENDING_ACTIVITY_STATE_STARTED",
                "attempt": attempt,
                "lastStartedTime": f"2026-11-19T13:10:0{attempt}Z",
                "lastFailure": {"reason": f"Declined{attempt}"},
            }
        ]
        reader.round()
        reader.restarted()

    one = reader.only()
    (step,) = one.steps
    assert [(each.number, each.error) for each in step.attempts] == [(1, "Declined1"), (2, "Declined2"), (3, None)]
    assert reader.polling.rejected == 0


def test_only_workflows_of_a_type_are_asked_for(gateway: Server, db: None) -> None:
    narrow = Reader(gateway, workflow_type="order")

    narrow.round()
    narrow.polling._leave()

    asked = [request for procedure, _, request in gateway.asked if procedure in (OPEN, CLOSED)]
    assert [request["typeFilter"] for request in asked] == [{"name": "order"}] * 2


def test_a_deleted_workflow_stops_nobody(gateway: Server, reader: Reader) -> None:
    gateway.add(Workflow("gone", "run-gone", History().events)).is_deleted = True
    gateway.add(Workflow("order-7", "run-1", History().events))

    assert reader.round() == (1, 0, 0)


def test_a_proxy_gets_its_authorization(gateway: Server, db: None) -> None:
    call_options = {"project": Project.objects.create(slug="p", name="P").slug, "once": True}
    given = [f"address={gateway.url}", "domain=shop", "authorization=Bearer secret-key"]

    call_command("poll", "mine", system="cadence", given=given, **call_options)

    assert gateway.asked[0][1]["authorization"] == "Bearer secret-key"
    assert "secret-key" not in str(Source.objects.get(name="mine").settings)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ((401, "who are you"), "does not let us in: check the authorization"),
        ((404, "code:not-found message:Domain shop does not exist."), "knows no domain 'shop'"),
        ((429, "code:resource-exhausted"), "asks us to slow down: lower requests_per_second"),
        ((500, "code:internal message:boom"), "answered HTTP 500 (code:internal message:boom)"),
        ((200, "<html>welcome</html>"), "does not answer like the HTTP gateway of Cadence"),
    ],
)
def test_what_is_wrong_is_told_in_words(
    gateway: Server, reader: Reader, failure: tuple[int, str], message: str
) -> None:
    gateway.failure = failure

    with pytest.raises(EngineAwayError) as told:
        reader.round()

    assert message in str(told.value)


def test_a_procedure_that_is_not_offered_is_named(
    gateway: Server, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("poll", "cadence", project="cadence", check=True)
    assert capsys.readouterr().out == "reached Cadence, domain shop\n"
    gateway.offered.remove(HISTORY)

    with pytest.raises(CommandError, match=rf"does not offer {HISTORY}: add it to FRONTEND_HTTP_PROCEDURES"):
        call_command("poll", "cadence", project="cadence", check=True)


def test_nobody_there_is_told(db: None) -> None:
    Project.objects.create(slug="default", name="Default")

    with pytest.raises(CommandError, match=r"Cadence at http://127\.0\.0\.1:1 cannot be reached"):
        call_command("poll", "c", system="cadence", given=["address=http://127.0.0.1:1", "domain=shop"], once=True)


@pytest.mark.parametrize("address", ["localhost:8800", "ftp://cadence:8800", "http://", "http://[::1"])
def test_an_address_that_is_no_url_is_refused(address: str) -> None:
    values = {"address": address, "domain": "shop", "authorization": "", "workflow_type": "", "lookback": "1h"}

    with pytest.raises(OptionError, match="address"):
        cadence.KIND.open(values, polling.history_options({}), polling.Pace(10))


def test_the_first_round_begins_as_far_back_as_configured(gateway: Server, reader: Reader) -> None:
    reader.round()

    (asked,) = [request for procedure, _, request in gateway.asked if procedure == CLOSED]
    back = micros.now() - micros.from_datetime(datetime.fromisoformat(asked["startTimeFilter"]["earliestTime"]))
    assert back == pytest.approx(9_999 * micros.DAY, rel=0.001)
