"""The audit log: who did what, when, from where. Entries are only ever added.

Every request that may change something is noted in one place (`apps.config.auditing`), so that no view can forget it;
commands note what they do themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apps.lib import micros
from apps.lib.redaction import FILTERED, is_sensitive
from apps.projects.models import AuditEntry

#: Longer values are cut: the log says what was asked for, the thing itself is kept where it belongs.
LONGEST = 300
MOST_FIELDS = 50
_NUL = "\0"
#: Addresses of receivers and brokers may carry passwords and keys anywhere: only what they lead to is kept.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://\S+")


def note(
    actor: str,
    action: str,
    details: Mapping[str, Any] | None = None,
    *,
    project_id: int | None = None,
    status: int = 0,
    address: str = "",
) -> None:
    """Add an entry. Raises DatabaseError when it cannot be kept."""
    AuditEntry.objects.create(
        at=micros.now(),
        project_id=project_id,
        actor=_text(actor) or "nobody",
        action=_text(action),
        details=harmless(details or {}),
        status=status,
        address=_text(address),
    )


def entries(project_id: int, *, before: int | None = None, text: str = "", limit: int = 50) -> list[AuditEntry]:
    """Entries of a project, newest first; `text` is looked for in who and what. Keyset: `before` is an entry's id."""
    found = AuditEntry.objects.filter(project_id=project_id)
    for word in text.split()[:10]:
        found = found.filter(action__icontains=word) | found.filter(actor__icontains=word)
    if before is not None:
        found = found.filter(id__lt=before)
    return list(found.order_by("-id")[:limit])


def harmless(value: Any, key: str = "") -> Any:
    """A copy that can be kept for ever: no values of sensitive keys, no addresses, nothing long."""
    if key and is_sensitive(key) and value not in (None, "", [], {}):
        return FILTERED
    if isinstance(value, Mapping):
        return {_text(str(name)): harmless(child, str(name)) for name, child in list(value.items())[:MOST_FIELDS]}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [harmless(child) for child in list(value)[:MOST_FIELDS]]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _text(_ADDRESS.sub(r"\1://…", str(value)))


def _text(text: str) -> str:
    text = text.replace(_NUL, "").encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
