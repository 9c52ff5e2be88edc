"""The JSON Schema (draft 2020-12) of task documents, read off the table that the parser uses.

The schema takes everything that the parser takes. It refuses what can be told by shape, pattern and
range; what needs a clock, a byte count or two fields at once is left to the parser. Defaults and
descriptions come from the record that a section builds: the defaults of its fields, and the
`Attributes:` of its docstring.
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from gcos.artifacts import ARTIFACT_NAME, PATH_BYTES_MAX
from gcos.shapes import (
    COMMAND_BYTES_MAX,
    DURATION,
    ENV_COUNT_MAX,
    ENV_VALUE_BYTES_MAX,
    LIST_COUNT_MAX,
    TIMESTAMP,
    VARIABLE,
    ArtifactReference,
    Choice,
    Command,
    Flag,
    Instant,
    Many,
    Number,
    RelativePath,
    Row,
    Seconds,
    Section,
    Shape,
    Text,
    Variables,
    Whole,
    WorkingDirectory,
)
from gcos.spec import API_VERSION, DOCUMENT_KIND, TASK

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID: Final = "urn:gcos:v1:task"

Schema: TypeAlias = dict[str, Any]

#: No control characters, and something else than blanks: what `Text` and `Command` ask for.
_PRINTABLE: Final = r"^[^\u0000-\u001f\u007f]*[^\u0000-\u0020\u007f][^\u0000-\u001f\u007f]*$"
_NOT_BLANK: Final = r"\S"
_OFFSET: Final = r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"


def task_schema() -> Schema:
    """Return the schema of documents of kind `Task`, as JSON values."""
    return {
        "$schema": DIALECT,
        "$id": SCHEMA_ID,
        "title": f"{DOCUMENT_KIND} of {API_VERSION}",
        **schema_of(TASK),
    }


def schema_of(shape: Shape[Any]) -> Schema:
    """Return the schema of the values that `shape` takes.

    A shape of a class that is not known here takes anything.
    """
    convert = _CONVERTERS.get(type(shape))
    return {} if convert is None else convert(shape)


def is_known(shape: Shape[Any]) -> bool:
    """Tell whether the schema of `shape` says anything."""
    return type(shape) in _CONVERTERS


def _text(shape: Text) -> Schema:
    pattern = _PRINTABLE if shape.pattern is None else _whole(shape.pattern)
    schema: Schema = {
        "type": "string",
        "minLength": 1,
        "maxLength": shape.length_max,
        "pattern": pattern,
    }
    return schema if shape.pattern is None else {**schema, "description": f"{shape.wanted}."}


def _number(shape: Number) -> Schema:
    return {"type": "number", "minimum": shape.low, "maximum": shape.high}


def _integer(shape: Whole) -> Schema:
    return {"type": "integer", "minimum": shape.low, "maximum": shape.high}


def _flag(_shape: Flag) -> Schema:
    return {"type": "boolean"}


def _choice(shape: Choice[Any]) -> Schema:
    words = list(shape.members)
    return {"const": words[0]} if len(words) == 1 else {"enum": words}


def _many(shape: Many[Any]) -> Schema:
    item = schema_of(shape.item)
    many = {"type": "array", "items": item, "maxItems": LIST_COUNT_MAX, "uniqueItems": True}
    # A single scalar stands for a list of one; keys and values do not.
    return many if isinstance(shape.item, Section) else {"anyOf": [item, many]}


def _reference(_shape: ArtifactReference) -> Schema:
    pattern = rf"^(?:{ARTIFACT_NAME.pattern})(?:@sha256:[0-9a-f]{{64}})?$"
    return {"type": "string", "pattern": pattern, "description": "name or name@sha256:<64 digits>."}


def _command(_shape: Command) -> Schema:
    text = {"type": "string", "pattern": _NOT_BLANK, "maxLength": COMMAND_BYTES_MAX}
    words = {
        "type": "array",
        "prefixItems": [{"type": ["string", "number"], "pattern": _NOT_BLANK}],
        "items": {"type": ["string", "number"], "maxLength": COMMAND_BYTES_MAX},
        "minItems": 1,
    }
    return {
        "anyOf": [text, words],
        "description": "Text for /bin/sh -c, or a program and its arguments.",
    }


def _variables(_shape: Variables) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": _whole(VARIABLE)},
        "additionalProperties": {"type": ["string", "number"], "maxLength": ENV_VALUE_BYTES_MAX},
        "maxProperties": ENV_COUNT_MAX,
    }


def _instant(shape: Instant) -> Schema:
    stamp = {"allOf": [{"pattern": _whole(TIMESTAMP)}, {"pattern": _OFFSET}]}
    return {
        "type": "string",
        "anyOf": [{"pattern": _whole(DURATION)}, stamp],
        "description": f"{shape.wanted}.",
    }


def _section(shape: Section[Any]) -> Schema:
    record = _record_of(shape.build)
    texts = {} if record is None else _attribute_texts(record)
    defaults = {} if record is None else _defaults(record)
    schema: Schema = {
        "type": "object",
        "properties": {row.key: _property(row, texts, defaults) for row in shape.rows},
        "additionalProperties": False,
    }
    required = [row.key for row in shape.rows if row.is_required]
    return {**schema, "required": required} if required else schema


def _property(row: Row, texts: dict[str, str], defaults: dict[str, object]) -> Schema:
    schema = schema_of(row.shape)
    attribute = row.attribute or ""
    words = [texts.get(attribute, ""), schema.get("description", "")]
    description = " ".join(_capitalised(each) for each in words if each)
    if description:
        schema["description"] = description
    if attribute in defaults:
        default = _as_written(row.shape, defaults[attribute])
        if default is not None:
            schema["default"] = default
    return schema


def _as_written(shape: Shape[Any], value: object) -> object:
    """Return how a default is written in a document; None where it has no spelling."""
    if isinstance(shape, Choice):
        return next((word for word, member in shape.members.items() if member == value), None)
    if isinstance(shape, Many) and isinstance(value, tuple):
        return [_as_written(shape.item, item) for item in value]
    is_plain = isinstance(value, str | int | float | dict)
    return value if is_plain else None


def _record_of(build: Callable[..., object]) -> type | None:
    """Return the class of the records that a section builds; None where they are none of ours."""
    made = build if inspect.isclass(build) else typing.get_type_hints(build).get("return")
    return made if inspect.isclass(made) and dataclasses.is_dataclass(made) else None


def _defaults(record: type) -> dict[str, object]:
    defaults: dict[str, object] = {}
    for each in dataclasses.fields(record):
        if each.default is not dataclasses.MISSING:
            defaults[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            defaults[each.name] = each.default_factory()
    return defaults


def _attribute_texts(record: type) -> dict[str, str]:
    """Return what the docstring of a record says of each attribute (Google style)."""
    _, _, listed = inspect.cleandoc(record.__doc__ or "").partition("Attributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        if (start := _ATTRIBUTE.match(line)) is not None:
            name = start["name"]
            texts[name] = start["text"]
        elif line.startswith(" " * 8) and name:
            texts[name] += f" {line.strip()}"
        elif line:
            break
    return texts


def _whole(pattern: re.Pattern[str]) -> str:
    """Return a pattern of Python for the whole text in the dialect of JSON Schema (ECMA-262)."""
    return f"^(?:{_NAMED_GROUP.sub('(', pattern.pattern)})$"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


_NAMED_GROUP: Final = re.compile(r"\(\?P<[a-z_]+>")
_ATTRIBUTE: Final = re.compile(r" {4}(?P<name>[a-z_0-9]+): (?P<text>\S.*)")


def _seconds(_shape: Seconds) -> Schema:
    return {"type": "string", "pattern": _whole(DURATION)}


def _relative_path(_shape: RelativePath) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": PATH_BYTES_MAX}


def _working_directory(_shape: WorkingDirectory) -> Schema:
    return {"type": "string", "minLength": 1}


_CONVERTERS: Final[dict[type, Callable[[Any], Schema]]] = {
    Text: _text,
    Number: _number,
    Whole: _integer,
    Flag: _flag,
    Choice: _choice,
    Many: _many,
    ArtifactReference: _reference,
    Command: _command,
    Variables: _variables,
    Instant: _instant,
    Seconds: _seconds,
    RelativePath: _relative_path,
    WorkingDirectory: _working_directory,
    Section: _section,
}
