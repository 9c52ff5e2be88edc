"""What is written where, on a terminal and off it."""

import io
import json
import sys

import pytest

from gcos.cli.invocation import Format
from gcos.cli.output import Output, Table, has_color
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
    with Output().progress("asking") as progress:
        progress.tell("still asking")
    assert "\x1b[?25l" in terminal.getvalue()  # the cursor is hidden ...
    assert "\x1b[?25h" in terminal.getvalue()  # ... and comes back


def test_progress_is_a_line_each_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Output().progress("asking") as progress:
        progress.tell("still\nasking")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "still asking\n")


def test_a_quiet_command_warns_and_says_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(is_quiet=True)
    with out.progress("asking") as progress:
        progress.tell("still asking")
    out.say("hello")
    out.warn("look out")
    assert capsys.readouterr().err == "warning: look out\n"


def test_json_has_the_fields_of_the_record_in_their_order(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = samples.ended(samples.task_named("1"))
    Output(format=Format.JSON).json(task)
    document = json.loads(capsys.readouterr().out)
    assert list(document) == list(type(task).__dataclass_fields__)
    assert document["state"] == "SUCCEEDED"
    assert document["fence"] == {"origin_epoch": 1, "attempt": 1}
