"""Workflow histories for the tests of Temporal and Cadence: recordings, what they are recorded as, and growing ones."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryDecoder, HistoryOptions
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.correlation_view import find_correlation
from apps.sagas.recording import Outcome, record
from apps.sagas.shapes import CorrelationView, InstanceView

ROOT = Path(__file__).resolve().parents[3]
SAMPLES = Path(os.environ.get("SAGASCOPE_SAMPLES") or ROOT.parent / "shared" / "samples")
#: When everything here was received: 2026-11-19T14:00:00Z.
RECEIVED_AT = 1_795_096_800 * 1_000_000


def sample(system: str, name: str) -> Any:
    """A recording, parsed; skips the test where there are none."""
    path = SAMPLES / system / "dev" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no recordings in {SAMPLES}")
    return json.loads(path.read_text())


class Ledger:
    """A project with one source to record decoded histories in."""

    def __init__(self, decoder: HistoryDecoder) -> None:
        self.decoder = decoder
        self.project = Project.objects.create(slug="ledger", name="Ledger")
        self.source = Source.objects.create(project=self.project, name="engine", kind=SourceKind.POLLER)

    def add(self, document: Any, **options: Any) -> Outcome:
        """Decode a document, of which nothing may be refused, and record its events."""
        decoded = self.decoder(document, HistoryOptions(**options), RECEIVED_AT)
        assert decoded.rejections == []
        return record(self.project.pk, self.source.pk, decoded.events)

    def view(self, correlation_id: str) -> CorrelationView:
        found = find_correlation(self.project.pk, correlation_id)
        assert found is not None, f"nothing is recorded under {correlation_id}"
        return found

    def only(self, correlation_id: str) -> InstanceView:
        """The only instance of a correlation."""
        (instance,) = self.view(correlation_id).instances
        return instance

    def flow(self, correlation_id: str, flow: str) -> InstanceView:
        """The only instance of a flow in a correlation."""
        (instance,) = [each for each in self.view(correlation_id).instances if each.instance.flow == flow]
        return instance


def steps_of(instance: InstanceView) -> list[tuple[str, str, int]]:
    """(step, status, number of attempts) of each step execution, earliest first."""
    return [(step.step, step.status, len(step.attempts)) for step in instance.steps]


def digests(decoded: Decoded) -> dict[str, bytes]:
    """The digest of each event by its id; no id may stand for two."""
    found = {event.id: event.digest for event in decoded.events}
    assert len(found) == len(decoded.events)
    return found


def assert_grows(decode: HistoryDecoder, document: Any, entries: Callable[[Any], list[Any]], **options: Any) -> None:
    """Every longer history holds the events of the shorter one, byte for byte, and only adds to them."""
    before: dict[str, bytes] = {}
    for shorter in _growing(document, entries):
        now = digests(decode(shorter, HistoryOptions(**options), RECEIVED_AT))
        assert before.items() <= now.items()
        before = now
    whole = decode(document, HistoryOptions(**options), RECEIVED_AT + 1)
    assert digests(whole) == before


def _growing(document: Any, entries: Callable[[Any], list[Any]]) -> Iterator[Any]:
    for length in range(1, len(entries(document)) + 1):
        shorter = copy.deepcopy(document)
        del entries(shorter)[length:]
        yield shorter
