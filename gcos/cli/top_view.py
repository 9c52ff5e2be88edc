"""What `gcos top` shows: sites, tasks under way and recent ends, as tables. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gcos.artifacts import ArtifactKind
from gcos.cli.output import Table
from gcos.cli.quantities import NOTHING, counted, duration, instant, percentage, significant, size
from gcos.cli.site_tables import heard, is_silent, load, standing
from gcos.cli.task_progress import progress, shortened
from gcos.client_records import Gathered, Scales, SiteCache, SiteListing
from gcos.ids import SiteId, TaskId
from gcos.known_sites import KnownSite
from gcos.task_record import Task

#: So much of a message is shown: one that is long must not take the column from all.
MESSAGE_CHARS: Final = 60


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
    known_sites, away = snapshot.sites.sites, _away(snapshot)
    heard_of = [each for each in known_sites if not _is_out_of_date(each, away)]
    running = sum(known.digest.run_count for known in heard_of)
    silent = len(known_sites) - len(heard_of)
    missing = "silent" if snapshot.sites.is_fresh else "not heard of"
    words = [
        f"{instant(snapshot.now_s, snapshot.now_s).partition(',')[0]}",
        f"{counted(len(known_sites), 'site')}{f', {silent} {missing}' if silent else ''}",
        counted(running, "run"),
        f"{counted(len(snapshot.active.items), 'task')} under way",
    ]
    return "   ".join(words)


def warnings(snapshot: Snapshot) -> list[str]:
    """Return what is missing from the picture."""
    lines = [] if snapshot.sites.is_fresh else ["no broker answers: sites are as last heard"]
    return lines + [f"site {site_id} does not answer" for site_id in _away(snapshot)]


def sites(snapshot: Snapshot) -> Table:
    """Return one row for each site."""
    caches = {cache.site_id: cache for cache in snapshot.caches.items}
    away = _away(snapshot)
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
        tuple(
            _site(known, caches, away, is_fresh=snapshot.sites.is_fresh)
            for known in snapshot.sites.sites
        ),
        optional=("HEARD", "ZONE", ">DATA full %", ">MODELS full %"),
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


def _away(snapshot: Snapshot) -> dict[SiteId, None]:
    """Return the sites that were asked and did not answer, in the order in which they were told."""
    return dict.fromkeys(
        each.site_id
        for gathered in (snapshot.active, snapshot.caches)
        for each in gathered.unreachable
    )


def _is_out_of_date(known: KnownSite, away: Mapping[SiteId, None]) -> bool:
    return known.site.site_id in away or is_silent(known)


def _site(
    known: KnownSite,
    caches: Mapping[SiteId, SiteCache],
    away: Mapping[SiteId, None],
    *,
    is_fresh: bool,
) -> tuple[str, ...]:
    site_id = known.site.site_id
    cache = None if _is_out_of_date(known, away) else caches.get(site_id)
    return (
        site_id,
        known.site.zone,
        *load(known, is_away=site_id in away),
        _fullness(cache, ArtifactKind.MODEL),
        _fullness(cache, ArtifactKind.DATA),
        standing(known, is_away=site_id in away, is_fresh=is_fresh),
        heard(known),
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
        shortened(task.message, MESSAGE_CHARS),
    )
