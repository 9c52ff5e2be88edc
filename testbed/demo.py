"""The demo: `python -m testbed.demo [--json FILE]`, or `make demo`.

Makes tiny language models and data sets, starts a cluster of real processes of its own on this
machine, places each artifact at one site, submits jobs at all sites over a working day of world
time, and shows from the ledger where each ran and what that cost, beside running it at its origin.
Everything it starts has ended, and everything it wrote is gone, when it returns.
"""

import argparse
import asyncio
import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.status import Status
from rich.text import Text

from gcos.artifacts import ArtifactKind
from gcos.client import Client
from gcos.client_records import Scales
from gcos.errors import GcosError
from gcos.exception_groups import sole_error
from gcos.home import LocalCluster
from gcos.ids import SiteId, TaskId
from gcos.ledger import LedgerEntry
from gcos.system import SystemClock
from gcos.task_record import Task
from testbed import demo_jobs, local_cluster
from testbed.demo_jobs import DemoJob
from testbed.demo_report import DemoReport, JobResult, json_document
from testbed.demo_view import DemoView
from testbed.interruption import interruptible
from testbed.workloads.make import make

SEED: Final = 7
LOOK_S: Final = 0.25
#: Protocol seconds for all jobs; they take about a minute on two cores.
DEMO_S: Final = 300.0
EXIT_FAILED: Final = 1
EXIT_REFUSED: Final = 2
EXIT_INTERRUPTED: Final = 130

_clock = SystemClock()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the demo, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description="Show GCOS.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        # `kill` and a closed terminal end the cluster as Ctrl-C does.
        with interruptible():
            report = run(console)
    except KeyboardInterrupt:
        console.print("Interrupted. The cluster was stopped and removed.")
        return EXIT_INTERRUPTED
    except BaseException as exc:
        error = sole_error(exc)
        if not isinstance(error, GcosError | TimeoutError | OSError):
            raise
        Console(stderr=True, highlight=False).print(f"error: {error}", style="red", markup=False)
        return EXIT_REFUSED
    console.print(report)
    if options.json is not None:
        options.json.write_text(json.dumps(json_document(report), indent=2) + "\n")
        console.print(f"\nThe same as JSON: {options.json}")
    return 0 if report.is_success else EXIT_FAILED


def run(console: Console) -> DemoReport:
    """Run the demo in a cluster of its own.

    Raises:
        GcosError: The cluster did not start, or a site did not answer.
        TimeoutError: Jobs had not ended in time.
    """
    jobs = demo_jobs.demo_jobs()
    _introduce(console, jobs)
    with TemporaryDirectory(prefix="gcos-demo-") as scratch, contextlib.ExitStack() as stack:
        directory = Path(scratch) / "cluster"
        artifacts = directory / local_cluster.ARTIFACTS_NAME
        status = stack.enter_context(contextlib.ExitStack())
        progress = status.enter_context(console.status("making models and data sets"))
        directory.mkdir(mode=0o700)
        with contextlib.redirect_stdout(io.StringIO()):
            make(artifacts, seed=SEED)
        options = local_cluster.ClusterOptions(
            directory=directory,
            site_ids=demo_jobs.SITE_IDS,
            speed=demo_jobs.SPEED,
            byte_ratio=demo_jobs.BYTE_RATIO,
            world_start_s=datetime.fromisoformat(demo_jobs.WORLD_START).timestamp(),
            gpu_count=demo_jobs.GPU_COUNT,
        )
        cluster = stack.enter_context(_cluster(options, progress, console))
        status.close()
        return asyncio.run(_drive(cluster, artifacts, jobs, console))


@contextlib.contextmanager
def _cluster(
    options: local_cluster.ClusterOptions, progress: Status, console: Console
) -> Iterator[LocalCluster]:
    """Give a running cluster; what it says is shown only if it does not start."""
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        progress.update(f"starting processes: {line.split(maxsplit=1)[0]}")

    try:
        cluster = local_cluster.up(options, tell=tell)
    except GcosError:
        for line in said:
            console.print(line, markup=False)
        raise
    try:
        yield cluster
    except BaseException:
        # Running jobs are waited for, which is worth a line where nobody expects a pause.
        console.print("Stopping the cluster; Ctrl-C again kills it.")
        raise
    finally:
        local_cluster.down(options.directory, keep=False, tell=lambda _: None)


def _introduce(console: Console, jobs: Sequence[DemoJob]) -> None:
    sites = len(demo_jobs.SITE_IDS)
    console.print(Text("GCOS demo", style="bold"))
    console.print(
        f"{len(jobs)} jobs on {sites} sites. Broker, predictor and {sites} agents are real "
        f"processes on this machine; jobs really run small language models. "
        f"1 s here is {demo_jobs.SPEED / 60:g} min there."
    )


async def _drive(
    cluster: LocalCluster, artifacts: Path, jobs: Sequence[DemoJob], console: Console
) -> DemoReport:
    token_file = Path(cluster.token_file)
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, Client] = {}
        for site, address in cluster.agents.items():
            # No environment: a variable of the user's must not lead to another cluster.
            connecting = Client.connect(address, token_file, environ={})
            clients[site] = await stack.enter_async_context(connecting)
        await _add_artifacts(clients, artifacts)
        return await _run_jobs(clients, jobs, console)


async def _add_artifacts(clients: dict[str, Client], artifacts: Path) -> None:
    for kind, folder, homes in (
        (ArtifactKind.MODEL, "models", demo_jobs.MODEL_HOMES),
        (ArtifactKind.DATA, "data", demo_jobs.DATA_HOMES),
    ):
        for name, site in homes.items():
            await clients[site].add_artifact(name, kind, artifacts / folder / name, SiteId(site))


async def _run_jobs(
    clients: dict[str, Client], jobs: Sequence[DemoJob], console: Console
) -> DemoReport:
    """Submit each job when it is due and watch all until they have ended."""
    first = next(iter(clients.values()))
    view = DemoView(console, job_count=len(jobs))
    began_s = _clock.protocol_s()
    world_offset_s = await first.world_now_s() - began_s * demo_jobs.SPEED
    submitted: dict[str, TaskId] = {}
    tasks: dict[TaskId, Task] = {}
    signals = (await first.signals()).items
    async with asyncio.timeout(DEMO_S):
        with view.shown():
            while len(submitted) < len(jobs) or not _have_ended(tasks, submitted):
                elapsed_s = _clock.protocol_s() - began_s
                for job in jobs:
                    if job.name not in submitted and job.submit_s <= elapsed_s:
                        document = json.dumps(job.document())
                        taken = await clients[job.origin].submit(document, f"demo-{job.name}")
                        submitted[job.name] = taken.task.task_id
                tasks = {task.task_id: task for task in (await first.tasks()).items}
                now_s = world_offset_s + _clock.protocol_s() * demo_jobs.SPEED
                view.update(list(tasks.values()), signals, now_s=now_s)
                await asyncio.sleep(LOOK_S)
    wall_s = _clock.protocol_s() - began_s
    ledger = await first.ledger()
    entries: dict[TaskId, list[LedgerEntry]] = {}
    for entry in ledger.entries:
        entries.setdefault(entry.task_id, []).append(entry)
    results = []
    for job in jobs:
        task_id = submitted[job.name]
        results.append(JobResult(job.name, tasks[task_id], tuple(entries.get(task_id, ()))))
    scales = Scales(ledger.scales.speed_ratio, ledger.scales.byte_ratio)
    return DemoReport(tuple(results), scales, demo_jobs.TOKEN_RATIO, wall_s)


def _have_ended(tasks: dict[TaskId, Task], submitted: dict[str, TaskId]) -> bool:
    return all(
        task_id in tasks and tasks[task_id].state.is_terminal for task_id in submitted.values()
    )


if __name__ == "__main__":
    sys.exit(main())
