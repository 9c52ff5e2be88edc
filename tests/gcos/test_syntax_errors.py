"""Syntax errors name the line where the mistake is, its field and the way out."""

import pytest

from gcos.document import parse_tree
from gcos.errors import InvalidTaskError

HEAD = "apiVersion: gcos/v1\nkind: Task\n"


@pytest.mark.parametrize(
    ("text", "line", "field", "hint"),
    [
        (HEAD + "deadline:1h\nrun: echo hi\n", 3, "deadline", "write deadline: 1h"),
        (HEAD + "run: echo hi\ndeadline:1h\n", 4, "deadline", "write deadline: 1h"),
        ("deadline:1h\n" + HEAD, 1, "deadline", "write deadline: 1h"),
        (
            HEAD + "resources:\n  gpu:\n    count:1\n    type: any\n",
            5,
            "resources.gpu.count",
            "write count: 1",
        ),
        (HEAD + "placement:\n  allow: [de, cal\nrun: x\n", 4, "placement.allow", "close it: [...]"),
        (HEAD + "run: x\ndata: [a, b\n", 4, "data", "close it: [...]"),
        (HEAD + "run: [a, b\n\n\nname: x\n", 3, "run", "close it: [...]"),
        (HEAD + "env: {A: b\nrun: x\n", 3, "env", "close it: {...}"),
        ('{"kind": "Task",\n"data": ["a",\n"run": "x"}\n', 2, "data", "close it: [...]"),
        (HEAD + "run: 'abc\nname: x\n", 3, "run", "close the quote"),
        (HEAD + "run: echo a: b\nname: x\n", 3, "run", "put text that has ': ' in it in quotes"),
        (
            HEAD + " name: x\nrun: y\n",
            3,
            "name",
            "let keys that belong together start in the same column",
        ),
    ],
)
def test_a_syntax_error_names_line_and_field_of_the_mistake(
    text: str, line: int, field: str, hint: str
) -> None:
    with pytest.raises(InvalidTaskError) as caught:
        parse_tree(text.encode())
    assert caught.value.message.startswith(f"line {line}, {field}: ")
    assert caught.value.hint == hint


def test_a_missing_comma_is_told_where_it_is_missed() -> None:
    with pytest.raises(InvalidTaskError, match=r"line 3.*put a ',' between the items"):
        parse_tree(b'{"kind": "Task",\n"data": ["a"]\n"run": "x"}\n')
