"""What a Step Functions history gains from the state machine's definition: its Catch paths and its waits. Pure.

Source: the Amazon States Language specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apps.ingest.formats import engine_entries, json_path
from apps.ingest.formats.event_time import parse_time
from apps.sagas.events import SECOND, Micros

_NESTED = ("Iterator", "ItemProcessor")
#: Longer waits are declared by mistake: a year is the longest that an execution may last.
_LONGEST_WAIT = 366 * 86_400
_MOST_STATES = 10_000


class Definition:
    """A state machine's definition as far as it explains a history."""

    def __init__(self, text: Any) -> None:
        root = engine_entries.parsed(text)
        self._states: dict[str, dict[str, Any]] = {}
        #: States that only a Catch leads to, on a path that never joins the others again and ends in a Fail state.
        self.undoing: set[str] = set()
        scopes = [root] if isinstance(root, dict) else []
        while scopes and len(self._states) < _MOST_STATES:
            scope = scopes.pop()
            states = {name: state for name, state in _states(scope).items() if isinstance(state, dict)}
            self._states |= states
            self.undoing |= _rollback(scope.get("StartAt"), states)
            for state in states.values():
                scopes += _inner(state)
        for name in [name for name in self.undoing if name in self._states]:
            self.undoing |= set(_all_names(self._states[name]))

    def due(self, name: str, entered_at: Micros, given_input: Any) -> Micros | None:
        """When a Wait state lets go; None where the definition does not say."""
        state = self._states.get(name)
        if state is None or state.get("Type") != "Wait":
            return None
        seconds = state.get("Seconds", _at(state.get("SecondsPath"), given_input))
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= _LONGEST_WAIT:
            return entered_at + round(seconds * SECOND)
        moment = state.get("Timestamp", _at(state.get("TimestampPath"), given_input))
        try:
            return parse_time(moment)[0] if isinstance(moment, str) else None
        except ValueError:
            return None


def _at(path: Any, given_input: Any) -> Any:
    try:
        return json_path.find(path, engine_entries.parsed(given_input)) if isinstance(path, str) else None
    except ValueError:
        return None


def _states(scope: Mapping[str, Any]) -> dict[str, Any]:
    found = scope.get("States")
    return found if isinstance(found, dict) else {}


def _inner(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state machines inside a Parallel or Map state."""
    branches = state.get("Branches")
    found = [*(branches if isinstance(branches, list) else ()), *(state.get(name) for name in _NESTED)]
    return [each for each in found if isinstance(each, dict)]


def _all_names(state: Mapping[str, Any]) -> Iterator[str]:
    scopes = _inner(state)
    while scopes:
        for name, child in _states(scopes.pop()).items():
            yield name
            if isinstance(child, dict):
                scopes += _inner(child)


def _followers(state: Mapping[str, Any]) -> set[str]:
    found = {state.get("Next"), state.get("Default")}
    choices = state.get("Choices")
    found |= {choice.get("Next") for choice in choices or () if isinstance(choice, dict)}
    return {name for name in found if isinstance(name, str)}


def _caught(state: Mapping[str, Any]) -> set[str]:
    catchers = state.get("Catch")
    return {
        catcher["Next"]
        for catcher in (catchers if isinstance(catchers, list) else ())
        if isinstance(catcher, dict) and isinstance(catcher.get("Next"), str)
    }


def _rollback(start: Any, states: Mapping[str, dict[str, Any]]) -> set[str]:
    forward = _reachable({start} if isinstance(start, str) else set(), states, with_catch=False)
    found: set[str] = set()
    for entry in {name for state in forward for name in _caught(states[state])} - forward:
        path = _reachable({entry}, states, with_catch=True)
        ends = [states[name] for name in path if not _followers(states[name])]
        if not path & forward and ends and all(end.get("Type") == "Fail" for end in ends):
            found |= path
    return found


def _reachable(begin: set[str], states: Mapping[str, dict[str, Any]], *, with_catch: bool) -> set[str]:
    found: set[str] = set()
    waiting = [name for name in begin if name in states]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        more = _followers(states[name]) | (_caught(states[name]) if with_catch else set())
        waiting += [follower for follower in more if follower in states]
    return found
