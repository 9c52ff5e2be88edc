"""How errors are told."""

import io
import json
import sys

import pytest

from gcos import errors
from gcos.cli.problems import Level, Problem, leaves, problem_of, tell, wants_json
from gcos.errors import GcosError, InvalidTaskError, UnknownTaskError

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, GcosError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_refusal_has_a_reason_a_sentence_and_a_next_step(cls: type[GcosError]) -> None:
    problem = problem_of(cls("it went wrong"))
    assert problem.reason == cls.reason
    assert problem.code == cls.code
    assert problem.message == "it went wrong"
    assert problem.hint


def test_an_errors_own_hint_and_field_are_kept() -> None:
    problem = problem_of(InvalidTaskError("unknown key", field="rum", line=6, hint="mend it"))
    assert problem == Problem(
        "INVALID_ARGUMENT",
        "INVALID_TASK",
        message="line 6, rum: unknown key",
        hint="mend it",
        field="rum",
    )


def test_a_fault_of_ours_is_told_as_one() -> None:
    problem = problem_of(ZeroDivisionError("division by zero"))
    assert (problem.code, problem.message) == ("INTERNAL", "ZeroDivisionError: division by zero")
    assert "GCOS_TRACEBACK=1" in problem.hint


def test_people_get_two_lines_that_cannot_drive_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(problem_of(UnknownTaskError("no\x1b[2J\ntask", hint="see: gcos queue")), as_json=False)
    err = capsys.readouterr().err
    assert err == "error: no [2J task [UNKNOWN_TASK]\nhint: see: gcos queue\n"


def test_programs_get_an_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell(problem_of(UnknownTaskError("no\ntask", hint="see: gcos queue")), as_json=True)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line) == {
        "level": "error",
        "code": "NOT_FOUND",
        "reason": "UNKNOWN_TASK",
        "message": "no\ntask",
        "hint": "see: gcos queue",
        "field": "",
    }


class Terminal(io.StringIO):
    """Text that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_are_folded_and_addresses_stay_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    problem = problem_of(UnknownTaskError("nobody at all answers at 127.0.0.1:38835", hint="wait"))
    tell(problem, as_json=False)
    assert terminal.getvalue().splitlines() == [
        "error: nobody at all answers at",
        "  127.0.0.1:38835 [UNKNOWN_TASK]",
        "hint: wait",
    ]


@pytest.mark.parametrize("level", Level)
def test_every_line_for_programs_has_the_same_keys(
    level: Level, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(problem_of(UnknownTaskError("no task")), as_json=True, level=level)
    told = json.loads(capsys.readouterr().err)
    assert list(told) == ["level", "code", "reason", "message", "hint", "field"]
    assert told["level"] == level.value


def test_groups_are_taken_apart() -> None:
    one, two = ValueError("1"), ValueError("2")
    nested = ExceptionGroup("outer", [ExceptionGroup("inner", [one]), two])
    assert list(leaves(nested)) == [one, two]
    assert list(leaves(one)) == [one]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["-o", "json", "queue"], True),
        (["queue", "--output", "json"], True),
        (["queue", "-ojson", "--nonsense"], True),
        (["queue", "--output=json"], True),
        (["queue", "-o"], False),
        (["queue", "-o", "yaml", "json"], False),
        ([], False),
    ],
)
def test_json_is_recognised_even_where_the_line_is_wrong(words: list[str], wanted: bool) -> None:
    assert wants_json(words) is wanted
