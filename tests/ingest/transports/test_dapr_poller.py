"""The Dapr poller: real gRPC against recorded histories, and against Dapr's own engine while it runs sagas."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from apps.ingest.formats import dapr_wire
from apps.ingest.transports import dapr, polling
from apps.ingest.transports.options import OptionError, seal, unseal
from apps.ingest.transports.polling import EngineAwayError, Polling
from apps.lib.micros import isoformat, now
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import InstanceView
from tests.ingest.formats import dapr_engine, daprd
from tests.ingest.formats.engine_records import recorded_lines, step_of, tries_of

grpc = pytest.importorskip("grpc")
#: Dapr's own encoding of its messages.
protocol = pytest.importorskip("dapr.ext.workflow._durabletask.internal.orchestrator_service_pb2")
json_format = pytest.importorskip("google.protobuf.json_format")

DECLARED = (*dapr.OPTIONS, *polling.HISTORY_OPTIONS)
RECORDING = f"dapr_durabletask-go_{dapr_engine.VERSION}"


@dataclass
class Sidecar:
    """What it answers, and what it was asked."""

    address: str = ""
    histories: dict[str, list[Any]] = field(default_factory=dict)
    #: When each went on.
    updated_at: dict[str, str] = field(default_factory=dict)
    #: Instances that are listed and were purged before they were asked for.
    purged: set[str] = field(default_factory=set)
    token: str = ""
    failure: Any = None
    asked: list[str] = field(default_factory=list)

    def show(self, history: dict[str, Any], updated_at: str | None = None) -> None:
        """An instance went on, just now unless it says when."""
        self.histories[history["instanceId"]] = history["events"]
        self.updated_at[history["instanceId"]] = updated_at or isoformat(now())

    def read(self) -> list[str]:
        """Instances whose histories were asked for since the last time."""
        found = [each.partition(" ")[2] for each in self.asked if each.startswith("GetInstanceHistory")]
        self.asked.clear()
        return found

    def list_ids(self, request: Any, context: Any) -> Any:
        self._admit("ListInstanceIDs", context)
        ids = sorted({*self.histories, *self.purged})
        start = int(request.continuationToken or 0)
        page = ids[start : start + 2]
        following = str(start + 2) if start + 2 < len(ids) else None
        return protocol.ListInstanceIDsResponse(instanceIds=page, continuationToken=following)

    def state(self, request: Any, context: Any) -> Any:
        self._admit(f"GetInstance {request.instanceId}", context)
        events = self.histories.get(request.instanceId)
        if events is None:
            return protocol.GetInstanceResponse(exists=False)
        last = events[-1]
        found = {
            "instanceId": request.instanceId,
            "workflowStatus": last.get("executionCompleted", {}).get("workflowStatus", "ORCHESTRATION_STATUS_RUNNING"),
            "lastUpdatedTimestamp": self.updated_at[request.instanceId],
        }
        return json_format.ParseDict({"exists": True, "workflowState": found}, protocol.GetInstanceResponse())

    def history(self, request: Any, context: Any) -> Any:
        self._admit(f"GetInstanceHistory {request.instanceId}", context)
        events = self.histories.get(request.instanceId)
        if events is None:
            context.abort(grpc.StatusCode.UNKNOWN, "no such instance exists")
        return json_format.ParseDict({"events": events}, protocol.GetInstanceHistoryResponse())

    def _admit(self, asked: str, context: Any) -> None:
        self.asked.append(asked)
        if self.failure is not None:
            context.abort(self.failure, "no")
        if self.token and ("dapr-api-token", self.token) not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")


@contextmanager
def serving() -> Iterator[Sidecar]:
    """A sidecar on a free port of this machine."""
    sidecar = Sidecar()
    calls = {
        "ListInstanceIDs": (sidecar.list_ids, protocol.ListInstanceIDsRequest),
        "GetInstance": (sidecar.state, protocol.GetInstanceRequest),
        "GetInstanceHistory": (sidecar.history, protocol.GetInstanceHistoryRequest),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=lambda each: each.SerializeToString()
        )
        for name, (answer, request) in calls.items()
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("TaskHubSidecarService", handlers),))
    sidecar.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield sidecar
    finally:
        server.stop(None).wait()


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def recorded() -> list[dict[str, Any]]:
    return recorded_lines(RECORDING)


class Reader:
    """A source that polls the sidecar."""

    def __init__(self, address: str, **options: str) -> None:
        self.project = Project.objects.create(slug="dapr", name="Dapr")
        given = {"address": address, "requests_per_second": "1000", **options}
        self.source = Source.objects.create(
            project=self.project, name="dapr", kind=SourceKind.POLLER, system="dapr", settings=seal(DECLARED, given)
        )
        self.polling = self.restarted()

    def restarted(self) -> Polling:
        self.source.refresh_from_db()
        values = unseal(DECLARED, self.source.settings)
        self.polling = Polling(self.source, lambda: open_poller(values))
        return self.polling

    def round(self) -> tuple[int, int, int]:
        """accepted, duplicates, rejected."""
        before = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        self.polling.round()
        after = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def flow(self, correlation_id: str, flow: str) -> InstanceView:
        view = find_correlation(self.project.pk, correlation_id)
        assert view is not None
        (instance,) = [each for each in view.instances if each.instance.flow == flow]
        return instance


def open_poller(values: dict[str, str]) -> polling.Poller:
    return dapr.KIND.open(values, polling.history_options(values), polling.pace(values))


def test_our_reading_of_the_wire_is_daprs_own(recorded: list[dict[str, Any]]) -> None:
    for history in recorded:
        message = json_format.ParseDict({"events": history["events"]}, protocol.GetInstanceHistoryResponse())
        assert dapr_wire.history(message.SerializeToString()) == history["events"]
    page = protocol.ListInstanceIDsResponse(instanceIds=["a", "é"], continuationToken="t")
    assert dapr_wire.instance_ids(page.SerializeToString()) == (["a", "é"], "t")
    request = protocol.ListInstanceIDsRequest(continuationToken="t", pageSize=1000)
    assert dapr_wire.request("t", 1000) == request.SerializeToString(deterministic=True)


def test_what_is_not_a_message_is_told_and_what_is_unknown_is_kept() -> None:
    for broken in (
        b"\x0a\xff",
        b"\x0a\x05ab",
        b"\x0a",
        b"\xff" * 11,
        b"\x0a\x02\x08",
        b"\x0b\x01",
        b"\x0a\x03\x10\x01\x00",
    ):
        with pytest.raises(dapr_wire.WireError):
            dapr_wire.history(broken)
    event = protocol.GetInstanceHistoryResponse()
    event.events.add(eventId=4)
    future = event.SerializeToString()[:-2] + b"\x08\x04" + b"\xca\x02\x00"
    future = b"\x0a" + bytes([len(future) - 2]) + future[2:]
    assert dapr_wire.history(future) == [{"eventId": 4, "event41": {}}]


@pytest.mark.django_db
def test_sagas_are_followed_look_after_look(sidecar: Sidecar, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(sidecar.address, app_id="shop")
    for history in recorded:
        sidecar.show(history)
        accepted, _, rejected = reader.round()
        assert (accepted > 0, rejected) == (True, 0)
    order = reader.flow("order-1", "order_saga")
    assert tries_of(step_of(order, "charge_card")) == [
        ("failed", "card declined #1"),
        ("failed", "card declined #2"),
        ("completed", None),
    ]
    assert order.instance.status == "compensated"
    assert reader.flow("news-1", "counting").instance.parent_flow == "newsletter"
    assert reader.flow("approval-2", "approval").instance.status == "cancelled"


@pytest.mark.django_db
def test_only_what_is_new_is_read_and_told(sidecar: Sidecar, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(sidecar.address)
    orders = [each for each in recorded if each["instanceId"] == "order-1"]
    sidecar.show(orders[0])
    accepted, duplicates, _ = reader.round()
    assert (accepted > 0, duplicates) == (True, 0)
    sidecar.read()
    assert reader.round() == (0, 0, 0)
    assert sidecar.read() == []
    sidecar.show(orders[-1])
    accepted, duplicates, _ = reader.round()
    assert (accepted > 0, duplicates) == (True, 0)
    sidecar.asked.clear()
    assert reader.round() == (0, 0, 0)
    assert sidecar.asked == ["ListInstanceIDs"]


@pytest.mark.django_db
def test_what_had_ended_long_before_is_not_read(sidecar: Sidecar, recorded: list[dict[str, Any]]) -> None:
    reader = Reader(sidecar.address, lookback="1s")
    for history in [each for each in recorded if "executionCompleted" in each["events"][-1]]:
        sidecar.show(history, updated_at="2026-11-19T14:00:00Z")
    assert reader.round() == (0, 0, 0)
    assert sidecar.read() == []


@pytest.mark.django_db
def test_grandchildren_belong_to_the_instance_that_everything_began_with(
    sidecar: Sidecar, recorded: list[dict[str, Any]]
) -> None:
    def child_of(parent: str, name: str) -> dict[str, Any]:
        instance = {"instanceId": name, "executionId": f"x-{name}"}
        caller = {"name": "flow", "workflowInstance": {"instanceId": parent}}
        begun = {"name": name, "workflowInstance": instance, "parentInstance": caller}
        return {
            "instanceId": name,
            "events": [{"eventId": -1, "timestamp": "2026-11-19T14:00:00Z", "executionStarted": begun}],
        }

    reader = Reader(sidecar.address)
    sidecar.show([each for each in recorded if each["instanceId"] == "news-1"][-1])
    sidecar.show(child_of("b-child", "a-grandchild"))
    sidecar.show(child_of("news-1", "b-child"))
    reader.round()
    for flow in ("newsletter", "b-child", "a-grandchild"):
        assert reader.flow("news-1", flow).instance.correlation_id == "news-1"


@pytest.mark.django_db
def test_an_instance_that_is_purged_before_it_is_read_is_passed_over(sidecar: Sidecar) -> None:
    sidecar.purged = {"gone"}
    assert Reader(sidecar.address).round() == (0, 0, 0)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("UNIMPLEMENTED", "needs runtime 1.17"),
        ("UNAVAILABLE", "cannot be reached"),
        ("RESOURCE_EXHAUSTED", "slow down"),
    ],
)
def test_trouble_is_told_in_words(sidecar: Sidecar, status: str, words: str) -> None:
    sidecar.failure = grpc.StatusCode[status]
    with pytest.raises(EngineAwayError, match=words):
        Reader(sidecar.address).round()


def test_a_token_lets_us_in(sidecar: Sidecar) -> None:
    sidecar.token = "right"
    sidecar.histories = {"a": []}
    values = unseal(DECLARED, seal(DECLARED, {"address": sidecar.address, "api_token": "right"}))
    assert open_poller(values).check() == f"Dapr at {sidecar.address}, 1 workflow instances"
    with pytest.raises(EngineAwayError, match="does not let us in"):
        open_poller({**values, "api_token": "wrong"}).check()


def test_an_address_without_a_port_is_refused_and_one_where_nobody_listens_is_told() -> None:
    values = unseal(DECLARED, seal(DECLARED, {"address": f"127.0.0.1:{dapr_engine.free_port()}"}))
    with pytest.raises(EngineAwayError, match="cannot be reached"):
        open_poller(values).check()
    with pytest.raises(OptionError, match="host:port"):
        open_poller({**values, "address": "sidecar"})


@pytest.mark.interop
@pytest.mark.django_db
@pytest.mark.parametrize("running", [dapr_engine.running, daprd.running], ids=["engine", "daprd"])
def test_dapr_is_polled_while_it_runs_sagas(running: Any, tmp_path: Any) -> None:
    """Its workflow engine alone, and the whole of it: a sidecar with placement and scheduler."""
    try:
        with running(tmp_path) as engine:
            reader = Reader(f"127.0.0.1:{engine.port}", lookback="1h")
            for saga in dapr_engine.SAGAS:
                for _ in saga(engine):
                    assert reader.round()[2] == 0
            reader.round()
    except dapr_engine.UnavailableError as error:
        pytest.skip(str(error))
    order = reader.flow("order-1", "order_saga")
    assert [(step.step, len(step.attempts)) for step in order.steps] == [
        ("reserve_stock", 1),
        ("charge_card", 3),
        ("ship_order", 1),
        ("refund_card", 1),
        ("release_stock", 1),
    ]
    assert (order.instance.status, order.instance.compensation_state) == ("compensated", "complete")
    assert reader.flow("order-2", "order_saga").instance.compensation_state == "complete"
    assert reader.flow("approval-1", "approval").instance.status == "completed"
    assert reader.flow("news-1", "counting").instance.parent_flow == "newsletter"
