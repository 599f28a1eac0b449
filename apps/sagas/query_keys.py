"""The keys of the query language: what each means, what may be written after it. Pure.

One list for the parser, the page's completion, the documentation and the API's error messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from apps.sagas.findings.codes import CODES

STATUSES = ("running", "compensating", "completed", "compensated", "failed", "cancelled", "timed_out")
COMPENSATION_STATES = ("none", "owed", "running", "complete", "partial", "failed")
STYLES = ("orchestration", "choreography", "hybrid")

#: The words after `is:` and what they say.
CLAIMS = {
    "stuck": "open, and its deadline has passed by its source's watermark",
    "open": "not ended",
    "ended": "ended, however",
    "owed": "something that must be undone has not been undone",
    "suspended": "paused by an operator or its engine",
    "blocked": "its engine says that it cannot go on without a person",
    "retried": "at least one step needed another attempt",
    "dead": "has messages in a dead-letter queue",
    "inferred": "its end was concluded, not stated",
    "finding": "broke a rule of saga conduct",
    **{status: f"status is {status}" for status in STATUSES},
}


class ValueKind(StrEnum):
    """What may stand after a key."""

    #: Exact text; `*` stands for anything, unless quoted.
    TEXT = "text"
    #: One of the key's words.
    WORD = "word"
    #: A whole number, with = != < <= > >=.
    NUMBER = "number"
    #: A span of time such as 30s, 15m, 24h, with < <= > >=.
    DURATION = "duration"
    #: An instant such as 2026-11-19 or 2026-11-19T14:30Z, with < <= > >=.
    INSTANT = "instant"


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the query language."""

    name: str
    kind: ValueKind
    description: str
    example: str
    #: The words that may stand after it; empty where anything may.
    words: tuple[str, ...] = ()


_LIST = (
    Key("flow", ValueKind.TEXT, "flow of the instance", "flow:order*"),
    Key("status", ValueKind.WORD, "derived status", "status:failed,timed_out", STATUSES),
    Key("is", ValueKind.WORD, "a claim about the instance", "is:stuck", tuple(CLAIMS)),
    Key("waiting", ValueKind.TEXT, "step, timer or signal that it waits for", "waiting:charge-payment"),
    Key("comp", ValueKind.WORD, "compensation state", "comp:owed", COMPENSATION_STATES),
    Key("attempts", ValueKind.NUMBER, "most attempts of any one step", "attempts>3"),
    Key("retries", ValueKind.NUMBER, "attempts beyond the first, over all steps", "retries>=10"),
    Key("events", ValueKind.NUMBER, "events of the instance", "events>1000"),
    Key("age", ValueKind.DURATION, "time since it started; open instances only", "age>15m"),
    Key("idle", ValueKind.DURATION, "time since its last event; open instances only", "idle>1h"),
    Key("duration", ValueKind.DURATION, "time from start to end; ended instances only", "duration>5s"),
    Key("started", ValueKind.INSTANT, "when it started", "started>=2026-11-19"),
    Key("ended", ValueKind.INSTANT, "when it ended", "ended<2026-11-19T14:30Z"),
    Key("last", ValueKind.INSTANT, "when its last event occurred", "last>2026-11-19T14:30:00Z"),
    Key("attr", ValueKind.TEXT, "a searchable fact from its events: attr.NAME", "attr.customer=42"),
    Key("correlation", ValueKind.TEXT, "correlation ID", "correlation:order-7f3*"),
    Key("step", ValueKind.TEXT, "a step that is open now", "step:reserve-stock"),
    Key("via", ValueKind.TEXT, "passed a step, from one to the next, or with an outcome", "via:pay>pack,ship=failed"),
    Key("variant", ValueKind.TEXT, "took this path; a flow's page names them", "variant:3fd2a90c11b84e67"),
    Key("service", ValueKind.TEXT, "service that acted last", "service:payments"),
    Key("version", ValueKind.TEXT, "version of the flow", "version:3"),
    Key("run", ValueKind.TEXT, "run ID", 'run:"2026-11-19"'),
    Key("style", ValueKind.WORD, "who directs the flow", "style:hybrid", STYLES),
    Key("error", ValueKind.TEXT, "its latest error: text, or fingerprint", "error:*timeout*"),
    Key("dead", ValueKind.NUMBER, "messages of it that are dead letters now", "dead>0"),
    Key("findings", ValueKind.NUMBER, "open findings", "findings>0"),
    Key("finding", ValueKind.WORD, "a rule of saga conduct that it broke", "finding:late_success", CODES),
)

#: Every key by name, in the order in which people are offered them.
KEYS: dict[str, Key] = {key.name: key for key in _LIST}
