"""Configuration: one frozen dataclass a process, from a TOML file, the environment and options.

Later sources win: defaults, file, `GCOS_*` variables (`GCOS_X__Y` is `y` in table `x`), options.
Every error says where the value stands, which field it is, and which field is nearest.
"""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from gcos.errors import InvalidRequestError

ConfigT = TypeVar("ConfigT")

ENVIRONMENT_PREFIX: Final = "GCOS_"
_NESTING: Final = "__"
_NEAR: Final = 0.8
_MISSING: Final = re.compile(r"missing required field `(?P<name>[^`]+)`")
_PLACE: Final = re.compile(r" - at `\$(?P<path>[^`]*)`$")


def load(
    cls: type[ConfigT],
    path: Path | None,
    *,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> ConfigT:
    """Return the configuration of class `cls`.

    A variable that belongs to no field is another process's and is passed over, unless its name is
    so near to a field's that it must be a slip. Lists are given as `["a", "b"]` or `a,b`.

    Args:
        cls: A frozen dataclass; nested dataclasses are tables.
        path: TOML file; None: none.
        environ: Environment, of which `GCOS_*` is read.
        overrides: Options by field; None stands for an option that was not given.

    Raises:
        InvalidRequestError: The file cannot be read, a key is unknown, or a value does not fit.
    """
    values = _file_values(path)
    source = "options" if path is None else str(path)
    _check_keys(values, cls, source=source, place="")
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            _set_variable(values, cls, name, text)
    for key, value in (overrides or {}).items():
        if value is not None:
            values[key] = value
    _check_keys(values, cls, source="options", place="")
    config: ConfigT = _converted(values, cls, source=source)
    return config


def _file_values(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise InvalidRequestError(
            f"configuration file {path} does not exist", hint="check --config"
        ) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"{path} is no TOML: {exc}") from exc
    except OSError as exc:
        raise InvalidRequestError(f"{path} cannot be read: {exc.strerror}") from exc


def _set_variable(values: dict[str, Any], cls: type, name: str, text: str) -> None:
    """Put the value of one variable into `values`, under the field that its name spells."""
    keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split(_NESTING)
    hint: object = cls
    table = values
    for depth, key in enumerate(keys):
        element = _mapping_value(hint)
        if element is None:
            fields = _field_hints(hint)
            if key not in fields:
                if depth == 0 and not difflib.get_close_matches(key, fields, 1, _NEAR):
                    return
                raise _unknown_key(name, key, fields)
            element = fields[key]
        hint = element
        if depth < len(keys) - 1:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise InvalidRequestError(f"{name}: {key} is no table", field=key)
    table[keys[-1]] = _converted(_structure(text, hint), hint, source=name, is_text=True)


def _structure(text: str, hint: object) -> object:
    """Return `text`, or the list or table that it spells where `hint` asks for one."""
    origin = typing.get_origin(_required(hint))
    if origin not in (tuple, list) and _mapping_value(hint) is None and not _is_record(hint):
        return text
    stripped = text.strip()
    if stripped.startswith(("[", "{")):
        try:
            return tomllib.loads(f"value = {stripped}")["value"]
        except tomllib.TOMLDecodeError:
            return text
    return [part.strip() for part in stripped.split(",")] if stripped else []


def _converted(value: object, hint: Any, *, source: str, is_text: bool = False) -> Any:
    try:
        return msgspec.convert(value, hint, strict=not is_text, dec_hook=_decode_other)
    except msgspec.ValidationError as exc:
        place = _PLACE.search(str(exc))
        field = place["path"].removeprefix(".") if place else ""
        problem = _PLACE.sub("", str(exc))
        missing = _MISSING.search(problem)
        if missing is not None:
            name = missing["name"]
            raise InvalidRequestError(
                f"{source}: {name} is missing",
                field=name,
                hint=f"give --{name.replace('_', '-')}, {ENVIRONMENT_PREFIX}{name.upper()}"
                " or the key in the configuration file",
            ) from exc
        where = f"{source}: {field}" if field else source
        raise InvalidRequestError(f"{where}: {_lowered(problem)}", field=field) from exc
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            f"{source}: {exc.message}", field=exc.field, hint=exc.hint
        ) from exc


def _decode_other(cls: type, value: object) -> object:
    if cls is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    raise TypeError(f"Expected `{cls.__name__}`, got `{type(value).__name__}`")


def _check_keys(value: object, hint: object, *, source: str, place: str) -> None:
    """Refuse keys that no field has, at any depth."""
    hint = _required(hint)
    if _is_record(hint) and isinstance(value, dict):
        fields = _field_hints(hint)
        for key, inner in value.items():
            if key not in fields:
                raise _unknown_key(source, f"{place}{key}", [f"{place}{name}" for name in fields])
            _check_keys(inner, fields[key], source=source, place=f"{place}{key}.")
    elif isinstance(value, dict) and (element := _mapping_value(hint)) is not None:
        for key, inner in value.items():
            _check_keys(inner, element, source=source, place=f"{place}{key}.")
    elif isinstance(value, list) and typing.get_origin(hint) in (tuple, list):
        for index, inner in enumerate(value):
            element = typing.get_args(hint)[0]
            _check_keys(inner, element, source=source, place=f"{place.rstrip('.')}[{index}].")


def _unknown_key(source: str, key: str, known: typing.Iterable[str]) -> InvalidRequestError:
    names = sorted(known)
    nearest = difflib.get_close_matches(key, names, 1)
    return InvalidRequestError(
        f"{source}: {key!r} is no field",
        field=key,
        hint=f"did you mean {nearest[0]!r}?" if nearest else f"fields are {', '.join(names)}",
    )


def _field_hints(hint: object) -> dict[str, object]:
    """Return the fields of a dataclass and their types; nothing for other types."""
    hint = _required(hint)
    if not _is_record(hint):
        return {}
    hints = typing.get_type_hints(hint)
    return {field.name: hints[field.name] for field in dataclasses.fields(typing.cast(Any, hint))}


def _is_record(hint: object) -> bool:
    hint = _required(hint)
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _mapping_value(hint: object) -> object | None:
    """Return V of `dict[str, V]`; None for other types."""
    hint = _required(hint)
    return typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None


def _required(hint: object) -> object:
    """Return `hint` without `| None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member is not types.NoneType]
        return members[0] if len(members) == 1 else hint
    return hint


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]
