import os
import subprocess
import sys
from pathlib import Path

import pytest

from gcos.errors import WrongStateError
from gcos.locks import lock_directory

HOLDER = """
import sys
from pathlib import Path
from gcos.locks import lock_directory
with lock_directory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_holder_is_told_who_holds_the_directory(tmp_path: Path) -> None:
    with (
        lock_directory(tmp_path),
        pytest.raises(WrongStateError, match=f"{tmp_path} is in use by process {os.getpid()}"),
        lock_directory(tmp_path),
    ):
        pass


def test_a_directory_can_be_locked_again_after_its_holder_left(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_directory(tmp_path / "made" / "on demand"):
            pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(WrongStateError, match=f"in use by process {holder.pid}"),
            lock_directory(tmp_path),
        ):
            pass
        holder.kill()
    with lock_directory(tmp_path):
        pass
