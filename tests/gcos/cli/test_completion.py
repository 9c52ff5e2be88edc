"""What the shell is offered. In processes of their own, as the shell starts them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testbed import samples
from testbed.fakes import FAKE_TOKEN, FakeAgent

#: The program as it is installed, and one that waits for an agent however long a busy one takes.
SCRIPT = [str(Path(sys.executable).with_name("gcos"))]
PATIENT_PROGRAM = """
import sys
from gcos.cli import completion, main
sys.argv[0], completion._TIMEOUT_S = "gcos", 60.0
sys.exit(main.main())
"""
PATIENT = [sys.executable, "-c", PATIENT_PROGRAM]


@pytest.fixture
async def agent() -> AsyncIterator[FakeAgent]:
    fake = FakeAgent()
    async with fake.serving():
        yield fake


async def offered(
    agent: FakeAgent, tmp_path: Path, words: str, command: list[str] = SCRIPT
) -> list[str]:
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(FAKE_TOKEN)
    environ = {
        **os.environ,
        "GCOS_AGENT": agent.address,
        "GCOS_TOKEN_FILE": str(token_file),
        "_GCOS_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert err == b""
    return out.decode().split()


async def test_ids_of_tasks_are_offered(agent: FakeAgent, tmp_path: Path) -> None:
    await agent.put(samples.task_named("1"))
    await agent.put(samples.ended(samples.task_named("2")))
    assert await offered(agent, tmp_path, "gcos status de-000", PATIENT) == [
        "de-0000000000001",
        "de-0000000000002",
    ]
    assert await offered(agent, tmp_path, "gcos wait x", PATIENT) == []


async def test_sites_are_offered(agent: FakeAgent, tmp_path: Path) -> None:
    assert await offered(agent, tmp_path, "gcos cache ls --site ", PATIENT) == ["de"]


async def test_without_a_cluster_nothing_is_offered_and_nothing_is_said(tmp_path: Path) -> None:
    nowhere = FakeAgent(address="127.0.0.1:1")
    assert await offered(nowhere, tmp_path, "gcos status d") == []


async def test_commands_are_offered_without_a_cluster(tmp_path: Path) -> None:
    nowhere = FakeAgent(address="127.0.0.1:1")
    assert await offered(nowhere, tmp_path, "gcos st") == ["status"]
    assert await offered(nowhere, tmp_path, "gcos sch") == ["schema"]
