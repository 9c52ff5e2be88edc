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
UNTIL_SECRET = "until gcos sites ls -o json | grep -q HUB_TOKEN; do sleep 0.2; done"
#: Real seconds for a block: with `--speed 60` the deadlines of its tasks are within two minutes.
BLOCK_S = 240.0


def section(title: str) -> str:
    """Return the text under a heading of the second level."""
    found = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL
    )
    assert found is not None, f"README.md has no section {title}"
    return found[1]


def blocks(language: str, text: str) -> list[str]:
    """Return the blocks of code in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(title: str) -> list[list[str]]:
    """Return the lines to type under a heading, without their prompts, block by block."""
    found = [block.splitlines() for block in blocks("console", section(title))]
    assert all(line.startswith("$ ") for lines in found for line in lines), "no output among them"
    return [[line.removeprefix("$ ") for line in lines] for lines in found]


@dataclass(frozen=True)
class Reader:
    """Somebody who follows README.md, with a home of their own."""

    place: Path

    @property
    def home(self) -> Path:
        return self.place / "home"

    def type(self, *lines: str) -> str:
        """Run lines as they stand, but with this reader's home; return what they printed."""
        environ = {name: value for name, value in os.environ.items() if name[:5] != "GCOS_"}
        environ |= {
            "GCOS_HOME": str(self.home),
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        }
        # Where a reader waits for some seconds, a slow machine waits for what is to happen in them.
        typed = [UNTIL_SECRET if line.startswith("sleep 3 ") else line for line in lines]
        script = "\n".join(typed).replace(HOME_WRITTEN, str(self.home))
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=self.place,
            env=environ,
            capture_output=True,
            text=True,
            timeout=BLOCK_S,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    reader = Reader(tmp_path)
    yield reader
    reader.type("gcos down --force")


@pytest.mark.live
def test_what_the_readme_says_can_be_typed(reader: Reader) -> None:
    (first,) = commands("Ten lines")
    assert [line.split()[0] for line in first[:2]] == ["python3", "pip"], "`type` stands in for it"
    reader.type(*first[2:])
    (document,) = blocks("yaml", README)
    (program,) = blocks("python", README)
    (reader.place / "task.yaml").write_text(document)
    (reader.place / "sample.py").write_text(program)
    reader.type("gcos submit task.yaml --wait")
    assert reader.type("python sample.py").startswith("SUCCEEDED at ")
    for lines in commands("What a task may ask for"):
        reader.type(*lines)
    assert (reader.place / "completions" / "report.json").exists()
    for lines in commands("Stop, go on, remove"):
        reader.type(*lines)
    left = sorted(
        path.relative_to(reader.home) for path in reader.home.rglob("*") if path.is_file()
    )
    assert {path.parts[0] for path in left} == {"artifacts", "sites"}
    assert left[-1] == Path("sites/de/data/secrets/HUB_TOKEN")


def test_the_ten_lines_are_ten() -> None:
    assert [len(lines) for lines in commands("Ten lines")] == [10]


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
