import os
import signal
import sys
from dataclasses import replace

import pytest

from gcos.system import SystemClock
from testbed import local_processes


@pytest.fixture
def start(tmp_path):
    started = []

    def start_script(script):
        process = local_processes.start(
            "script",
            [sys.executable, "-c", script],
            address="127.0.0.1:1",
            environ={"ONLY": "this"},
            directory=tmp_path,
            log=tmp_path / "log",
        )
        started.append(process)
        return process

    yield start_script
    local_processes.stop(started, grace_s=0.0, tell=lambda _: None)


def await_log(process, text):
    until_s = SystemClock().protocol_s() + 30
    while text not in "".join(local_processes.log_tail(process, line_count=5)):
        assert process.is_alive
        assert SystemClock().protocol_s() < until_s


def test_a_process_is_known_again_by_pid_start_and_boot(start):
    process = start("import signal; signal.pause()")
    assert process.is_alive
    assert not replace(process, start_ticks=process.start_ticks + 1).is_alive
    assert not replace(process, boot="another").is_alive


def test_nothing_is_sent_to_another_process_that_has_the_pid(start):
    process = start("import signal; signal.pause()")
    replace(process, start_ticks=process.start_ticks + 1).send(signal.SIGKILL)
    assert process.is_alive


def test_a_process_has_a_session_of_its_own_and_the_environment_it_was_given(start):
    process = start("import os, signal; print(*os.environ, flush=True); signal.pause()")
    assert os.getsid(process.pid) == process.pid
    await_log(process, "ONLY")
    assert "PATH" not in "".join(local_processes.log_tail(process, line_count=5))


def test_stop_ends_what_heeds_sigterm(start):
    process = start("import signal; signal.pause()")
    assert local_processes.stop([process], grace_s=30.0, tell=pytest.fail) == []
    assert not process.is_alive


def test_stop_kills_what_does_not_and_says_so(start):
    process = start(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
        "while True: signal.pause()"
    )
    await_log(process, "deaf")
    said = []
    assert local_processes.stop([process], grace_s=0.0, tell=said.append) == [process]
    assert not process.is_alive
    assert said == [f"killed script (pid {process.pid}), which had not ended by itself"]


def test_a_killed_process_has_ended(start):
    # It takes a moment to give back what it holds.
    process = start(
        "import signal; held = bytearray(200_000_000); print('here', flush=True)\nsignal.pause()"
    )
    await_log(process, "here")
    local_processes.kill(process)
    assert not process.is_alive


def test_the_tail_of_a_log_cannot_drive_the_terminal(start, tmp_path):
    process = start("pass")
    (tmp_path / "log").write_bytes(b"one\ntwo\x1b[2J\nthr\xffee\n")
    assert local_processes.log_tail(process, line_count=2) == ["two [2J", "thr\ufffdee"]


def test_a_log_that_is_gone_has_no_tail(start, tmp_path):
    process = start("pass")
    (tmp_path / "log").unlink()
    assert local_processes.log_tail(process, line_count=2) == []
