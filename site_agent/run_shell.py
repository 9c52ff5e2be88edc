"""What a run needs of the outside world: artifacts, an executor, a directory, a log.

<data dir>/runs/<run id>/       what the executor keeps (its log among it)
<data dir>/work/<run id>/       where the command runs; `output/` inside is what it leaves
<data dir>/outputs/             what runs left behind (`site_agent.outputs`)
<data dir>/secrets/NAME         secrets of this site, mode 0600
<data dir>/logs/<run id>.log    output of ended runs, the newest ones
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from gcos.accounting import Charge
from gcos.artifacts import Artifact, ArtifactKind
from gcos.clock import Clock
from gcos.contract_net import ArtifactNeed, Award, Fetch
from gcos.errors import (
    ArtifactNotFoundError,
    GcosError,
    InvalidRequestError,
    NotFoundError,
    WrongStateError,
)
from gcos.ids import ArtifactId, RunId
from gcos.log_tails import TAIL_BYTES_MAX, LogTail, tail_of
from gcos.tasks import OutputKind, Reason
from site_agent.config import AgentConfig
from site_agent.executors.interface import Executor, ExitReason, RunCommand, RunPhase, RunStatus
from site_agent.fetch_part import FetchPart
from site_agent.held_run import HeldRun
from site_agent.outputs import Outputs, as_directory, copy_to, lacking
from site_agent.participant import Exit, Participant
from site_agent.sourcing import Links, charge_of_fetch, sources_together
from site_agent.threads import in_thread
from site_agent.transfer import ArtifactPlane

OUTPUTS_NAME = "outputs"
SECRETS_NAME = "secrets"
LOG_TAIL_BYTES = 4_096
LOG_CHUNK_BYTES = 65_536
#: Protocol seconds that a renewal waits for the ends of outputs.
TAILS_S = 0.5

_ARTIFACT_KINDS = {OutputKind.MODEL: ArtifactKind.MODEL, OutputKind.DATA: ArtifactKind.DATA}
_REASONS = {
    ExitReason.LEASE_EXPIRED: Reason.SITE_LOST,
    ExitReason.CANCELLED: Reason.CANCELLED_BY_USER,
    ExitReason.START_FAILED: Reason.START_FAILED,
    ExitReason.SUPERVISOR_LOST: Reason.EXECUTOR_FAILED,
}
_MESSAGES = {
    Reason.SITE_LOST: "stopped: its lease was not renewed in time",
    Reason.CANCELLED_BY_USER: "stopped",
    Reason.EXECUTOR_FAILED: "the executor lost the run",
}


class RunShell:
    """Runs of one site."""

    def __init__(
        self,
        *,
        config: AgentConfig,
        clock: Clock,
        executor: Executor,
        plane: ArtifactPlane,
        participant: Participant,
        links: Links,
    ) -> None:
        self._config = config
        self._clock = clock
        self._executor = executor
        self._plane = plane
        self._participant = participant
        self._links = links
        self._work = config.data_dir / "work"
        self.outputs = Outputs(
            config.data_dir / OUTPUTS_NAME, task_count_max=config.output_count_max
        )
        self._secrets = config.data_dir / SECRETS_NAME
        self._logs = config.data_dir / "logs"
        for directory in (self._work, self._logs):
            directory.mkdir(parents=True, exist_ok=True)

    # ---------------------------------------------------------------- artifacts

    async def bring(
        self,
        award: Award,
        need: ArtifactNeed,
        refresh: Callable[[ArtifactNeed], Awaitable[ArtifactNeed]],
    ) -> tuple[tuple[Fetch, ...], Charge, tuple[ArtifactId, ...]] | None:
        """Fetch one artifact; return what it cost, or None where another run had it fetched.

        Raises:
            GcosError: No holder could give it, or there is no room.
        """
        try:
            return await self._bring(award, need)
        except GcosError:
            fresh = await refresh(need)  # holders may have changed since the announcement
            return await self._bring(award, fresh)

    async def _bring(
        self, award: Award, need: ArtifactNeed
    ) -> tuple[tuple[Fetch, ...], Charge, tuple[ArtifactId, ...]] | None:
        site = self._participant.site
        carbon = self._participant.signals.carbon
        carbon_here = None if carbon is None else carbon.series
        started_s = self._clock.world_s()
        together = sources_together(
            need,
            here=site.site_id,
            zone=site.zone,
            links=self._links,
            terms=award.terms,
            carbon_here=carbon_here,
            byte_ratio=self._config.world.byte_ratio,
            now_s=started_s,
            wait_usd_per_h=self._participant.wait_usd_per_h,
        )
        if not together:
            raise ArtifactNotFoundError(f"no other site is known to hold {need.name}")
        moved = self._participant.moved_bytes
        before = moved.get(award.run_id, 0)

        def on_progress(count: int) -> None:
            moved[award.run_id] = before + count

        def charge_of(part: FetchPart) -> Charge:
            # A source that failed half-way has sent its share all the same.
            return charge_of_fetch(
                part.bytes_moved,
                part.source,
                self._links(part.source.zone, site.zone),
                terms=award.terms,
                carbon_here=carbon_here,
                byte_ratio=self._config.world.byte_ratio,
                start_s=started_s,
                end_s=self._clock.world_s(),
            )

        def on_waste(parts: tuple[FetchPart, ...]) -> None:
            self._participant.wasted(award.run_id, Charge.sum(map(charge_of, parts)))

        result = await self._plane.fetch(
            need,
            together[0],
            run_id=award.run_id,
            on_progress=on_progress,
            beside=together[1:],
            on_waste=on_waste,
        )
        if result.is_shared:
            return None
        ended_s = self._clock.world_s()
        charges = [charge_of(part) for part in result.parts]
        fetches = tuple(
            Fetch(
                artifact_id=need.artifact_id,
                name=need.name,
                size_bytes=part.bytes_moved,
                source=part.source,
                duration_s=ended_s - started_s,
                cost_usd=charge.transfer_usd,
                carbon_gco2=charge.network_gco2,
            )
            for part, charge in zip(result.parts, charges, strict=True)
        )
        return fetches, Charge.sum(charges), result.evicted

    async def drop_workdirs(self, names: Mapping[ArtifactId, str]) -> dict[ArtifactId, bool]:
        """Remove what clients sent for tasks that are over.

        What goes by another name too, or is in another site's custody, stays: somebody else has
        use for it, or it can be evicted.

        Args:
            names: The name under which each one was sent.

        Returns:
            Of those that need no further care, whether they were removed now; what is in use is to
            be tried again.
        """
        store, settled = self._plane.store, {}
        for artifact_id, name in names.items():
            try:
                record = store.record_of(artifact_id)
                is_ours = record.names == (name,) and record.custodian == store.site_id
                if is_ours:
                    trash = store.give_up(artifact_id)
                    await in_thread(partial(store.discard, artifact_id, trash))
            except ArtifactNotFoundError:
                is_ours = False
            except WrongStateError:
                continue
            settled[artifact_id] = is_ours
        return settled

    # ---------------------------------------------------------------- executing

    # An OSError below (a full or broken disk) reaches the runner, which ends the run with it.

    async def start(self, run: HeldRun, devices: tuple[int, ...], lease_until_s: float) -> None:
        """Hand a run to the executor."""
        work = self._work / run.run_id
        await asyncio.to_thread(self._prepare, run, work)
        command = RunCommand(
            run_id=run.run_id,
            fence=run.award.fence,
            argv=run.award.command,
            env=await asyncio.to_thread(self._environment, run, work),
            working_dir=str(work.resolve()),
            devices=devices,
            log_max_bytes=self._config.log_max_bytes,
            grace_s=self._config.run_grace_s,
        )
        await self._executor.ensure(command, lease_until_s=lease_until_s)

    def _prepare(self, run: HeldRun, work: Path) -> None:
        """Make the run's directory, with the files of its workdir in it."""
        work.mkdir(parents=True, exist_ok=True)
        if run.award.workdir_id is not None:
            source = self._plane.path_of(run.award.workdir_id)
            shutil.copytree(source, work, dirs_exist_ok=True, copy_function=shutil.copyfile)
            for directory, _, _ in os.walk(work):
                Path(directory).chmod(0o700)
        (work / "output").mkdir(exist_ok=True)

    def secret_names(self) -> frozenset[str]:
        """Return the names of the secrets in this site's store that nobody else may read."""
        if not self._secrets.is_dir():
            return frozenset()
        return frozenset(
            path.name
            for path in self._secrets.iterdir()
            if path.is_file() and not path.stat().st_mode & 0o077
        )

    def _secret_values(self, names: tuple[str, ...]) -> dict[str, str]:
        values = {}
        for name in names:
            path = self._secrets / name
            if path.stat().st_mode & 0o077:
                raise InvalidRequestError(
                    f"secret {name} may be read by others", field="secrets", hint="chmod 600 it"
                )
            values[name] = path.read_text(encoding="utf-8").rstrip("\n")
        return values

    def _environment(self, run: HeldRun, work: Path) -> dict[str, str]:
        """Return what the command finds: the artifacts' places and the task's own variables."""
        award = run.award
        data = [
            str(self._plane.path_of(need.artifact_id))
            for need in award.needs
            if need.kind is ArtifactKind.DATA and need.artifact_id != award.workdir_id
        ]
        models = [
            str(self._plane.path_of(need.artifact_id))
            for need in award.needs
            if need.kind is ArtifactKind.MODEL
        ]
        ours = {
            "GCOS_TASK_ID": award.task_id,
            "GCOS_RUN_ID": run.run_id,
            "GCOS_SITE": self._participant.site.site_id,
            "GCOS_OUTPUT_DIR": str((work / "output").resolve()),
            "GCOS_DATA_DIRS": os.pathsep.join(data),
        }
        if models:
            ours["GCOS_MODEL_DIR"] = models[0]
        if data:
            ours["GCOS_DATA_DIR"] = data[0]
        # A task may set its own PATH, but not what tells it where its artifacts are.
        secrets = self._secret_values(award.secrets)
        return {"PATH": self._config.run_path, **award.env, **secrets, **ours}

    async def extend(self, run_id: RunId, until_s: float) -> None:
        """Tell the supervisor how long the lease lasts."""
        await self._executor.extend(run_id, lease_until_s=until_s)

    async def cancel(self, run_id: RunId) -> None:
        """Stop a run."""
        await self._executor.cancel(run_id)

    async def wait(self, run_id: RunId) -> Exit:
        """Return how the run ended, once it has."""
        try:
            status = await self._executor.wait(run_id)
        except NotFoundError:
            return self.failed_start(
                "the agent died before it had started the run", now_s=self._clock.world_s()
            )
        return await self._exit_of(run_id, status)

    def failed_start(self, message: str, *, now_s: float) -> Exit:
        """Return the exit of a run that never began."""
        return Exit(
            started_s=None,
            ended_s=now_s,
            exit_code=None,
            reason=Reason.EXECUTOR_FAILED,
            message=message,
            log_tail="",
        )

    async def _exit_of(self, run_id: RunId, status: RunStatus) -> Exit:
        scale = self._clock.scale
        reason = _REASONS.get(status.reason) if status.reason is not None else None
        if reason is None:
            reason = Reason.EXITED_ZERO if status.exit_code == 0 else Reason.EXIT_CODE
        message = status.message or _MESSAGES.get(reason, f"exit code {status.exit_code}")
        started, ended = status.started_wall_s, status.ended_wall_s
        return Exit(
            started_s=None if started is None else scale.world_s(started),
            ended_s=self._clock.world_s() if ended is None else scale.world_s(ended),
            exit_code=status.exit_code,
            reason=reason,
            message=message,
            log_tail=await self._tail(run_id),
        )

    async def publish(self, run: HeldRun) -> Exit:
        """Put the outputs in their place under the run's fence; return how the run had ended."""
        status = await self._executor.poll(run.run_id)
        if status.phase is not RunPhase.EXITED:
            return await self.wait(run.run_id)
        exit_ = await self._exit_of(run.run_id, status)
        source = self._work / run.run_id / "output"
        place = await asyncio.to_thread(self.outputs.publish, source, run.run_id)
        missing = lacking(place, run.award.outputs)
        if missing:
            message = f"the run left no {', '.join(missing)} in its output directory"
            return replace(exit_, reason=Reason.OUTPUT_MISSING, message=message)
        artifacts: list[Artifact] = []
        for output in run.award.outputs:
            if output.kind is OutputKind.URI:
                copy = partial(copy_to, place, output, roots=self._config.output_roots)
                try:
                    await asyncio.to_thread(copy)
                except (GcosError, OSError) as exc:
                    message = f"output {output.path}: {exc}"
                    return replace(exit_, reason=Reason.OUTPUT_REFUSED, message=message)
            kind = _ARTIFACT_KINDS.get(output.kind)
            if kind is not None:
                directory = await asyncio.to_thread(as_directory, place, output)
                try:
                    artifact, _ = await self._plane.add(directory.resolve(), output.name, kind)
                except GcosError as exc:
                    message = f"output {output.path} cannot become {output.name}: {exc}"
                    return replace(exit_, reason=Reason.OUTPUT_REFUSED, message=message)
                artifacts.append(artifact)
        files = await asyncio.to_thread(self.outputs.files, run.run_id)
        return replace(exit_, outputs=tuple(artifacts), output_bytes=sum(size for _, size in files))

    async def reap(self, run_id: RunId) -> None:
        """Keep the output of an ended run and remove the rest."""
        try:
            await self._keep_log(run_id)
            await self._executor.reap(run_id)
        except NotFoundError:
            pass
        await asyncio.to_thread(shutil.rmtree, self._work / run_id, ignore_errors=True)

    async def sweep(self, known: frozenset[RunId]) -> None:
        """End and remove runs that the executor keeps and the journal has forgotten.

        The agent died between forgetting a run and removing what the executor kept of it.
        """
        for run_id in await self._executor.list_runs():
            if run_id not in known:
                await self._executor.cancel(run_id)
                await self._executor.wait(run_id)
                await self.reap(run_id)

    # ---------------------------------------------------------------- output

    async def read_log(self, run_id: RunId, offset: int) -> tuple[bytes, bool]:
        """Return output from byte `offset` on and whether the run has ended.

        Raises:
            NotFoundError: No such run here.
        """
        try:
            status = await self._executor.poll(run_id)
            data = await self._executor.logs(run_id, offset=offset, limit_bytes=LOG_CHUNK_BYTES)
        except NotFoundError:
            return await asyncio.to_thread(self._read_kept, run_id, offset), True
        has_ended = status.phase in (RunPhase.EXITED, RunPhase.ABSENT)
        return data, has_ended and not data

    def _read_kept(self, run_id: RunId, offset: int) -> bytes:
        path = self._logs / f"{run_id}.log"
        if run_id != path.stem or not path.is_file():
            raise NotFoundError(
                f"the output of run {run_id} is not kept here",
                hint="a site keeps the output of its newest runs only; its end: gcos explain ID",
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(LOG_CHUNK_BYTES)

    async def _tail(self, run_id: RunId) -> str:
        """Return the last lines of the output."""
        try:
            tail, _ = await self._executor.log_end(run_id, limit_bytes=LOG_TAIL_BYTES)
        except NotFoundError:
            return ""
        return tail.decode(errors="replace").replace("\0", "")

    async def tails(self, run_ids: Sequence[RunId]) -> dict[RunId, LogTail]:
        """Return the ends of outputs, of what can be read within `TAILS_S`.

        What is not read in time, or not at all, is left out: a renewal must not wait for it.
        """
        tails: dict[RunId, LogTail] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAILS_S):
                # One after the other: hundreds of threads begun at once would hold up the loop.
                for run_id in run_ids:
                    with contextlib.suppress(GcosError, OSError):
                        data, end_bytes = await self._executor.log_end(
                            run_id, limit_bytes=TAIL_BYTES_MAX
                        )
                        if data:
                            tails[run_id] = tail_of(data, end_bytes=end_bytes)
        return tails

    async def _keep_log(self, run_id: RunId) -> None:
        path = self._logs / f"{run_id}.log"
        unfinished = path.with_suffix(".partial")
        offset = 0
        with unfinished.open("wb") as file:
            while data := await self._executor.logs(
                run_id, offset=offset, limit_bytes=LOG_CHUNK_BYTES
            ):
                offset += len(data)
                await asyncio.to_thread(file.write, data)
        unfinished.replace(path)
        await asyncio.to_thread(self._trim_logs)

    def _trim_logs(self) -> None:
        """Keep the newest outputs only."""
        kept = sorted(self._logs.glob("*.log"), key=lambda path: path.stat().st_mtime)
        for path in kept[: max(0, len(kept) - self._config.log_count_max)]:
            path.unlink(missing_ok=True)
