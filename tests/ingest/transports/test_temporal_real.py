"""The Temporal poller against Temporal's own dev server, with workflows run by its Python SDK."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command

from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.temporal import decode
from apps.lib import micros
from apps.projects.models import Project, Source
from apps.sagas import queries
from apps.sagas.correlation_view import find_correlation
from apps.sagas.recording import record
from apps.sagas.shapes import InstanceView, StepView

temporalio = pytest.importorskip("temporalio", reason="the extra `temporal` is not installed")

from temporalio.api.common.v1 import WorkflowExecution  # noqa: E402
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest  # noqa: E402
from temporalio.client import Client, WorkflowHandle  # noqa: E402
from temporalio.common import RetryPolicy  # noqa: E402
from temporalio.worker import UnsandboxedWorkflowRunner, Worker  # noqa: E402

from tests.ingest.transports import temporal_workflows as shop  # noqa: E402
from tests.ingest.transports.temporal_server import real_server  # noqa: E402

pytestmark = [pytest.mark.interop, pytest.mark.django_db(transaction=True)]


class Engine:
    """A Temporal server with a worker; its event loop runs in a thread of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.client: Client = self.do(self._connect())
        self._worker = self.do(self._start_worker())

    async def _connect(self) -> Client:
        for _ in range(100):
            try:
                return await Client.connect(self.address)
            except RuntimeError:
                await asyncio.sleep(0.1)
        return await Client.connect(self.address)

    async def _start_worker(self) -> asyncio.Task[None]:
        shop.GATES["count-boxes"] = asyncio.Event()
        worker = Worker(
            self.client,
            task_queue=shop.QUEUE,
            workflows=shop.WORKFLOWS,
            activities=shop.ACTIVITIES,
            workflow_runner=UnsandboxedWorkflowRunner(),
            graceful_shutdown_timeout=timedelta(0),
        )
        return asyncio.create_task(worker.run())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def start(self, workflow: Any, *given: Any, **more: Any) -> WorkflowHandle[Any, Any]:
        identity = f"{workflow.__qualname__.split('.')[0].lower()}-{uuid.uuid4().hex[:8]}"
        options = {"id": identity, "task_queue": shop.QUEUE, **more}
        return self.do(self.client.start_workflow(workflow, args=given, **options))

    def await_end(self, handle: WorkflowHandle[Any, Any]) -> None:
        async def ended() -> None:
            try:
                await handle.result()
            except Exception:
                return

        self.do(ended())

    def close(self) -> None:
        async def end() -> None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

        self.do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with real_server() as address:
        running = Engine(address)
        try:
            yield running
        finally:
            running.close()


class Book:
    """A project whose source polls the server."""

    def __init__(self, address: str) -> None:
        self.project = Project.objects.create(slug="default", name="Default")
        self.options = {"project": "default", "once": True}
        call_command("poll", "shop", system="temporal", given=[f"address={address}"], **self.options)

    def poll(self) -> None:
        call_command("poll", "shop", **self.options)

    def poll_until(self, is_there: Callable[[], Any]) -> None:
        """Lists are a little behind what happened; poll until it is seen."""
        for _ in range(100):
            self.poll()
            if is_there():
                return
        raise AssertionError("not seen after 100 rounds")

    def flow(self, correlation_id: str, flow: str) -> InstanceView | None:
        view = find_correlation(self.project.pk, correlation_id)
        found = [each for each in view.instances if each.instance.flow == flow] if view else []
        assert len(found) <= 1
        return found[0] if found else None

    def ended(self, correlation_id: str, flow: str) -> InstanceView:
        """The instance once it has ended."""
        self.poll_until(lambda: (found := self.flow(correlation_id, flow)) and found.instance.ended_at is not None)
        found = self.flow(correlation_id, flow)
        assert found is not None
        return found

    def now(self, correlation_id: str, flow: str) -> InstanceView:
        """The instance as it is, once there is one."""
        self.poll_until(lambda: self.flow(correlation_id, flow))
        found = self.flow(correlation_id, flow)
        assert found is not None
        return found


@pytest.fixture
def book(engine: Engine) -> Book:
    return Book(engine.address)


def attempts(step: StepView) -> list[tuple[str | None, str | None]]:
    return [(each.outcome, each.error) for each in step.attempts]


def test_a_saga_that_is_rolled_back(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.OrderFulfilment.run, {"id": "o-1", "card_number": "4111111111111111"})
    engine.await_end(handle)

    one = book.ended(handle.id, "order-fulfilment")

    assert (one.instance.status, one.instance.compensation_state) == ("compensated", "complete")
    assert [(step.step, step.status, step.compensates) for step in one.steps] == [
        ("reserve-stock", "completed", None),
        ("charge-payment", "failed", None),
        ("release-stock", "completed", "*"),
    ]
    assert [outcome for outcome, _ in attempts(one.steps[1])] == ["failed", "failed", "failed"]
    assert one.instance.error == "Declined: card declined, try 3"
    assert one.instance.retry_count == 2
    assert one.instance.attributes["workflow_id"] == handle.id
    assert {step.service for step in one.steps} == {shop.QUEUE}


def test_each_error_of_a_retried_activity_is_seen_while_it_is_retried(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.Labelling.run, 3)

    one = book.ended(handle.id, "labelling")

    # The history itself tells of try 3 only.
    (step,) = one.steps
    assert attempts(step) == [
        ("failed", "Jammed: printer jammed, try 1"),
        ("failed", "Jammed: printer jammed, try 2"),
        ("failed", "Jammed: printer jammed, try 3"),
        ("completed", None),
    ]
    assert all(each.started_at is not None for each in step.attempts[1:])


def test_a_timer_explains_waiting_and_a_signal_ends_it(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.PaymentWait.run)
    book.poll_until(lambda: (found := book.flow(handle.id, "payment-wait")) and found.instance.waiting_for)
    waiting = book.now(handle.id, "payment-wait").instance
    assert waiting.waiting_for == "timer 1"
    assert waiting.deadline_reason == "timer due"

    engine.do(handle.execute_update(shop.PaymentWait.change, 5))
    engine.do(handle.signal(shop.PaymentWait.pay))

    assert book.ended(handle.id, "payment-wait").instance.status == "completed"


def test_a_child_is_an_instance_of_the_same_correlation(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.Shipment.run)
    engine.await_end(handle)

    parent = book.ended(handle.id, "shipment")
    child = book.ended(handle.id, "labelling")

    assert (parent.instance.status, child.instance.status) == ("completed", "completed")
    assert [(step.step, step.status) for step in parent.steps] == [("labelling", "completed")]
    assert [(step.step, step.status) for step in child.steps] == [("print-label", "completed")]
    assert (child.instance.parent_flow, child.instance.parent_run) == ("shipment", parent.instance.run_id)


def test_runs_that_continue_as_new_are_one_instance(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.Paging.run, 3)
    engine.await_end(handle)

    one = book.ended(handle.id, "paging")

    assert (one.instance.status, one.instance.run_id) == ("completed", handle.first_execution_run_id)
    assert [(step.step, step.status) for step in one.steps] == [("reserve-stock", "completed")] * 3
    assert "clock_skew" not in one.instance.annotations


def test_a_workflow_that_is_retried_as_a_whole_is_one_instance(engine: Engine, book: Book) -> None:
    policy = RetryPolicy(initial_interval=timedelta(milliseconds=50), maximum_attempts=3)
    handle = engine.start(shop.Fragile.run, retry_policy=policy)
    engine.await_end(handle)

    one = book.ended(handle.id, "fragile")

    assert one.instance.status == "completed"
    assert one.instance.error == "Broken: fell down"


def test_cancellation_termination_and_timeout_are_told_apart(engine: Engine, book: Book) -> None:
    cancelled, terminated = engine.start(shop.PaymentWait.run), engine.start(shop.PaymentWait.run)
    timed_out = engine.start(shop.PaymentWait.run, execution_timeout=timedelta(seconds=1))
    engine.do(cancelled.cancel())
    engine.do(terminated.terminate(reason="no longer wanted"))

    ends = [book.ended(handle.id, "payment-wait").instance for handle in (cancelled, terminated, timed_out)]

    assert [(end.status, end.attributes.get("reason"), end.error) for end in ends] == [
        ("cancelled", "cancelled", ""),
        ("cancelled", "terminated", "terminated: no longer wanted"),
        ("timed_out", None, "the workflow timed out"),
    ]


def test_a_reset_opens_the_instance_again(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.OrderFulfilment.run, {"id": "o-2"})
    engine.await_end(handle)
    book.ended(handle.id, "order-fulfilment")
    request = ResetWorkflowExecutionRequest(
        namespace="default",
        workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id),
        reason="try again",
        workflow_task_finish_event_id=4,
        request_id=uuid.uuid4().hex,
    )
    engine.do(engine.client.workflow_service.reset_workflow_execution(request))
    engine.await_end(engine.client.get_workflow_handle(handle.id))

    book.poll_until(
        lambda: [step.step for step in book.now(handle.id, "order-fulfilment").steps].count("release-stock") == 2
    )

    one = book.ended(handle.id, "order-fulfilment")
    assert one.instance.run_id == handle.first_execution_run_id
    # All was done once more by the new run; entries that the reset copied are told once.
    assert [step.step for step in one.steps] == ["reserve-stock", "charge-payment", "release-stock"] * 2
    assert one.instance.status == "compensated"


def test_local_activities_and_their_retries(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.Weighing.run)
    engine.await_end(handle)

    (step,) = book.ended(handle.id, "weighing").steps

    assert (step.step, step.status) == ("weigh", "completed")
    assert [outcome for outcome, _ in attempts(step)] == ["failed", "failed", "completed"]


def test_a_heartbeat_shows_that_a_long_activity_lives(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.Counting.run)

    def beats() -> bool:
        page = queries.list_events(book.project.pk, handle.id, limit=100)
        return any(event.kind == "heartbeat" and event.data for event in page.items) if page else False

    book.poll_until(beats)
    (step,) = book.now(handle.id, "counting").steps
    assert (step.step, step.status) == ("count-boxes", "running")

    asyncio.run_coroutine_threadsafe(_open(shop.GATES["count-boxes"]), engine._loop).result(5)
    assert book.ended(handle.id, "counting").instance.status == "completed"


async def _open(gate: asyncio.Event) -> None:
    gate.set()


def test_a_workflow_whose_code_fails_is_blocked(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.Buggy.run)

    book.poll_until(lambda: (found := book.flow(handle.id, "buggy")) and found.instance.blocked)

    blocked = book.now(handle.id, "buggy").instance
    assert blocked.status == "running"
    assert blocked.error == "WorkflowWorkerUnhandledFailure: RuntimeError: a mistake in the workflow's code"
    engine.do(handle.terminate())


def test_the_history_that_the_sdk_exports_is_what_was_polled(engine: Engine, book: Book) -> None:
    handle = engine.start(shop.OrderFulfilment.run, {"id": "o-3"})
    engine.await_end(handle)
    book.ended(handle.id, "order-fulfilment")
    document = json.loads(engine.do(handle.fetch_history()).to_json())

    decoded = decode(document, HistoryOptions(), micros.now())
    outcome = record(book.project.pk, Source.objects.get(project=book.project).pk, decoded.events)

    assert decoded.rejections == []
    assert (outcome.accepted, outcome.duplicates, outcome.conflicts) == (0, len(decoded.events), [])
