"""Reads JSON that strangers sent: strictly, within bounds, and fast when nothing about it is odd. Pure.

Strict means: UTF-8 only, exactly one document, no duplicate keys, no NaN, no number that would have to be rounded, no
NUL character, no lone surrogate, bounded depth, size and number of values. `msgspec` is strict about syntax, also where
it only skips over a value, so that a document splits into items whose syntax is known to be right; the rest is judged
here. There are two ways in:

- `read_item` judges one item in full;
- `read_plain` decodes a whole document of items and `is_plain` then *proves*, by counting over all bytes at once, that
  none of them needs `read_item`. A proof that fails only costs time: then each item is judged by itself.

Rows of the bad-input contract that end here: 5-11, 33-46 and 50.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one request and one item may hold. Bytes are counted in UTF-8."""

    items: int = 1_000
    item_bytes: int = 1024 * 1024
    #: Nesting of one item, itself included.
    depth: int = 32
    #: Deeper than this the whole document is refused: nobody sends that by mistake.
    absurd_depth: int = 256
    #: Values in one item, containers included.
    nodes: int = 10_000
    key_bytes: int = 256
    #: Longer strings in a payload are cut, and the event is flagged `truncated`.
    string_bytes: int = 64 * 1024


class Unreadable(Exception):  # noqa: N818 - it reads as what it says
    """The document as a whole cannot be read: nothing of it is stored. `status` is the HTTP status that says so."""

    def __init__(self, code: str, detail: str, status: int = 400) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status


class Refused(Exception):  # noqa: N818
    """One item cannot be stored; its neighbours can. `detail` never repeats what the sender wrote."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


TRUNCATED = "truncated"
BIG_INTEGER = "big_integer"

_MIN_INT64, _MAX_INT64 = -(2**63), 2**63 - 1
_BOM = b"\xef\xbb\xbf"


def _double(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value


#: Decodes JSON of strangers. Without the hook msgspec takes 15 µs for a number such as 1e308, Python 0.5: a body full
#: of them would hold a core for half a minute.
decode = msgspec.json.Decoder(float_hook=_double).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw = msgspec.json.Decoder(msgspec.Raw).decode

#: Escapes that spell NUL, `"` or `:` — they would blind the counting — in the only ways that JSON has.
_ODD_ESCAPES = (b"\\u0000", b"\\u0022", b"\\u003a", b"\\u003A")
_WHITE = (b" ", b"\n", b"\r", b"\t")
_DIGITS_TO_ZERO = bytes(0x30 if 0x30 <= byte <= 0x39 else 0x20 for byte in range(256))
#: An integer with fewer digits fits into int64.
_LONG_NUMBER = b"0" * 19
#: JSON text of this size cannot hold more values than bytes / 2.
_BYTES_PER_NODE = 2
#: Where `bound` meets the attributes of an item: it begins with a list around the item.
_ENVELOPE_DEPTH = 2


def without_bom(body: bytes) -> bytes:
    """The body without a UTF-8 byte order mark, which RFC 8259 allows to ignore. Any other encoding is refused."""
    return body.removeprefix(_BOM)


# --- whole documents --------------------------------------------------------------------------------------------------


def split_array(body: bytes) -> list[bytes]:
    """The items of a JSON array, each as its own text of known syntax. Raises Unreadable."""
    try:
        return [bytes(item) for item in _split(body)]
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        _unreadable(error)


def check_syntax(body: bytes) -> None:
    """Raise Unreadable unless the body is exactly one JSON value."""
    try:
        _raw(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        _unreadable(error)


def read_plain(body: bytes) -> Any:
    """The decoded document, still to be proven by `is_plain`; None when it needs to be judged item by item."""
    # One byte is looked for many times faster than two, and mostly that is all there is to do.
    if b"\\" in body and any(escape in body for escape in _ODD_ESCAPES):
        return None
    if any(white in body and white + b":" in body for white in _WHITE):
        return None
    try:
        return decode(body)
    except (ValueError, RecursionError):
        # msgspec's errors and UnicodeDecodeError are ValueErrors.
        return None


def is_plain(body: bytes, *, flat_keys: int, nested: bytes) -> bool:
    """Prove that a document read by `read_plain` lost no key and holds no integer beyond int64 in a nested value.

    `flat_keys` is how many keys its decoded items have, without those of nested objects; `nested` is the concatenated
    re-encoded text of all nested values. No key stands before a space and colon (`read_plain` saw to that), so `":`
    occurs at least once per key in the body, and in re-encoded text exactly as often inside strings as before: equal
    counts leave no room for a key that was dropped as a duplicate.
    """
    if body.count(b'":') != flat_keys + nested.count(b'":'):
        return False
    return _LONG_NUMBER not in nested.translate(_DIGITS_TO_ZERO)


def is_small(text: bytes, limits: Limits) -> bool:
    """True when the re-encoded JSON text of a nested value can break no limit: of depth, strings, keys or values.

    Depth is at most the number of opening brackets. The text between two `":` holds at least one whole key, unless a
    string holds an escaped quote before a colon.
    """
    if text.count(b"{") + text.count(b"[") >= limits.depth:
        return False
    if len(text) <= limits.key_bytes:
        return True
    if len(text) > limits.string_bytes or len(text) > limits.nodes * _BYTES_PER_NODE or b'\\":' in text:
        return False
    return max(map(len, text.split(b'":'))) <= limits.key_bytes


# --- one item ---------------------------------------------------------------------------------------------------------


def read_item(text: bytes, limits: Limits, *, is_envelope: bool = False) -> tuple[Any, tuple[str, ...]]:
    """Decode one item of known syntax in full strictness. Returns it with the flags of what had to be changed.

    Integers directly in an envelope, but for its `data`, are left to whoever knows its attributes.
    Raises Refused for what concerns this item only, Unreadable for absurd depth.
    """
    if len(text) > limits.item_bytes:
        raise Refused("event_too_large", f"an event may have {limits.item_bytes} bytes, this one has {len(text)}")
    try:
        value = decode(text)
    except UnicodeDecodeError:
        raise Refused("invalid_utf8", "the event is not valid UTF-8") from None
    except msgspec.ValidationError:
        # Without a type to check, msgspec raises it for numbers only.
        raise Refused("number_out_of_range", "a number is larger than a double can hold") from None
    except RecursionError:
        raise _absurd() from None
    bounded, flags = bound(value, limits, is_envelope=is_envelope)
    _no_duplicate_keys(text)
    return bounded, flags


def bound(value: Any, limits: Limits, *, is_envelope: bool = False) -> tuple[Any, tuple[str, ...]]:
    """Check a decoded value against the limits and repair what may be repaired, in place where it is a container.

    Strings over `string_bytes` are cut (flag `truncated`), integers outside int64 become their decimal text (flag
    `big_integer`) so that no reader rounds them. Raises Refused; Unreadable for absurd depth.
    """
    flags: set[str] = set()
    holder = [value]
    nodes, depth = 1, 0
    level: list[dict[str, Any] | list[Any]] = [holder]
    while level:
        depth += 1
        following: list[dict[str, Any] | list[Any]] = []
        for container in level:
            nodes += len(container)
            pairs = container.items() if type(container) is dict else enumerate(container)
            for key, child in list(pairs):
                if type(key) is str:
                    _check_key(key, limits)
                kind = type(child)
                if kind is dict or kind is list:
                    following.append(child)
                elif kind is int and is_envelope and depth == _ENVELOPE_DEPTH and key != "data":
                    continue
                elif (kind is str and (len(child) > limits.string_bytes // 4 or "\0" in child)) or kind is int:
                    container[key] = _bounded_scalar(child, limits, flags)  # type: ignore[call-overload,index]
        if following and depth > limits.absurd_depth:
            raise _absurd()
        level = following
    # The holder is one level and one node too many.
    if depth - 1 > limits.depth:
        raise Refused("too_deep", f"an event may be nested {limits.depth} deep, this one is nested {depth - 1} deep")
    if nodes - 1 > limits.nodes:
        raise Refused("too_many_nodes", f"an event may hold {limits.nodes} values, this one holds {nodes - 1}")
    return holder[0], tuple(sorted(flags))


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of it, in whole characters."""
    return text.encode()[:limit].decode(errors="ignore")


def _check_key(key: str, limits: Limits) -> None:
    if len(key) * 4 > limits.key_bytes and len(key.encode()) > limits.key_bytes:
        raise Refused("key_too_long", f"a key may have {limits.key_bytes} bytes, one has {len(key.encode())}")
    if "\0" in key:
        raise Refused("nul_character", "a key holds the character U+0000, which cannot be stored")


def _bounded_scalar(value: str | int, limits: Limits, flags: set[str]) -> str | int:
    if isinstance(value, int):
        if _MIN_INT64 <= value <= _MAX_INT64:
            return value
        flags.add(BIG_INTEGER)
        return str(value)
    if "\0" in value:
        raise Refused("nul_character", "a string holds the character U+0000, which cannot be stored")
    if len(value.encode()) <= limits.string_bytes:
        return value
    flags.add(TRUNCATED)
    return cut(value, limits.string_bytes)


def _no_duplicate_keys(text: bytes) -> None:
    def pairs(found: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in found}) != len(found):
            raise Refused("duplicate_key", "an object has the same key twice: it cannot be known which one is meant")

    try:
        # Numbers are not looked at here, so they need not be converted.
        json.loads(text, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except RecursionError:
        raise _absurd() from None


def _unreadable(error: Exception) -> NoReturn:
    if isinstance(error, RecursionError):
        raise _absurd() from None
    if isinstance(error, UnicodeDecodeError):
        raise Unreadable("invalid_utf8", "the body is not valid UTF-8") from None
    if isinstance(error, msgspec.ValidationError):
        raise Unreadable("not_an_array", "a batch is a JSON array of events") from None
    # msgspec names the kind of mistake and the byte, never the text around it.
    raise Unreadable("invalid_json", f"the body is not valid JSON: {error}") from None


def _absurd() -> Unreadable:
    return Unreadable("too_deep", "the body is nested too deeply to be read")
