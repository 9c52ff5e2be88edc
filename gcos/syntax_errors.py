"""Where a YAML document went wrong, in which field, and the likeliest way out. Pure.

A parser complains where it can go on no longer, which is often a line or more after the mistake: a
bracket that is never closed is missed at the next key, a key without its blank at the next colon.
"""

import re
from typing import Final

from ruamel.yaml.error import MarkedYAMLError

from gcos.errors import InvalidTaskError


def syntax_error(text: str, error: MarkedYAMLError) -> InvalidTaskError:
    """Return what to tell of text that is no YAML; it names the line of the mistake and its field.

    Args:
        text: The document.
        error: What the parser found, with the places where it began and where it gave up.
    """
    problem = str(error.problem or error.context or "not valid YAML")[:200]
    mark = error.problem_mark or error.context_mark
    line = int(mark.line) + 1 if mark else 0
    column = int(mark.column) if mark else 0
    begun = int(error.context_mark.line) + 1 if error.context_mark else line
    lines = text.splitlines()
    message, hint = problem, _hint(problem)
    if glued := _glued_key(lines, problem, line=line, column=column, begun=begun):
        line = glued
        key, value = _GLUED.match(lines[line - 1]).group("key", "value")  # type: ignore[union-attr]
        message = f"a blank is missing after '{key}:'"
        hint = f"write {key}: {value[:40].strip()}"
    elif "could not find expected ':'" in problem:
        line = begun
    elif "mapping values are not allowed" in problem and _is_shifted(lines, line):
        message = "the key stands further to the right than the one above"
        hint = "let keys that belong together start in the same column"
    elif "unexpected end of stream" in problem:
        line, message = begun, "the quote that is opened here is never closed"
    elif "expected ',' or" in problem and _is_unclosed(lines, problem, line=line, begun=begun):
        bracket = "[" if "sequence" in str(error.context) else "{"
        line, message = begun, f"the bracket '{bracket}' that is opened here is never closed"
        hint = f"close it: {'[...]' if bracket == '[' else '{...}'}"
    return InvalidTaskError(message, field=field_at(lines, line), line=line, hint=hint)


def field_at(lines: list[str], line: int) -> str:
    """Return the dotted field whose key stands in a line of block style; empty where none does.

    Args:
        lines: The document.
        line: From 1.
    """
    if not 0 < line <= len(lines):
        return ""
    own = _KEY.match(lines[line - 1])
    if own is None:
        return ""
    path, indent = [own["key"]], len(own["indent"])
    for above in reversed(lines[: line - 1]):
        match = _KEY.match(above)
        is_parent = match is not None and not _BLANK.match(above) and _OPEN.fullmatch(above)
        if match is not None and is_parent and len(match["indent"]) < indent:
            path.append(match["key"])
            indent = len(match["indent"])
    return ".".join(reversed(path))


def _glued_key(lines: list[str], problem: str, *, line: int, column: int, begun: int) -> int:
    """Return the line of a key that runs into its value, as in `deadline:1h`; 0 where none does."""
    if "could not find expected ':'" in problem:
        return begun if _GLUED.match(_at(lines, begun)) else 0
    if "mapping values are not allowed" not in problem or _at(lines, line).find(":") != column:
        return 0
    above = _line_above(lines, line)
    return above if _GLUED.match(_at(lines, above)) else 0


def _is_shifted(lines: list[str], line: int) -> bool:
    """Tell whether a key is indented below one that has its value already."""
    above = _at(lines, _line_above(lines, line))
    key, upper = _KEY.match(_at(lines, line)), _KEY.match(above)
    if key is None or upper is None or _OPEN.fullmatch(above):
        return False
    return len(key["indent"]) > len(upper["indent"])


def _line_above(lines: list[str], line: int) -> int:
    """Return the last line before `line` that says something, from 1; 0 where none does."""
    return next((n for n in range(line - 1, 0, -1) if not _BLANK.match(lines[n - 1])), 0)


def _is_unclosed(lines: list[str], problem: str, *, line: int, begun: int) -> bool:
    """Tell whether a bracket is never closed; otherwise something inside it is wrong."""
    if any(f"got '{end}'" in problem for end in ("<stream end>", "]", "}")):
        return True
    key = _KEY.match(_at(lines, line))
    opened = _at(lines, begun)
    indent = len(opened) - len(opened.lstrip())
    is_next_key = key is not None and len(key["indent"]) <= indent
    return line > begun and "got ':'" in problem and is_next_key


def _at(lines: list[str], line: int) -> str:
    return lines[line - 1] if 0 < line <= len(lines) else ""


def _hint(problem: str) -> str:
    """Return the likeliest way out of what the parser complains about."""
    hints = (hint for words, hint in _HINTS if words in problem)
    return next(hints, "it must be valid YAML 1.2 or JSON; look at the indentation and quotes")


#: What to do by what the parser says, the first that fits.
_HINTS: Final = (
    ("mapping values are not allowed", "put text that has ': ' in it in quotes"),
    ("'\\t'", "indent with spaces, not with tabs"),
    ("cannot start any token", "put text that starts with such a character in quotes"),
    ("unexpected end of stream", "close the quote"),
    ("could not find expected ':'", "write a ': ' after the key, or indent the text below it"),
    ("expected <block end>", "let keys that belong together start in the same column"),
    ("expected ',' or", "close the bracket, or put a ',' between the items"),
)
_KEY: Final = re.compile(
    r"""(?P<indent>\s*(?:- +)?)["']?(?P<key>[A-Za-z_][A-Za-z0-9_]*)["']?\s*:"""
)
_GLUED: Final = re.compile(r"\s*(?:- +)?(?P<key>[A-Za-z_][A-Za-z0-9_]*):(?P<value>[^\s:/].*)")
#: A key whose value stands in the lines below it.
_OPEN: Final = re.compile(r"[^#]*:\s*(#.*)?")
_BLANK: Final = re.compile(r"\s*(#|$)")
