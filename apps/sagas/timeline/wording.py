"""How the timeline spells times and what senders wrote. Pure.

Spans are short and never rounded up into the next unit; text from outside is shown, never obeyed: characters that
cannot be seen or that turn the reading direction are written as escapes.
"""

from __future__ import annotations

import re
import unicodedata

from apps.lib import micros
from apps.lib.micros import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Micros

#: Control, format (bidi marks, zero-width), surrogate, private-use and separator characters; a plain space is none.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    r"\u205f-\u206f\u3000\u3164\ud800-\uf8ff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    r"\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
#: How many combining marks one letter may carry before the rest are written out.
_MARKS = 3


def visible(text: str, limit: int = 0) -> str:
    """`text` on one line with everything unseen written as an escape; cut to `limit` characters with an ellipsis."""
    if limit and len(text) > limit:
        text = text[: limit - 1].rstrip() + "…"
    if text.isascii() and text.isprintable():
        return text
    return _tame_marks(_UNSEEN.sub(_escape, text))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _tame_marks(text: str) -> str:
    """Write out combining marks beyond the third on one letter: a pile of them would cover the rows above."""
    kept, run = [], 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        kept.append(f"\\u{ord(character):04x}" if run > _MARKS else character)
    return "".join(kept)


def span(length: Micros) -> str:
    """`13 m 01 s`, `24.5 s`, `430 ms`: two units at most, cut rather than rounded up."""
    sign, length = ("−", -length) if length < 0 else ("", length)
    if length < MILLISECOND:
        return f"{sign}{length} µs" if length else "0 s"
    if length < SECOND:
        return f"{sign}{length // MILLISECOND} ms"
    if length < MINUTE:
        whole, tenth = divmod(length // (SECOND // 10), 10)
        return f"{sign}{whole}.{tenth} s" if tenth else f"{sign}{whole} s"
    for unit, name, part, part_name in ((DAY, "d", HOUR, "h"), (HOUR, "h", MINUTE, "m"), (MINUTE, "m", SECOND, "s")):
        if length >= unit:
            whole, rest = divmod(length, unit)
            return f"{sign}{whole:,} {name} {rest // part:02d} {part_name}"
    raise AssertionError("every length has a unit")


def clock(moment: Micros, step: Micros = SECOND) -> str:
    """Time of day in UTC, as fine as `step` asks for: 14:29, 14:29:30, 14:29:30.125; with the date from days on."""
    text = moment_text(moment)
    if step >= DAY:
        return text[8:10] + " " + _MONTHS[int(text[5:7]) - 1]
    if step >= MINUTE:
        return text[11:16]
    if step >= SECOND:
        return text[11:19]
    return text[11:23] if step >= MILLISECOND else text[11:26]


def day(moment: Micros) -> str:
    """19 Nov 2026, UTC."""
    text = moment_text(moment)
    return f"{int(text[8:10])} {_MONTHS[int(text[5:7]) - 1]} {text[:4]}"


def full(moment: Micros) -> str:
    """19 Nov 2026 14:29:30.125 UTC."""
    return f"{day(moment)} {clock(moment, MILLISECOND)} UTC"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def moment_text(moment: Micros) -> str:
    """RFC 3339, and the nearest representable moment for one outside the years 1–9999."""
    try:
        return micros.isoformat(moment)
    except OverflowError:
        return "0001-01-01T00:00:00.000000Z" if moment < 0 else "9999-12-31T23:59:59.999999Z"


def reason(text: str | None) -> str:
    """A stored deadline reason as shown behind a step that is already named: `declared 30s`."""
    if not text:
        return ""
    return text.split(": ", 1)[1] if text.startswith("step ") and ": " in text else text


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`, `1,240 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
