"""A sequence diagram as Mermaid text (https://mermaid.js.org/syntax/sequenceDiagram.html). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from apps.lib.micros import MILLISECOND
from apps.sagas.sequence.folding import Fold
from apps.sagas.sequence.messages import OUTSIDE, Conversation, Message, Style, Tone
from apps.sagas.timeline.wording import clock

#: Characters that end a statement or begin something else in Mermaid; written as its entity codes.
_SPECIAL = re.compile(r"[#;<>%{}\[\]\"\\`]")
#: Ground of what undoes, as in the pages.
_UNDO_GROUND = "rgb(246, 238, 251)"


def to_mermaid(conversation: Conversation, rows: Sequence[Message | Fold], title: str) -> str:
    """The rows as a `sequenceDiagram`; compensations stand on violet ground, failures end in a cross."""
    names = list(conversation.lifelines)
    alias = {name: f"p{index}" for index, name in enumerate(names)}
    if any(isinstance(row, Message) and row.sender == OUTSIDE for row in rows):
        alias[OUTSIDE] = "outside"
    lines = ["---", f"title: {_quoted(title)}", "---", "sequenceDiagram"]
    if OUTSIDE in alias:
        lines.append("    actor outside as not seen")
    lines += [f"    participant {alias[name]} as {_text(name)}" for name in names]
    ground = False
    for row in rows:
        undoing = isinstance(row, Message) and row.tone is Tone.UNDO
        if undoing != ground:
            lines.append(f"    rect {_UNDO_GROUND}" if undoing else "    end")
            ground = undoing
        indent = "        " if ground else "    "
        lines += [indent + line for line in _statements(row, alias, names)]
    if ground:
        lines.append("    end")
    if conversation.is_by_order:
        lines.append(f"    Note over {_over(alias, names)}: No event names its cause, receivers follow from the order")
    return "\n".join(lines) + "\n"


def _statements(row: Message | Fold, alias: dict[str, str], names: Sequence[str]) -> list[str]:
    if isinstance(row, Fold):
        return [f"Note over {_over(alias, names)}: {_text(row.words)}"]
    words = f"{clock(row.at, MILLISECOND)} {row.label}" + (f" #{row.attempt}" if row.attempt > 1 else "")
    if row.begins:
        words += f", begins {row.begins}"
    if row.error:
        words += f", {row.error}"
    sender, receiver = alias[row.sender], alias[row.receiver]
    if row.sender == row.receiver and row.style is not Style.COMMAND:
        mark = {Style.TIMER: "timer: ", Style.DEAD: "dead letter: ", Style.SIGNAL: "signal: "}.get(row.style, "")
        return [f"Note right of {receiver}: {_text(mark + words)}"]
    line = {Style.COMMAND: "->>", Style.SIGNAL: "-)"}.get(row.style, "-->>")
    if row.tone is Tone.FAILED:
        line = "--x"
    return [f"{sender}{line}{receiver}: {_text(words)}"]


def _over(alias: dict[str, str], names: Sequence[str]) -> str:
    if not names:
        return "outside"
    return alias[names[0]] if len(names) == 1 else f"{alias[names[0]]},{alias[names[-1]]}"


def _text(text: str) -> str:
    """Text that can hold nothing but itself."""
    return _SPECIAL.sub(lambda match: f"#{ord(match[0])};", text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
