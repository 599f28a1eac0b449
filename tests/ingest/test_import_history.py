"""`manage.py import_history`: files of engines' own documents."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.ingest import documents
from apps.ingest.formats import Decoded
from apps.ingest.models import RejectedEvent
from apps.projects.models import Project, Source
from apps.sagas.events import SagaEvent
from apps.sagas.models import Instance
from apps.sagas.recording import Outcome
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


def test_a_long_history_whose_times_jump_back_is_recorded_by_time(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recording looks back over the whole saga for what comes late: of one document nothing may."""
    arn = HISTORY["describe"]
    entries = [
        {"id": number, "type": "TaskStateEntered", "timestamp": 1_763_700_000 + (number * 7_919) % 3_000}
        | {"previousEventId": number - 1, "stateEnteredEventDetails": {"name": f"s{number % 7}"}}
        for number in range(1, 3_001)
    ]
    recorded: list[int] = []
    kept = documents.store_in_slices

    def spied(decoded: Any, store: Any) -> Any:
        def seen(events: Any) -> Any:
            recorded.extend(event.occurred_at for event in events)
            return store(events)

        return kept(decoded, seen)

    monkeypatch.setattr(documents, "store_in_slices", spied)

    out, _ = run("stepfunctions", written(tmp_path, "a.json", json.dumps({"describe": arn, "history": entries})))

    assert "3000 accepted, 0 duplicates, 0 rejected" in out
    assert len(recorded) == 3_000
    assert recorded == sorted(recorded)


def test_what_is_said_of_positions_is_said_of_the_documents() -> None:
    """Events are recorded by time; conflicts and refusals are told by where they stand in the document."""
    events = [
        SagaEvent(
            source="//shop", id=f"e{at}", type="t", correlation_id="o-1", occurred_at=at, received_at=50, digest=b"1"
        )
        for at in (30, 10, 20)
    ]
    decoded = Decoded(events, [0, 1, 2], [])

    outcome, refused = documents.store_in_slices(
        decoded, lambda events: (Outcome(accepted=1, duplicates=1, conflicts=[0]), [2])
    )

    assert (outcome.accepted, outcome.conflicts, refused) == (1, [1], [0])
