"""Flow definitions as people keep them: saved by page, API or file, every version kept, the past read anew.

A change takes effect in one transaction: the text, the project's new revision and the request to project the past
again (`rebuild`, in the background). Nobody records an event between the old meaning and the new one (`catalog`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Prefetch

from apps.projects.models import Project
from apps.sagas import catalog, definitions, rebuild
from apps.sagas.definitions import DefinitionError, FlowDefinition
from apps.sagas.interpretation import UNDECLARED
from apps.sagas.models import Flow, FlowVersion, Instance
from apps.sagas.rollups import OTHER


@dataclass(frozen=True, slots=True)
class FlowEntry:
    """A flow by name; `version`, `saved_at` and `saved_by` are those of its definition, None when it is discovered."""

    name: str
    version: str | None
    saved_at: datetime | None
    saved_by: str | None
    #: All versions that somebody declared, the newest first.
    versions: tuple[str, ...] = ()

    @property
    def is_declared(self) -> bool:
        """True when somebody declared it, False when events merely named it."""
        return self.version is not None


class StaleDefinitionError(Exception):
    """Somebody else changed the definition in the meantime: look at it again."""


def save_definition(
    project: Project,
    name: str | None,
    text: str,
    by: str,
    *,
    media_type: str = "application/yaml",
    expected: FlowVersion | None = None,
) -> FlowVersion:
    """Save a definition of the flow `name` (None: of whatever flow it says) and have the past read anew.

    Saving a version again replaces its text; saving what is there already changes nothing. With `expected`, that one
    must still be the newest. Raises DefinitionError, StaleDefinitionError.
    """
    definition = definitions.parse(text, name=name, media_type=media_type)
    kept = _as_yaml(text, definition)
    current = definition_of(project, definition.flow)
    if current is not None and current.version == definition.version and current.text == kept and expected is None:
        return current
    with catalog.changing(project.pk):
        if expected is not None:
            _refuse_stale(project, definition.flow, expected)
        flow, _ = Flow.objects.get_or_create(project=project, name=definition.flow)
        saved, _ = FlowVersion.objects.update_or_create(
            flow=flow, version=definition.version, defaults={"text": kept, "saved_by": by, "is_deleted": False}
        )
        rebuild.start(project.pk, f"{definition.flow} version {definition.version} was saved")
    return saved


def delete_definition(project: Project, name: str, *, expected: FlowVersion | None = None) -> bool:
    """Forget what was declared of a flow, all versions; it is discovered from then on. False when nothing was declared.

    Raises StaleDefinitionError when `expected` is no longer the newest.
    """
    if definition_of(project, name) is None:
        return False
    with catalog.changing(project.pk):
        if expected is not None:
            _refuse_stale(project, name, expected)
        declared = FlowVersion.objects.filter(flow__project=project, flow__name=name, is_deleted=False)
        if not declared.update(is_deleted=True):
            return False
        rebuild.start(project.pk, f"the definition of {name} was deleted")
    return True


def definition_of(project: Project, name: str, version: str | None = None) -> FlowVersion | None:
    """The definition of a flow: that version of it, else the one saved last; None when there is none."""
    if "\0" in name or (version is not None and "\0" in version):
        return None
    declared = FlowVersion.objects.filter(flow__project=project, flow__name=name, is_deleted=False)
    if version is not None:
        declared = declared.filter(version=version)
    return declared.select_related("flow").order_by("-saved_at", "-id").first()


def read(version: FlowVersion) -> FlowDefinition:
    """The definition that a kept text declares. Raises DefinitionError when this release reads more strictly."""
    return definitions.parse(version.text, name=version.flow.name)


def list_flows(project_id: int) -> list[FlowEntry]:
    """Every flow of a project, declared or discovered, by name."""
    declared = FlowVersion.objects.filter(is_deleted=False).order_by("-saved_at", "-id")
    flows = Flow.objects.filter(project_id=project_id).order_by("name")
    entries = []
    for flow in flows.prefetch_related(Prefetch("versions", queryset=declared, to_attr="declared")):
        versions: list[FlowVersion] = flow.declared
        newest = versions[0] if versions else None
        entries.append(
            FlowEntry(
                name=flow.name,
                version=newest.version if newest else None,
                saved_at=newest.saved_at if newest else None,
                saved_by=newest.saved_by if newest else None,
                versions=tuple(version.version for version in versions),
            )
        )
    return entries


def is_known(project_id: int, name: str) -> bool:
    """True when somebody declared the flow or an event named it."""
    return "\0" not in name and Flow.objects.filter(project_id=project_id, name=name).exists()


def is_counted_with_others(project_id: int, name: str) -> bool:
    """True for a flow beyond the most that are counted by name (`rollup_names`), of which there are instances."""
    if name == UNDECLARED or "\0" in name or not is_known(project_id, OTHER):
        return False
    return Instance.objects.filter(project_id=project_id, flow=name).exists()


def _refuse_stale(project: Project, name: str, expected: FlowVersion) -> None:
    current = definition_of(project, name)
    if current is None or (current.version, current.text) != (expected.version, expected.text):
        raise StaleDefinitionError("somebody changed the definition in the meantime: read it again")


def _as_yaml(text: str, definition: FlowDefinition) -> str:
    """As its author wrote it, unless that is JSON of a kind (tabs, `1e3`) that does not mean the same as YAML."""
    try:
        if definitions.parse(text, name=definition.flow) == definition:
            return text
    except DefinitionError:
        pass
    return definitions.to_yaml(definition)
