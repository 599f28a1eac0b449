"""YAML or JSON text as a tree of nodes that know their line, so that a bad flow definition can be answered with it.

Pure: no framework is imported here. `read` is safe for text from strangers: bounded in size, depth and number of
nodes (aliases counted as often as they are used), no tags, no merge keys, no duplicate keys. Scalars follow the core
schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): `on` and `no` are text, `22:30` is no number.
Neighbour: `definitions` turns the tree into a `FlowDefinition`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # public by use, absent from typeshed
from typing import Any, Literal

import yaml

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 10_000
MAX_ALIASES = 100

Kind = Literal["mapping", "list", "text", "integer", "number", "boolean", "null"]

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true", "True", "TRUE", "false", "False", "FALSE"}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?[0-9]+\.[0-9]*([eE][-+]?[0-9]+)?")
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_JSON_WORDS: dict[str, Kind] = {"true": "boolean", "false": "boolean", "null": "null"}
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_UNWANTED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")

#: The parser in C where PyYAML has it. Its events differ by kind, hence the `Any` below.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a definition: its 1-based line where known, the field's path ("" = the whole text), why."""

    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.field}: {self.message}" if self.field else f"{place}{self.message}"


class UnreadableTextError(ValueError):
    """The text is no tree at all; `problem` says where and why."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(line, "", message)


@dataclass(slots=True)
class Node:
    """A value and its 1-based line. Scalars keep the spelling of the text in `text`."""

    kind: Kind
    line: int
    text: str = ""
    items: tuple[Node, ...] = ()
    #: Key, the key's line, value; in the order of the text, duplicate keys and all.
    entries: tuple[tuple[str, int, Node], ...] = ()
    size: int = 1


def read(text: str, *, is_json: bool) -> Node:
    """The text as a tree. Raises UnreadableTextError at the first thing that makes it unreadable."""
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise UnreadableTextError(None, f"is larger than {MAX_BYTES // 1024} KiB")
    unwanted = _UNWANTED.search(text)
    if unwanted:
        line = text.count("\n", 0, unwanted.start()) + 1
        raise UnreadableTextError(line, f"holds the character U+{ord(unwanted[0]):04X}, which is not allowed")
    return _JsonReader(text).document() if is_json else _YamlReader(text).document()


def unwanted_character(text: str) -> str | None:
    """The first control character or lone surrogate (escapes can smuggle one in) as `U+XXXX`, or None."""
    found = _UNWANTED.search(text) or re.search(r"[\t\n\r\x85\u2028\u2029]", text)
    return f"U+{ord(found[0]):04X}" if found else None


class _YamlReader:
    """Builds nodes from the parser's event stream, so that bounds hold before anything is expanded."""

    def __init__(self, text: str) -> None:
        self._loader = _LOADER(text)
        self._anchors: dict[str, Node | None] = {}
        self._aliases = 0
        self._nodes = 0

    def document(self) -> Node:
        try:
            self._next()  # start of stream
            if isinstance(self._loader.peek_event(), yaml.StreamEndEvent):
                raise UnreadableTextError(1, "is empty")
            self._next()  # start of document
            root = self._node(self._next(), depth=1)
            self._next()  # end of document
            following = self._next()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise UnreadableTextError(mark.line + 1 if mark else None, f"is not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise UnreadableTextError(None, f"is not YAML: {error}".splitlines()[0]) from None
        finally:
            self._loader.dispose()
        if not isinstance(following, yaml.StreamEndEvent):
            raise UnreadableTextError(_line(following), "holds a second document; one definition is one document")
        return root

    def _next(self) -> Any:
        return self._loader.get_event()

    def _node(self, event: Any, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableTextError(_line(event), f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        if event.tag is not None:
            raise UnreadableTextError(_line(event), f"uses the tag {event.tag}; tags are not allowed")
        if event.anchor is not None:
            if len(self._anchors) >= MAX_ALIASES:
                raise UnreadableTextError(_line(event), f"uses more than {MAX_ALIASES} anchors")
            self._anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(event, depth)
        else:
            node = self._mapping(event, depth)
        self._count(1, event)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _aliased(self, event: Any) -> Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise UnreadableTextError(_line(event), f"uses more than {MAX_ALIASES} aliases")
        node = self._anchors.get(event.anchor)
        if node is None:
            known = event.anchor in self._anchors
            why = "refers to itself" if known else "has no anchor before it"
            raise UnreadableTextError(_line(event), f"the alias *{event.anchor} {why}")
        self._count(node.size, event)
        return node

    def _list(self, start: Any, depth: int) -> Node:
        items = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return Node("list", _line(start), items=tuple(items), size=1 + sum(item.size for item in items))

    def _mapping(self, start: Any, depth: int) -> Node:
        entries = []
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if key.kind in ("mapping", "list"):
                raise UnreadableTextError(_line(event), "a key must be plain text")
            entries.append((key.text, _line(event), self._node(self._next(), depth + 1)))
        size = 1 + sum(1 + value.size for _, _, value in entries)
        return Node("mapping", _line(start), entries=tuple(entries), size=size)

    def _count(self, nodes: int, event: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise UnreadableTextError(_line(event), f"holds more than {MAX_NODES} values")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: Any) -> Node:
    value: str = event.value
    kind: Kind = "text"
    if event.implicit[0]:  # unquoted and untagged
        if value in _NULLS:
            kind = "null"
        elif value in _BOOLEANS:
            kind = "boolean"
        elif _INTEGER.fullmatch(value):
            kind = "integer"
        elif _NUMBER.fullmatch(value):
            kind = "number"
    return Node(kind, _line(event), text=value)


class _JsonReader:
    """RFC 8259 JSON, strictly: the parsers at hand give no lines for values and hide duplicate keys."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted_to = 0
        self._nodes = 0

    def document(self) -> Node:
        self._skip_space()
        if self._at == len(self._text):
            raise UnreadableTextError(1, "is empty")
        root = self._value(1)
        self._skip_space()
        if self._at < len(self._text):
            raise self._unreadable("something follows the definition")
        return root

    def _value(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self._unreadable(f"is nested deeper than {MAX_DEPTH} levels")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._unreadable(f"holds more than {MAX_NODES} values")
        self._skip_space()
        line, character = self._here(), self._text[self._at : self._at + 1]
        if character == "{":
            return Node("mapping", line, entries=self._members(depth))
        if character == "[":
            return Node("list", line, items=self._items(depth))
        if character == '"':
            return Node("text", line, text=self._string())
        number = _JSON_NUMBER.match(self._text, self._at)
        if number:
            self._at = number.end()
            return Node("number" if number[2] or number[3] else "integer", line, text=number[0])
        for word, kind in _JSON_WORDS.items():
            if self._text.startswith(word, self._at):
                self._at += len(word)
                return Node(kind, line, text=word)
        raise self._unreadable("a value is missing" if character else "the text ends too early")

    def _members(self, depth: int) -> tuple[tuple[str, int, Node], ...]:
        entries: list[tuple[str, int, Node]] = []
        while self._has_more("}", first=not entries):
            if self._text[self._at : self._at + 1] != '"':
                raise self._unreadable("a key in double quotes is missing")
            line, key = self._here(), self._string()
            self._expect(":")
            entries.append((key, line, self._value(depth + 1)))
        return tuple(entries)

    def _items(self, depth: int) -> tuple[Node, ...]:
        items: list[Node] = []
        while self._has_more("]", first=not items):
            items.append(self._value(depth + 1))
        return tuple(items)

    def _has_more(self, closing: str, *, first: bool) -> bool:
        """Step over the opening bracket or a comma, or over the closing bracket, which ends it."""
        if first:
            self._at += 1
        self._skip_space()
        if self._text.startswith(closing, self._at):
            self._at += 1
            return False
        if not first:
            self._expect(",")
            self._skip_space()
        return True

    def _string(self) -> str:
        try:
            value, self._at = scanstring(self._text, self._at + 1, True)
        except ValueError as error:
            message = getattr(error, "msg", "bad string")
            raise self._unreadable(f"bad string: {message.lower()}") from None
        return str(value)

    def _expect(self, character: str) -> None:
        self._skip_space()
        if not self._text.startswith(character, self._at):
            raise self._unreadable(f"{character!r} is missing")
        self._at += 1

    def _skip_space(self) -> None:
        space = _JSON_SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line

    def _unreadable(self, why: str) -> UnreadableTextError:
        known = why.startswith(("is ", "holds "))
        return UnreadableTextError(self._here(), why if known else f"is not JSON: {why}")
