"""What README.md tells people to type works as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HOME_WRITTEN = "~/.local/share/gcos"
#: Real seconds for a line: with `--speed 60` the deadlines of both tasks are within two minutes.
LINE_S = 240.0


def section(title: str) -> str:
    """Return the text under a heading of the second level."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"README.md has no section {title}"
    return found[1]


def block(language: str) -> str:
    """Return the one block of code in `language` under "Ten lines"."""
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```$", section("Ten lines"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 1
    return str(blocks[0])


def commands() -> list[str]:
    """Return the lines to type, without their prompts."""
    lines = block("console").splitlines()
    assert all(line.startswith("$ ") for line in lines), "output would be typed, too"
    return [line.removeprefix("$ ") for line in lines]


@dataclass(frozen=True)
class Reader:
    """Somebody who follows README.md, with a home of their own."""

    place: Path

    @property
    def home(self) -> Path:
        return self.place / "home"

    def type(self, line: str) -> str:
        """Run a line as README.md has it, but with this reader's home; return what it printed."""
        environ = {name: value for name, value in os.environ.items() if name[:5] != "GCOS_"}
        environ |= {
            "GCOS_HOME": str(self.home),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        done = subprocess.run(
            ["bash", "-c", line.replace(HOME_WRITTEN, str(self.home))],
            cwd=self.place,
            env=environ,
            capture_output=True,
            text=True,
            timeout=LINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    reader = Reader(tmp_path)
    yield reader
    reader.type("gcos down --force")


@pytest.mark.live
def test_what_the_readme_says_can_be_typed(reader: Reader) -> None:
    activate, *lines, down = commands()
    assert activate == ". .venv/bin/activate", "`type` stands in for it"
    assert down.startswith("gcos down ")
    for line in lines:
        reader.type(line)
    (reader.place / "task.yaml").write_text(block("yaml"))
    (reader.place / "sample.py").write_text(block("python"))
    assert reader.type("python sample.py").startswith("SUCCEEDED at ")
    reader.type(down)
    assert [path.name for path in reader.home.iterdir()] == ["artifacts"]


def test_the_ten_lines_are_ten() -> None:
    assert len(commands()) == 10


def test_the_readme_names_no_option_that_does_not_exist() -> None:
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]*", README))
    words = (ROOT / "testbed", ROOT / "gcos" / "cli")
    sources = "".join(path.read_text() for place in words for path in place.rglob("*.py"))
    missing = {
        option
        for option in named
        if f'"{option}"' not in sources
        and not re.search(rf"^    {option[2:].replace('-', '_')}: ", sources, re.MULTILINE)
    }
    assert missing == set()
