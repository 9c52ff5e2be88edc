"""Shapes of values in task documents: what each must look like, and what to write instead.

Shapes read nodes of `gcos.document`, so every complaint names its line and its dotted field, and
ends with the next step: the nearest thing that would have been right.
"""

import contextlib
import difflib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar, Generic, Protocol, TypeVar

from gcos.artifacts import checked_path, parse_reference
from gcos.document import Mapping, Node, Scalar, Sequence, clipped
from gcos.errors import InvalidRequestError, InvalidTaskError
from gcos.spellings import in_words, meant_duration, meant_number, plain

NAME_LENGTH_MAX = 200
COMMAND_BYTES_MAX = 64 * 1024
ENV_COUNT_MAX = 256
ENV_VALUE_BYTES_MAX = 32 * 1024
LIST_COUNT_MAX = 64
DURATION_DAYS_MAX = 3650.0
#: From here on a duration without its unit is taken for seconds, in a hint.
SECONDS_MEANT_MIN = 100

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
DURATION = re.compile(r"(?P<count>[0-9]{1,12}(\.[0-9]{1,9})?)(?P<unit>[smhd])")
TIMESTAMP = re.compile(  # RFC 3339, section 5.6; the offset is asked for in a message of its own
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r"(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_DURATION_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

ValueT = TypeVar("ValueT")
ValueT_co = TypeVar("ValueT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands.

    Attributes:
        path: Dotted field; empty at the top.
        submitted_s: World instant that durations count from.
        known_paths: Every dotted field of the format, for a key that stands in another section.
    """

    path: str
    submitted_s: float
    known_paths: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The last key of the path."""
        return self.path.rpartition(".")[2].partition("[")[0]

    def under(self, key: str) -> "Place":
        """Return the place of `key` below this one."""
        return replace(self, path=f"{self.path}.{key}" if self.path else key)

    def item(self, index: int) -> "Place":
        """Return the place of an item of the list that stands here."""
        return replace(self, path=f"{self.path}[{index}]")


class Shape(Protocol[ValueT_co]):
    """What a value must look like."""

    def parse(self, node: Node, at: Place) -> ValueT_co:
        """Return the value of `node`.

        Raises:
            InvalidTaskError: It has another shape or breaks a limit.
        """


@dataclass(frozen=True, slots=True)
class Text:
    """A line of printable text.

    Attributes:
        length_max: Characters.
        pattern: What the whole text must match; None: anything printable.
        wanted: The pattern in words.
        example: A text that is taken.
    """

    length_max: int = NAME_LENGTH_MAX
    pattern: re.Pattern[str] | None = None
    wanted: str = "text"
    example: str = "nightly-tune"

    def parse(self, node: Node, at: Place) -> str:
        """Return the text."""
        text = _text(node, at, wanted=self.wanted, example=self.example)
        if not text.strip() or len(text) > self.length_max:
            wanted = f"1 to {self.length_max} characters that are not all blank"
            raise _error(
                f"wanted {wanted}, found {len(text)} characters"
                if text.strip()
                else f"wanted {wanted}, found {clipped(text)}",
                node,
                at,
                hint="shorten it" if text.strip() else "write something, or remove the key",
            )
        if not text.isprintable():
            raise _error(
                "line breaks and control characters are refused",
                node,
                at,
                hint="write plain text on one line",
            )
        if self.pattern is not None and self.pattern.fullmatch(text) is None:
            raise _error(
                f"wanted {self.wanted}, found {clipped(text)}",
                node,
                at,
                hint=f"for example: {_written(at, self.example)}",
            )
        return text


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within closed bounds."""

    low: float
    high: float

    def parse(self, node: Node, at: Place) -> float:
        """Return the number."""
        value = node.value if isinstance(node, Scalar) else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        wanted = f"a number from {self.low:g} to {self.high:g}"
        if not is_number:
            raise _mismatch(wanted, node, at, hint=_number_hint(node, at, self.low, self.high))
        assert isinstance(value, int | float), "asked above"
        if not (math.isfinite(value) and self.low <= value <= self.high):
            raise _mismatch(wanted, node, at, hint=_bound_hint(value, self.low, self.high))
        return float(value)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within closed bounds; `2e9` is one."""

    low: int
    high: int

    def parse(self, node: Node, at: Place) -> int:
        """Return the number."""
        value = node.value if isinstance(node, Scalar) else None
        wanted = f"a whole number from {self.low} to {self.high}"
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, float):
            near = round(value) if math.isfinite(value) else self.low
            hint = _bound_hint(value, self.low, self.high)
            is_within = self.low <= near <= self.high
            hint = f"round it: {_written(at, str(near))}" if is_within else hint
            raise _mismatch(wanted, node, at, hint=hint)
        if not isinstance(value, int) or isinstance(value, bool):
            raise _mismatch(wanted, node, at, hint=_number_hint(node, at, self.low, self.high))
        if not self.low <= value <= self.high:
            raise _mismatch(wanted, node, at, hint=_bound_hint(value, self.low, self.high))
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""

    def parse(self, node: Node, at: Place) -> bool:
        """Return the truth value."""
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        meant = _FLAGS.get(node.text.lower()) if isinstance(node, Scalar) else None
        hint = f"write {_written(at, meant or 'true')}"
        raise _mismatch("true or false", node, at, hint=hint if meant else f"{hint}, or false")


@dataclass(frozen=True, slots=True)
class Choice(Generic[ValueT]):
    """One of a few words."""

    members: dict[str, ValueT]

    def parse(self, node: Node, at: Place) -> ValueT:
        """Return what the word stands for."""
        words = list(self.members)
        wanted = words[0] if len(words) == 1 else f"one of {', '.join(words)}"
        text = node.value if isinstance(node, Scalar) else None
        example = f"for example: {_written(at, words[0])}"
        if not isinstance(text, str):
            raise _mismatch(wanted, node, at, hint=example)
        if text not in self.members:
            # What to write where there is but one word, however near the text was.
            hint = (_nearest(text, words) if len(words) > 1 else "") or example
            raise _error(f"wanted {wanted}, found {clipped(text)}", node, at, hint=hint)
        return self.members[text]


@dataclass(frozen=True, slots=True)
class Many(Generic[ValueT]):
    """A list, or a single item that stands for a list of one."""

    item: Shape[ValueT]

    def parse(self, node: Node, at: Place) -> tuple[ValueT, ...]:
        """Return the items."""
        if isinstance(node, Scalar) and not isinstance(self.item, Section):
            return (self.item.parse(node, at),)
        if not isinstance(node, Sequence):
            raise _mismatch("a list", node, at, hint=self._list_hint(node, at))
        if len(node.items) > LIST_COUNT_MAX:
            raise _error(
                f"{len(node.items)} items; at most {LIST_COUNT_MAX}",
                node,
                at,
                hint="list fewer, or split the work into several tasks",
            )
        values: list[ValueT] = []
        for index, item in enumerate(node.items):
            value = self.item.parse(item, at.item(index))
            if value in values:
                raise _error("the item is repeated", item, at.item(index), hint="remove one")
            values.append(value)
        return tuple(values)

    def _list_hint(self, node: Node, at: Place) -> str:
        if isinstance(node, Mapping):
            is_section = isinstance(self.item, Section)
            return "put '- ' before its first key" if is_section else "list the names alone"
        if not isinstance(self.item, Section) or not isinstance(node, Scalar) or not node.text:
            return "write a list: '- ' before each item"
        key = next(row.key for row in self.item.rows)
        return f"write {at.key}: [{{{key}: {node.text[:40]}}}]"


@dataclass(frozen=True, slots=True)
class ArtifactReference:
    """A name, or `name@sha256:<64 hex digits>`."""

    def parse(self, node: Node, at: Place) -> str:
        """Return the reference as written."""
        text = _text(node, at, wanted="the name of an artifact", example="org/name")
        try:
            parse_reference(text, field=at.path)
        except InvalidRequestError as exc:
            raise _error(exc.message, node, at, hint=exc.hint) from exc
        return text


@dataclass(frozen=True, slots=True)
class Command:
    """Text for `/bin/sh -c`, or a program and its arguments."""

    def parse(self, node: Node, at: Place) -> tuple[str, ...]:
        """Return program and arguments."""
        if isinstance(node, Sequence):
            words = [
                _word(item, at.item(index), wanted="text") for index, item in enumerate(node.items)
            ]
            program, command = (words or [""])[0], tuple(words)
        else:
            wanted = "a command as text, or a list of its words"
            program = _text(node, at, wanted=wanted, example="python train.py")
            command = ("/bin/sh", "-c", program)
        if not program.strip():
            raise _error("the command is empty", node, at, hint="for example: run: python train.py")
        size_bytes = sum(len(word.encode()) + 1 for word in command)
        if size_bytes > COMMAND_BYTES_MAX:
            raise _error(
                f"the command has {size_bytes} bytes, the limit is {COMMAND_BYTES_MAX}",
                node,
                at,
                hint="put long scripts into a data set",
            )
        return command


@dataclass(frozen=True, slots=True)
class Variables:
    """Environment variables; numbers keep the spelling that they have in the document."""

    def parse(self, node: Node, at: Place) -> dict[str, str]:
        """Return values by name."""
        if not isinstance(node, Mapping):
            hint = f"write {at.key}: {{NAME: value}}, not NAME=value"
            raise _mismatch("names and values", node, at, hint=hint)
        if len(node.values) > ENV_COUNT_MAX:
            raise _error(
                f"{len(node.values)} variables; at most {ENV_COUNT_MAX}",
                node,
                at,
                hint="put them into a file of the workdir",
            )
        variables = {}
        for name, item in node.values.items():
            if VARIABLE.fullmatch(name) is None:
                raise InvalidTaskError(
                    f"{clipped(name)} is no name of a variable",
                    field=at.path,
                    line=node.key_lines[name],
                    hint="use letters, digits and '_', and no digit first",
                )
            value = _word(item, at.under(name), wanted="text")
            if len(value.encode()) > ENV_VALUE_BYTES_MAX:
                raise _error(
                    f"longer than {ENV_VALUE_BYTES_MAX} bytes",
                    item,
                    at.under(name),
                    hint="put it into a file of the workdir",
                )
            variables[name] = value
        return variables


@dataclass(frozen=True, slots=True)
class Instant:
    """A time stamp of RFC 3339 with its offset, or a duration from the submission."""

    wanted: ClassVar[str] = (
        "a duration such as 6h, or a time with its offset such as 2026-11-23T14:05:00Z"
    )

    def parse(self, node: Node, at: Place) -> float:
        """Return the instant, world seconds since the epoch."""
        text = _span_text(node, at, wanted=self.wanted, example="6h", unit="h")
        if (duration := DURATION.fullmatch(text)) is not None:
            length_s = float(duration["count"]) * _DURATION_UNIT_S[duration["unit"]]
            if length_s > DURATION_DAYS_MAX * _DURATION_UNIT_S["d"]:
                raise _error(
                    f"longer than {DURATION_DAYS_MAX:g} days",
                    node,
                    at,
                    hint=f"give a shorter one, such as 30d, or remove {at.key}:",
                )
            return at.submitted_s + length_s
        stamp = TIMESTAMP.fullmatch(text)
        if stamp is None:
            raise _mismatch(self.wanted, node, at, hint=_span_hint(text, at, "6h"))
        if stamp["offset"] is None:
            raise _error(
                f"{clipped(text)} has no offset from UTC",
                node,
                at,
                hint="append Z for UTC, or an offset such as +02:00",
            )
        try:
            return datetime.fromisoformat(text.upper()).timestamp()
        except (ValueError, OverflowError) as exc:
            raise _error(
                f"there is no such time as {clipped(text)}",
                node,
                at,
                hint="check month, day and hour",
            ) from exc


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration such as `5m`, within limits."""

    least_s: float
    most_s: float

    def parse(self, node: Node, at: Place) -> float:
        """Return the duration, seconds."""
        text = _span_text(node, at, wanted="a duration such as 5m", example="5m", unit="s")
        duration = DURATION.fullmatch(text)
        if duration is None:
            raise _mismatch("a duration such as 5m", node, at, hint=_span_hint(text, at, "5m"))
        length_s = float(duration["count"]) * _DURATION_UNIT_S[duration["unit"]]
        if not self.least_s <= length_s <= self.most_s:
            nearest_s = min(max(length_s, self.least_s), self.most_s)
            raise _error(
                f"{clipped(text)} is not between {self.least_s:g} s and {self.most_s:g} s",
                node,
                at,
                hint=f"the nearest that is taken: {nearest_s:g}s",
            )
        return length_s


@dataclass(frozen=True, slots=True)
class RelativePath:
    """A path that stays inside the directory it is relative to."""

    def parse(self, node: Node, at: Place) -> str:
        """Return the path."""
        text = _text(node, at, wanted="a relative path", example="metrics.json").rstrip("/")
        try:
            return checked_path(text, field=at.path)
        except InvalidRequestError as exc:
            raise _error(exc.message, node, at, hint=exc.hint) from exc


@dataclass(frozen=True, slots=True)
class WorkingDirectory:
    """A directory of the submitter's machine (`./here`, `/there`), or an artifact's reference."""

    def parse(self, node: Node, at: Place) -> str:
        """Return the text as written."""
        text = _text(node, at, wanted="a directory or the name of an artifact", example="./code")
        if is_local_directory(text):
            return text
        try:
            return ArtifactReference().parse(node, at)
        except InvalidTaskError as exc:
            exc.hint = f"a directory of your machine begins with ./ or /; else {exc.hint}"
            raise


@dataclass(frozen=True, slots=True)
class Row:
    """A key of a section.

    Attributes:
        key: As written in documents.
        attribute: Argument of the section's `build` that it sets; None: checked and dropped.
        shape: What its value must look like.
        is_required: The section is incomplete without it.
    """

    key: str
    attribute: str | None
    shape: Shape[object]
    is_required: bool = False


@dataclass(frozen=True, slots=True)
class Section(Generic[ValueT]):
    """Keys and values.

    Attributes:
        rows: Its keys.
        build: Called with the values of the keys that are present, by attribute.
    """

    rows: tuple[Row, ...]
    build: Callable[..., ValueT] = field(compare=False)

    def parse(self, node: Node, at: Place) -> ValueT:
        """Return what `build` makes of the values."""
        rows = {row.key: row for row in self.rows}
        if not isinstance(node, Mapping):
            raise _mismatch("keys and values", node, at, hint=self._key_hint(node, at))
        for key, line in node.key_lines.items():
            if key not in rows:
                raise InvalidTaskError(
                    "unknown key",
                    field=at.under(key[:60]).path,
                    line=line,
                    hint=_advice(key, rows, at),
                )
        values: dict[str, object] = {}
        for row in self.rows:
            if row.key in node.values:
                value = row.shape.parse(node.values[row.key], at.under(row.key))
                if row.attribute is not None:
                    values[row.attribute] = value
            elif row.is_required:
                raise InvalidTaskError(
                    "missing",
                    field=at.under(row.key).path,
                    line=node.line,
                    hint=f"add {row.key}: {_example(row.shape)}",
                )
        return self.build(**values)

    def _key_hint(self, node: Node, at: Place) -> str:
        """Return under which key a value may have been meant to stand."""
        if isinstance(node, Scalar) and node.value is not None:
            for row in self.rows:
                with contextlib.suppress(InvalidTaskError):
                    row.shape.parse(node, at.under(row.key))
                    return f"did you mean {_written(at, f'{{{row.key}: {node.text[:40]}}}')}?"
        return f"its keys: {', '.join(row.key for row in self.rows)}"


def is_local_directory(workdir: str) -> bool:
    """Tell whether `workdir` is a directory of the submitter's machine, not an artifact."""
    return workdir.startswith(("/", "./", "../", "~")) or workdir in {".", ".."}


def _text(node: Node, at: Place, *, wanted: str, example: str = "") -> str:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    if isinstance(node, Scalar) and node.text and node.value is not None:
        hint = f"put it in quotes: {_written(at, json.dumps(node.text[:40]))}"
    elif isinstance(node, Scalar):
        hint = _NOTHING_HINT
    else:
        hint = f"for example: {_written(at, example)}" if example else "write plain text"
    raise _error(f"wanted {wanted}, found {found_in(node)}", node, at, hint=hint)


def _written(at: Place, value: str) -> str:
    """Return how `value` is written at a place: under its key, or alone where it is an item."""
    return value if at.path.endswith("]") or not at.key else f"{at.key}: {value}"


def _span_text(node: Node, at: Place, *, wanted: str, example: str, unit: str) -> str:
    """Return the text of a duration; a bare number lacks its unit, most likely `unit`."""
    if isinstance(node, Scalar) and isinstance(node.value, int | float):
        is_count = not isinstance(node.value, bool) and DURATION.fullmatch(f"{node.text}h")
        hint = f"add its unit (s, m, h or d), such as {_counted(node, unit)}" if is_count else ""
        raise _mismatch(wanted, node, at, hint=hint or f"for example: {_written(at, example)}")
    return _text(node, at, wanted=wanted, example=example)


def _counted(node: Scalar, unit: str) -> str:
    """Return a bare number as a duration; what is large was most likely meant in seconds."""
    assert isinstance(node.value, int | float), "asked by the caller"
    if node.value < SECONDS_MEANT_MIN:
        return f"{node.text}{unit}"
    return f"{node.text}s ({in_words(node.value)})"


def _span_hint(text: str, at: Place, example: str) -> str:
    if meant := meant_duration(text):
        return f"did you mean {meant}?"
    if _DATE.fullmatch(text.strip()):
        return f"add time and offset: {_written(at, text.strip() + 'T18:00:00Z')}"
    return f"for example: {_written(at, example)}"


def _number_hint(node: Node, at: Place, low: float, high: float) -> str:
    """Return a number that a text may mean, or one that would be taken."""
    if isinstance(node, Scalar) and isinstance(node.value, str):
        meant = meant_number(node.value)
        if meant is not None and low <= meant <= high:
            return f"did you mean {plain(meant)}, without quotes?"
    return f"for example: {_written(at, plain(max(low, 1.0)))}"


def _bound_hint(value: float, low: float, high: float) -> str:
    if math.isnan(value) or math.isinf(value):
        return "write a plain number"
    return f"write {plain(low)} or more" if value < low else f"write {plain(high)} or less"


def _example(shape: Shape[object]) -> str:
    """Return a value of a key that is required."""
    if isinstance(shape, Choice):
        return str(next(iter(shape.members)))
    return "metrics.json" if isinstance(shape, RelativePath) else "python train.py"


def _word(node: Node, at: Place, *, wanted: str) -> str:
    """Return a text or the spelling of a number, where both mean the same to a command."""
    is_number = (
        isinstance(node, Scalar)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
    )
    if is_number:
        assert isinstance(node, Scalar), "asked above"
        return node.text
    return _text(node, at, wanted=wanted)


def found_in(node: Node) -> str:
    """Return what stands at a node, in words."""
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "keys and values"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, str):
        return f"the text {clipped(node.value)}"
    return node.text


def _mismatch(wanted: str, node: Node, at: Place, *, hint: str) -> InvalidTaskError:
    if isinstance(node, Scalar) and node.value is None:
        hint = _NOTHING_HINT
    return _error(f"wanted {wanted}, found {found_in(node)}", node, at, hint=hint)


def _error(message: str, node: Node, at: Place, *, hint: str) -> InvalidTaskError:
    return InvalidTaskError(message, field=at.path, line=node.line, hint=hint)


def _nearest(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word[:80].lower(), words, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _advice(key: str, rows: dict[str, Row], at: Place) -> str:
    """Return where an unknown key may have been meant to stand."""
    if nearest := _nearest(key, list(rows)):
        return nearest
    elsewhere = [path for path in at.known_paths if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known keys: {', '.join(rows)}"


def paths_of(rows: tuple[Row, ...], prefix: str = "") -> Iterator[str]:
    """Yield the dotted fields of a section's keys and of the sections below them."""
    for row in rows:
        yield prefix + row.key
        if isinstance(row.shape, Section):
            yield from paths_of(row.shape.rows, f"{prefix}{row.key}.")


_NOTHING_HINT = "give it a value or remove the key"
_FLAGS = dict.fromkeys(["yes", "on", "y", "1", "true"], "true") | dict.fromkeys(
    ["no", "off", "n", "0", "false"], "false"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
