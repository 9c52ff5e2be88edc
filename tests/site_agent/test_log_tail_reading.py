"""The ends of outputs are read for renewals, which never wait long for them."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from gcos.errors import NotFoundError
from gcos.ids import RunId
from gcos.log_tails import TAIL_BYTES_MAX, LogTail
from gcos.system import SystemClock
from site_agent import run_shell
from site_agent.config import AgentConfig
from site_agent.run_shell import RunShell


class PaperExecutor:
    """Runs that have written, written nothing, are gone, or lie on a disk that hangs."""

    async def log_end(self, run_id: RunId, *, limit_bytes: int) -> tuple[bytes, int]:
        assert limit_bytes == TAIL_BYTES_MAX
        if run_id == "gone":
            raise NotFoundError("no such run")
        if run_id == "broken":
            raise OSError("input/output error")
        if run_id == "hangs":
            await asyncio.Event().wait()
        return (b"", 0) if run_id == "mute" else (b"cut\nlast\n", 100)


@pytest.fixture
def shell(tmp_path: Path) -> RunShell:
    return RunShell(
        config=AgentConfig("de", tmp_path, tmp_path / "token"),
        clock=SystemClock(),
        executor=cast(Any, PaperExecutor()),
        plane=cast(Any, None),
        participant=cast(Any, None),
        links=cast(Any, None),
    )


@pytest.mark.parametrize("others", [["gone"], ["broken", "mute"], []])
async def test_only_what_was_written_and_can_be_read_is_told(
    shell: RunShell, others: list[str]
) -> None:
    run_ids = [RunId(each) for each in (*others, "writes")]
    assert await shell.tails(run_ids) == {RunId("writes"): LogTail(95, 100, "last\n")}


async def test_a_disk_that_hangs_holds_up_no_renewal(
    shell: RunShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_shell, "TAILS_S", 0.01)
    async with asyncio.timeout(20):
        told = await shell.tails([RunId("writes"), RunId("hangs"), RunId("mute")])
    assert told == {RunId("writes"): LogTail(95, 100, "last\n")}
