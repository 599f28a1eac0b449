"""Recordings of engines that ran for these tests, and a project to record them in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from apps.ingest.formats.histories import HistoryOptions
from apps.sagas.recording import Outcome, record
from apps.sagas.shapes import InstanceView, StepView
from tests.ingest.formats.workflow_histories import Ledger

RECORDINGS = Path(__file__).parent / "recordings"
#: When everything here was received: 2027-01-15T08:00:00Z.
RECEIVED_AT = 1_800_000_000 * 1_000_000


def recorded_lines(name: str) -> list[Any]:
    """The documents of a recording that holds one per line."""
    with gzip.open(RECORDINGS / f"{name}.ndjson.gz") as lines:
        return [json.loads(line) for line in lines]


class Journal(Ledger):
    """A ledger for what happened before 2027."""

    def add(self, document: Any, **options: Any) -> Outcome:
        """Decode a document, of which nothing may be refused, and record its events."""
        decoded = self.decoder(document, HistoryOptions(**options), RECEIVED_AT)
        assert decoded.rejections == []
        return record(self.project.pk, self.source.pk, decoded.events)


def step_of(instance: InstanceView, name: str) -> StepView:
    """The only execution of a step."""
    (step,) = [step for step in instance.steps if step.step == name]
    return step


def tries_of(step: StepView) -> list[tuple[str | None, str | None]]:
    """(outcome, error) of each attempt."""
    return [(attempt.outcome, attempt.error) for attempt in step.attempts]
