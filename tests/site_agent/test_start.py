import os
import subprocess
import sys
from pathlib import Path

from gcos.rpc.security import write_token
from site_agent.sources import ENDPOINTS

#: `stopping` is waited for as soon as the agent serves.
SERVE = """
import asyncio, sys
from pathlib import Path

import site_agent.process
from gcos.system import SystemClock
from site_agent.config import AgentConfig, completed
from site_agent.wiring import run_agent

class Stopping(asyncio.Event):
    async def wait(self):
        print(*sys.modules)
        self.set()
        return True

async def main(root):
    config = AgentConfig("on", data_dir=root / "data", token_file=root / "token", policy="rule")
    await run_agent(completed(config), SystemClock(), Stopping())

asyncio.run(main(Path(sys.argv[1])))
"""

#: What an agent needs later than its first call, if ever, and what brings it.
LATER = {
    "argparse": "the command line",
    "email": "dates of web servers",
    "gcos.client": "calls of our own",
    "gcos.client_records": "what clients are told",
    "grpc_reflection.v1alpha.reflection": "people who ask what is served",
    "huggingface_hub": "pulls",
    "numpy.random": "batches",
    "onnxruntime": "actors, in the background",
    "policies.batch": "batches",
    "policies.maccs.actor_card": "actors, in the background",
    "prometheus_client": "metrics",
    "rich": "the command line",
    "ruamel": "documents",
    "site_agent.adopted_files": "stores that are adopted",
    "site_agent.cache_upkeep": "operators",
    "site_agent.decisions": "recordings",
    "site_agent.download": "transfers",
    "site_agent.foreign_stores": "stores that are adopted",
    "site_agent.mending": "transfers",
    "site_agent.metrics": "metrics",
    "site_agent.sources.pull": "pulls",
    "typer": "the command line",
}


def test_an_agent_serves_before_it_imports_what_it_needs_later(tmp_path: Path) -> None:
    write_token(tmp_path / "token")
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name not in ENDPOINTS},
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"grpc", "site_agent.participant"} <= imported, "it serves"
    assert {*LATER} & imported == set()
