"""What is written where, on a terminal and off it."""

import io
import json
import sys

import pytest
from ruamel.yaml import YAML

from gcos.cli.invocation import Format
from gcos.cli.output import Output, Table, has_color, layout
from testbed import samples

TABLE = Table(("NAME", ">SIZE"), (("a" * 60, "1"), ("[bold]b\x1b[31m", "100")))


class Terminal(io.StringIO):
    """Text that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make both streams a terminal; no fixture, as pytest puts its own streams back after those."""
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_off_a_terminal_a_row_is_a_line_without_escape_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Output().table(TABLE)
    assert capsys.readouterr().out.splitlines() == [
        "NAME" + " " * 57 + " SIZE",
        "a" * 60 + "     1",
        "[bold]b [31m" + " " * 51 + "100",
    ]


def test_on_a_terminal_headings_stand_out_and_long_cells_are_folded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = on_terminal(monkeypatch)
    Output().table(TABLE)
    lines = terminal.getvalue().splitlines()
    assert "\x1b[1m" in lines[0]
    assert len(lines) > 3
    assert terminal.getvalue().count("a") == 60


def test_without_color_a_terminal_gets_plain_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    Output(has_color=False).table(TABLE)
    assert "\x1b" not in terminal.getvalue()


@pytest.mark.parametrize(("environ", "is_welcome"), [({}, True), ({"NO_COLOR": ""}, True)])
def test_color_is_welcome_unless_no_color_says_otherwise(
    environ: dict[str, str], is_welcome: bool
) -> None:
    assert has_color(environ) is is_welcome
    assert not has_color({"NO_COLOR": "1"})


def test_progress_is_in_place_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    with Output().progress("asking"):
        pass
    assert "\x1b[?25l" in terminal.getvalue()  # the cursor is hidden ...
    assert "\x1b[?25h" in terminal.getvalue()  # ... and comes back


def test_progress_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().progress("asking"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_quiet_command_warns_and_says_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(is_quiet=True)
    with out.progress("asking"):
        pass
    out.say("hello")
    out.warn("look out", reason="DANGER", hint="run")
    assert capsys.readouterr().err == "warning: look out\n"


def test_yaml_is_the_same_record(capsys: pytest.CaptureFixture[str]) -> None:
    task = samples.ended(samples.task_named("1"))
    Output(format=Format.JSON).record(task)
    as_json = json.loads(capsys.readouterr().out)
    Output(format=Format.YAML).record(task)
    assert YAML(typ="safe", pure=True).load(capsys.readouterr().out) == as_json


@pytest.mark.parametrize(
    ("out", "is_record", "is_names"),
    [
        (Output(), False, False),
        (Output(is_quiet=True), False, True),
        (Output(format=Format.NAME), False, True),
        (Output(format=Format.YAML), True, False),
        (Output(format=Format.JSON, is_quiet=True), True, False),
    ],
)
def test_a_record_a_table_or_names_are_asked_for(
    out: Output, is_record: bool, is_names: bool
) -> None:
    assert (out.is_record, out.is_names) == (is_record, is_names)


WIDE = Table(
    ("ID", "WORDS", ">COUNT", "EXTRA", "MORE"),
    (("id-1", "one two three", "1000", "extra words", "more"), ("id-2", "four", "1", "", "")),
    optional=("MORE", "EXTRA"),
)


def test_a_terminal_that_is_wide_enough_shows_everything() -> None:
    placed = layout(WIDE, 46)
    assert (placed.table, placed.widths, placed.left_out) == (WIDE, (4, 13, 5, 11, 4), ())


def test_optional_columns_go_first_and_only_as_many_as_must() -> None:
    assert layout(WIDE, 44).left_out == ("MORE",)
    placed = layout(WIDE, 26)
    assert placed.table.columns == ("ID", "WORDS", ">COUNT")
    assert placed.table.rows[0] == ("id-1", "one two three", "1000")
    assert placed.left_out == ("MORE", "EXTRA")


def test_then_prose_is_folded_between_words_and_numbers_and_ids_stay_whole() -> None:
    assert layout(WIDE, 22).widths == (4, 9, 5)
    assert layout(WIDE, 18).widths == (4, 5, 5)
    assert layout(WIDE, 17).widths is None


def test_what_was_left_out_is_told_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    Output().table(WIDE)
    assert terminal.getvalue().endswith("(a wider terminal also shows MORE)\n")


def test_prose_is_folded_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a sentence that is longer than a narrow terminal is wide"
    Output().prose([text])
    assert capsys.readouterr().out == f"{text}\n"
    terminal = on_terminal(monkeypatch)
    Output().prose([text])
    assert terminal.getvalue() == "a sentence that is longer than a narrow\n  terminal is wide\n"


def test_json_has_the_fields_of_the_record_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = samples.ended(samples.task_named("1"))
    Output(format=Format.JSON).record(task)
    document = json.loads(capsys.readouterr().out)
    assert list(document) == list(type(task).__dataclass_fields__)
    assert document["state"] == "SUCCEEDED"
    assert document["fence"] == {"origin_epoch": 1, "attempt": 1}
