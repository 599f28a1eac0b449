"""Which messages of a long conversation are drawn: the first of each likeness, failures, the end; the rest folds. Pure.

A fold always says how many messages it stands for and which, and can be opened: nothing is left out unsaid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from apps.sagas.sequence.messages import Message, Style, Tone

#: Up to so many messages everything is drawn.
ALL_AT_ONCE = 80
#: Of each likeness so many are drawn, of failures and undoing some more; and so many at the end, whatever they are.
_OF_EACH, _OF_EACH_BAD, _TAIL = 2, 4, 12
#: Never more than about so many rows, however many likenesses there are; and so many rows per fold that is opened.
_MOST, OPENED = 160, 100
#: Fewer than this are not worth a fold.
_LEAST = 3
_KINDS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Fold:
    """Messages that are not drawn, between two that are. `key` is the number of the first: opening it shows more."""

    key: int
    count: int
    failed: int
    events: int
    #: The most frequent: (how often, label, sender, receiver).
    most: tuple[tuple[int, str, str, str], ...]
    kinds: int

    @property
    def words(self) -> str:
        """`+ 38 more of the same: charge-payment`."""
        if self.kinds == 1:
            _, label, _, _ = self.most[0]
            text = f"+ {self.count:,} more of the same: {label}"
        else:
            named = ", ".join(f"{count:,} × {label}" for count, label, _, _ in self.most)
            others = f" and {self.kinds - len(self.most):,} other kinds" if self.kinds > len(self.most) else ""
            text = f"+ {self.count:,} more like those above: {named}{others}"
        return f"{text} ({self.failed:,} failed)" if self.failed else text


def fold(
    messages: Sequence[Message], *, opened: Collection[int] = (), event_id: str | None = None, everything: bool = False
) -> list[Message | Fold]:
    """The rows of a diagram. `opened` are keys of folds; the message of `event_id` is always drawn."""
    if everything or len(messages) <= ALL_AT_ONCE:
        return list(messages)
    kept = _kept(messages)
    for key in opened:
        kept.update(range(max(0, key), min(key + OPENED, len(messages))))
    if event_id:
        kept.update(one.number for one in messages if one.event_id == event_id)
    return list(_rows(messages, kept))


def _kept(messages: Sequence[Message]) -> set[int]:
    seen: Counter[tuple] = Counter()
    kept: set[int] = set()
    plain, quiet = Tone.PLAIN, (Style.COMMAND, Style.EVENT)
    for at, message in enumerate(messages):
        likeness = message.likeness
        seen[likeness] = count = seen[likeness] + 1
        if count > _OF_EACH_BAD:
            continue
        is_telling = message.tone is not plain or message.style not in quiet
        if count <= (_OF_EACH_BAD if is_telling else _OF_EACH):
            kept.add(at)
    tail = range(max(0, len(messages) - _TAIL), len(messages))
    if len(kept) > _MOST:
        first = sorted(kept)[: _MOST // 2]
        telling = [at for at in sorted(kept) if messages[at].tone is not Tone.PLAIN][: _MOST // 4]
        kept = {*first, *telling}
    return kept | set(tail)


def _rows(messages: Sequence[Message], kept: set[int]) -> Iterator[Message | Fold]:
    hidden: list[Message] = []
    for at, message in enumerate(messages):
        if at not in kept:
            hidden.append(message)
            continue
        yield from _closed(hidden)
        hidden = []
        yield message
    yield from _closed(hidden)


def _closed(hidden: list[Message]) -> list[Message] | list[Fold]:
    if len(hidden) < _LEAST:
        return hidden
    kinds = Counter(one.likeness for one in hidden)
    ranked = sorted(kinds.items(), key=lambda entry: (-entry[1], entry[0]))
    most = tuple((count, like[4], like[0], like[1]) for like, count in ranked[:_KINDS_NAMED])
    failed = sum(one.tone is Tone.FAILED for one in hidden)
    return [Fold(hidden[0].number, len(hidden), failed, sum(one.events for one in hidden), most, len(kinds))]
