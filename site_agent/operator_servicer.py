"""The operator's face of an agent: the site, its caches, its signals."""

import asyncio
import contextlib
import functools
import math
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio

from gcos.artifacts import Artifact, ArtifactKind, CacheEntry
from gcos.contract_net import ArtifactNeed
from gcos.copy_events import COPY_EVENT_COUNT, COPY_EVENT_COUNT_MAX
from gcos.errors import GcosError, InvalidRequestError, TooLargeError
from gcos.ids import ArtifactId, TaskId
from gcos.rpc.wire import to_proto
from gcos.signals import HOUR_S, Signal
from gcos.system import unique_text
from gcos.transfer_files import Arriving
from gcos.v1 import common_pb2, operator_pb2, operator_pb2_grpc
from gcos.v1.operator_pb2 import ListCacheResponse
from site_agent.cache_marks import CacheMarks
from site_agent.config import SourcesConfig
from site_agent.copy_log import CopyLog
from site_agent.runner import Runner
from site_agent.sources import ENDPOINTS
from site_agent.transfer import ArtifactPlane
from site_agent.verification import Examination

if TYPE_CHECKING:
    from site_agent.cache_upkeep import CacheUpkeep
    from site_agent.sources.pull import Pull, Puller

Context = grpc.aio.ServicerContext[Any, Any]

HORIZON_H_MAX = 168
PULL_BEAT_S = 0.25
"""Between two words on how far a pull is, protocol seconds."""

IDLE_S = 20.0
"""A caller is gone that takes no word for so long, protocol seconds."""

PULLS_NAME = "pulls"

_KINDS = {
    common_pb2.ARTIFACT_KIND_MODEL: ArtifactKind.MODEL,
    common_pb2.ARTIFACT_KIND_DATA: ArtifactKind.DATA,
}


class OperatorServicer(operator_pb2_grpc.OperatorServiceServicer):
    """One site as its operator sees it."""

    def __init__(
        self,
        runner: Runner,
        plane: ArtifactPlane,
        copy_log: CopyLog,
        marks: CacheMarks,
        uploads: Path,
    ) -> None:
        self._runner = runner
        self._copy_log = copy_log
        self._plane = plane
        self._uploads = uploads
        config = runner.config
        self._marks = marks
        self._pulls_root = config.data_dir / PULLS_NAME
        plane.mend_from_upstream = self._mend_from_upstream
        if self._must_be_able_to_pull():
            _ = self._puller
        shutil.rmtree(uploads, ignore_errors=True)  # of an earlier process, never complete
        uploads.mkdir(mode=0o700, parents=True)

    @functools.cached_property
    def _upkeep(self) -> "CacheUpkeep":
        """What verifies, pins and removes, imported with the first of it."""
        from site_agent.cache_upkeep import CacheUpkeep  # noqa: PLC0415

        runner = self._runner
        return CacheUpkeep(self._plane.store, self._marks, runner.clock, runner.log, self._copy_log)

    @functools.cached_property
    def _puller(self) -> "Puller":
        """What pulls from upstreams. Imported with the first use: a start need not wait for it."""
        from site_agent.sources.opening import settings_of  # noqa: PLC0415
        from site_agent.sources.pull import Puller  # noqa: PLC0415

        config = self._runner.config
        return Puller(
            self._plane.store,
            self._marks,
            settings_of(
                config.sources.hosts,
                config.sources.networks,
                config.sources.roots,
                config.artifact_roots,
                os.environ,
            ),
            self._pulls_root,
            self._runner.clock,
            self._runner.log,
            notes=self._copy_log,
        )

    def _must_be_able_to_pull(self) -> bool:
        """Tell whether settings may be wrong, or an earlier process has left pulls."""
        return (
            replace(self._runner.config.sources, adopt=()) != SourcesConfig()
            or any(name in os.environ for name in ENDPOINTS)
            or (self._pulls_root.is_dir() and any(self._pulls_root.iterdir()))
        )

    def _pulls(self) -> "tuple[Pull, ...]":
        """Return what is on its way from upstreams."""
        return self._puller.pulls() if "_puller" in vars(self) else ()

    async def _mend_from_upstream(self, artifact: Artifact) -> None:
        await self._puller.mend(artifact)

    def keep_unfinished(self) -> None:
        """Let the next process go on with pulls that this one does not end."""
        if "_puller" in vars(self):
            self._puller.keep_unfinished()

    async def DescribeSite(
        self, request: operator_pb2.DescribeSiteRequest, context: Context
    ) -> operator_pb2.DescribeSiteResponse:
        """Read what the site is and how busy it is."""
        del request, context
        return operator_pb2.DescribeSiteResponse(
            site=to_proto(self._runner.participant.site, common_pb2.Site),
            digest=to_proto(self._runner.digest(), common_pb2.SiteDigest),
            actors=[
                to_proto(status, operator_pb2.ActorStatus)
                for status in self._runner.actors.statuses()
            ],
        )

    async def ListSites(
        self, request: operator_pb2.ListSitesRequest, context: Context
    ) -> operator_pb2.ListSitesResponse:
        """Read the sites that this agent knows."""
        del request, context
        await self._runner.refresh_sites()
        return operator_pb2.ListSitesResponse(
            sites=[to_proto(site, operator_pb2.KnownSite) for site in self._runner.sites()],
            is_fresh=self._runner.is_known_fresh,
        )

    async def ListCache(
        self, request: operator_pb2.ListCacheRequest, context: Context
    ) -> operator_pb2.ListCacheResponse:
        """Read what the caches hold."""
        del request, context
        cache = self._runner.participant.cache
        return operator_pb2.ListCacheResponse(
            site_id=self._runner.participant.site.site_id,
            usages=[to_proto(usage, operator_pb2.CacheUsage) for usage in cache.usages()],
            entries=[
                to_proto(entry, operator_pb2.CacheEntry)
                for entry in (*cache.entries(), *self._adopted())
            ],
            marks=self._mark_messages(),
            arrivals=[
                ListCacheResponse.Arrival(
                    reference=pull.reference,
                    name=pull.name,
                    received_bytes=pull.received_bytes,
                    size_bytes=pull.size_bytes,
                    note=pull.note,
                )
                for pull in self._pulls()
            ],
        )

    async def ReadCopyLog(
        self, request: operator_pb2.ReadCopyLogRequest, context: Context
    ) -> operator_pb2.ReadCopyLogResponse:
        """Read what was decided about copies, and why."""
        del context
        count_max = request.event_count or COPY_EVENT_COUNT
        if not 0 < count_max <= COPY_EVENT_COUNT_MAX:
            raise InvalidRequestError(
                f"from 1 to {COPY_EVENT_COUNT_MAX} decisions can be read", field="event_count"
            )
        task_id = TaskId(request.task_id) if request.task_id else None
        wanted = frozenset(ArtifactId(each) for each in request.artifact_ids)
        return operator_pb2.ReadCopyLogResponse(
            site_id=self._runner.participant.site.site_id,
            events=[
                to_proto(event, operator_pb2.CopyEvent)
                for event in self._copy_log.latest(count_max, task_id, wanted)
            ],
        )

    # A coroutine that writes, not a generator as the stubs have it: a generator cannot hold a
    # TaskGroup open over its yields.
    async def PullArtifact(  # type: ignore[override]
        self, request: operator_pb2.PullArtifactRequest, context: Context
    ) -> None:
        """Bring an artifact from an upstream; ends with the call."""
        kind = _KINDS.get(request.kind)
        order = self._puller.prepared(request.reference, request.name, kind)
        async with asyncio.TaskGroup() as group:
            pulling = group.create_task(self._puller.pull(order))
            while not pulling.done():
                await asyncio.wait({pulling}, timeout=PULL_BEAT_S)
                if not pulling.done():
                    await self._tell_progress(order.pull, context)
        pulled = pulling.result()
        await self._runner.beat_now()
        await context.write(
            operator_pb2.PullArtifactResponse(
                received_bytes=order.pull.received_bytes,
                size_bytes=order.pull.size_bytes,
                artifact=to_proto(pulled.artifact, common_pb2.Artifact),
                is_new=pulled.is_new,
                revision=pulled.revision,
            )
        )

    async def PinArtifact(
        self, request: operator_pb2.PinArtifactRequest, context: Context
    ) -> operator_pb2.PinArtifactResponse:
        """Keep an artifact, or let it go."""
        artifact, is_changed = self._upkeep.set_pin(request.name, request.is_pinned)
        await self._puller.save_marks()
        return operator_pb2.PinArtifactResponse(
            artifact=to_proto(artifact, common_pb2.Artifact), is_changed=is_changed
        )

    async def VerifyArtifacts(  # type: ignore[override]
        self, request: operator_pb2.VerifyArtifactsRequest, context: Context
    ) -> None:
        """Read every byte of artifacts again."""
        async with contextlib.aclosing(self._upkeep.verify(request.name)) as verified:
            async for artifact, found in verified:
                problem = None
                if found.bad and request.is_repairing:
                    problem = await self._mend(artifact, found)
                is_mended = problem == ""
                if found.bad:
                    await self._runner.beat_now()  # others learn at once who has it
                await context.write(
                    operator_pb2.VerifyArtifactsResponse(
                        artifact=to_proto(artifact, common_pb2.Artifact),
                        bad_bytes=0 if is_mended else found.bad_bytes,
                        bad_paths=[]
                        if is_mended
                        else list(dict.fromkeys(part.path for part in found.bad)),
                        repaired_bytes=found.bad_bytes if is_mended else 0,
                        repair_problem=problem or "",
                    )
                )

    async def _mend(self, artifact: Artifact, found: Examination) -> str:
        """Mend an artifact from its holders or its source; return why that failed, else nothing."""
        need = ArtifactNeed(
            artifact.artifact_id,
            kind=artifact.kind,
            name=artifact.name,
            size_bytes=artifact.size_bytes,
        )
        try:
            await self._plane.mend(found, await self._runner.holders_of(need))
        except GcosError as exc:
            return str(exc)
        self._runner.log.info(
            "artifact_mended",
            artifact=artifact.name,
            artifact_id=artifact.artifact_id,
            bytes_moved=found.bad_bytes,
        )
        return ""

    async def PruneCache(
        self, request: operator_pb2.PruneCacheRequest, context: Context
    ) -> operator_pb2.PruneCacheResponse:
        """Remove artifacts that nobody uses."""
        to_bytes = request.to_bytes if request.HasField("to_bytes") else None
        if (to_bytes or 0) < 0 or not request.unused_for_s >= 0:
            raise InvalidRequestError("a limit is negative", field="to_bytes")
        plan = self._upkeep.prune_plan(to_bytes=to_bytes, unused_for_s=request.unused_for_s)
        if not request.is_dry_run:
            plan = await self._upkeep.prune(plan)
            await self._after_removal()
        return operator_pb2.PruneCacheResponse(
            site_id=self._plane.store.site_id,
            removed=[to_proto(artifact, common_pb2.Artifact) for artifact in plan.removed],
            kept=[
                operator_pb2.PruneCacheResponse.Kept(
                    artifact=to_proto(artifact, common_pb2.Artifact), why=reason.why
                )
                for artifact, reason in plan.kept
            ],
            occupied_bytes=plan.occupied_bytes,
        )

    async def RemoveArtifact(
        self, request: operator_pb2.RemoveArtifactRequest, context: Context
    ) -> operator_pb2.RemoveArtifactResponse:
        """Remove one artifact."""
        artifact, names = self._upkeep.removable(
            request.name, gives_up_custody=request.gives_up_custody
        )
        if not request.is_dry_run:
            await self._upkeep.remove(artifact)
            await self._after_removal()
        return operator_pb2.RemoveArtifactResponse(
            artifact=to_proto(artifact, common_pb2.Artifact), names=names
        )

    async def _tell_progress(self, pull: "Pull", context: Context) -> None:
        """Tell how far a pull is; a caller that takes nothing any more ends it."""
        async with asyncio.timeout(IDLE_S):
            await context.write(
                operator_pb2.PullArtifactResponse(
                    received_bytes=pull.received_bytes, size_bytes=pull.size_bytes, note=pull.note
                )
            )

    async def _after_removal(self) -> None:
        await self._puller.save_marks()
        await self._runner.beat_now()

    def _adopted(self) -> list[CacheEntry]:
        """Return what lies in other programs' stores, as the caches' own entries are shown."""
        store = self._plane.store
        return [
            CacheEntry(
                artifact,
                pin_count=int(self._marks.of(artifact.artifact_id).is_pinned),
                last_used_s=store.record_of(artifact.artifact_id).placed_s,
                hit_count=0,
                is_damaged=store.cache.is_damaged(artifact.artifact_id),
            )
            for artifact in store.cache.residents()
        ]

    def _mark_messages(self) -> list[ListCacheResponse.Mark]:
        adopted = {artifact.artifact_id for artifact in self._plane.cache.residents()}
        held = dict.fromkeys(each.artifact_id for each in self._plane.cache.kept())
        arrivals = self._copy_log.arrivals()
        marks = []
        for artifact_id in sorted(held):
            mark = self._marks.of(artifact_id)
            if artifact_id in adopted:
                mark = replace(mark, reference="adopted", why="lies in another program's store")
            elif artifact_id in arrivals:
                how = arrivals[artifact_id]
                # Whence it was pulled, the reference says.
                mark = replace(mark, why="pulled" if how.kind == "pulled" else how.why)
            marks.append(mark)
        return [
            to_proto(mark, ListCacheResponse.Mark)
            for mark in marks
            if mark.is_pinned or mark.reference or mark.why
        ]

    async def AddArtifact(
        self, request: operator_pb2.AddArtifactRequest, context: Context
    ) -> operator_pb2.AddArtifactResponse:
        """Add a directory of this machine as an artifact of this site."""
        del context
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise _no_kind()
        artifact, is_new = await self._plane.add(Path(request.path), request.name, kind)
        self._runner.log.info(
            "artifact_added",
            artifact=artifact.name,
            artifact_id=artifact.artifact_id,
            size_bytes=artifact.size_bytes,
            is_new=is_new,
        )
        await self._runner.beat_now()
        return operator_pb2.AddArtifactResponse(
            artifact=to_proto(artifact, common_pb2.Artifact), is_new=is_new
        )

    async def PutArtifact(
        self, request_iterator: AsyncIterator[operator_pb2.PutArtifactRequest], context: Context
    ) -> operator_pb2.PutArtifactResponse:
        """Take a directory of the caller's as an artifact of this site."""
        place = self._uploads / unique_text()
        try:
            name, kind = await receive(
                request_iterator,
                place,
                size_bytes_max=self._runner.participant.site.data_cache_bytes,
            )
            artifact, is_new = await self._plane.add(place.resolve(), name, kind)
            # At once, since a task with the same files may end before the submission comes.
            self._runner.workdirs.uploaded(
                artifact.artifact_id, now_s=self._runner.clock.protocol_s()
            )
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        await self._runner.beat_now()
        return operator_pb2.PutArtifactResponse(
            artifact=to_proto(artifact, common_pb2.Artifact), is_new=is_new
        )

    async def ReadSignals(
        self, request: operator_pb2.ReadSignalsRequest, context: Context
    ) -> operator_pb2.ReadSignalsResponse:
        """Read carbon and price, now and for the coming hours."""
        del context
        if not 0 <= request.horizon_h <= HORIZON_H_MAX:
            raise InvalidRequestError(
                f"{request.horizon_h} hours; 0 to {HORIZON_H_MAX} are known",
                field="horizon_h",
                hint="ask for fewer hours",
            )
        hours = request.horizon_h or 24
        signals = self._runner.participant.signals
        now_s = self._runner.now().world_s
        site = self._runner.participant.site
        return operator_pb2.ReadSignalsResponse(
            site_id=site.site_id,
            zone=site.zone,
            now_s=now_s,
            carbon=None if signals.carbon is None else _hourly(signals.carbon, now_s, hours),
            price=_hourly(signals.price, now_s, hours),
        )


def _hourly(signal: Signal, now_s: float, hours: int) -> operator_pb2.HourlySignal:
    """Return `hours` values of the signal from the present hour on."""
    start_s = math.floor(now_s / HOUR_S) * HOUR_S
    return operator_pb2.HourlySignal(
        start_s=start_s,
        values=[signal.series.at(start_s + i * HOUR_S) for i in range(hours)],
        unit=signal.unit,
        provenance=to_proto(signal.provenance, operator_pb2.Provenance),
    )


async def receive(
    pieces: AsyncIterator[operator_pb2.PutArtifactRequest], place: Path, *, size_bytes_max: int
) -> tuple[str, ArtifactKind]:
    """Write an upload below `place` and return its name and kind.

    Raises:
        InvalidRequestError: A piece names no file, or a path that leaves the directory.
        TooLargeError: It is larger than `size_bytes_max`.
    """
    name, kind, received_bytes = "", None, 0
    arriving = await asyncio.to_thread(Arriving, place)
    try:
        async for piece in pieces:
            name = name or piece.name
            kind = kind or _KINDS.get(piece.kind)
            received_bytes += len(piece.data)
            if received_bytes > size_bytes_max:
                raise TooLargeError(
                    f"the upload has more than {size_bytes_max} bytes",
                    hint="leave out what the task does not need, or send it to a larger site",
                )
            if piece.path or piece.data:
                await asyncio.to_thread(arriving.add, (piece.path, 0, piece.data))
        await asyncio.to_thread(arriving.finish)
    except FileExistsError as exc:
        raise InvalidRequestError(
            "a file is sent twice", field="path", hint="send each path once"
        ) from exc
    finally:
        await asyncio.to_thread(arriving.give_up)  # nothing, once everything has appeared
    if kind is None:
        raise _no_kind()
    return name, kind


def _no_kind() -> InvalidRequestError:
    return InvalidRequestError("no kind is named", field="kind", hint="say model or data")
