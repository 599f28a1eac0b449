"""Where the saga of a dead letter stands now: may its message still be put back?

A message that is put back is worked on as if nothing had happened since. For a saga that is being undone, was undone,
was cancelled or has completed all the same, that does harm: such letters are held back unless somebody decides
otherwise for each. A saga that failed or timed out may be what the redrive is to repair: it goes out with a warning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from apps.sagas.models import Instance

#: Statuses that hold a letter back, the most telling first, and what they are called of many.
HELD = {
    "compensating": "undoing",
    "compensated": "undone",
    "cancelled": "cancelled",
    "completed": "completed since",
}
#: Statuses that a redrive warns of.
WARNED = {"failed": "failed", "timed_out": "timed out"}
#: Nobody knows whether its saga has moved on.
UNKNOWN = ""

_CHUNK = 1_000
_OPEN_FIRST = ("running", "failed", "timed_out", "cancelled", "completed")


@dataclass(frozen=True, slots=True)
class Standing:
    """The status of a letter's saga; `UNKNOWN` without a correlation or an instance."""

    status: str = UNKNOWN

    @property
    def is_held(self) -> bool:
        """True when its saga has moved on."""
        return self.status in HELD

    @property
    def is_warned(self) -> bool:
        """True when its saga has ended badly."""
        return self.status in WARNED

    @property
    def words(self) -> str:
        """As the page says it of a number of sagas."""
        return HELD.get(self.status) or WARNED.get(self.status) or self.status or "not linked to a saga"


#: What a letter is asked about: its correlation and its flow ("" = not known).
Key = tuple[str | None, str]


def standings(project_id: int, keys: Iterable[Key]) -> dict[Key, Standing]:
    """Where each saga stands now. One read for up to a thousand correlations."""
    wanted = set(keys)
    ids = sorted({correlation_id for correlation_id, _ in wanted if correlation_id})
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for start in range(0, len(ids), _CHUNK):
        rows = Instance.objects.filter(project_id=project_id, correlation_id__in=ids[start : start + _CHUNK])
        for correlation_id, flow, status in rows.values_list("correlation_id", "flow", "status"):
            found[correlation_id].append((flow, status))
    return {key: _judged(found.get(key[0] or "", []), key[1]) for key in wanted}


def _judged(instances: list[tuple[str, str]], flow: str) -> Standing:
    """A rollback anywhere in the transaction counts; else what became of the letter's own flow."""
    everywhere = {status for _, status in instances}
    for status in ("compensating", "compensated"):
        if status in everywhere:
            return Standing(status)
    own = {status for name, status in instances if name == flow} or everywhere
    return Standing(next((status for status in _OPEN_FIRST if status in own), UNKNOWN))
