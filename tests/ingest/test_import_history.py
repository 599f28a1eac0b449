"""`manage.py import_history`: files of engines' own documents."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.ingest.models import RejectedEvent
from apps.projects.models import Project, Source
from apps.sagas.models import Instance
from tests.ingest.formats.importing import sample_text

HISTORY = {
    "describe": {"executionArn": "arn:aws:states:eu-west-1:111122223333:execution:Order:o-1"},
    "history": {"events": [{"id": 1, "type": "ExecutionStarted", "timestamp": 1_763_700_000}]},
}


@pytest.fixture
def project(transactional_db: None) -> Project:
    return Project.objects.create(slug="shop", name="Shop")


def run(*arguments: str, **options: Any) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command("import_history", *arguments, "--project", "shop", stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_files_are_imported_once_however_often(project: Project, tmp_path: Path) -> None:
    plain = written(tmp_path, "a.json", json.dumps(HISTORY))
    packed = written(tmp_path, "b.json.gz", gzip.compress(json.dumps(HISTORY).encode()))
    lines = written(tmp_path, "c.ndjson", f"{json.dumps(HISTORY)}\n\n{json.dumps(HISTORY)}\n")

    out, err = run("stepfunctions", plain, packed, lines)

    assert [line.partition(": ")[2] for line in out.splitlines()] == [
        "1 accepted, 0 duplicates, 0 rejected",
        "0 accepted, 1 duplicates, 0 rejected",
        "0 accepted, 2 duplicates, 0 rejected",
    ]
    assert err == ""
    assert Instance.objects.get(project=project, correlation_id="o-1").flow == "Order"
    assert Source.objects.get(project=project).name == "stepfunctions"


def test_options_say_how_to_read(project: Project, tmp_path: Path) -> None:
    file = written(tmp_path, "a.json", json.dumps(HISTORY["history"]))

    run("stepfunctions", file, "--workflow-id", "o-2", "--correlation-id", "mine", "--flow", "f", "--source", "prod")

    row = Instance.objects.get(project=project)
    assert (row.correlation_id, row.flow, row.run_id) == ("mine", "f", "o-2")
    assert Source.objects.get(project=project).name == "prod"
    with pytest.raises(CommandError, match="correlation_path"):
        run("stepfunctions", file, "--correlation-path", "order")


def test_what_cannot_be_read_is_said_and_kept(project: Project, tmp_path: Path) -> None:
    foreign = written(tmp_path, "foreign.json", '{"tasks": []}')
    broken = written(tmp_path, "broken.json", '{"events": [')

    with pytest.raises(CommandError, match=r"nothing could be imported of .*foreign\.json"):
        run("stepfunctions", foreign)
    with pytest.raises(CommandError, match="stepfunctions: the body is not valid JSON"):
        run("stepfunctions", broken)
    with pytest.raises(CommandError, match="cannot be read"):
        run("stepfunctions", str(tmp_path / "missing.json"))
    assert "expected an answer of GetExecutionHistory" in RejectedEvent.objects.get().detail


def test_a_broken_entry_is_named_and_its_neighbours_imported(project: Project, tmp_path: Path) -> None:
    document = json.loads(json.dumps(HISTORY))
    document["history"]["events"].append({"id": 2, "type": "TaskStarted", "timestamp": "soon"})

    out, err = run("stepfunctions", written(tmp_path, "a.json", json.dumps(document)))

    assert "1 accepted, 0 duplicates, 1 rejected" in out
    assert "entry 1: invalid_time" in err


def test_a_recorded_run_of_airflow_is_imported(project: Project, tmp_path: Path) -> None:
    lines = sample_text("airflow/generated/openlineage_order_saga.ndjson")

    out, _ = run("airflow", written(tmp_path, "run.ndjson", lines), "--correlation-key", "orderId")

    assert " 0 rejected" in out
    row = Instance.objects.get(project=project)
    assert (row.correlation_id, row.run_id, row.retry_count) == ("42", "order-42", 2)


def test_an_unknown_project_is_named(project: Project, tmp_path: Path) -> None:
    file = written(tmp_path, "a.json", "{}")

    with pytest.raises(CommandError, match="there is no project 'nowhere'"):
        call_command("import_history", "stepfunctions", file, "--project", "nowhere")
