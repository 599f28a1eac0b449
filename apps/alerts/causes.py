"""A cause: instances in the same trouble for the same reason, told of as one. What every condition answers with."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field

from apps.lib.micros import Micros

#: Correlation IDs named in an incident.
SAMPLE_SIZE = 5
MAX_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Cause:
    """What one incident is about. `key` tells it from the other causes of its rule and outlives a change of wording."""

    key: tuple[str, ...]
    title: str
    #: Why, in words.
    reason: str
    #: Instances (or whatever the condition counts) behind it; at least 1.
    count: int
    #: When the longest waiting got into it.
    since: Micros
    flow: str = ""
    step: str = ""
    service: str = ""
    error_fingerprint: str = ""
    #: What `count` counts, in the singular.
    unit: str = "saga"
    #: Up to SAMPLE_SIZE correlation IDs, longest waiting first.
    sample: list[str] = field(default_factory=list)

    def fingerprint(self, rule_id: int) -> str:
        """64 hexadecimal digits: the same for the same rule and key, for ever."""
        text = "\x1f".join([str(rule_id), *self.key])
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def shown(text: str, limit: int = MAX_SHOWN) -> str:
    """Text from outside as one harmless line: no line ends, control or direction characters, not too long."""
    clean = "".join(
        character if unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} else "\ufffd"
        for character in text[: limit + 1]
    )
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def counted(count: int, one: str, many: str | None = None) -> str:
    """`1 saga`, `12 sagas`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
