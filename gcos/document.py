"""YAML 1.2 or JSON text as a tree whose nodes remember their lines.

The tree is built from parser events and plain scalars are resolved here by the core schema of YAML
1.2 (yaml.org/spec/1.2.2, section 10.3.2), so `on`, `yes` and `2026-11-23` are text. Documents come
from strangers, hence the limits: without the one on depth, 200,000 opening brackets (200 kB) keep
the parser busy for minutes. Anchors, aliases, tags and repeated keys are refused.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from gcos.errors import InvalidTaskError, TooLargeError
from gcos.syntax_errors import field_at, syntax_error

DOCUMENT_BYTES_MAX = 256 * 1024
DEPTH_MAX = 16
NODE_COUNT_MAX = 20_000

#: Longest number; Python takes quadratic time to read long integers, and refuses 4300 digits.
_NUMBER_LENGTH_MAX = 40
#: Characters of a key that an error repeats; keys come from strangers.
_KEY_LENGTH_TOLD = 60

ScalarValue: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value.

    Attributes:
        value: The value by the core schema.
        text: The value as it was written, without quotes.
        line: Line where it starts, from 1.
    """

    value: ScalarValue
    text: str
    line: int


@dataclass(slots=True)
class Sequence:
    """A list of nodes; `line` is where it starts, from 1."""

    line: int
    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """Nodes by key, in the order written; `line` is where it starts, from 1."""

    line: int
    values: dict[str, "Node"] = field(default_factory=dict)
    #: Line of each key, from 1.
    key_lines: dict[str, int] = field(default_factory=dict)


Node: TypeAlias = Scalar | Sequence | Mapping


def parse_tree(data: bytes) -> Node:
    """Return the one document that `data` holds.

    Raises:
        InvalidTaskError: No UTF-8, no YAML, not exactly one document, or something refused.
        TooLargeError: More than 256 KiB.
    """
    if len(data) > DOCUMENT_BYTES_MAX:
        raise TooLargeError(
            f"the document has {len(data)} bytes, the limit is {DOCUMENT_BYTES_MAX}",
            hint="put data into artifacts; a task document only describes the work",
        )
    text = _decoded(data)
    try:
        return _composed(YAML(typ="safe", pure=True).parse(text))
    except InvalidTaskError:
        raise
    except ReaderError as exc:
        line = _line_at(text, exc.position)
        raise InvalidTaskError(
            f"the control character U+{ord(text[exc.position]):04X} has no place here",
            field=field_at(text.splitlines(), line),
            line=line,
            hint="remove it; in JSON or double quotes write an escape instead",
        ) from exc
    except MarkedYAMLError as exc:
        raise syntax_error(text, exc) from exc
    # Beside its own errors the parser lets others escape, such as ValueError for the escape
    # "\UFFFFFFFF"; whatever it stumbles over, the fault is in the text that a stranger sent.
    except Exception as exc:
        escape = _NO_CHARACTER.search(text)
        line = 0 if escape is None else _line_at(text, escape.start())
        raise InvalidTaskError(
            f"not valid YAML ({type(exc).__name__})",
            field=field_at(text.splitlines(), line),
            line=line,
            hint="look for escapes that name no character",
        ) from exc


def _decoded(data: bytes) -> str:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        raise InvalidTaskError(
            f"the file is not UTF-8: byte {exc.start} is 0x{data[exc.start]:02x}",
            line=data.count(b"\n", 0, exc.start) + 1,
            hint="save it as UTF-8",
        ) from exc
    if not text.strip():
        raise InvalidTaskError(
            "the document is empty",
            line=1,
            hint="start with: apiVersion: gcos/v1 and kind: Task",
        )
    return _json_as_yaml(text) if text.lstrip().startswith("{") else text


def _json_as_yaml(text: str) -> str:
    """Return strict JSON in a spelling that YAML parsers understand; other text as it is.

    YAML takes no tabs for indentation, and reads a pair of surrogate escapes as two halves of a
    character. Strict JSON has its raw tabs between tokens only, so neither change touches a value.
    """
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _ESCAPED_PAIR.sub(_paired_escape, text.replace("\t", " "))


def _paired_escape(match: re.Match[str]) -> str:
    halves = bytes.fromhex(match["high"] + match["low"])
    return f"{match['before']}{halves.decode('utf-16-be')}"


def _composed(events: Iterator[Event]) -> Node:
    root: Node | None = None
    builder = _Builder(events)
    for event in events:
        if isinstance(event, DocumentStartEvent) and root is not None:
            raise InvalidTaskError(
                "a second document starts here",
                line=_line(event),
                hint="submit one file for each task",
            )
        if isinstance(event, NodeEvent):
            root = builder.node(event, depth=1)
    if root is None:
        raise InvalidTaskError(
            "the document is empty",
            line=1,
            hint="start with: apiVersion: gcos/v1 and kind: Task",
        )
    return root


class _Builder:
    """Builds nodes from events and keeps count of them."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._node_count = 0
        #: Steps to the node that is being built, such as `.outputs`, `[0]`, `.path`.
        self._steps: list[str] = []

    def node(self, event: Event, *, depth: int) -> Node:
        """Return the node that starts with `event`, `depth` levels down."""
        self._check(event, depth)
        if isinstance(event, MappingStartEvent):
            return self._mapping(event, depth)
        if isinstance(event, SequenceStartEvent):
            sequence = Sequence(_line(event))
            while not isinstance(item := next(self._events), SequenceEndEvent):
                self._steps.append(f"[{len(sequence.items)}]")
                sequence.items.append(self.node(item, depth=depth + 1))
                self._steps.pop()
            return sequence
        assert isinstance(event, ScalarEvent), "aliases are refused above"
        return _scalar(event, field=self._field)

    def _mapping(self, event: MappingStartEvent, depth: int) -> Mapping:
        mapping = Mapping(_line(event))
        while not isinstance(key_event := next(self._events), MappingEndEvent):
            line = _line(key_event)
            key_node = self.node(key_event, depth=depth + 1)
            if not isinstance(key_node, Scalar):
                raise InvalidTaskError(
                    "a key must be text",
                    field=self._field,
                    line=line,
                    hint="put values after ': ', not before it",
                )
            key = key_node.text
            self._steps.append(f".{key[:_KEY_LENGTH_TOLD]}")
            if key in mapping.values:
                raise InvalidTaskError(
                    f"the key {clipped(key)} is repeated",
                    field=self._field,
                    line=line,
                    hint=f"it stands in line {mapping.key_lines[key]} already; remove one",
                )
            mapping.key_lines[key] = line
            value = self.node(next(self._events), depth=depth + 1)
            if isinstance(value, Scalar) and value.value is None:
                value = replace(value, line=line)  # an absent value starts at the next token
            mapping.values[key] = value
            self._steps.pop()
        return mapping

    @property
    def _field(self) -> str:
        """Dotted field of the node that is being built; empty for the whole document."""
        return "".join(self._steps).removeprefix(".")

    def _check(self, event: Event, depth: int) -> None:
        self._node_count += 1
        if depth > DEPTH_MAX:
            raise InvalidTaskError(
                f"nested more than {DEPTH_MAX} levels deep",
                field=self._field,
                line=_line(event),
                hint="close brackets where they end; no field needs such depth",
            )
        if self._node_count > NODE_COUNT_MAX:
            raise InvalidTaskError(
                f"more than {NODE_COUNT_MAX} values",
                field=self._field,
                line=_line(event),
                hint="shorten the document",
            )
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InvalidTaskError(
                "anchors (&) and aliases (*) are refused",
                field=self._field,
                line=_line(event),
                hint="write the value out, or put text that starts with & or * in quotes",
            )
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise InvalidTaskError(
                "tags (!) are refused",
                field=self._field,
                line=_line(event),
                hint="put text that starts with ! in quotes",
            )


def _scalar(event: ScalarEvent, *, field: str) -> Scalar:
    line, text = _line(event), event.value
    if "\0" in text:
        raise InvalidTaskError(
            "NUL is refused in text",
            field=field,
            line=line,
            hint="no file name, argument or variable holds it",
        )
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise InvalidTaskError(
            "an escape names half a character",
            field=field,
            line=line,
            hint="write the character itself, or both halves of its escape",
        ) from exc
    is_plain = event.implicit[0]
    value = _resolved(text, field=field, line=line) if is_plain else text
    return Scalar(value, text=text, line=line)


def _resolved(text: str, *, field: str, line: int) -> ScalarValue:
    """Return the value of a plain scalar by the core schema (YAML 1.2.2, table in 10.3.2)."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _NUMBER.fullmatch(text) is None:
        return text
    if len(text) > _NUMBER_LENGTH_MAX:
        raise InvalidTaskError(
            f"a number of {len(text)} characters",
            field=field,
            line=line,
            hint="put it in quotes if it is text",
        )
    if text.startswith(("0x", "0o")):
        return int(text, 0)
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def clipped(text: str) -> str:
    """Return `text` in quotes, on one line and short enough for an error message."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1


#: Two escapes that together name a character beyond U+FFFF, after an even number of backslashes.
_ESCAPED_PAIR = re.compile(
    r"(?P<before>(?<!\\)(?:\\\\)*)"
    r"\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})"
)
#: An escape beyond U+10FFFF.
_NO_CHARACTER = re.compile(r"\\U(?!00(?:0[0-9a-fA-F]|10))[0-9a-fA-F]{8}")
_CONSTANTS: dict[str, ScalarValue] = (
    dict.fromkeys(["null", "Null", "NULL", "~", ""], None)
    | dict.fromkeys(["true", "True", "TRUE"], True)
    | dict.fromkeys(["false", "False", "FALSE"], False)
)
_INTEGER = re.compile(r"[-+]?[0-9]+")
_NUMBER = re.compile(
    r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
    r"|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
