"""What `gcos top` shows: sites, tasks under way and recent ends, as tables. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from gcos.artifacts import ArtifactKind
from gcos.cli.output import Table
from gcos.cli.plan_table import scale_notes
from gcos.cli.quantities import NOTHING, counted, duration, instant, percentage, significant, size
from gcos.cli.task_progress import progress, shortened
from gcos.client_records import Gathered, Scales, SiteCache, SiteListing
from gcos.ids import SiteId, TaskId
from gcos.known_sites import KnownSite
from gcos.task_record import Task


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cluster at one instant.

    Attributes:
        now_s: World instant.
        sites: Its sites.
        caches: How full their caches are.
        active: Tasks under way, newest first.
        ended: Tasks that have ended, the last first.
        scales: How the world is scaled.
    """

    now_s: float
    sites: SiteListing
    caches: Gathered[SiteCache]
    active: Gathered[Task]
    ended: tuple[Task, ...]
    scales: Scales


def head(snapshot: Snapshot) -> str:
    """Return the line at the top."""
    running = sum(known.digest.run_count for known in snapshot.sites.sites)
    words = [
        f"{instant(snapshot.now_s, snapshot.now_s).partition(',')[0]}",
        counted(len(snapshot.sites.sites), "site"),
        counted(running, "run"),
        f"{counted(len(snapshot.active.items), 'task')} under way",
    ]
    return "   ".join(words + scale_notes(snapshot.scales))


def warnings(snapshot: Snapshot) -> list[str]:
    """Return what is missing from the picture."""
    lines = [] if snapshot.sites.is_fresh else ["no broker answers: sites are as last heard"]
    silent = dict.fromkeys(
        each.site_id
        for gathered in (snapshot.active, snapshot.caches)
        for each in gathered.unreachable
    )
    return lines + [f"site {site_id} does not answer" for site_id in silent]


def sites(snapshot: Snapshot) -> Table:
    """Return one row for each site."""
    caches = {cache.site_id: cache for cache in snapshot.caches.items}
    return Table(
        (
            "SITE",
            "ZONE",
            "GPUS free/all",
            ">CO2 g/kWh",
            ">$/kWh",
            ">RUNS",
            ">MODELS full %",
            ">DATA full %",
            "STATE",
            "HEARD",
        ),
        tuple(_site(known, caches) for known in snapshot.sites.sites),
        optional=("HEARD", "ZONE", "STATE"),
    )


def active(
    snapshot: Snapshot, rates_bytes_per_s: Mapping[TaskId, float | None], *, limit: int
) -> Table:
    """Return one row for each of the first `limit` tasks under way."""
    return Table(
        ("TASK", "NAME", "STATE", "SITE", "PROGRESS"),
        tuple(
            (
                task.task_id,
                shortened(task.spec.name),
                task.state.value,
                task.site_id or NOTHING,
                progress(
                    task,
                    now_s=snapshot.now_s,
                    rate_bytes_per_s=rates_bytes_per_s.get(task.task_id),
                ),
            )
            for task in snapshot.active.items[:limit]
        ),
        optional=("NAME",),
    )


def ended(snapshot: Snapshot, *, limit: int) -> Table:
    """Return one row for each of the last `limit` tasks that have ended."""
    return Table(
        ("TASK", "NAME", "STATE", "SITE", ">RUN", ">CO2 g", ">ENDED", "MESSAGE"),
        tuple(_ended(task, snapshot.now_s) for task in snapshot.ended[:limit]),
        optional=("MESSAGE", "NAME", ">CO2 g"),
    )


def _site(known: KnownSite, caches: Mapping[SiteId, SiteCache]) -> tuple[str, ...]:
    digest = known.digest
    carbon = digest.carbon_gco2_per_kwh
    cache = caches.get(known.site.site_id)
    return (
        known.site.site_id,
        known.site.zone,
        ", ".join(f"{pool.free_count}/{pool.gpu_count} {pool.type}" for pool in digest.pools),
        NOTHING if carbon is None else significant(carbon),
        significant(digest.price_usd_per_kwh),
        str(digest.run_count),
        _fullness(cache, ArtifactKind.MODEL),
        _fullness(cache, ArtifactKind.DATA),
        "draining" if digest.is_draining else "open",
        f"{duration(known.age_s)} ago",
    )


def _fullness(cache: SiteCache | None, kind: ArtifactKind) -> str:
    for usage in () if cache is None else cache.usages:
        if usage.kind is kind and usage.capacity_bytes:
            ratio = usage.occupied_bytes / usage.capacity_bytes
            return f"{percentage(ratio)} of {size(usage.capacity_bytes)}"
    return NOTHING


def _ended(task: Task, now_s: float) -> tuple[str, ...]:
    report = task.report
    ran_s = None if report is None or report.started_s is None else report.run_s
    ended_s = now_s if task.ended_s is None else task.ended_s
    return (
        task.task_id,
        shortened(task.spec.name),
        task.state.value,
        task.site_id or NOTHING,
        duration(ran_s),
        NOTHING if report is None else significant(report.charge.carbon_gco2),
        f"{duration(max(0.0, now_s - ended_s))} ago",
        task.message,
    )
