"""The watermarks that a rule is judged by: asked for once per project and sweep, however many rules there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from apps.lib.micros import Micros
from apps.sagas.watermarks import Watermarks, watermarks

_known: ContextVar[dict[tuple[int, Micros], Watermarks] | None] = ContextVar("known_watermarks", default=None)


@contextmanager
def asked_once() -> Iterator[None]:
    """Until the block ends, the watermarks of a project at one moment are read once. For blocks of one transaction."""
    token = _known.set({})
    try:
        yield
    finally:
        _known.reset(token)


def marks_of(project_id: int, now: Micros) -> Watermarks:
    """The watermarks of a project's sources."""
    known = _known.get()
    if known is None:
        return watermarks(project_id, now)
    found = known.get((project_id, now))
    if found is None:
        found = known[project_id, now] = watermarks(project_id, now)
    return found
