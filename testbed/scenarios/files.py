"""Reads scenarios: shipped ones by name, others from files, each as changes of a base.

A layer is a table of a shipped file of changes or a whole file. It is merged into its base: tables
key by key, everything else replaced. Then `keep_sites` and `add_sites` change the list of sites.
"""

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from gcos import config
from gcos.errors import InvalidRequestError, NotFoundError
from testbed.scenarios.records import Scenario, unknown_name

DEFAULT_NAME: Final = "default"
#: Shipped files of changes, a table for each scenario; no name stands in two of them.
_CHANGES: Final = ("variants.toml", "further.toml")
_SUFFIX: Final = ".toml"
#: Longest chain of bases; longer ones are circles or past understanding.
_DEPTH_MAX: Final = 8
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class _Layer:
    """Changes of a base.

    Attributes:
        source: Where they stand, for messages.
        name: Name of the scenario that they make.
        values: Keys and values.
        base: Name or path of what they change; None: they are complete.
    """

    source: str
    name: str
    values: Mapping[str, Any]
    base: str | Path | None


def scenario_names() -> tuple[str, ...]:
    """Return the names of the shipped scenarios, `default` first."""
    return DEFAULT_NAME, *_changes()


def load_scenario(name_or_file: str, changes: Sequence[str] = ()) -> Scenario:
    """Return the shipped scenario of that name, or the one in that file (`*.toml` or with a `/`).

    Args:
        name_or_file: Which one.
        changes: Keys with other values, such as `workload.load=0.3`; they join the name.

    Raises:
        NotFoundError: There is no shipped scenario of that name, or no such file.
        InvalidRequestError: A key is unknown, a value is missing or impossible; the message names
            the file, the key and the nearest one.
    """
    is_file = name_or_file.endswith(_SUFFIX) or "/" in name_or_file
    layers = _chain(Path(name_or_file) if is_file else name_or_file)
    for change in changes:
        layers.insert(0, _change_layer(change, layers[0].name))
    values: dict[str, Any] = {}
    scenario: Scenario | None = None
    # Each layer is judged where it is merged, so that the message names the file at fault.
    for layer in reversed(layers):
        try:
            values = _merged(values, layer)
            scenario = config.load(Scenario, None, environ={}, overrides=values)
        except InvalidRequestError as exc:
            raise _placed(exc, layer.source) from exc
    assert scenario is not None, "a chain has at least one layer"
    return scenario


def _change_layer(change: str, base: str) -> _Layer:
    """Return the layer that `a.b=VALUE` makes: a value of TOML, or a word without its quotes."""
    key, equals, text = (part.strip() for part in change.partition("="))
    value: Any = text
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if not _WORD.fullmatch(text):
            equals = ""
    if not key or not equals:
        raise InvalidRequestError(
            f"{change!r} changes nothing", field="set", hint="write it like workload.load=0.3"
        )
    values: Any = value
    for part in reversed(key.split(".")):
        values = {part: values}
    return _Layer(f"--set {change}", f"{base}+{key}={text}", values, base)


def _placed(error: InvalidRequestError, source: str) -> InvalidRequestError:
    hint = error.hint
    if hint.startswith("give --"):
        hint = f'give it, or inherit the others with base = "{DEFAULT_NAME}"'
    problem = error.message.removeprefix("options: ")
    return InvalidRequestError(f"{source}: {problem}", field=error.field, hint=hint)


def _chain(start: str | Path) -> list[_Layer]:
    """Return the layers of a scenario, the outermost first."""
    layers: list[_Layer] = []
    place: str | Path | None = start
    while place is not None:
        layer = _file_layer(place) if isinstance(place, Path) else _shipped_layer(place)
        layers.append(layer)
        place = layer.base
        if len(layers) > _DEPTH_MAX:
            raise InvalidRequestError(
                f"{layers[0].source}: more than {_DEPTH_MAX} bases follow on each other",
                field="base",
                hint="let no file be its own base",
            )
    return layers


def _shipped_layer(name: str) -> _Layer:
    if name == DEFAULT_NAME:
        return _Layer("default.toml", name, _shipped("default.toml"), base=None)
    changes = _changes()
    if name not in changes:
        names = scenario_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise NotFoundError(f"no scenario {name!r} is shipped", hint=hint)
    file, values = changes[name]
    base = values.pop("base", DEFAULT_NAME)
    return _Layer(f"{file} [{name}]", name, values, base=base)


def _file_layer(path: Path) -> _Layer:
    try:
        values = _parsed(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as exc:
        raise NotFoundError(
            f"scenario file {path} does not exist",
            hint=f"give a file or one of {', '.join(scenario_names())}",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"{path} cannot be read: {exc}") from exc
    base = values.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise InvalidRequestError(f"{path}: base: {base!r} is no name", field="base")
    if base is not None and (base.endswith(_SUFFIX) or "/" in base):
        base = path.parent / base
    return _Layer(str(path), str(values.get("name", path.stem)), values, base=base)


def _changes() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the file and the table of each shipped scenario that changes a base, by its name."""
    return {name: (file, values) for file in _CHANGES for name, values in _shipped(file).items()}


def _shipped(file: str) -> dict[str, Any]:
    text = (resources.files("testbed.scenarios") / file).read_text(encoding="utf-8")
    return _parsed(text, file)


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise InvalidRequestError(f"{source} is no TOML: {exc}") from exc


def _merged(base: Mapping[str, Any], layer: _Layer) -> dict[str, Any]:
    changes = dict(layer.values)
    keep = _list_of(changes.pop("keep_sites", None), str, "keep_sites", "site ids")
    add = _list_of(changes.pop("add_sites", None), dict, "add_sites", "tables")
    values = _deep_merged(base, changes)
    values["name"] = layer.name
    if keep is not None:
        values["site"] = _kept(values.get("site", []), keep)
    if add is not None:
        values["site"] = [*values.get("site", []), *add]
    return values


def _list_of(value: object, cls: type, name: str, what: str) -> list[Any] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, cls) for each in value):
        raise InvalidRequestError(f"{name}: this is a list of {what}", field=name)
    return value


def _kept(sites: list[dict[str, Any]], keep: list[str]) -> list[dict[str, Any]]:
    known = [str(site["id"]) for site in sites]
    for site_id in keep:
        if site_id not in known:
            raise unknown_name("keep_sites", "site of the base", site_id, known)
    return [site for site in sites if site["id"] in keep]


def _deep_merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes`: tables are merged key by key, other values are replaced."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _deep_merged(before, value)
        else:
            merged[key] = value
    return merged
