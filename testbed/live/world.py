"""Lays out a live cluster for an instance: signals, artifacts, pools, caches.

Each artifact's permanent copy is in the cache of its home, whose custodian never evicts it; that
cache is so much larger, since the simulator keeps such copies beside the caches.
"""

import csv
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import SiteId
from gcos.signals import HOUR_S
from gcos.sites import Pool, Site
from testbed.live.checks import LiveOptions
from testbed.local_directory import AGENT, ARTIFACTS_NAME, SITES_NAME, write_whole
from testbed.local_plan import Plan
from testbed.local_state import ClusterOptions
from testbed.sim.instance import Instance, SimTask, Upstream

TRACE_NAME: Final = "signals.csv"
#: Wall seconds that a cluster gets to come up before the world of the instance begins.
_UP_S: Final = 15.0
_UP_SITE_S: Final = 4.0
#: World seconds of a task's run that one token of its work stands for: what a predictor can read.
_TOKENS_PER_S: Final = 1_000


def used_upstreams(instance: Instance) -> tuple[Upstream, ...]:
    """Return the artifacts that some task needs, by id."""
    used = {key for task in instance.tasks for key in (task.model, task.data)}
    return tuple(each for each in instance.upstreams if each.artifact.artifact_id in used)


def stored_bytes(artifact: Artifact, byte_ratio: float) -> int:
    """Return how many bytes stand for an artifact here."""
    return max(1, round(artifact.size_bytes / byte_ratio))


def cluster_options(
    instance: Instance, options: LiveOptions, directory: Path, trace: Path, policy: str
) -> ClusterOptions:
    """Return the cluster that runs an instance; its world begins somewhat before the instance."""
    lead_s = (_UP_S + _UP_SITE_S * len(instance.sites)) * options.speed
    return ClusterOptions(
        directory,
        site_ids=tuple(site.site_id for site in instance.sites),
        speed=options.speed,
        byte_ratio=options.byte_ratio,
        world_start_s=instance.start_s - lead_s,
        agent_settings={
            "policy": policy,
            "record_decisions": True,
            "signals_trace": str(trace),
            "carbon_price_usd_per_kg": instance.carbon_price_usd_per_kg,
            "network_kwh_per_gb": instance.network_kwh_per_gb,
            "cost_scope": instance.scope.value,
        },
    )


def with_sites(plan: Plan, instance: Instance, directory: Path, byte_ratio: float) -> Plan:
    """Give each agent's file the pools and caches of the instance."""
    home_bytes: dict[tuple[SiteId, ArtifactKind], int] = {}
    for each in used_upstreams(instance):
        key = each.home, each.artifact.kind
        size_bytes = stored_bytes(each.artifact, byte_ratio)
        home_bytes[key] = home_bytes.get(key, 0) + size_bytes
    for site in instance.sites:
        path = directory / SITES_NAME / site.site_id / "agent.toml"
        model_bytes = home_bytes.get((site.site_id, ArtifactKind.MODEL), 0)
        data_bytes = home_bytes.get((site.site_id, ArtifactKind.DATA), 0)
        here = replace(
            site,
            model_cache_bytes=int(site.model_cache_bytes / byte_ratio) + model_bytes,
            data_cache_bytes=int(site.data_cache_bytes / byte_ratio) + data_bytes,
        )
        write_whole(path, (_head(here) + path.read_text() + _tables(here.pools)).encode())
    assert all(
        f"{AGENT}{site.site_id}" in {each.name for each in plan.launches} for site in instance.sites
    )
    return plan


def _head(site: Site) -> str:
    return (
        f"pue = {site.pue}\nmodel_cache_bytes = {site.model_cache_bytes}\n"
        f"data_cache_bytes = {site.data_cache_bytes}\n"
    )


def _tables(pools: Iterable[Pool]) -> str:
    # The simulator weighs no waiting for bytes when it chooses a source.
    lines = ["", "[transfer]", "wait_usd_per_h = 0.0"]
    for pool in pools:
        lines += [
            "",
            "[[pools]]",
            f"type = {json.dumps(pool.type)}",
            f"gpu_count = {pool.gpu_count}",
            f"speed_ratio = {pool.speed_ratio}",
            f"active_kw = {pool.active_kw}",
            f"idle_kw = {pool.idle_kw}",
            f"usd_per_gpu_h = {pool.usd_per_gpu_h}",
        ]
    return "\n".join(lines) + "\n"


def write_trace(instance: Instance, path: Path) -> None:
    """Write the instance's signals as a trace that agents read."""
    by_zone = {site.zone: site.site_id for site in instance.sites}
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(("zone", "time", "carbon_gco2_per_kwh", "price_usd_per_kwh"))
        for zone, site_id in sorted(by_zone.items()):
            price, carbon = instance.price[site_id], instance.carbon[site_id]
            for hour in range(min(len(price.values), len(carbon.values))):
                at_s = price.start_s + hour * HOUR_S
                out.writerow((zone, _rfc3339(at_s), carbon.at(at_s), price.at(at_s)))


def write_artifacts(instance: Instance, directory: Path, byte_ratio: float) -> dict[str, Path]:
    """Write a file for each artifact that is needed, of bytes of its own; return them by name."""
    found = {}
    for each in used_upstreams(instance):
        artifact = each.artifact
        place = directory / ARTIFACTS_NAME / artifact.name
        place.mkdir()
        content = random.Random(artifact.name).randbytes(stored_bytes(artifact, byte_ratio))
        (place / "content").write_bytes(content)
        found[artifact.name] = place
    return found


def document(task: SimTask, instance: Instance, speed: float) -> str:
    """Return the document of a task: it sleeps for as long as it would run where it is run."""
    names = {each.artifact.artifact_id: each.artifact.name for each in instance.upstreams}
    arms = " ".join(
        f"{site.site_id}) s={task.work_s / site.pools[0].speed_ratio / speed:.3f};;"
        for site in instance.sites
    )
    return json.dumps(
        {
            "apiVersion": "gcos/v1",
            "kind": "Task",
            "name": task.task_id,
            "model": names[task.model],
            "data": [names[task.data]],
            "work": {"kind": "custom", "tokens": round(task.predicted_work_s * _TOKENS_PER_S)},
            "resources": {"gpu": {"type": "any", "count": task.gpu_count}},
            "run": ["sh", "-c", f"case $GCOS_SITE in {arms} esac; exec sleep $s"],
            "deadline": _rfc3339(task.deadline_s),
            "retry": {"limit": 10, "on": ["site-lost", "staging", "executor"]},
        }
    )


def _rfc3339(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
