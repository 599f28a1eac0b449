"""The Step Functions poller against moto's server, which runs state machines for real: retries, Catch, waits."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import boto3
import pytest
from botocore.config import Config

from apps.ingest.transports import polling, stepfunctions
from apps.ingest.transports.options import seal, unseal
from apps.ingest.transports.polling import EngineAwayError, Polling
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from apps.sagas.shapes import InstanceView
from tests.ingest.transports.brokers import unique

pytestmark = [pytest.mark.interop, pytest.mark.django_db]

KEYS = {"region": "eu-central-1", "access_key_id": "testing", "secret_access_key": "testing"}
ROLE = "arn:aws:iam::123456789012:role/saga"
SEND = {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "ResultPath": "$.sent"}


class Engine:
    """moto's Step Functions."""

    def __init__(self, url: str) -> None:
        settings = json.dumps({"stepfunctions": {"execute_state_machine": True}}).encode()
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/config", settings, method="POST")).close()
        given: dict[str, Any] = {
            "region_name": KEYS["region"],
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
            "endpoint_url": url,
            "config": Config(inject_host_prefix=False),
        }
        self.url = url
        self.states = boto3.client("stepfunctions", **given)
        self.queue = boto3.client("sqs", **given).create_queue(QueueName=unique("q"))["QueueUrl"]

    def machine(self, definition: dict[str, Any]) -> str:
        answer = self.states.create_state_machine(name=unique("Saga"), definition=json.dumps(definition), roleArn=ROLE)
        return str(answer["stateMachineArn"])

    def order_saga(self, *, missing: bool = True) -> str:
        """Reserves, charges with two retries, and gives back when that fails. `missing`: there is nothing to charge."""
        retry = [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 2, "IntervalSeconds": 1, "BackoffRate": 1}]
        catch = [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "GiveBackStock"}]
        charge = {"QueueUrl": f"{self.queue}-missing" if missing else self.queue, "MessageBody": "charge"}
        give_back = {"QueueUrl": self.queue, "MessageBody": "give back"}
        reserve = {"QueueUrl": self.queue, "MessageBody": "reserve"}
        return self.machine(
            {
                "StartAt": "ReserveStock",
                "States": {
                    "ReserveStock": {**SEND, "Parameters": reserve, "Next": "ChargeCard"},
                    "ChargeCard": {**SEND, "Parameters": charge, "Retry": retry, "Catch": catch, "Next": "Cool"},
                    "Cool": {"Type": "Wait", "Seconds": 1, "Next": "Done"},
                    "Done": {"Type": "Succeed"},
                    "GiveBackStock": {**SEND, "Parameters": give_back, "Next": "Failed"},
                    "Failed": {"Type": "Fail", "Error": "SagaRolledBack", "Cause": "card declined"},
                },
            }
        )

    def start(self, machine: str, name: str, **given: Any) -> str:
        answer = self.states.start_execution(stateMachineArn=machine, name=name, input=json.dumps(given))
        return str(answer["executionArn"])

    def await_end(self, arn: str) -> str:
        give_up_at = time.monotonic() + 60
        while (status := self.states.describe_execution(executionArn=arn)["status"]) == "RUNNING":
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
        return str(status)


class Reader:
    """A source that polls state machines."""

    def __init__(self, engine: Engine, **options: str) -> None:
        project = Project.objects.create(slug=unique("states"), name="States")
        given = {**KEYS, "endpoint_url": engine.url, "requests_per_second": "1000", **options}
        settings = seal((*stepfunctions.OPTIONS, *polling.HISTORY_OPTIONS), given)
        self.source = Source.objects.create(
            project=project, name="states", kind=SourceKind.POLLER, system="stepfunctions", settings=settings
        )
        self.polling = self.restarted()

    def restarted(self) -> Polling:
        """As after the process was started anew: only the watermark is known."""
        self.source.refresh_from_db()
        values = unseal((*stepfunctions.OPTIONS, *polling.HISTORY_OPTIONS), self.source.settings)
        self.polling = Polling(self.source, lambda: open_poller(values))
        return self.polling

    def round(self) -> tuple[int, int, int]:
        before = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        self.polling.round()
        after = self.polling.accepted, self.polling.duplicates, self.polling.rejected
        return after[0] - before[0], after[1] - before[1], after[2] - before[2]

    def only(self, correlation_id: str) -> InstanceView:
        view = find_correlation(self.source.project_id, correlation_id)
        assert view is not None
        (instance,) = view.instances
        return instance


def open_poller(values: dict[str, str]) -> polling.Poller:
    return stepfunctions.KIND.open(values, polling.history_options(values), polling.pace(values))


@pytest.fixture(scope="session")
def engine(aws_url: str) -> Engine:
    return Engine(aws_url)


def test_retries_a_catch_and_what_it_undoes_are_seen(engine: Engine) -> None:
    machine, name = engine.order_saga(), unique("order")
    assert engine.await_end(engine.start(machine, name)) == "FAILED"
    reader = Reader(engine, state_machines=machine, compensations="GiveBackStock=ReserveStock")

    accepted, duplicates, rejected = reader.round()

    assert (accepted > 20, duplicates, rejected) == (True, 0, 0)
    view = reader.only(name)
    assert (view.instance.status, view.instance.compensation_state) == ("compensated", "complete")
    steps = {step.step: step for step in view.steps}
    assert [attempt.outcome for attempt in steps["ChargeCard"].attempts] == ["failed"] * 3
    assert "queue does not exist" in str(steps["ChargeCard"].attempts[-1].error)
    assert steps["ReserveStock"].compensated_by == ("GiveBackStock",)
    assert reader.round() == (0, 0, 0)


def test_the_definition_tells_compensations_whatever_their_name(engine: Engine) -> None:
    machine, name = engine.order_saga(), unique("order")
    engine.await_end(engine.start(machine, name))
    reader = Reader(engine, state_machines=machine)

    reader.round()

    # Only a Catch leads to GiveBackStock, and its path ends in a Fail state.
    assert {step.step: step.compensates for step in reader.only(name).steps} == {
        "ReserveStock": None,
        "ChargeCard": None,
        "GiveBackStock": "*",
    }


def test_a_running_execution_is_followed_to_its_end(engine: Engine) -> None:
    machine, name = engine.order_saga(missing=False), unique("order")
    reader = Reader(engine, state_machines=machine)
    reader.round()
    arn = engine.start(machine, name)

    rounds = []
    give_up_at = time.monotonic() + 60
    while (view := find_correlation(reader.source.project_id, name)) is None or not view.instances[0].instance.ended_at:
        assert time.monotonic() < give_up_at
        rounds.append(reader.round())
        time.sleep(0.1)

    assert engine.await_end(arn) == "SUCCEEDED"
    assert reader.only(name).instance.status == "completed"
    # Entries that were read once are not read again.
    assert sum(duplicates for _, duplicates, _ in rounds) == 0
    assert sum(1 for accepted, _, _ in rounds if accepted) > 1


def test_a_restart_loses_nothing_and_doubles_nothing(engine: Engine) -> None:
    machine, name = engine.order_saga(missing=False), unique("order")
    reader = Reader(engine, state_machines=machine)
    arn = engine.start(machine, name)
    reader.round()
    reader.restarted()
    engine.await_end(arn)

    accepted, _, rejected = reader.round()

    assert rejected == 0
    assert accepted > 0
    view = reader.only(name)
    assert view.instance.status == "completed"
    assert {step.step: step.status for step in view.steps} == {"ReserveStock": "completed", "ChargeCard": "completed"}
    reader.restarted()
    assert reader.round()[0] == 0


def test_the_correlation_id_may_lie_in_the_input(engine: Engine) -> None:
    machine, order = engine.order_saga(missing=False), unique("o")
    engine.await_end(engine.start(machine, unique("run"), order={"id": order}))
    reader = Reader(engine, state_machines=machine, correlation_path="$.order.id", flow="checkout")

    reader.round()

    assert reader.only(order).instance.flow == "checkout"


def test_all_state_machines_are_read_when_none_is_named(engine: Engine) -> None:
    names = [unique("order"), unique("order")]
    for name in names:
        engine.await_end(engine.start(engine.order_saga(missing=False), name))
    reader = Reader(engine)

    reader.round()

    assert {reader.only(name).instance.status for name in names} == {"completed"}


def test_the_connection_is_tried_in_words(engine: Engine) -> None:
    reader = Reader(engine, state_machines=engine.order_saga())
    values = unseal((*stepfunctions.OPTIONS, *polling.HISTORY_OPTIONS), reader.source.settings)

    assert open_poller(values).check() == "AWS Step Functions, 1 state machine"
    gone = engine.order_saga()
    engine.states.delete_state_machine(stateMachineArn=gone)
    with pytest.raises(EngineAwayError, match="AWS refuses: StateMachineDoesNotExist"):
        open_poller(values | {"state_machines": gone}).check()
    with pytest.raises(EngineAwayError, match="AWS cannot be reached"):
        open_poller(values | {"endpoint_url": "http://127.0.0.1:9"}).check()
