"""Plain values as YAML that every reader understands alike."""

import io
import re
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.representer import SafeRepresenter

#: Text that no version of YAML takes for anything else. `on`, a site of Ontario, is a truth value
#: to readers of YAML 1.1, `12:30` a number to the base of 60, and `2026-11-23` a date.
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*")
_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def yaml_text(value: object) -> str:
    """Return dictionaries, lists, text and numbers as a document of YAML."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    # The order of the fields of a record is part of what is shown.
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # annotated as None
    yaml.allow_unicode = True
    yaml.width = 1 << 20
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue().removesuffix("...\n")


class _Representer(SafeRepresenter):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002  no anchors: records are trees
        return True


def _represent_text(representer: _Representer, text: str) -> Any:
    is_plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    style = None if is_plain else '"'
    return representer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_float(representer: _Representer, number: float) -> Any:
    mantissa, exponent_mark, exponent = repr(number).partition("e")
    # Readers of YAML 1.1 take `1e-09` for text, and `1.0e-09` for a number.
    with_point = mantissa if "." in mantissa or not mantissa[-1].isdigit() else f"{mantissa}.0"
    text = _NOT_FINITE.get(mantissa, f"{with_point}{exponent_mark}{exponent}")
    return representer.represent_scalar("tag:yaml.org,2002:float", text)


_NOT_FINITE: Final = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}

_Representer.add_representer(str, _represent_text)
_Representer.add_representer(float, _represent_float)
