"""Which flows, versions and steps have sums of their own: so many, and what comes later is counted together.

Names belong to code, so there are few of them, until somebody puts an order number into one. Then every saga would
leave rows of its own in the rollups for ever, and pages would list a million steps. The first MOST_FLOWS flows of a
project and the first MOST_STEPS steps and MOST_VERSIONS versions of a flow are counted by name; all others count as
OTHER. Only sums and variants are folded: an event, a step and an instance keep the name that they came with.

A name that was admitted stays so, and where names are full none is admitted any more: what a step was counted as once
it is for ever, so that it can be taken back. Whoever admits names of a project waits for others who do, and nobody
relies on a name before it is committed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import psycopg
from django.db import transaction

from apps.sagas import statements
from apps.sagas.interpretation import UNDECLARED
from apps.sagas.rollups import OTHER, RollupKey

MOST_FLOWS = 1_000
MOST_STEPS = 200
MOST_VERSIONS = 100
#: Flows whose names are remembered; beyond that they are read again.
MOST_REMEMBERED = 20_000

#: The lock that is held while names of a project are admitted: this, and the project's id.
_LOCK = 0x5A6B


@dataclass
class _Names:
    """Steps and versions of one flow that were admitted."""

    steps: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)

    def counts_step(self, step: str) -> bool:
        return step in {"", OTHER} or step in self.steps

    def counts_version(self, version: str) -> bool:
        return version in {"", OTHER} or version in self.versions

    def is_settled(self, version: str, step: str) -> bool:
        """Whether nothing of this would be admitted: it was, or there is no room."""
        return (self.counts_step(step) or len(self.steps) >= MOST_STEPS) and (
            self.counts_version(version) or len(self.versions) >= MOST_VERSIONS
        )


_Flows = dict[str, _Names]
#: What is known to be committed, by project and flow; a flow that is in here was admitted itself.
_known: defaultdict[int, _Flows] = defaultdict(dict)


def folded(cursor: psycopg.Cursor, keys: Iterable[RollupKey]) -> dict[RollupKey, RollupKey]:
    """What sums are counted as, for those that are not counted by their own names; admits what is new."""
    unknown: defaultdict[int, list[RollupKey]] = defaultdict(list)
    for key in keys:
        names = _known[key[0]].get(key[1])
        if names is None or not (names.counts_step(key[3]) and names.counts_version(key[2])):
            unknown[key[0]].append(key)
    others: dict[RollupKey, RollupKey] = {}
    for project_id, found in sorted(unknown.items()):
        flows = _known[project_id]
        if not all(_is_settled(flows, key) for key in found):
            flows = _admit(cursor, project_id, sorted(found))
        for key in found:
            counted = _counted_as(flows, key)
            if counted != key:
                others[key] = counted
    return others


def shown_as(cursor: psycopg.Cursor, keys: Iterable[RollupKey]) -> dict[RollupKey, RollupKey]:
    """What flows and steps are called in what is kept of them beside the sums, for those that are not called by their
    own names; versions are left alone.

    Admits nothing and waits for nobody: what has nothing to count yet keeps its name for as long as there is room.
    """
    unknown: defaultdict[int, list[RollupKey]] = defaultdict(list)
    for key in keys:
        names = _known[key[0]].get(key[1])
        if names is None or not names.counts_step(key[3]):
            unknown[key[0]].append(key)
    others: dict[RollupKey, RollupKey] = {}
    for project_id, found in unknown.items():
        flows = _known[project_id]
        if not all(_is_settled(flows, (project_id, flow, "", step)) for _, flow, _, step in found):
            flows = _admitted(cursor, project_id, {key[1] for key in found})
            read = {key[1]: flows[key[1]] for key in found if key[1] in flows}
            transaction.on_commit(partial(_remember, project_id, read, flows))
        for key in found:
            shown = _shown_as(flows, key)
            if shown != key:
                others[key] = shown
    return others


def _shown_as(flows: _Flows, key: RollupKey) -> RollupKey:
    project_id, flow, version, step = key
    names = flows.get(flow)
    if names is None and len(flows) >= MOST_FLOWS:
        return project_id, OTHER, version, step and OTHER
    if names is None or names.counts_step(step) or len(names.steps) < MOST_STEPS:
        return key
    return project_id, flow, version, OTHER


def _is_settled(flows: _Flows, key: RollupKey) -> bool:
    _, flow, version, step = key
    if flow in flows:
        return flows[flow].is_settled(version, step)
    return OTHER in flows and len(flows) > MOST_FLOWS


def _counted_as(flows: _Flows, key: RollupKey) -> RollupKey:
    project_id, flow, version, step = key
    names = flows.get(flow)
    if names is None:
        return project_id, OTHER, "", step and OTHER
    return (
        project_id,
        flow,
        version if names.counts_version(version) else OTHER,
        step if names.counts_step(step) else OTHER,
    )


def _admit(cursor: psycopg.Cursor, project_id: int, keys: Sequence[RollupKey]) -> _Flows:
    """Admit the names of these keys, as far as there is room; all that is admitted of their flows afterwards."""
    cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK, project_id])
    asked = {key[1] for key in keys}
    flows = _admitted(cursor, project_id, asked)
    new_flows: list[str] = []
    new_names: list[tuple[str, bool, str]] = []
    for _, flow, version, step in keys:
        if flow not in flows:
            name = flow if len(flows) < MOST_FLOWS else OTHER
            if name not in flows:
                flows[name] = _Names()
                new_flows.append(name)
        names = flows.get(flow)
        if names is None:
            continue
        if not names.counts_step(step) and len(names.steps) < MOST_STEPS:
            names.steps.add(step)
            new_names.append((flow, False, step))
        if not names.counts_version(version) and len(names.versions) < MOST_VERSIONS:
            names.versions.add(version)
            new_names.append((flow, True, version))
    if new_flows:
        cursor.execute(statements.INSERT_FLOWS, [[project_id] * len(new_flows), sorted(new_flows)])
        new_names += [(flow, False, "") for flow in new_flows]
    if new_names:
        columns = [list(column) for column in zip(*sorted(new_names), strict=True)]
        cursor.execute(statements.INSERT_ROLLUP_NAMES, [project_id, *columns])
    read = {flow: flows[flow] for flow in (*asked, OTHER) if flow in flows}
    transaction.on_commit(lambda: _remember(project_id, read, flows))
    return flows


def _admitted(cursor: psycopg.Cursor, project_id: int, asked: Iterable[str]) -> _Flows:
    """All flows of a project that were admitted, those that are asked for with their steps and versions."""
    cursor.execute(statements.READ_ROLLUP_FLOWS, [project_id])
    flows: _Flows = {name: _Names() for (name,) in cursor.fetchall()}
    flows.setdefault(UNDECLARED, _Names())
    cursor.execute(statements.READ_ROLLUP_NAMES, [project_id, sorted(asked)])
    for flow, is_version, name in cursor.fetchall():
        if flow in flows and name:
            (flows[flow].versions if is_version else flows[flow].steps).add(name)
    return flows


def _remember(project_id: int, read: _Flows, flows: _Flows) -> None:
    if sum(map(len, _known.values())) > MOST_REMEMBERED:
        _known.clear()
    known = _known[project_id]
    for flow in flows:
        # Of the others it is known only that they are there: their names are read when they are needed.
        known.setdefault(flow, _Names())
    known.update(read)
