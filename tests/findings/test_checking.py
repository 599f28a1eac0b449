"""Recorded sagas judged in a pipeline: by command and by API, without anything being stored."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from django.core.management import CommandError, call_command

from apps.projects import tokens
from apps.projects.models import Project
from apps.sagas import catalog
from apps.sagas.event_schemas import save_schema
from apps.sagas.flows import save_definition
from apps.sagas.models import Event
from tests.api.conftest import calling_with

FLOW = "flow: order\nsteps: [{name: charge, role: compensable, compensation: {name: refund}}]\n"


def cloud_event(number: int, kind: str, correlation: str = "o-1", **facts: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"{correlation}-{number}",
        "source": "//shop/orders",
        "type": "told",
        "time": f"2026-11-19T14:00:{number:02}Z",
        "correlationid": correlation,
        "sagaflow": "order",
        "sagakind": kind,
        **facts,
    }


def owing(correlation: str = "o-1") -> list[dict[str, Any]]:
    return [
        cloud_event(1, "step.started", correlation, sagastep="charge"),
        cloud_event(2, "step.completed", correlation, sagastep="charge"),
        cloud_event(3, "saga.failed", correlation),
    ]


def undone(correlation: str = "o-2") -> list[dict[str, Any]]:
    return [
        *owing(correlation),
        cloud_event(4, "step.started", correlation, sagastep="refund"),
        cloud_event(5, "step.completed", correlation, sagastep="refund"),
    ]


class Pipeline:
    """A folder with a recording and definitions, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flows").mkdir()
        (folder / "flows" / "order.yaml").write_text(FLOW)

    def record(self, *events: dict[str, Any]) -> None:
        (self.folder / "events.ndjson").write_text("\n".join(json.dumps(event) for event in events))

    def check(self, *options: str) -> tuple[int, str, ET.Element]:
        """Exit code, what it printed, and the report."""
        out, report = StringIO(), self.folder / "out.xml"
        arguments = [str(self.folder / "events.ndjson"), "--flows", str(self.folder / "flows"), "--junit", str(report)]
        code = 0
        try:
            call_command("check_sagas", *arguments, *options, stdout=out, stderr=out)
        except SystemExit as end:
            code = int(str(end.code))
        return code, out.getvalue(), ET.fromstring(report.read_text())


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


class TestCommand:
    def test_a_broken_rule_fails_the_pipeline(self, pipeline: Pipeline) -> None:
        pipeline.record(*owing(), *undone())
        code, told, report = pipeline.check()
        assert code == 1
        assert "o-1  order  Compensation owed: charge completed at" in told
        assert (report.get("tests"), report.get("failures")) == ("24", "1")
        failure = report.find("testsuite[@name='o-1']/testcase[@name='compensation_owed']/failure")
        assert failure is not None
        assert "o-1-2 of //shop/orders" in (failure.text or "")

    def test_sagas_that_keep_to_the_rules_pass(self, pipeline: Pipeline) -> None:
        pipeline.record(*undone())
        code, told, report = pipeline.check()
        assert (code, report.get("failures")) == (0, "0")
        assert "1 sagas, 5 events: 0 findings" in told

    def test_a_rule_can_be_left_out(self, pipeline: Pipeline) -> None:
        pipeline.record(*owing())
        code, _, report = pipeline.check("--ignore", "compensation_owed")
        assert (code, report.get("tests")) == (0, "11")

    def test_an_event_that_cannot_be_read_fails_it_too(self, pipeline: Pipeline) -> None:
        pipeline.record(*undone(), {"specversion": "1.0"})
        code, told, report = pipeline.check()
        assert (code, report.get("errors")) == (1, "1")
        assert "events.ndjson:6" in told

    def test_a_cause_that_is_not_in_the_recording_is_an_orphan(self, pipeline: Pipeline) -> None:
        pipeline.record(cloud_event(1, "saga.started", causationid="nobody"))
        assert "Orphan event" in pipeline.check()[1]

    def test_what_another_saga_of_the_recording_undid_counts_as_compensable(self, pipeline: Pipeline) -> None:
        (pipeline.folder / "flows" / "order.yaml").write_text("flow: other\n")
        events = [*undone(), *owing()]
        for event in events:
            if event.get("sagastep") == "refund":
                event["sagacompensates"] = "charge"
        pipeline.record(*events)
        code, told, _ = pipeline.check()
        assert code == 1
        assert "o-1  order  Compensation owed" in told

    def test_a_definition_that_cannot_be_read_is_named(self, pipeline: Pipeline) -> None:
        (pipeline.folder / "flows" / "bad.yaml").write_text("flow: [")
        pipeline.record()
        with pytest.raises(CommandError, match=r"bad\.yaml"):
            pipeline.check()


@pytest.mark.django_db
class TestApi:
    @pytest.fixture
    def project(self) -> Project:
        catalog.forget()
        tokens.forget_cached()
        return Project.objects.create(slug="shop", name="Shop")

    @pytest.fixture
    def call(self, project: Project) -> Any:
        return calling_with(tokens.create_token(project, ["read"], name="ci"))

    def test_it_judges_by_the_definitions_of_the_project_and_stores_nothing(self, project: Project, call: Any) -> None:
        save_definition(project, "order", FLOW, by="ada")
        answer = call("post", "/check", json.dumps([*owing(), *undone(), {"id": "x"}])).json()
        assert [(one["code"], one["correlation_id"], one["step"]) for one in answer["findings"]] == [
            ("compensation_owed", "o-1", "charge")
        ]
        assert (answer["correlation_count"], answer["event_count"], answer["open_count"]) == (2, 8, 1)
        assert [each["index"] for each in answer["rejected"]] == [8]
        assert not Event.objects.exists()

    def test_definitions_may_come_along(self, call: Any) -> None:
        body = json.dumps({"events": owing(), "flows": [FLOW]})
        assert call("post", "/check", body).json()["open_count"] == 1
        assert call("post", "/check", json.dumps({"events": owing()})).json()["open_count"] == 0

    def test_payloads_are_judged_by_the_schemas_of_the_project(self, project: Project, call: Any) -> None:
        save_schema(project, "told", "1", '{"type": "object"}', "ada")
        (found,) = call("post", "/check", json.dumps([cloud_event(1, "saga.started", data=[])])).json()["findings"]
        assert found["code"] == "contract_drift"

    def test_the_report_for_pipelines(self, project: Project, call: Any) -> None:
        save_definition(project, "order", FLOW, by="ada")
        answer = call("post", "/check", json.dumps(owing()), report="junit")
        assert answer.headers["Content-Type"] == "application/xml"
        assert ET.fromstring(answer.content).get("failures") == "1"

    @pytest.mark.parametrize(
        ("body", "kind", "status"),
        [
            ("{", "application/json", 400),
            ("[]", "text/plain", 415),
            ('{"events": [], "flows": ["flow: ["]}', "application/json", 422),
        ],
    )
    def test_what_cannot_be_judged_is_a_problem(self, call: Any, body: str, kind: str, status: int) -> None:
        answer = call("post", "/check", body, kind=kind)
        assert answer.status_code == status
        assert answer.headers["Content-Type"] == "application/problem+json"
