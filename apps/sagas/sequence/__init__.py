"""Who told whom: a correlation as a sequence diagram, from its events alone. Pure.

Lifelines are services. A step that is scheduled is a command of whoever scheduled it; everything else that is said is
an event, told to those who acted on it, which is known from causes. Where no event names a cause, the order of events
stands in for it, and the diagram says so.

`messages` finds the arrows, `folding` decides which of very many are drawn, `drawing` gives them their place, and
`mermaid` writes them as text.
"""

from __future__ import annotations

from apps.sagas.sequence.drawing import Diagram, draw
from apps.sagas.sequence.folding import Fold, fold
from apps.sagas.sequence.mermaid import to_mermaid
from apps.sagas.sequence.messages import OUTSIDE, Conversation, Message, Style, Tone, read_messages

__all__ = [
    "OUTSIDE",
    "Conversation",
    "Diagram",
    "Fold",
    "Message",
    "Style",
    "Tone",
    "draw",
    "fold",
    "read_messages",
    "to_mermaid",
]
