"""Names without number: somebody puts order numbers into the names of flows, versions, steps, services and errors."""

from __future__ import annotations

import random
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from django.db.models import Sum

if TYPE_CHECKING:
    from tests.faults.run import Context

#: Distinct names from one token, in a CI run and by night.
NAMES, NAMES_BY_NIGHT = 20_000, 1_000_000
#: How long the others are watched before.
CALM = 10.0
_BATCH = 500
#: Events of one correlation.
_EACH = 20


def many_names(context: Context, dice: random.Random, trial: int) -> None:
    """F33: one token sends names without number; sums stay bounded and true, and other projects do not notice."""
    from apps.projects.models import Project, Source
    from apps.projects.tokens import create_token
    from tests.faults.checks import await_judged

    name = f"names-{time.time_ns()}"
    project = Project.objects.create(slug=name, name=name)
    token = create_token(project, ["ingest", "read"], source=Source.objects.create(project=project, name="crowd"))
    before = _p99_during(context, lambda: time.sleep(CALM))
    count = NAMES_BY_NIGHT if context.is_nightly else NAMES
    answers: Counter[str] = Counter()
    during = _p99_during(context, lambda: _tell(context, name, token, count, answers))
    hold = context.verdict.hold
    hold("F33 refused", not answers["rejected"], answers["rejected"])
    hold("F33 accepted", answers["accepted"] == count, answers)
    hold("F33 others wait", during <= max(2 * before, 1.0) * context.slow, f"{before:.2f} s, then {during:.2f} s")
    await_judged(project.pk)
    _judge_sums(context, project.pk, count)
    _judge_reading(context, name, token, count)
    context.verdict.figures["others' p99"] = f"{before:.2f} → {during:.2f} s"


def _p99_during(context: Context, does: Any) -> float:
    """What 99 of 100 answers to the ledger took at most meanwhile, in seconds."""
    first = len(context.ledger.latencies)
    does()
    taken = sorted(context.ledger.latencies[first:])
    return float(taken[int(len(taken) * 0.99)]) if taken else 0.0


def _tell(context: Context, name: str, token: str, count: int, answers: Counter[str]) -> None:
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    for begin in range(0, count, _BATCH):
        batch = [_event(name, number, at) for number in range(begin, min(begin + _BATCH, count))]
        for _ in range(100):
            status, answer, _ = context.post(batch, token)
            if status not in (0, 429, 503):
                break
            time.sleep(0.5)
        context.verdict.hold("F33 status", status == 200, (status, answer))
        answers["accepted"] += answer.get("accepted", 0) + answer.get("duplicates", 0)
        answers["rejected"] += len(answer.get("rejected", []))


def _event(name: str, number: int, at: str) -> dict[str, Any]:
    """By turns of a flow that nobody has heard of, and of one flow with a step that nobody has heard of."""
    return {
        "specversion": "1.0", "id": f"{name}/{number}", "source": f"/crowd/{number}", "type": f"type-{number}",
        "time": at, "correlationid": f"{name}/{number // _EACH}", "sagakind": "step.failed",
        "sagaflow": f"flow-{number}" if number % 2 else "one-flow", "sagaflowversion": f"version-{number}",
        "sagastep": f"step-{number}", "sagaservice": f"service-{number}", "sagaerror": f"error-{_letters(number)}",
    }  # fmt: skip


def _letters(number: int) -> str:
    """A number that nobody takes for one, so that no two errors look alike."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def _judge_sums(context: Context, project_id: int, count: int) -> None:
    from apps.sagas import rollup_names
    from apps.sagas.models import CompensableStep, LearnedDeadline, LearnedFlow, Rollup, Variant, VariantTally
    from apps.sagas.rollups import OTHER

    hold = context.verdict.hold
    sums = Rollup.objects.filter(project=project_id)
    flows = sums.values("flow").distinct().count()
    of_one = sums.filter(flow="one-flow")
    steps = of_one.values("step").distinct().count()
    versions = of_one.values("flow_version").distinct().count()
    # What is folded together, what has no flow, and what stands for the whole of a flow come on top.
    hold("F33 flows", 1 < flows <= rollup_names.MOST_FLOWS + 2, flows)
    hold("F33 steps", 1 < steps <= rollup_names.MOST_STEPS + 2, steps)
    hold("F33 versions", 1 < versions <= rollup_names.MOST_VERSIONS + 2, versions)
    hold("F33 nothing is folded", sums.filter(flow=OTHER).exists() and of_one.filter(step=OTHER).exists(), OTHER)
    failed = sums.exclude(step="").aggregate(Sum("failed"))["failed__sum"]
    hold("F33 sums", failed == count, f"{failed} of {count}")
    # What outlives the sagas must not grow with them.
    kept = {
        model.__name__: model.objects.filter(project=project_id).count()
        for model in (Variant, VariantTally, LearnedFlow, LearnedDeadline, CompensableStep)
    }
    most = 2 * (rollup_names.MOST_FLOWS + rollup_names.MOST_STEPS)
    hold("F33 kept for ever", max(kept.values()) <= most, kept)
    context.verdict.figures["names"] = f"{count}: {flows} flows, {steps} steps, {versions} versions"


def _judge_reading(context: Context, name: str, token: str, count: int) -> None:
    """Whoever asks finds each by its own name, and no answer lists all of them."""
    from apps.sagas import rollup_names
    from apps.sagas.flow_paths import MOST_VARIANTS

    hold = context.verdict.hold
    last = count - 1 + count % 2
    found = context.read(f"/api/v1/instances?q=flow:flow-{last}", token).get("items", [])
    hold("F33 a flow is not found by its name", len(found) == 1, len(found))
    saga = context.read(f"/api/v1/correlations/{quote(f'{name}/{last // _EACH}', safe='')}", token)
    steps = {step["step"] for instance in saga.get("instances", []) for step in instance["steps"]}
    hold("F33 a step has lost its name", {f"step-{last}", f"step-{last - 1}"} <= steps, sorted(steps)[:5])
    bounds = {
        "/api/v1/flows": rollup_names.MOST_FLOWS + 2,
        "/api/v1/flows/one-flow/steps": rollup_names.MOST_STEPS + 2,
        "/api/v1/flow-variants/one-flow": MOST_VARIANTS,
    }
    for path, most in bounds.items():
        listed = len(context.read(path, token).get("items", []))
        hold("F33 lists", 1 < listed <= most, f"{path}: {listed}")
