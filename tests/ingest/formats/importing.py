"""Importing documents in tests: recorded samples, what is seen of them afterwards, and the promise of growing."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from apps.ingest.formats import Decoded
from apps.projects.models import Project, Source
from apps.sagas.correlation_view import find_correlation
from apps.sagas.recording import Outcome, record
from apps.sagas.shapes import InstanceView, StepView

SAMPLES = Path(__file__).parents[4] / "shared" / "samples"
#: 2026-11-21T12:00:00Z: after everything that was recorded.
RECEIVED_AT = 1_795_262_400_000_000


def sample_text(name: str) -> str:
    """A recorded sample; skips the test where the samples are not beside the project."""
    path = SAMPLES / name
    if not path.exists():
        pytest.skip(f"the recorded sample {name} is not beside this project")
    return path.read_text()


def sample(name: str) -> Any:
    """A recorded sample that is one JSON document."""
    return json.loads(sample_text(name))


class Seen(NamedTuple):
    """One step as a page shows it."""

    status: str
    #: Of each attempt: its outcome, or "open".
    outcomes: tuple[str, ...]
    error: str | None
    compensates: str | None


class Imported:
    """A project that documents are imported into."""

    def __init__(self) -> None:
        name = f"import-{uuid.uuid4().hex[:8]}"
        self.project = Project.objects.create(slug=name, name=name)
        self.source = Source.objects.create(project=self.project, name="engine")

    def take(self, decoded: Decoded) -> Outcome:
        """Record what a format made of a document."""
        return record(self.project.pk, self.source.pk, decoded.events)

    def instances(self, correlation_id: str) -> dict[str, InstanceView]:
        """The instances of a correlation by flow."""
        view = find_correlation(self.project.pk, correlation_id)
        assert view is not None, f"nothing was recorded of {correlation_id}"
        return {each.instance.flow: each for each in view.instances}

    def instance(self, correlation_id: str) -> InstanceView:
        """The only instance of a correlation."""
        (found,) = self.instances(correlation_id).values()
        return found


def seen(view: InstanceView) -> dict[str, Seen]:
    """The steps of an instance by name; with their step id where a name occurs more than once."""
    names = [step.step for step in view.steps]
    return {
        f"{step.step}#{step.step_id}" if names.count(step.step) > 1 else step.step: _seen(step) for step in view.steps
    }


def _seen(step: StepView) -> Seen:
    outcomes = tuple(attempt.outcome or "open" for attempt in step.attempts)
    last = step.attempts[-1].error if step.attempts else None
    return Seen(step.status, outcomes, last, step.compensates)


def assert_grows(decode: Callable[[Any], Decoded], shorter: Iterable[Any], whole: Any) -> None:
    """Every shorter history gives the very same events, only fewer."""
    everything = {(event.source, event.id): event for event in decode(whole).events}
    for document in shorter:
        for event in decode(document).events:
            assert everything[event.source, event.id] == event
