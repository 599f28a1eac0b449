"""What a built-in rule is like before anybody changes it."""

from __future__ import annotations

from dataclasses import dataclass

from apps.lib import micros
from apps.lib.micros import Micros


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """The rule that a project has from the start; its name is the condition's code."""

    severity: str
    pending_us: Micros = 0
    cooldown_us: Micros = 15 * micros.MINUTE
