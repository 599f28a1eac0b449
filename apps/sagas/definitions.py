"""Flow definitions: what a flow's owner declares about it, read from YAML or JSON and written back.

Pure: no framework is imported here. `parse` either gives a `FlowDefinition` that every other part can rely on, or
raises `DefinitionError` naming every problem with its line and field. What the definition makes of an event is
decided in `interpretation`; that every version is kept, in the models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
import yaml

from apps.sagas.definition_text import Node, Problem, UnreadableTextError, read, unwanted_character
from apps.sagas.events import Micros

MAX_NAME_LENGTH = 256
MAX_STEPS = 1_000
MAX_DEADLINE: Micros = 3_650 * 86_400 * 1_000_000
MAX_ATTEMPTS = 1_000_000

#: In order of size. A deadline is written as a whole number of one of these.
UNITS: dict[str, Micros] = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")

_C = TypeVar("_C", bound=StrEnum)

_FLOW_KEYS = ("flow", "version", "style", "deadline", "ends_on", "compensation_order", "steps")
_WORK_KEYS = ("name", "service", "starts_on", "completes_on", "fails_on", "deadline", "max_attempts")
_STEP_KEYS = (*_WORK_KEYS, "role", "compensation")


class Style(StrEnum):
    """Who directs the flow: its own orchestrator, nobody, or a bit of both."""

    ORCHESTRATION = "orchestration"
    CHOREOGRAPHY = "choreography"
    HYBRID = "hybrid"


class StepRole(StrEnum):
    """What failing later means for a completed step: undo it, no way back, or retry until it succeeds."""

    COMPENSABLE = "compensable"
    PIVOT = "pivot"
    RETRIABLE = "retriable"


class CompensationOrder(StrEnum):
    """In which order steps must be undone: only where one began after the other ended, always in reverse, or any."""

    PARTIAL = "partial"
    STRICT = "strict"
    NONE = "none"


class CompensationDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """The step that undoes another. Event types are the sender's own; `deadline` is in microseconds."""

    name: str
    service: str | None = None
    starts_on: tuple[str, ...] = ()
    completes_on: tuple[str, ...] = ()
    fails_on: tuple[str, ...] = ()
    deadline: Micros | None = None
    max_attempts: int | None = None


class StepDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """One declared step. Event types are the sender's own; `deadline` is in microseconds."""

    name: str
    service: str | None = None
    #: None where the definition leaves it open: then only what is observed tells whether it must be undone.
    role: StepRole | None = None
    starts_on: tuple[str, ...] = ()
    completes_on: tuple[str, ...] = ()
    fails_on: tuple[str, ...] = ()
    deadline: Micros | None = None
    max_attempts: int | None = None
    compensation: CompensationDefinition | None = None


class FlowDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a flow as declared. `deadline` is in microseconds from the instance's first event."""

    flow: str
    version: str = "1"
    style: Style = Style.CHOREOGRAPHY
    deadline: Micros | None = None
    #: Any of these event types ends the instance; empty = it has ended once every step has completed.
    ends_on: tuple[str, ...] = ()
    compensation_order: CompensationOrder = CompensationOrder.PARTIAL
    steps: tuple[StepDefinition, ...] = ()

    @property
    def event_types(self) -> frozenset[str]:
        """Every event type that the definition names; empty for a flow described by steps alone."""
        types = set(self.ends_on)
        for step in self.steps:
            for work in (step, step.compensation):
                if work is not None:
                    types.update(work.starts_on, work.completes_on, work.fails_on)
        return frozenset(types)


class DefinitionError(ValueError):
    """The definition cannot be used; `problems` names everything wrong with it, in the order of the text."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def parse(text: str, *, name: str | None = None, media_type: str = "application/yaml") -> FlowDefinition:
    """Read one definition; `name` is the flow it must be for, where the caller knows.

    A media type that mentions JSON is read as JSON, any other as YAML. Raises DefinitionError with every problem.
    """
    try:
        root = read(text, is_json="json" in media_type.lower())
    except UnreadableTextError as error:
        raise DefinitionError([error.problem]) from None
    reader = _DefinitionReader()
    definition = reader.flow(root, name)
    if definition is None or reader.problems:
        reader.problems.sort(key=lambda problem: problem.line or 0)
        raise DefinitionError(reader.problems)
    return definition


def to_dict(definition: FlowDefinition) -> dict[str, Any]:
    """The definition as plain values in the order people write them; what was left open is left out."""
    plain: dict[str, Any] = {
        "flow": definition.flow,
        "version": int(definition.version) if _is_small_integer(definition.version) else definition.version,
        "style": definition.style.value,
    }
    if definition.deadline is not None:
        plain["deadline"] = duration_text(definition.deadline)
    if definition.ends_on:
        plain["ends_on"] = list(definition.ends_on)
    if definition.compensation_order is not CompensationOrder.PARTIAL:
        plain["compensation_order"] = definition.compensation_order.value
    plain["steps"] = [_step_dict(step) for step in definition.steps]
    return plain


def to_yaml(definition: FlowDefinition) -> str:
    """The definition as YAML that `parse` reads back as the same definition."""
    return yaml.safe_dump(to_dict(definition), sort_keys=False, allow_unicode=True, width=120)


def duration_text(duration: Micros) -> str:
    """Whole milliseconds as a number and the largest unit that fits: 90s, 24h (not 1d), 2d."""
    for unit in ("d", "h", "m", "s"):
        size = UNITS[unit]
        if duration >= size and duration % size == 0 and not (unit == "d" and duration == size):
            return f"{duration // size}{unit}"
    return f"{duration // UNITS['ms']}ms"


def _is_small_integer(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]{0,8}", text) is not None


def _step_dict(step: StepDefinition) -> dict[str, Any]:
    plain = _work_dict(step)
    if step.role is not None:
        plain["role"] = step.role.value
    if step.compensation is not None:
        plain["compensation"] = _work_dict(step.compensation)
    return plain


def _work_dict(work: StepDefinition | CompensationDefinition) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": work.name}
    if work.service is not None:
        plain["service"] = work.service
    for key in ("starts_on", "completes_on", "fails_on"):
        if types := getattr(work, key):
            plain[key] = list(types)
    if work.deadline is not None:
        plain["deadline"] = duration_text(work.deadline)
    if work.max_attempts is not None:
        plain["max_attempts"] = work.max_attempts
    return plain


class _Fields:
    """A mapping's values by key, after unknown and duplicate keys have been reported. Null counts as left out."""

    def __init__(self, node: Node, path: str) -> None:
        self.line = node.line
        self.path = path
        self.values: dict[str, Node] = {}

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key


class _DefinitionReader:
    """Turns nodes into structs and collects problems; a value with a problem reads as None."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        #: What each event type ends: type -> (line, path of the list it stands in).
        self._outcomes: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def flow(self, root: Node, expected_name: str | None) -> FlowDefinition | None:
        fields = self._fields(root, "", _FLOW_KEYS)
        if fields is None:
            return None
        flow = self._name(fields, "flow")
        if flow is not None and expected_name is not None and flow != expected_name:
            self._problem(
                fields.values["flow"].line, "flow", f"is {flow!r}, but this is the address of {expected_name!r}"
            )
        ends_on = self._event_types(fields, "ends_on")
        steps = tuple(self._steps(fields))
        declares_types = bool(ends_on) or any(step.starts_on or step.completes_on or step.fails_on for step in steps)
        style = self._choice(fields, "style", Style)
        return FlowDefinition(
            flow=flow or "",
            version=self._version(fields),
            style=style or (Style.CHOREOGRAPHY if declares_types else Style.ORCHESTRATION),
            deadline=self._duration(fields, "deadline"),
            ends_on=ends_on,
            compensation_order=self._choice(fields, "compensation_order", CompensationOrder)
            or CompensationOrder.PARTIAL,
            steps=steps,
        )

    def _steps(self, fields: _Fields) -> Iterator[StepDefinition]:
        node = fields.values.get("steps")
        if node is None:
            return
        if node.kind != "list":
            self._problem(node.line, "steps", "must be a list of steps")
            return
        if len(node.items) > MAX_STEPS:
            self._problem(node.line, "steps", f"has {len(node.items)} steps; {MAX_STEPS} are the most")
            return
        for index, item in enumerate(node.items):
            step = self._step(item, f"steps[{index}]")
            if step is not None:
                yield step

    def _step(self, node: Node, path: str) -> StepDefinition | None:
        fields = self._fields(node, path, _STEP_KEYS)
        if fields is None:
            return None
        work = self._work(fields)
        compensation = None
        if (undo := fields.values.get("compensation")) is not None:
            undo_fields = self._fields(undo, fields.at("compensation"), _WORK_KEYS)
            if undo_fields is not None:
                compensation = CompensationDefinition(**self._work(undo_fields))
                self._refuse_same_start(undo_fields, work["starts_on"], compensation.starts_on)
        return StepDefinition(**work, role=self._choice(fields, "role", StepRole), compensation=compensation)

    def _work(self, fields: _Fields) -> dict[str, Any]:
        """The keys that a step and a compensation share."""
        name = self._name(fields, "name")
        if name is not None:
            self._claim_name(fields, name)
        starts_on = self._event_types(fields, "starts_on")
        completes_on = self._event_types(fields, "completes_on")
        fails_on = self._event_types(fields, "fails_on")
        for key, types in (("completes_on", completes_on), ("fails_on", fails_on)):
            self._claim_outcomes(fields, key, types, starts_on)
        return {
            "name": name or "",
            "service": self._name(fields, "service", required=False),
            "starts_on": starts_on,
            "completes_on": completes_on,
            "fails_on": fails_on,
            "deadline": self._duration(fields, "deadline"),
            "max_attempts": self._max_attempts(fields),
        }

    def _claim_name(self, fields: _Fields, name: str) -> None:
        line = fields.values["name"].line
        if name == "*":
            self._problem(line, fields.at("name"), "'*' stands for any step and cannot name one")
        elif name in self._names:
            self._problem(line, fields.at("name"), f"{name!r} is already the name of {self._names[name]}")
        else:
            self._names[name] = fields.path

    def _claim_outcomes(self, fields: _Fields, key: str, types: tuple[str, ...], starts_on: tuple[str, ...]) -> None:
        """An event type may end one step and start others, but must not end two, nor start and end the same one."""
        for item in fields.values[key].items if types else ():
            if item.kind != "text" or item.text not in types:
                continue
            taken = self._outcomes.get(item.text)
            if item.text in starts_on:
                self._problem(item.line, fields.at(key), f"{item.text!r} would both start and end this step")
            elif taken is not None and taken != fields.at(key):
                self._problem(item.line, fields.at(key), f"{item.text!r} already means {taken}; it cannot mean both")
            else:
                self._outcomes[item.text] = fields.at(key)

    def _refuse_same_start(self, undo: _Fields, forward: tuple[str, ...], backward: tuple[str, ...]) -> None:
        for event_type in backward:
            if event_type in forward:
                line = undo.values["starts_on"].line
                why = f"{event_type!r} would start both the step and its compensation"
                self._problem(line, undo.at("starts_on"), why)

    def _fields(self, node: Node, path: str, allowed: tuple[str, ...]) -> _Fields | None:
        if node.kind != "mapping":
            what = "the definition" if not path else "it"
            self._problem(node.line, path, f"{what} must be a mapping with the keys {', '.join(allowed)}")
            return None
        fields = _Fields(node, path)
        seen = set()
        for key, line, value in node.entries:
            if key in seen:
                self._problem(line, fields.at(_shown(key)), "is given twice")
            elif key not in allowed:
                self._problem(line, fields.at(_shown(key)), f"is not a key here; there are {', '.join(allowed)}")
            elif value.kind != "null":
                fields.values[key] = value
            seen.add(key)
        return fields

    def _name(self, fields: _Fields, key: str, *, required: bool = True) -> str | None:
        node = fields.values.get(key)
        if node is None:
            if required:
                self._problem(fields.line, fields.at(key), "is missing")
            return None
        return self._text(node, fields.at(key))

    def _text(self, node: Node, path: str) -> str | None:
        if node.kind != "text":
            hint = "; put it in quotes" if node.kind in ("integer", "number", "boolean") else ""
            self._problem(node.line, path, f"must be text, not a {node.kind}{hint}".replace("a integer", "an integer"))
            return None
        text, problem = node.text, None
        if not text.strip():
            problem = "must not be empty"
        elif text != text.strip():
            problem = "must not begin or end with a space"
        elif len(text.encode("utf-8", "surrogatepass")) > MAX_NAME_LENGTH:
            problem = f"is longer than {MAX_NAME_LENGTH} bytes"
        elif character := unwanted_character(text):
            problem = f"holds the character {character}, which is not allowed"
        if problem is None:
            return text
        self._problem(node.line, path, problem)
        return None

    def _version(self, fields: _Fields) -> str:
        node = fields.values.get("version")
        if node is None:
            return "1"
        if node.kind in ("integer", "number") and len(node.text) <= MAX_NAME_LENGTH:
            return node.text
        return self._text(node, "version") or ""

    def _choice(self, fields: _Fields, key: str, choices: type[_C]) -> _C | None:
        node = fields.values.get(key)
        if node is None:
            return None
        if node.kind == "text" and node.text in set(choices):
            return choices(node.text)
        self._problem(node.line, fields.at(key), f"must be one of {', '.join(choices)}")
        return None

    def _duration(self, fields: _Fields, key: str) -> Micros | None:
        node = fields.values.get(key)
        if node is None:
            return None
        match = _DURATION.fullmatch(node.text) if node.kind == "text" else None
        if match is None:
            self._problem(node.line, fields.at(key), "must be a whole number and a unit: ms, s, m, h or d, such as 30s")
            return None
        duration = int(match[1]) * UNITS[match[2]]
        if duration > MAX_DEADLINE:
            self._problem(node.line, fields.at(key), "is longer than 3650d")
            return None
        return duration

    def _max_attempts(self, fields: _Fields) -> int | None:
        node = fields.values.get("max_attempts")
        if node is None:
            return None
        if node.kind == "integer" and len(node.text) <= 8 and 1 <= int(node.text) <= MAX_ATTEMPTS:
            return int(node.text)
        self._problem(node.line, fields.at("max_attempts"), f"must be a whole number from 1 to {MAX_ATTEMPTS}")
        return None

    def _event_types(self, fields: _Fields, key: str) -> tuple[str, ...]:
        node = fields.values.get(key)
        if node is None:
            return ()
        if node.kind != "list":
            self._problem(node.line, fields.at(key), "must be a list of event types")
            return ()
        types: list[str] = []
        for index, item in enumerate(node.items):
            event_type = self._text(item, f"{fields.at(key)}[{index}]")
            if event_type in types:
                self._problem(item.line, f"{fields.at(key)}[{index}]", f"{event_type!r} is listed twice")
            elif event_type is not None:
                types.append(event_type)
        return tuple(types)

    def _problem(self, line: int, field: str, message: str) -> None:
        self.problems.append(Problem(line, field, message))


def _shown(key: str) -> str:
    """A stranger's key, short and printable, for a field path."""
    return key if len(key) <= 64 and key.isprintable() else ascii(key[:64])
