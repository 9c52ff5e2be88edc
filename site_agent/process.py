"""One agent as a process: options in, exit code out."""

import asyncio
import gc
import os
from collections.abc import Mapping
from pathlib import Path

from gcos import logs
from gcos.config import load
from gcos.process import run_until_signalled
from gcos.system import SystemClock
from site_agent.config import AgentConfig, completed
from site_agent.wiring import run_agent


def serve(config: Path | None, options: Mapping[str, object]) -> int:
    """Serve as one site until SIGTERM or Ctrl-C, drain, and return the exit code.

    Args:
        config: TOML file; None: none.
        options: Options by field of `AgentConfig`; None stands for one that was not given.
    """
    gc.freeze()  # what was imported stays for ever: no collection need walk it
    gc.enable()

    async def main(stopping: asyncio.Event) -> None:
        settings = completed(load(AgentConfig, config, environ=os.environ, overrides=dict(options)))
        logs.configure(f"agent {settings.site}", settings.log_level)
        await run_agent(settings, SystemClock(settings.world.scale), stopping)

    return run_until_signalled(main, process="agent")
