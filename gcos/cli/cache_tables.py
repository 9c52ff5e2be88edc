"""Caches as tables. Pure."""

from collections.abc import Sequence
from typing import Final

from gcos.artifacts import CacheEntry, CacheMark
from gcos.cli.output import Table
from gcos.cli.quantities import NOTHING, counted, instant, percentage, size
from gcos.client_records import (
    Arrival,
    Pruned,
    SiteCache,
    SiteCopyLog,
    VerifiedArtifact,
)

_COLUMNS: Final = (
    *("SITE", "KIND", "NAME", ">SIZE", "STATE", ">RUNS", ">HITS", "LAST USED"),
    *("CUSTODIAN", "SOURCE", "WHY", "ID"),
)


def entries(caches: Sequence[SiteCache], *, now_s: float) -> Table:
    """Return one row for each artifact at each site, and for what is on its way there."""
    rows = []
    for cache in caches:
        marks = {mark.artifact_id: mark for mark in cache.marks}
        for entry in cache.entries:
            artifact_id = entry.artifact.artifact_id
            mark = marks.get(artifact_id, CacheMark(artifact_id))
            rows.append(_entry(cache.site_id, entry, mark, now_s))
        rows += [_arrival(cache.site_id, arrival) for arrival in cache.arrivals]
    return Table(
        _COLUMNS,
        tuple(rows),
        optional=("ID", "LAST USED", ">HITS", "SOURCE", ">RUNS", "CUSTODIAN", "WHY"),
    )


def decisions(logs: Sequence[SiteCopyLog], *, now_s: float) -> Table:
    """Return a row for each decision about a copy, of all sites together, oldest first."""
    found = sorted(
        ((event.at_s, log.site_id, event) for log in logs for event in log.events),
        key=lambda each: each[:2],
    )
    return Table(
        ("WHEN", "SITE", "WHAT", "NAME", "OTHER SITE", "TASK", "WHY", "ID"),
        tuple(
            (
                instant(at_s, now_s),
                site_id,
                event.kind.replace("_", " "),
                event.name,
                event.site_id or NOTHING,
                event.task_id or NOTHING,
                event.why or NOTHING,
                _short_id(event.artifact_id),
            )
            for at_s, site_id, event in found
        ),
        optional=("ID", "TASK", "OTHER SITE"),
    )


def usages(caches: Sequence[SiteCache]) -> Table:
    """Return how full each cache is."""
    return Table(
        ("SITE", "CACHE", ">USED", ">RESERVED", ">CAPACITY", ">FULL %"),
        tuple(
            (
                cache.site_id,
                usage.kind.value.lower(),
                size(usage.occupied_bytes),
                size(usage.reserved_bytes),
                size(usage.capacity_bytes),
                percentage(usage.occupied_bytes / usage.capacity_bytes)
                if usage.capacity_bytes
                else NOTHING,
            )
            for cache in caches
            for usage in cache.usages
        ),
    )


def verified(found: Sequence[VerifiedArtifact]) -> Table:
    """Return what reading artifacts again found."""
    return Table(
        ("KIND", "NAME", ">SIZE", "STATE", "DAMAGED FILES", "ID"),
        tuple(
            (
                each.artifact.kind.value.lower(),
                each.artifact.name,
                size(each.artifact.size_bytes),
                f"{size(each.bad_bytes)} damaged" if each.bad_paths else "whole",
                _some(each.bad_paths),
                _short_id(each.artifact.artifact_id),
            )
            for each in found
        ),
        optional=("ID",),
    )


def pruned(result: Pruned, *, is_dry_run: bool) -> Table:
    """Return what was removed and what stays, with the reason."""
    word = "would go" if is_dry_run else "removed"
    gone = [(artifact, word) for artifact in result.removed]
    stays = [(kept.artifact, f"stays: {kept.why}") for kept in result.kept]
    return Table(
        ("SITE", "KIND", "NAME", ">SIZE", "WHAT", "ID"),
        tuple(
            (
                result.site_id,
                artifact.kind.value.lower(),
                artifact.name,
                size(artifact.size_bytes),
                what,
                _short_id(artifact.artifact_id),
            )
            for artifact, what in (*gone, *stays)
        ),
        optional=("ID",),
    )


def _entry(site_id: str, entry: CacheEntry, mark: CacheMark, now_s: float) -> tuple[str, ...]:
    source = mark.reference
    if source and mark.revision and mark.revision not in source:
        source = f"{source} ({mark.revision[:12]})"
    return (
        site_id,
        entry.artifact.kind.value.lower(),
        entry.artifact.name,
        size(entry.artifact.size_bytes),
        _state(entry, mark),
        str(entry.pin_count - mark.is_pinned),
        str(entry.hit_count),
        instant(entry.last_used_s or None, now_s),
        entry.artifact.custodian or NOTHING,
        source or NOTHING,
        mark.why or NOTHING,
        _short_id(entry.artifact.artifact_id),
    )


def _state(entry: CacheEntry, mark: CacheMark) -> str:
    if entry.is_damaged:
        return "damaged, pinned" if mark.is_pinned else "damaged"
    return "pinned" if mark.is_pinned else "whole"


def _arrival(site_id: str, arrival: Arrival) -> tuple[str, ...]:
    share = arrival.received_bytes / arrival.size_bytes if arrival.size_bytes else 0.0
    return (
        site_id,
        NOTHING,
        arrival.name,
        size(arrival.size_bytes) if arrival.size_bytes else NOTHING,
        arrival.note or f"arriving, {percentage(share)} %",
        "0",
        "0",
        NOTHING,
        NOTHING,
        arrival.reference,
        NOTHING,
        NOTHING,
    )


def _some(paths: Sequence[str]) -> str:
    if not paths:
        return NOTHING
    more = len(paths) - 1
    return paths[0] if not more else f"{paths[0]} and {counted(more, 'other')}"


def _short_id(artifact_id: str) -> str:
    return artifact_id[: len("sha256:") + 12]
