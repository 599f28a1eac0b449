"""Reads CloudEvents files as they lie about: one object, an array, or one object a line; gzipped or not; or stdin.

What is read is passed on as it is written, without decoding numbers or reordering keys: only the door judges events.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_documents = msgspec.json.Decoder(list[msgspec.Raw])
_any_json = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Item:
    """One event's JSON text and where it stands: `file:line`, or `file[index]` in an array."""

    place: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A place in a file that holds no JSON at all, and why."""

    place: str
    why: str


def read_events(path: str) -> Iterator[Item | Unreadable]:
    """The events of a file, `-` being stdin. Raises OSError when it cannot be opened."""
    name = "stdin" if path == "-" else path
    with ExitStack() as opened:
        file = sys.stdin.buffer if path == "-" else opened.enter_context(Path(path).open("rb"))
        if cast(io.BufferedReader, file).peek(2)[:2] == _GZIP:
            file = cast(BinaryIO, opened.enter_context(gzip.open(file)))
        try:
            yield from _events(file, name)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield Unreadable(name, f"is not intact gzip: {error}")


def _events(file: BinaryIO, name: str) -> Iterator[Item | Unreadable]:
    """By its first line: a whole JSON value and more to come is one event a line, anything else one document."""
    first = b""
    number = 0
    for line in file:
        number += 1
        first = line.removeprefix(_BOM) if number == 1 else line
        if first.strip():
            break
    if not first.strip():
        return
    in_lines = name.removesuffix(".gz").endswith((".ndjson", ".jsonl")) or (
        not first.lstrip().startswith(b"[") and _fault(first) is None
    )
    if in_lines:
        yield from _lines(first, file, name, number)
    else:
        yield from _document(first + file.read(), name, number)


def _lines(first: bytes, file: BinaryIO, name: str, number: int) -> Iterator[Item | Unreadable]:
    yield from _line(first, f"{name}:{number}")
    for following, line in enumerate(file, number + 1):
        yield from _line(line, f"{name}:{following}")


def _line(line: bytes, place: str) -> Iterator[Item | Unreadable]:
    text = line.strip()
    if not text:
        return
    fault = _fault(text)
    yield Item(place, text) if fault is None else Unreadable(place, fault)


def _document(text: bytes, name: str, first_line: int) -> Iterator[Item | Unreadable]:
    try:
        if text.lstrip().startswith(b"["):
            for index, event in enumerate(_documents.decode(text)):
                yield Item(f"{name}[{index}]", bytes(event).strip())
            return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        yield Unreadable(name, f"is not JSON: {error}")
        return
    fault = _fault(text)
    yield Item(f"{name}:{first_line}", text.strip()) if fault is None else Unreadable(f"{name}:{first_line}", fault)


def _fault(text: bytes) -> str | None:
    """Why this is no JSON value, or None."""
    try:
        _any_json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"is not JSON: {error}"
    return None
