"""Recorded events as files or requests hold them, for `sagas.checking`. Nothing is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from apps.ingest.event_files import Unreadable, read_events
from apps.ingest.formats import Payload, cloudevents
from apps.ingest.strict_json import Limits
from apps.ingest.strict_json import Unreadable as UnreadableDocument
from apps.lib.micros import Micros
from apps.sagas import definitions
from apps.sagas.definitions import DefinitionError, FlowDefinition
from apps.sagas.events import SagaEvent

_FLOW_FILES = {".yaml", ".yml", ".json"}


@dataclass
class Recording:
    """Events that were read, and for each that could not be, where it stands and why."""

    events: list[SagaEvent] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def read_files(paths: Iterable[str], now: Micros) -> Recording:
    """The CloudEvents of these files (`-` is stdin). Raises OSError."""
    recording = Recording()
    limits = Limits()
    for path in paths:
        for item in read_events(path):
            if isinstance(item, Unreadable):
                recording.refused.append(f"{item.place} {item.why}")
                continue
            try:
                decoded = cloudevents.decode_structured(
                    Payload(body=item.text, content_type=cloudevents.STRUCTURED), now, limits
                )
            except UnreadableDocument as error:
                recording.refused.append(f"{item.place}: {error.detail}")
                continue
            recording.events += decoded.events
            recording.refused += [f"{item.place}: {each.code}: {each.detail}" for each in decoded.rejections]
    return recording


def read_flows(folder: str) -> list[FlowDefinition]:
    """The flow definitions of a folder, by file name; its other files are left alone.

    Raises OSError, and DefinitionError whose message names the file.
    """
    return list(_flows(Path(folder)))


def _flows(folder: Path) -> Iterator[FlowDefinition]:
    for path in sorted(folder.iterdir()):
        if path.suffix in _FLOW_FILES and path.is_file():
            media_type = "application/json" if path.suffix == ".json" else "application/yaml"
            try:
                yield definitions.parse(path.read_text(encoding="utf-8"), media_type=media_type)
            except DefinitionError as error:
                error.add_note(str(path))
                raise
