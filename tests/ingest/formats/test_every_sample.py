"""Every recorded sample is read by a test: this table says by which, or why it is no input.

What is expected of the samples stands in the tests that are named. Those of messages that no other test has a use for
stand here. All of it comes from reading the recordings.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apps.ingest.formats import Decoded
from apps.ingest.formats.broker_message import BrokerMessage, places_of
from apps.ingest.formats.broker_reading import Reading, read
from apps.ingest.strict_json import Limits
from apps.ingest.transports import kafka, rabbitmq, sqs
from apps.sagas.events import SagaEvent, TimeQuality
from tests.ingest.formats.importing import RECEIVED_AT, SAMPLES, sample, sample_text

_FORMATS = "tests.ingest.formats"
_MESSAGES = f"{_FORMATS}.test_recorded_messages"
_STATES = f"{_FORMATS}.test_stepfunctions"
_STATES_TABLE = f"{_STATES}:test_recordings_of_aws_itself_read_as_what_happened"
_AIRFLOW = f"{_FORMATS}.test_airflow"
_DAPR = f"{_FORMATS}.test_dapr:test_microsofts_engine_tells_the_same_in_its_own_words"
_OF_A_READER = "test_a_recording_comes_out_as_its_reader_understands_it"

#: Sample → the test that says what it comes to.
GOLDEN = {
    "airflow/generated/openlineage_order_saga.ndjson": (
        f"{_AIRFLOW}:test_openlineage_tells_tries_errors_compensation_and_what_never_ran"
    ),
    **{
        f"airflow/generated/poll_{number}.json": f"{_AIRFLOW}:test_polling_again_and_again_adds_only_what_is_new"
        for number in range(1, 8)
    },
    "airflow/generated/rest_dagrun.json": f"{_AIRFLOW}:test_the_rest_api_tells_the_same",
    "airflow/generated/rest_eventlogs.json": f"{_AIRFLOW}:test_the_event_log_tells_retries",
    "airflow/generated/rest_taskinstances.json": f"{_AIRFLOW}:test_the_rest_api_tells_the_same",
    "airflow/generated/rest_tries.json": f"{_AIRFLOW}:test_the_rest_api_tells_the_same",
    **{
        f"cadence/dev/{name}.json": f"{_FORMATS}.test_cadence:{_OF_A_READER}"
        for name in (
            "cadence-java-client__testAsyncActivityRetryHistory",
            "cadence-java-client__testGetVersionWithRetryHistory",
            "cadence-java-client__timerfiring",
            "cadence-web__workflow-history-activity-events",
            "cadence-web__workflow-history-single-events",
        )
    },
    "cadence/dev/cadence-web__workflow-history-timer-events.json": (
        f"{_FORMATS}.test_cadence:test_timers_that_nobody_named_the_workflow_of"
    ),
    "cloudevents/dev/spec__correlation_examples.ndjson": (
        f"{_MESSAGES}:test_the_specifications_own_saga_is_one_correlation"
    ),
    "conductor/dev/conductor__completed.json": f"{_FORMATS}.test_conductor:test_a_completed_execution_of_2019",
    "conductor/dev/conductor__ui_e2e_fixtures_dynamicFork_oneFailed.json": (
        f"{_FORMATS}.test_conductor:test_a_dynamic_fork_of_which_one_branch_failed"
    ),
    "conductor/dev/conductor__workflowSearch.json": (
        f"{_FORMATS}.test_conductor:test_a_search_says_how_workflows_stand"
    ),
    "dapr/generated/dapr_generated_history.json": _DAPR,
    "dapr/generated/dapr_generated_history_protojson.json": _DAPR,
    "gateway/dev/aws-lambda-go__apigw-v2-request-iam.json": (
        f"{_FORMATS}.test_access_logs:test_the_recorded_api_gateway_request_reads"
    ),
    "gateway/dev/istio_envoy_access_log.ndjson": (
        f"{_FORMATS}.test_access_logs:test_recorded_istio_lines_read_although_all_values_are_text"
    ),
    "gateway/dev/kong_2_2_http_log.json": (
        f"{_FORMATS}.test_access_logs:test_the_recorded_kong_entry_reads_given_a_correlation_id"
    ),
    "kafka/dev/aws-lambda-go__kafka-event.json": f"{__name__}:test_a_record_of_kafka_is_kept_by_its_key",
    "kafka/dev/quarkus_dlq_headers.json": f"{_MESSAGES}:test_what_quarkus_wrote_on_a_record_that_it_gave_up_on",
    "otlp/dev/opentelemetry-proto__trace.json": (
        f"{_FORMATS}.test_otlp:test_the_official_example_reads_as_a_step_of_its_trace"
    ),
    "rabbitmq/dev/aws-lambda-go__rabbitmq-event.json": (
        f"{__name__}:test_a_message_of_rabbitmq_belongs_where_its_headers_say"
    ),
    "rabbitmq/dev/xdeath_4_3_5_management_api.json": f"{_MESSAGES}:test_what_rabbitmq_4_3_writes_about_deaths",
    "rabbitmq/generated/rabbitmq_3_10_8_dlq.json": f"{_MESSAGES}:test_a_death_in_rabbitmq_is_on_its_sagas_timeline",
    "sqs_sns/dev/aws-lambda-go__cloudwatch-alarm-sns-payload-single-metric.json": (
        f"{__name__}:test_an_alarm_that_sns_delivers_belongs_where_its_payload_says"
    ),
    "sqs_sns/dev/aws-lambda-go__sns-event.json": (
        "tests.ingest.test_sns:test_recorded_messages_of_aws_itself_are_refused_for_their_scrubbed_signatures"
    ),
    "sqs_sns/dev/aws-lambda-go__sqs-event.json": f"{__name__}:test_a_message_of_sqs_belongs_where_its_attributes_say",
    "sqs_sns/dev/localstack__sns_http.json": (
        "tests.ingest.test_sns:test_recorded_messages_of_aws_itself_are_refused_for_their_scrubbed_signatures"
    ),
    "sqs_sns/dev/localstack__sqs_dead_letter.json": f"{_MESSAGES}:test_what_sqs_moved_after_two_receipts",
    "stepfunctions/dev/eventbridge_failed_2019.json": f"{_STATES}:test_the_documented_status_event_reads",
    "stepfunctions/dev/localstack__test_base.snapshot.json": (
        f"{_STATES}:test_recorded_status_events_tell_running_from_succeeded"
    ),
    "stepfunctions/dev/localstack__test_logs.snapshot.json": (
        f"{_STATES}:test_log_lines_give_the_same_events_as_the_history"
    ),
    **{
        f"stepfunctions/dev/localstack__test_{name}.snapshot.json": _STATES_TABLE
        for name in ("callback", "heartbeats", "task_lambda", "task_service_sqs", "timeouts")
    },
    "stepfunctions/generated/moto_order_saga_history.json": (
        f"{_STATES}:test_three_tries_then_a_catch_that_compensates_then_failed"
    ),
    "temporal/dev/ui__list-workflows.json": (
        f"{_FORMATS}.test_temporal:test_a_list_of_workflows_becomes_an_instance_each"
    ),
    **{
        f"temporal/dev/{name}.json": f"{_FORMATS}.test_temporal:{_OF_A_READER}"
        for name in (
            "sdk-go__activity-same-time-as-cancel",
            "sdk-go__child-workflow-cancel-with-update",
            "sdk-go__multiple-updates-canceled",
            "sdk-go__nexus-cancel-after-start",
            "sdk-go__reset-workflow-after-child-complete",
            "sdk-go__workflow1",
            "sdk-go__workflow_with_unknown_event",
            "sdk-java__laRetriesAndFails_1_17",
            "sdk-java__simpleHistory_withWorkflowId",
            "sdk-java__testAsyncActivityRetryHistory",
            "sdk-java__testCancelNexusOperationHistory",
            "sdk-java__testChildWorkflowRetryHistory",
            "sdk-java__testLocalActivityAfterCancelTest",
            "sdk-java__testUnknownHistoryEventMayIgnore",
            "ui__raw-events.ascending.canceled",
            "ui__raw-events.ascending.completed",
            "ui__raw-events.ascending.failed",
            "ui__raw-events.ascending.terminated",
            "ui__raw-events.ascending.timed-out",
            "ui__workflow.pending-activities",
            "ui__workflow.timed-out",
        )
    },
    "zeebe/dev/zeebe_8_2_15_kafka_records.ndjson": (
        f"{_FORMATS}.test_zeebe:test_other_peoples_records_are_read_without_a_rejection"
    ),
}

_SCHEMA = "a JSON Schema: it describes documents and is none"
_LOGS = "logs, which `/v1/traces` refuses: they are no spans"
#: Samples that are no input, and why.
NO_INPUT = {
    "airflow/dev/OpenLineage__ErrorMessageRunFacet.json": _SCHEMA,
    "airflow/dev/OpenLineage__JobTypeJobFacet.json": _SCHEMA,
    "airflow/dev/OpenLineage__NominalTimeRunFacet.json": _SCHEMA,
    "airflow/dev/OpenLineage__OpenLineage.json": _SCHEMA,
    "airflow/dev/OpenLineage__ParentRunFacet.json": _SCHEMA,
    "cloudevents/dev/spec__cloudevents.json": _SCHEMA,
    "conductor/dev/conductor__Task.json": _SCHEMA,
    "conductor/dev/conductor__Workflow.json": _SCHEMA,
    "conductor/dev/conductor__WorkflowDef.json": _SCHEMA,
    "otlp/dev/opentelemetry-proto__events.json": _LOGS,
    "otlp/dev/opentelemetry-proto__logs.json": _LOGS,
}


def samples() -> set[str]:
    """What the manifest lists: a heading names the folder, the first column of a table the file."""
    found, folder = set(), ""
    for line in sample_text("MANIFEST.md").splitlines():
        if line.startswith("## "):
            folder = line.removeprefix("## ").strip()
        elif match := re.match(r"\| ((?:dev|generated)/\S+) \|", line):
            found.add(f"{folder}/{match[1]}")
    return found


# --- the table --------------------------------------------------------------------------------------------------------


def test_every_sample_has_a_row() -> None:
    listed = samples()
    there = {str(path.relative_to(SAMPLES)) for path in SAMPLES.rglob("*.*")} - {"MANIFEST.md"}

    assert listed == there
    assert GOLDEN.keys().isdisjoint(NO_INPUT)
    assert GOLDEN.keys() | NO_INPUT.keys() == listed


@pytest.mark.parametrize("name", GOLDEN)
def test_the_test_of_a_sample_is_there_and_reads_it(name: str) -> None:
    module_name, _, function = GOLDEN[name].partition(":")
    module = importlib.import_module(module_name)

    assert callable(getattr(module, function))
    text = Path(str(module.__file__)).read_text()
    file = name.rpartition("/")[2]
    ways = {file, file.partition(".")[0], file.rpartition(".")[0], re.sub(r"\d+(?=\.json)", "{number}", file)}
    # Snapshots are named by their test, the REST answers by their kind, Web UI's documents by what follows `ui__`.
    ways |= {f'"{match[1]}"' for match in [re.search(r"test_(\w+)\.snapshot", file)] if match}
    ways |= {f'"{part}"' for part in (file.removeprefix("rest_").removesuffix(".json"),)}
    assert any(way in text for way in ways)


@pytest.mark.parametrize("name", [name for name, why in NO_INPUT.items() if why == _SCHEMA])
def test_what_is_called_a_schema_is_one(name: str) -> None:
    schema = sample(name)
    assert "$schema" in schema or "$id" in schema


# --- messages as AWS hands them to functions --------------------------------------------------------------------------


def reading(message: BrokerMessage, **places: str) -> Decoded:
    return read(message, Reading(places=places_of(places)), RECEIVED_AT, Limits())


def only(decoded: Decoded) -> SagaEvent:
    assert decoded.rejections == []
    (event,) = decoded.events
    return event


def test_a_record_of_kafka_is_kept_by_its_key() -> None:
    """Its key and value are the same text, which is no JSON; its header is five bytes that are no text."""
    (recorded,) = sample("kafka/dev/aws-lambda-go__kafka-event.json")["records"]["AWSKafkaTopic-0"]
    headers = [
        (name, bytes(byte % 256 for byte in value)) for each in recorded["headers"] for name, value in each.items()
    ]
    values: dict[str, Any] = {name: recorded[name] for name in ("topic", "partition", "offset")}
    values |= {name: base64.b64decode(recorded[name]) for name in ("key", "value")}
    values |= {"timestamp": (1, recorded["timestamp"]), "headers": headers}
    record = SimpleNamespace(**{name: lambda value=value: value for name, value in values.items()})

    event = only(reading(kafka.message_of(record, "main")))  # type: ignore[arg-type]

    assert (event.source, event.id, event.type) == ("kafka://main/AWSKafkaTopic", "0/0", "AWSKafkaTopic")
    assert event.correlation_id == "8d5596b4-1813-4238-b24b-6dad8e3d1c0c"
    assert event.data == '"8d5596b4-1813-4238-b24b-6dad8e3d1c0c"'
    # 2020-07-18T01:29:09.700Z, when its producer made it.
    assert (event.occurred_at, event.time_quality) == (1_595_035_749_700_000, TimeQuality.INFERRED)


def test_a_message_of_rabbitmq_belongs_where_its_headers_say() -> None:
    """Neither its properties nor its payload name a correlation: without being told where it stands it is refused."""
    recorded = sample("rabbitmq/dev/aws-lambda-go__rabbitmq-event.json")["rmqMessagesByQueue"]["test::/"][0]
    said = recorded["basicProperties"]
    headers = {
        name: bytes(value["bytes"]) if isinstance(value, dict) else value for name, value in said["headers"].items()
    }
    properties = SimpleNamespace(
        message_id=said["messageId"],
        correlation_id=said["correlationId"],
        type=said["type"],
        app_id=said["appId"],
        content_type=said["contentType"],
        timestamp=None,
        headers=headers,
    )
    message = rabbitmq.message_of("", "test", properties, base64.b64decode(recorded["data"]))

    event = only(reading(message, correlation="header1", type="header2"))

    assert (event.correlation_id, event.type) == ("value1", "value2")
    assert json.loads(event.data or "") == {"timeout": 0, "data": "CZrmf0Gw8Ov4bqLQxD4E"}
    assert event.attributes["numberinheader"] == "10"
    assert [each.code for each in reading(message).rejections] == ["missing_correlation"]


def test_a_message_of_sqs_belongs_where_its_attributes_say() -> None:
    (recorded,) = sample("sqs_sns/dev/aws-lambda-go__sqs-event.json")["Records"]
    message = sqs.message_of(recorded, recorded["eventSourceARN"])

    event = only(reading(message, correlation="Attribute1", type="Attribute2"))

    assert (event.id, event.correlation_id, event.type) == ("MessageID_1", "AttributeValue1", "123")
    assert event.data == '"Message Body"'
    # MTEwMA== of a binary attribute.
    assert event.attributes["attribute3"] == "1100"
    assert event.occurred_at == 1_520_621_625_029_000
    assert [each.code for each in reading(message).rejections] == ["missing_correlation"]


def test_an_alarm_that_sns_delivers_belongs_where_its_payload_says() -> None:
    """An alarm of CloudWatch in the envelope of SNS, in a queue of SQS: nobody would look for a saga in it unasked."""
    (recorded,) = sample("sqs_sns/dev/aws-lambda-go__cloudwatch-alarm-sns-payload-single-metric.json")["Records"]
    body = {"MessageId": "m-1", "Body": json.dumps(recorded["Sns"])}
    message = sqs.message_of(body, "arn:aws:sqs:eu-west-1:111122223333:alarms")

    event = only(reading(message, correlation="$.AlarmName", type="$.NewStateValue", time="$.StateChangeTime"))

    assert (event.id, event.source) == ("95df01b4-ee98-5cb9-9903-4c221d41eb5e", "arn:aws:sns:EXAMPLE")
    assert (event.correlation_id, event.type) == ("EXAMPLE", "ALARM")
    assert event.attributes["OldStateValue"] == "INSUFFICIENT_DATA"
    # 2015-06-03T17:43:27.123Z
    assert event.occurred_at == 1_433_353_407_123_000
    assert [each.code for each in reading(message).rejections] == ["missing_correlation"]
