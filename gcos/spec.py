"""Task documents: the table of their fields, and how a `TaskSpec` is made of one.

`TASK` is the whole format as data: each row names a key, the attribute that it sets, and the shape
of its value with its limits. Shapes read nodes of `gcos.document`, so every complaint names its
line and its dotted field. Nothing is guessed: an unknown key, a wrong type or a number out of range
is refused, with the nearest thing that would have been right.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import ClassVar, Generic, Protocol, TypeVar

from gcos.artifacts import checked_path, parse_reference
from gcos.document import Mapping, Node, Scalar, Sequence, clipped, parse_tree
from gcos.errors import InvalidRequestError, InvalidTaskError
from gcos.tasks import (
    Disconnect,
    GpuRequest,
    Output,
    OutputKind,
    Placement,
    Reconcile,
    Retry,
    RetryCause,
    TaskSpec,
    Work,
    WorkKind,
)

API_VERSION = "gcos/v1"
DOCUMENT_KIND = "Task"

NAME_LENGTH_MAX = 200
COMMAND_BYTES_MAX = 64 * 1024
ENV_COUNT_MAX = 256
ENV_VALUE_BYTES_MAX = 32 * 1024
LIST_COUNT_MAX = 64
DURATION_DAYS_MAX = 3650.0
LOST_AFTER_MIN_S = 3.0
LOST_AFTER_MAX_S = 7 * 86400.0

REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
DURATION = re.compile(r"(?P<count>[0-9]{1,12}(\.[0-9]{1,9})?)(?P<unit>[smhd])")
_DURATION_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_FILE_URI = re.compile(r"file:///[^?#%]{1,1000}")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}")
TIMESTAMP = re.compile(  # RFC 3339, section 5.6; the offset is asked for in a message of its own
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?"
    r"(?P<offset>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)

ValueT = TypeVar("ValueT")
EnumT = TypeVar("EnumT", bound=Enum)
ValueT_co = TypeVar("ValueT_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands.

    Attributes:
        path: Dotted field; empty at the top.
        submitted_s: World instant that durations count from.
    """

    path: str
    submitted_s: float

    def under(self, key: str) -> "Place":
        """Return the place of `key` below this one."""
        return Place(f"{self.path}.{key}" if self.path else key, self.submitted_s)

    def item(self, index: int) -> "Place":
        """Return the place of an item of the list that stands here."""
        return Place(f"{self.path}[{index}]", self.submitted_s)


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
    """

    length_max: int = NAME_LENGTH_MAX
    pattern: re.Pattern[str] | None = None
    wanted: str = "text"

    def parse(self, node: Node, at: Place) -> str:
        """Return the text."""
        text = _text(node, at, wanted=self.wanted)
        if not text.strip() or len(text) > self.length_max:
            raise _error(
                f"{len(text)} characters; 1 to {self.length_max} that are not all blank", node, at
            )
        if not text.isprintable():
            raise _error("line breaks and control characters are refused", node, at)
        if self.pattern is not None and self.pattern.fullmatch(text) is None:
            raise _error(f"wanted {self.wanted}, found {clipped(text)}", node, at)
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
            raise _mismatch(wanted, node, at)
        assert isinstance(value, int | float), "asked above"
        if not (math.isfinite(value) and self.low <= value <= self.high):
            raise _mismatch(wanted, node, at)
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
        if not isinstance(value, int) or isinstance(value, bool):
            raise _mismatch(wanted, node, at)
        if not self.low <= value <= self.high:
            raise _mismatch(wanted, node, at)
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""

    def parse(self, node: Node, at: Place) -> bool:
        """Return the truth value."""
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        raise _mismatch("true or false", node, at)


@dataclass(frozen=True, slots=True)
class Choice(Generic[ValueT]):
    """One of a few words."""

    members: dict[str, ValueT]

    def parse(self, node: Node, at: Place) -> ValueT:
        """Return what the word stands for."""
        words = list(self.members)
        wanted = words[0] if len(words) == 1 else f"one of {', '.join(words)}"
        text = _text(node, at, wanted=wanted)
        if text not in self.members:
            raise _error(
                f"wanted {wanted}, found {clipped(text)}", node, at, hint=_nearest(text, words)
            )
        return self.members[text]


@dataclass(frozen=True, slots=True)
class Many(Generic[ValueT]):
    """A list, or a single item that stands for a list of one."""

    item: Shape[ValueT]

    def parse(self, node: Node, at: Place) -> tuple[ValueT, ...]:
        """Return the items."""
        if isinstance(node, Scalar):
            return (self.item.parse(node, at),)
        if not isinstance(node, Sequence):
            raise _mismatch("a list", node, at)
        if len(node.items) > LIST_COUNT_MAX:
            raise _error(f"{len(node.items)} items; at most {LIST_COUNT_MAX}", node, at)
        values: list[ValueT] = []
        for index, item in enumerate(node.items):
            value = self.item.parse(item, at.item(index))
            if value in values:
                raise _error("the item is repeated", item, at.item(index), hint="remove one")
            values.append(value)
        return tuple(values)


@dataclass(frozen=True, slots=True)
class ArtifactReference:
    """A name, or `name@sha256:<64 hex digits>`."""

    def parse(self, node: Node, at: Place) -> str:
        """Return the reference as written."""
        text = _text(node, at, wanted="the name of an artifact")
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
            program = _text(node, at, wanted="a command as text, or a list of its words")
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
            raise _mismatch("names and values", node, at)
        if len(node.values) > ENV_COUNT_MAX:
            raise _error(f"{len(node.values)} variables; at most {ENV_COUNT_MAX}", node, at)
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
                raise _error(f"longer than {ENV_VALUE_BYTES_MAX} bytes", item, at.under(name))
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
        text = _text(node, at, wanted=self.wanted)
        if (duration := DURATION.fullmatch(text)) is not None:
            length_s = float(duration["count"]) * _DURATION_UNIT_S[duration["unit"]]
            if length_s > DURATION_DAYS_MAX * _DURATION_UNIT_S["d"]:
                raise _error(f"longer than {DURATION_DAYS_MAX:g} days", node, at)
            return at.submitted_s + length_s
        stamp = TIMESTAMP.fullmatch(text)
        if stamp is None:
            raise _mismatch(self.wanted, node, at)
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
            raise _error(f"there is no such time as {clipped(text)}", node, at) from exc


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration such as `5m`, within limits."""

    least_s: float
    most_s: float

    def parse(self, node: Node, at: Place) -> float:
        """Return the duration, seconds."""
        text = _text(node, at, wanted="a duration such as 5m")
        duration = DURATION.fullmatch(text)
        if duration is None:
            raise _mismatch("a duration such as 5m", node, at)
        length_s = float(duration["count"]) * _DURATION_UNIT_S[duration["unit"]]
        if not self.least_s <= length_s <= self.most_s:
            raise _error(
                f"{clipped(text)} is not between {self.least_s:g} s and {self.most_s:g} s", node, at
            )
        return length_s


@dataclass(frozen=True, slots=True)
class RelativePath:
    """A path that stays inside the directory it is relative to."""

    def parse(self, node: Node, at: Place) -> str:
        """Return the path."""
        text = _text(node, at, wanted="a relative path").rstrip("/")
        try:
            return checked_path(text, field=at.path)
        except InvalidRequestError as exc:
            raise _error(exc.message, node, at, hint=exc.hint) from exc


@dataclass(frozen=True, slots=True)
class WorkingDirectory:
    """A directory of the submitter's machine (`./here`, `/there`), or an artifact's reference."""

    def parse(self, node: Node, at: Place) -> str:
        """Return the text as written."""
        text = _text(node, at, wanted="a directory or the name of an artifact")
        if is_local_directory(text):
            return text
        return ArtifactReference().parse(node, at)


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
        if not isinstance(node, Mapping):
            raise _mismatch("keys and values", node, at)
        rows = {row.key: row for row in self.rows}
        for key, line in node.key_lines.items():
            if key not in rows:
                raise InvalidTaskError(
                    "unknown key", field=at.under(key[:60]).path, line=line, hint=_advice(key, rows)
                )
        values: dict[str, object] = {}
        for row in self.rows:
            if row.key in node.values:
                value = row.shape.parse(node.values[row.key], at.under(row.key))
                if row.attribute is not None:
                    values[row.attribute] = value
            elif row.is_required:
                raise InvalidTaskError(
                    "missing", field=at.under(row.key).path, line=node.line, hint=f"add {row.key}:"
                )
        return self.build(**values)


def parse_document(data: bytes, *, submitted_s: float) -> TaskSpec:
    """Return the task that a document asks for.

    Args:
        data: YAML 1.2 or JSON in UTF-8, at most 256 KiB.
        submitted_s: World instant of the submission; durations count from it.

    Raises:
        InvalidTaskError: The document is wrong; the message names line and field.
        TooLargeError: It has more than 256 KiB.
    """
    root = parse_tree(data)
    if not isinstance(root, Mapping):
        raise InvalidTaskError(
            f"wanted keys and values, found {_found(root)}",
            line=root.line,
            hint=f"start with: apiVersion: {API_VERSION} and kind: {DOCUMENT_KIND}",
        )
    spec = TASK.parse(root, Place("", submitted_s))
    if spec.work.kind is not WorkKind.CUSTOM and spec.model is None:
        raise InvalidTaskError(
            f"work of kind {spec.work.kind.value.lower().replace('_', '-')} needs a model",
            field="model",
            line=root.key_lines["work"],
            hint="add model: NAME, or use kind: custom",
        )
    _check_deadline(spec, root, submitted_s)
    _check_outputs(spec, root)
    _check_names(spec, root)
    return spec


def _check_names(spec: TaskSpec, root: Mapping) -> None:
    """Refuse variables that the agent sets itself, and two values for one."""
    for key, names in (("env", tuple(spec.env)), ("secrets", spec.secrets)):
        for name in names:
            if name.startswith("GCOS_"):
                raise InvalidTaskError(
                    f"{name} is set by the agent",
                    field=key,
                    line=root.key_lines[key],
                    hint="choose a name that does not begin with GCOS_",
                )
    both = sorted(set(spec.env) & set(spec.secrets))
    if both:
        raise InvalidTaskError(
            f"{both[0]} stands under env too",
            field="secrets",
            line=root.key_lines["secrets"],
            hint="name it once",
        )


def is_local_directory(workdir: str) -> bool:
    """Tell whether `workdir` is a directory of the submitter's machine, not an artifact."""
    return workdir.startswith(("/", "./", "../", "~")) or workdir in {".", ".."}


def _check_outputs(spec: TaskSpec, root: Mapping) -> None:
    for index, output in enumerate(spec.outputs):
        if (output.kind is OutputKind.URI) is not bool(output.uri):
            raise InvalidTaskError(
                "as: uri and uri: file:///path go together",
                field=f"outputs[{index}].uri",
                line=root.key_lines["outputs"],
                hint="give both or neither",
            )
        if ".." in output.uri.split("/"):
            raise InvalidTaskError(
                "the path has '..' in it",
                field=f"outputs[{index}].uri",
                line=root.key_lines["outputs"],
                hint="write it without '..'",
            )
        is_artifact = output.kind in (OutputKind.MODEL, OutputKind.DATA)
        if is_artifact is not bool(output.name):
            raise InvalidTaskError(
                "a model or data set needs a name" if is_artifact else "files have no name",
                field=f"outputs[{index}].name",
                line=root.key_lines["outputs"],
                hint="add name: NAME" if is_artifact else "remove it, or add as: model or as: data",
            )


def checked_request_id(text: str) -> str:
    """Return `text` if it may be a request id.

    Raises:
        InvalidRequestError: It has other characters than letters, digits, `.`, `_`, `:` and `-`.
    """
    if REQUEST_ID.fullmatch(text) is None:
        raise InvalidRequestError(
            f"{clipped(text)} is no request id", field="request_id", hint=f"use {_REQUEST_ID_WORDS}"
        )
    return text


def _check_deadline(spec: TaskSpec, root: Mapping, submitted_s: float) -> None:
    if spec.deadline_s is None:
        return
    line = root.key_lines["deadline"]
    if spec.deadline_s <= submitted_s:
        raise InvalidTaskError(
            f"lies {submitted_s - spec.deadline_s:.0f} s in the past",
            field="deadline",
            line=line,
            hint="give a later time, or a duration such as 6h",
        )
    if spec.earliest_start_s is not None and spec.deadline_s <= spec.earliest_start_s:
        raise InvalidTaskError(
            f"lies {spec.earliest_start_s - spec.deadline_s:.0f} s before earliest_start",
            field="deadline",
            line=line,
            hint="leave time between earliest_start and deadline",
        )


def _text(node: Node, at: Place, *, wanted: str) -> str:
    if isinstance(node, Scalar) and isinstance(node.value, str):
        return node.value
    hint = "put it in quotes" if isinstance(node, Scalar) and node.text else ""
    raise _error(f"wanted {wanted}, found {_found(node)}", node, at, hint=hint)


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


def _found(node: Node) -> str:
    if isinstance(node, Sequence):
        return "a list"
    if isinstance(node, Mapping):
        return "keys and values"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, str):
        return f"the text {clipped(node.value)}"
    return node.text


def _mismatch(wanted: str, node: Node, at: Place) -> InvalidTaskError:
    is_nothing = isinstance(node, Scalar) and node.value is None
    hint = "give it a value or remove the key" if is_nothing else ""
    return _error(f"wanted {wanted}, found {_found(node)}", node, at, hint=hint)


def _error(message: str, node: Node, at: Place, *, hint: str = "") -> InvalidTaskError:
    return InvalidTaskError(message, field=at.path, line=node.line, hint=hint)


def _nearest(word: str, words: list[str]) -> str:
    close = difflib.get_close_matches(word[:80].lower(), words, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _advice(key: str, rows: dict[str, Row]) -> str:
    """Return where an unknown key may have been meant to stand."""
    if nearest := _nearest(key, list(rows)):
        return nearest
    elsewhere = [path for path in _paths(TASK.rows) if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known keys: {', '.join(rows)}"


def _paths(rows: tuple[Row, ...], prefix: str = "") -> Iterator[str]:
    for row in rows:
        yield prefix + row.key
        if isinstance(row.shape, Section):
            yield from _paths(row.shape.rows, f"{prefix}{row.key}.")


def _words_of(members: type[EnumT]) -> dict[str, EnumT]:
    return {member.value.lower().replace("_", "-"): member for member in members}


def _gpu(gpu: GpuRequest | None = None) -> GpuRequest:
    return gpu or GpuRequest()


def _carbon_price(carbon_price_usd_per_kg: float | None = None) -> float | None:
    return carbon_price_usd_per_kg


def _task(name: str | None = None, work: Work | None = None, **values: object) -> TaskSpec:
    work = work or Work()
    name = name or work.kind.value.lower().replace("_", "-")
    build: Callable[..., TaskSpec] = TaskSpec
    return build(name=name, work=work, **values)


_REQUEST_ID_WORDS = "1 to 128 letters, digits, '.', '_', ':' or '-'"
_KINDS = Choice(_words_of(WorkKind))
_CAUSES = Many(Choice(_words_of(RetryCause)))
_OUTPUT_KINDS = Choice(_words_of(OutputKind))
_RECONCILE = Choice(_words_of(Reconcile))
_SITES = Many(Text(pattern=_WORD, wanted="a site or an electricity zone such as DE"))

TASK: Section[TaskSpec] = Section(
    (
        Row("apiVersion", None, Choice({API_VERSION: API_VERSION}), is_required=True),
        Row("kind", None, Choice({DOCUMENT_KIND: DOCUMENT_KIND}), is_required=True),
        Row("name", "name", Text()),
        Row("model", "model", ArtifactReference()),
        Row("data", "data", Many(ArtifactReference())),
        Row(
            "work",
            "work",
            Section(
                (
                    Row("kind", "kind", _KINDS),
                    Row("tokens", "token_count", Whole(0, 10**15)),
                    Row("epochs", "epoch_count", Number(0.001, 1e6)),
                    Row("batch", "batch_size_count", Whole(0, 10**6)),
                    Row("sequence", "sequence_token_count", Whole(0, 10**8)),
                ),
                Work,
            ),
        ),
        Row(
            "resources",
            "gpu",
            Section(
                (
                    Row(
                        "gpu",
                        "gpu",
                        Section(
                            (
                                Row("type", "type", Text(pattern=_WORD, wanted="a type or any")),
                                Row("count", "gpu_count", Whole(1, 1024)),
                            ),
                            GpuRequest,
                        ),
                    ),
                ),
                _gpu,
            ),
        ),
        Row("run", "command", Command(), is_required=True),
        Row("env", "env", Variables()),
        Row("deadline", "deadline_s", Instant()),
        Row("earliest_start", "earliest_start_s", Instant()),
        Row("max_cost_usd", "max_cost_usd", Number(0, 1e9)),
        Row("max_carbon_g", "max_carbon_gco2", Number(0, 1e12)),
        Row(
            "objective",
            "carbon_price_usd_per_kg",
            Section(
                (Row("carbon_price_usd_per_kg", "carbon_price_usd_per_kg", Number(0, 1e4)),),
                _carbon_price,
            ),
        ),
        Row(
            "placement",
            "placement",
            Section(
                (
                    Row("allow", "allow", _SITES),
                    Row("deny", "deny", _SITES),
                    Row("prefer", "prefer", _SITES),
                ),
                Placement,
            ),
        ),
        Row("project", "project", Text(pattern=_WORD, wanted="letters, digits, '.', '_' or '-'")),
        Row(
            "retry",
            "retry",
            Section(
                (
                    Row("limit", "limit_count", Whole(0, 100)),
                    Row("on", "on", _CAUSES),
                ),
                Retry,
            ),
        ),
        Row("workdir", "workdir", WorkingDirectory()),
        Row("image", "image", Text(pattern=_IMAGE, wanted="a container image")),
        Row(
            "outputs",
            "outputs",
            Many(
                Section(
                    (
                        Row("path", "path", RelativePath(), is_required=True),
                        Row("as", "kind", _OUTPUT_KINDS),
                        Row("name", "name", ArtifactReference()),
                        Row("uri", "uri", Text(pattern=_FILE_URI, wanted="file:///path")),
                    ),
                    Output,
                )
            ),
        ),
        Row(
            "secrets",
            "secrets",
            Many(Text(pattern=VARIABLE, wanted="the name of an environment variable")),
        ),
        Row("priority", "priority", Whole(-100, 100)),
        Row(
            "disconnect",
            "disconnect",
            Section(
                (
                    Row("lost_after", "lost_after_s", Seconds(LOST_AFTER_MIN_S, LOST_AFTER_MAX_S)),
                    Row("replace", "is_replaced", Flag()),
                    Row("reconcile", "reconcile", _RECONCILE),
                ),
                Disconnect,
            ),
        ),
        Row("idempotent", "is_idempotent", Flag()),
        Row("request_id", "request_id", Text(pattern=REQUEST_ID, wanted=_REQUEST_ID_WORDS)),
    ),
    _task,
)
"""The format `gcos/v1`, kind `Task` (DESIGN section 3)."""
