"""What must hold when a fault has healed and the queue has drained: C1 to C10."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.core.management import call_command
from django.db.models import Sum

from apps.ingest.models import RejectedEvent
from apps.projects.models import Project, Source
from apps.sagas.correlation_view import find_correlation
from apps.sagas.models import Event, FindingDue, SourceTally
from tests.faults.ledger import Ledger
from tests.faults.story import expected
from tests.sagas.stored import projections

#: What was acknowledged is read so many seconds later at most, 99 times of 100: in calm, and after a fault has healed.
CALM_STALE, HEALED_STALE = 2.0, 10.0
JUDGED_WITHIN = 120.0


@dataclass
class Verdict:
    """The findings of one fault's run: empty lists are good news."""

    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def hold(self, check: str, holds: bool, said: object = "") -> None:
        """Note a check that does not hold."""
        if not holds:
            self.wrong.append(f"{check}: {said}")


def judge(
    project: Project,
    source: Source,
    ledger: Ledger,
    verdict: Verdict,
    *,
    is_calm: bool = True,
    faults: list[tuple[float, float]],
    slow: float = 1.0,
) -> None:
    """C1 to C6 and C10 for what one ledger sent to one source.

    `is_calm`: nothing else was sent to the project. `faults`: when each began and when 2xx came again. `slow`: bounds
    of time are multiplied by it.
    """
    ids = list(Event.objects.filter(source_ref=source.pk).values_list("event_id", flat=True))
    stored = set(ids)
    verdict.hold("C1 lost", not ledger.acknowledged - stored, sorted(ledger.acknowledged - stored)[:5])
    verdict.hold("C2 unexpected", not stored - ledger.attempted.keys(), sorted(stored - ledger.attempted.keys())[:5])
    verdict.hold("C3 doubled", len(ids) == len(stored), len(ids) - len(stored))
    verdict.hold("acknowledged in the end", ledger.attempted.keys() == ledger.acknowledged, len(ledger.attempted))

    before = _judged_projections(project.pk)
    call_command("rebuild", project=project.slug, stdout=io.StringIO(), stderr=io.StringIO())
    after = _judged_projections(project.pk)
    _leave_out_learned(before["instances"], after["instances"])
    if is_calm:
        verdict.hold("C4 rebuild differs", digest(before) == digest(after), difference(before, after))
    verdict.figures["sagas"] = ask_oracle(project.pk, ledger.attempted.values(), verdict)

    calm, hurt = (_p99(values) for values in ledger.staleness(faults))
    verdict.hold("C6 stale in calm", calm <= CALM_STALE * slow, f"{calm:.2f} s")
    verdict.hold("C6 stale after a fault", hurt <= HEALED_STALE * slow, f"{hurt:.2f} s")
    verdict.hold("C9 internal errors", not ledger.statuses[500] + ledger.read_statuses[500], "HTTP 500 was answered")
    verdict.hold("503 without Retry-After", not ledger.without_retry_after, ledger.without_retry_after)
    verdict.hold("the sender complains", not ledger.complaints, ledger.complaints[:3])

    tally = SourceTally.objects.filter(source=source).aggregate(Sum("accepted"), Sum("duplicates"))
    verdict.hold("C10 accepted", tally["accepted__sum"] == len(ids), f"{tally} for {len(ids)} stored")
    verdict.hold("C10 answers", (tally["duplicates__sum"] or 0) >= ledger.counted["duplicates"], tally)
    verdict.hold("C10 rejected", not RejectedEvent.objects.filter(source=source).exists(), "something was rejected")
    verdict.figures |= {
        "acked": len(ledger.acknowledged),
        "unknown": sum(count for status, count in ledger.statuses.items() if not 200 <= status < 300),
        "duplicates": ledger.counted["duplicates"],
        "stale p99": f"{calm:.2f} / {hurt:.2f} s",
    }


def _judged_projections(project_id: int) -> dict[str, Any]:
    await_judged(project_id)
    return projections(project_id)


def await_judged(project_id: int) -> None:
    """Wait until the workers have judged all that was marked: findings are counted with what is shown."""
    until = time.monotonic() + JUDGED_WITHIN
    while FindingDue.objects.filter(project_ids__contains=[project_id]).exists():
        if time.monotonic() > until:
            raise TimeoutError("sagas wait to be judged for a long time")
        time.sleep(0.2)


def _leave_out_learned(before: dict[Any, Any], after: dict[Any, Any]) -> None:
    """Forget deadlines that were learned, on either side: what is learned moves on while all of this goes on."""
    for name in before.keys() & after.keys():
        sides = (before[name], after[name])
        if any("learned" in (side["deadline_reason"] or "") for side in sides):
            for side in sides:
                side.pop("deadline_at"), side.pop("deadline_reason")


def ask_oracle(project_id: int, attempted: Iterable[dict[str, Any]], verdict: Verdict) -> int:
    """C5: every saga of these events as the oracle has it; how many there are."""
    by_saga: dict[str, list[dict[str, Any]]] = {}
    for event in attempted:
        by_saga.setdefault(event["correlationid"], []).append(event)
    wrong = []
    for correlation_id, events in by_saga.items():
        view = find_correlation(project_id, correlation_id)
        want = expected(events)
        if view is None:
            wrong.append(f"{correlation_id} is not there")
            continue
        shown = view.instances[0]
        steps = {step.step: (step.status, len(step.attempts)) for step in shown.steps}
        found = (view.event_count, shown.instance.status, steps)
        if found != (want.event_count, want.status, want.steps):
            wrong.append(f"{correlation_id}: {found} is not {want}")
    verdict.hold("C5 oracle", not wrong, f"{len(wrong)} of {len(by_saga)}: {wrong[:1]}")
    return len(by_saga) - sum(each.endswith("is not there") for each in wrong)


def digest(rows: dict[str, Any]) -> str:
    """Equal for equal projections."""
    return hashlib.sha256(_canonical(rows).encode()).hexdigest()


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first things that two dumps of projections do not share."""
    said = []
    for name, rows in before.items():
        if _canonical(rows) == _canonical(after[name]):
            continue
        if isinstance(rows, dict):
            keys = [key for key in rows.keys() | after[name].keys() if rows.get(key) != after[name].get(key)]
            for key in keys[:1]:
                old, new = rows.get(key), after[name].get(key)
                if isinstance(old, dict) and isinstance(new, dict):
                    said.append(f"{name} {key}: " + str({k: (old[k], new[k]) for k in old if old[k] != new[k]})[:300])
                else:
                    said.append(f"{name} {key}: {old} / {new}"[:300])
        else:
            said.append(f"{name}: {len(rows)} / {len(after[name])}")
    return "; ".join(said)


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(each)}" for key, each in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return json.dumps([_canonical(each) for each in value])
    return repr(value)


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)] if values else 0.0
