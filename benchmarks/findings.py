"""How often the findings are right: sagas with planted faults, recorded and judged; precision and recall per rule.

The sagas come from `planted`, which shares no code with the detectors. First with clean clocks and a clean network,
then with clocks that differ by ± 2 s, duplicates and reordering; there the project's skew tolerance is 5 s, as it
should be where clocks are known to differ that much. A saga counts as found when it has an open finding of the rule
(or is stuck), and as right when that was planted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict

import planted
from stage import servers, verdict

BATCH = 200


def main() -> int:
    """Run both worlds; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sagas", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reached = True
    with servers():
        for title, skew, is_messy, tolerance, bar in (
            ("clean clocks", 0.0, False, 1.0, 0.99),
            ("± 2 s skew, duplicates, reordering", 2.0, True, 5.0, 0.95),
        ):
            reached &= judge_world(options, title, skew, is_messy, tolerance, bar)
    return 0 if reached else 1


def judge_world(options, title: str, skew: float, is_messy: bool, tolerance: float, bar: float) -> bool:
    """Record a world, judge it, compare."""
    sagas = planted.world(options.seed, options.sagas)
    sent = planted.deliveries(sagas, options.seed + 1, skew=skew, is_messy=is_messy)
    project = open_project(title, tolerance)
    began = time.perf_counter()
    record_all(project, sent)
    recorded = time.perf_counter() - began
    began = time.perf_counter()
    judge(project)
    judged = time.perf_counter() - began
    print(f"\n{title}: {len(sagas):,} sagas, {len(sent):,} deliveries")
    print(f"recorded in {recorded:.1f} s, judged in {judged:.1f} s")
    return compare(sagas, found_in(project), bar)


def open_project(title: str, tolerance: float):
    """A project with the flows and schemas of the world, and a source."""
    from apps.projects.models import Project, Source
    from apps.sagas.event_schemas import save_schema
    from apps.sagas.flows import save_definition

    slug = f"world-{Project.objects.count()}"
    project = Project.objects.create(slug=slug, name=title, skew_tolerance_seconds=tolerance)
    Source.objects.create(project=project, name="world")
    for text in planted.FLOWS:
        save_definition(project, None, text, by="benchmark")
    for event_type, (version, text) in planted.SCHEMAS.items():
        save_schema(project, event_type, version, text, "benchmark")
    return project


def record_all(project, sent: list[tuple[float, str]]) -> None:
    """Decode as the door does, and record in batches in the order of receipt."""
    from apps.ingest.formats import Payload, cloudevents
    from apps.ingest.strict_json import Limits
    from apps.sagas.recording import record

    begin = round(planted.BEGIN.timestamp() * 1_000_000)
    source = project.sources.get()
    events = []
    for second, text in sent:
        payload = Payload(body=text.encode(), content_type=cloudevents.STRUCTURED)
        decoded = cloudevents.decode_structured(payload, begin + round(second * 1_000_000), Limits())
        if decoded.rejections:
            raise SystemExit(f"refused: {decoded.rejections[0]}")
        events += decoded.events
    for start in range(0, len(events), BATCH):
        record(project.pk, source.pk, events[start : start + BATCH])


def now() -> int:
    """The moment of judgement."""
    return round((planted.BEGIN.timestamp() + planted.NOW) * 1_000_000)


def judge(project) -> None:
    """Judge all that is marked, also what becomes due by judging."""
    from django.db import connection

    from apps.sagas.judging import judge_due

    for _ in range(3):
        with connection.cursor() as cursor:
            # The world's moment is another one than that of this machine.
            cursor.execute("DELETE FROM finding_due")
            cursor.execute(
                "INSERT INTO finding_due (due_at, shards, correlation_uuids, project_ids)"
                " SELECT 0, ARRAY[shard], ARRAY[id], ARRAY[project_id] FROM correlation WHERE project_id = %s",
                [project.pk],
            )
        judge_due(now(), seconds=600)


def found_in(project) -> dict[str, set[str]]:
    """Correlation ID → codes of its open findings, and `stuck`."""
    from apps.sagas.models import Finding
    from apps.sagas.queries import iterate_instances
    from apps.sagas.query import parse

    found: dict[str, set[str]] = defaultdict(set)
    for finding in Finding.objects.filter(project=project, status="open"):
        found[finding.correlation_id].add(finding.code)
    for instance in iterate_instances(project.pk, parse("is:stuck"), now=now()):
        found[instance.correlation_id].add("stuck")
    return found


def compare(sagas: list[planted.Saga], found: dict[str, set[str]], bar: float) -> bool:
    """Print precision and recall for each rule; True when all reach the bar."""
    from apps.sagas.findings.codes import CODES

    right: Counter[str] = Counter()
    wrong: dict[str, list[str]] = defaultdict(list)
    missed: dict[str, list[str]] = defaultdict(list)
    for saga in sagas:
        for code in found[saga.name] | saga.labels:
            if code in found[saga.name] and code in saga.labels:
                right[code] += 1
            else:
                (wrong if code in found[saga.name] else missed)[code].append(saga.name)
    reached = True
    for code in (*CODES, "stuck"):
        planted_count, found_count = right[code] + len(missed[code]), right[code] + len(wrong[code])
        if not planted_count:
            print(f"FAIL  {code}: none planted")
            reached = False
            continue
        precision = right[code] / found_count if found_count else 0.0
        recall = right[code] / planted_count
        reached &= verdict(f"{code} precision, {found_count} found", precision, bar)
        reached &= verdict(f"{code} recall, {planted_count} planted", recall, bar)
        for word, names in (("wrong", wrong[code]), ("missed", missed[code])):
            if names:
                print(f"      {word}: {', '.join(names[:8])}")
    return reached


if __name__ == "__main__":
    sys.exit(main())
