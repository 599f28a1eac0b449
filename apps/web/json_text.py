"""JSON as people read it: indented, in colours, each number and string exactly as it was sent.

The text is taken apart and set anew, never parsed into values, so that `1.10`, `9007199254740993` and repeated keys
stay what they are. Characters that cannot be seen are written as escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from apps.lib.redaction import FILTERED, HASHED
from apps.sagas.timeline.wording import visible

#: Beyond this many characters the text is shown as it is: colouring it would only slow the page.
LONGEST = 60_000
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[{}\[\],:]|\s+|.', re.DOTALL)
_OPENING, _CLOSING, _COMMA, _COLON = frozenset("{["), frozenset("}]"), frozenset(","), frozenset(":")

#: What stands in place of a value that was taken out before it was stored.
_REDACTED = f'"{FILTERED}"'
#: And how a hash begins.
_HASHED = f'"{HASHED}'

Piece = tuple[str, str]


def redacted_count(text: str | None) -> int:
    """How many values of a payload were taken out or hashed before it was stored."""
    return (text or "").count(_REDACTED) + (text or "").count(_HASHED)


def pieces(text: str | None) -> list[Piece]:
    """(class, text) of indented JSON: `k` keys, `s` strings, `n` numbers and words, `p` punctuation, "" the rest.

    Values that were taken out before storing are `redacted`.
    """
    if not text:
        return []
    if len(text) > LONGEST:
        return [("", "\n".join(visible(line) for line in text.split("\n")))]
    return list(_merged(_pieces(text)))


def _pieces(text: str) -> Iterator[Piece]:
    tokens = [token for token in _TOKEN.findall(text) if not token.isspace()]
    depth = 0
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else ""
        if token in _OPENING:
            closed = following in _CLOSING
            depth += not closed
            yield "p", token
            if not closed:
                yield "", _line(depth)
        elif token in _CLOSING:
            opened = index > 0 and tokens[index - 1] in _OPENING
            if not opened:
                depth = max(0, depth - 1)
                yield "", _line(depth)
            yield "p", token
        elif token in _COMMA:
            yield "p", ","
            yield "", _line(depth)
        elif token in _COLON:
            yield "p", ": "
        elif token == _REDACTED:
            yield "redacted", FILTERED
        elif token.startswith(_HASHED) and following != ":":
            yield "redacted", visible(token)
        elif token[0] == '"':
            yield ("k" if following == ":" else "s"), visible(token)
        elif token in ("true", "false", "null") or token[0] in "-0123456789":
            yield "n", token
        else:
            yield "", visible(token)


def _line(depth: int) -> str:
    return "\n" + "  " * min(depth, 40)


def _merged(found: Iterator[Piece]) -> Iterator[Piece]:
    """Neighbours of one class as one piece: fewer elements in the page."""
    held: Piece | None = None
    for css, text in found:
        if held is not None and held[0] == css:
            held = (css, held[1] + text)
        else:
            if held is not None:
                yield held
            held = (css, text)
    if held is not None:
        yield held
