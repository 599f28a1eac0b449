"""What earlier records of a Zeebe cluster said that later ones leave out. Pure.

A record names its process instance, but a timer does not name the process, a job does not name the parent instance,
and none but the first few hold the variables that correlate. `Memory` keeps these facts per process instance. They
are written once, or kept with the position of the record that stated them, so that reading the same records again
with a memory that already knows what followed gives the same events.

A process may run for years and in circles, and the record that ends something may never come. So a memory is bounded
in every direction, and forgets the least recent first: process instances, element instances of one and of all, those
that ended, the attempts of one element. Of what can be undone it knows no more than that there are several. What waits
for a variable waits for so many records at most; then it is decided by what is known. What is forgotten is missing from
what later records mean (a name, a cause, what is undone), never from what is kept of them.

One document is decoded with a memory of its own. Whoever is sent one stream in many requests passes the same memory
to each: a record then means the same however the stream is cut.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from apps.ingest.formats import json_path
from apps.ingest.formats.engine_entries import parsed, text_at, whole_number
from apps.ingest.formats.histories import HistoryOptions
from apps.sagas.events import Micros

#: Process instances that a memory keeps, the ones heard of last; some kilobytes each.
INSTANCES = 20_000
#: Element instances that a memory keeps after their end, half a kilobyte each: what an exporter sends again after it
#: was interrupted is a fraction of their records.
ENDED_ELEMENTS = 10_000
#: Element instances that a memory keeps in all, and of one process instance, whether they were seen to end or not.
ELEMENTS = 100_000
ELEMENTS_OF_ONE = 20_000
#: Records that wait until it is decided where they belong: of one process instance, and in all.
HELD_OF_ONE = 200
HELD = 5_000
#: Variables of one process instance that are looked through for what correlates.
VARIABLES = 1_000
#: Offers, starts and failures of one element that are kept: a job may be tried for ever.
ATTEMPTS = 100


class Record(msgspec.Struct):
    """A record, as far as every value type is alike."""

    #: Where it stands in its document.
    index: int
    position: int
    #: `zeebe:{cluster}/{partition}/`
    prefix: str
    #: Position of the command that led to it: all records of one step of the engine share it.
    transaction: int
    key: int
    at: Micros
    value_type: str
    intent: str
    value: dict[str, Any]
    #: Tells apart what one record says about several jobs.
    suffix: str = ""

    @property
    def id(self) -> str:
        """Id of its event."""
        return f"{self.prefix}{self.position}{self.suffix}"

    @property
    def type(self) -> str:
        """What the engine calls it."""
        return f"{self.value_type}.{self.intent}"


class Element(msgspec.Struct):
    """An element instance: one execution of one element of the model."""

    id: str
    type: str = ""
    event_type: str = ""
    #: The element instance it runs in; that of a called process is the call activity.
    scope: int = 0
    #: Job type.
    service: str | None = None
    #: Id of the event that announced it.
    event_id: str | None = None
    #: What it undoes.
    compensates: str | None = None
    #: (position, time) whenever a job of it could be taken by a worker.
    offers: list[tuple[int, Micros]] = []
    #: (position, event id) whenever work on it began.
    starts: list[tuple[int, str]] = []
    #: Positions at which it ran out of retries or threw an error.
    failures: list[int] = []
    #: Position of its ELEMENT_TERMINATING.
    terminating: int | None = None
    #: (transaction, boundary event) of the timer that interrupted it.
    timed_out: tuple[int, str] | None = None

    def offer(self, record: Record) -> None:
        """A job of it can be taken by a worker."""
        if (record.position, record.at) not in self.offers:
            self.offers.append((record.position, record.at))
            del self.offers[:-ATTEMPTS]

    def start(self, position: int, event_id: str) -> None:
        """Work on it began."""
        if (position, event_id) not in self.starts:
            self.starts.append((position, event_id))
            # The first stays: what is called says that it was called by it.
            del self.starts[1 : 1 - ATTEMPTS]

    def fail(self, position: int) -> None:
        """It ran out of retries or threw an error."""
        if position not in self.failures:
            self.failures.append(position)
            del self.failures[:-ATTEMPTS]


class Instance(msgspec.Struct):
    """A process instance."""

    key: int
    flow: str | None = None
    root: int = 0
    parent: int = 0
    #: None until it is decided where its events belong; then it stays.
    correlation_id: str | None = None
    variables: dict[str, Any] = {}
    tags: tuple[str, ...] = ()
    business_id: str | None = None
    elements: dict[int, Element] = {}
    #: Activity → its completed executions that can be undone, with the positions where they became so.
    undoable: dict[str, dict[int, int]] = {}
    #: The last error that left an element: (transaction, text, the element instances that it ended).
    error: tuple[int, str, frozenset[int]] | None = None
    #: What waits until it is decided where it belongs: `zeebe.Draft`s.
    held: list[Any] = []

    def can_undo(self, activity: str, key: int, position: int) -> None:
        """From `position` on, this execution of an activity can be undone."""
        executions = self.undoable.setdefault(activity, {})
        executions.setdefault(key, position)
        if len(executions) > 2:
            # Whether there are several at some position is told by the first two.
            del executions[max(executions, key=executions.__getitem__)]

    @property
    def is_child(self) -> bool:
        """True when another process instance is known to have called it."""
        return bool(self.parent) or (bool(self.root) and self.root != self.key)


class Memory:
    """Facts about the process instances heard of last. Not safe for several threads at once."""

    def __init__(
        self, limit: int = INSTANCES, *, elements: int = ELEMENTS, elements_of_one: int = ELEMENTS_OF_ONE
    ) -> None:
        self._limit = limit
        self._most_elements = elements
        self._most_of_one = elements_of_one
        self._element_count = 0
        self._instances: OrderedDict[int, Instance] = OrderedDict()
        #: (process instance, element instance) of what ended, the earliest first.
        self._ended: deque[tuple[int, int]] = deque()
        #: Process instances for which records wait, the one that waits longest first; and how many records.
        self._waiting: OrderedDict[int, Instance] = OrderedDict()
        self._held_count = 0
        #: Those that wait no longer, as they were forgotten or too much waited: whoever decodes decides where they go.
        self.let_go: list[Instance] = []

    def known(self, key: int) -> Instance | None:
        """What is known of a process instance; None when it was never heard of."""
        return self._instances.get(key)

    def learn(self, record: Record, key: int, *, keeps_variables: bool) -> Instance:
        """Take in what a record says about its process instance as such."""
        instance = self._instances.get(key)
        if instance is None:
            instance = self._instances[key] = Instance(key)
            if len(self._instances) > self._limit:
                self._forget_one()
        else:
            self._instances.move_to_end(key)
        value = record.value
        if instance.flow is None:
            instance.flow = text_at(value, "bpmnProcessId")
        if not instance.parent:
            instance.parent = key_at(value, "parentProcessInstanceKey")
        if not instance.root:
            instance.root = _root(value)
        if not instance.business_id:
            instance.business_id = text_at(value, "businessId")
        if not instance.tags and isinstance(tags := value.get("tags"), list):
            instance.tags = tuple(tag for tag in tags if isinstance(tag, str))
        if keeps_variables and instance.correlation_id is None:
            _learn_variables(instance, record)
        return instance

    def end(self, instance: Instance, key: int) -> None:
        """An element instance ended: what is known of it is kept for a while."""
        self._ended.append((instance.key, key))
        if len(self._ended) > ENDED_ELEMENTS:
            owner, element = self._ended.popleft()
            if (known := self._instances.get(owner)) is not None and known.elements.pop(element, None) is not None:
                self._element_count -= 1

    def element_of(self, instance: Instance, key: int, name: str | None) -> Element:
        """An element instance's entry, made when it is new."""
        found = instance.elements.get(key)
        if found is None:
            found = instance.elements[key] = Element(name or "")
            self._element_count += 1
            if len(instance.elements) > self._most_of_one:
                # The process itself stays: it is what everything runs in.
                del instance.elements[next(each for each in instance.elements if each != instance.key)]
                self._element_count -= 1
            while self._element_count > self._most_elements and len(self._instances) > 1:
                self._forget_one()
        elif not found.id and name:
            found.id = name
        return found

    def hold(self, instance: Instance, drafts: Sequence[Any]) -> None:
        """Let drafts of an instance's events wait until it is decided where they belong."""
        if drafts:
            instance.held.extend(drafts)
            self._held_count += len(drafts)
            self._waiting.setdefault(instance.key, instance)
        if len(instance.held) > HELD_OF_ONE:
            self.let_go.append(instance)
        elif self._held_count > HELD:
            self.let_go.append(next(iter(self._waiting.values())))

    def released(self, instance: Instance) -> list[Any]:
        """What waited for the decision; nothing waits any more."""
        held, instance.held = instance.held, []
        self._held_count -= len(held)
        self._waiting.pop(instance.key, None)
        return held

    def _forget_one(self) -> None:
        """Forget the process instance heard of longest ago; what waits for it waits no longer."""
        _, instance = self._instances.popitem(last=False)
        self._element_count -= len(instance.elements)
        if instance.held:
            self.let_go.append(instance)

    def root_of(self, instance: Instance) -> int:
        """Key of the process instance that everything began with, as far as is known."""
        if instance.root:
            return instance.root
        if not instance.parent:
            return instance.key
        parent = self.known(instance.parent)
        # A parent is older, so its key is smaller; anything else would run in circles.
        return self.root_of(parent) if parent is not None and parent.key < instance.key else instance.parent

    def correlation_of(self, instance: Instance, options: HistoryOptions) -> str | None:
        """Where the instance's events belong by configuration or business id; None when nothing says so (yet)."""
        if options.correlation_id:
            return options.correlation_id
        if instance.is_child:
            for key in (instance.parent, instance.root):
                known = self.known(key)
                if known is not None and known.correlation_id is not None:
                    return known.correlation_id
        if options.correlation_path and (found := json_path.find_text(options.correlation_path, instance.variables)):
            return found
        if options.correlation_key and (found := _by_name(options.correlation_key, instance)):
            return found
        return instance.business_id

    def around(self, instance: Instance, key: int) -> Iterator[tuple[int, Element | None, Instance]]:
        """An element instance and those it runs in, out to the root process, each with its process instance."""
        here: Instance | None = instance
        seen: set[int] = set()
        while here is not None and key and key not in seen:
            seen.add(key)
            element = here.elements.get(key)
            yield key, element, here
            if element is None:
                return
            if key == here.key:
                here = self.known(here.parent) if here.parent else None
            key = element.scope

    def undone_by(self, instance: Instance, key: int) -> str | None:
        """What an element instance undoes, itself or because it runs inside a compensation handler."""
        for _, element, _ in self.around(instance, key):
            if element is not None and element.compensates is not None:
                return element.compensates
        return None


def key_at(value: Mapping[str, Any], name: str) -> int:
    """A key of the engine; 0 for none (the engine writes -1)."""
    number = whole_number(value.get(name))
    return number if number is not None and 0 < number < 1 << 63 else 0


def _root(value: Mapping[str, Any]) -> int:
    """Key of the root process instance, where a record says it: newer ones by name, older ones in a path."""
    if root := key_at(value, "rootProcessInstanceKey"):
        return root
    path = value.get("elementInstancePath")
    if isinstance(path, list) and path and isinstance(path[0], list) and path[0]:
        return key_at({"root": path[0][0]}, "root")
    return 0


def _learn_variables(instance: Instance, record: Record) -> None:
    value = record.value
    if record.value_type == "VARIABLE":
        name = text_at(value, "name")
        if name and key_at(value, "scopeKey") == instance.key and len(instance.variables) < VARIABLES:
            instance.variables.setdefault(name, parsed(value.get("value")))
    elif isinstance(variables := value.get("variables"), dict):
        for name, content in variables.items():
            if len(instance.variables) >= VARIABLES:
                break
            instance.variables.setdefault(name, content)


def _by_name(name: str, instance: Instance) -> str | None:
    """A variable's value, or that of a tag `name:value`."""
    if found := json_path.scalar_text(instance.variables.get(name)):
        return found
    prefix = f"{name}:"
    return next((tag[len(prefix) :] for tag in instance.tags if tag.startswith(prefix) and tag != prefix), None)
