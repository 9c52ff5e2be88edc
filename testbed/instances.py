"""Makes instances: a scenario and a week of the world under a seed, or with the jobs of a log."""

from collections.abc import Sequence
from typing import Final

from gcos import tables
from gcos.accounting import BYTES_PER_GB, S_PER_H
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from gcos.sites import Link, Pool, Site
from testbed.catalogue import draw_catalogue
from testbed.job_log import JobLog, read_log
from testbed.run_signals import run_signals
from testbed.scenarios.records import Event, Scenario, SitePlan
from testbed.sim.instance import Churn, ChurnKind, Faults, ForecastNoise, Instance
from testbed.workload import Recipe, draw_tasks, recipe
from testbed.world import LoggedJob, World

#: `network.egress`: between two sites in one zone.
SAME_ZONE_EGRESS_USD_PER_GB: Final = 0.02
_BYTES_PER_GBIT: Final = 1e9 / 8


def draw(scenario: Scenario, world: World, *, week_start_s: float, seed: int) -> Instance:
    """Return the instance of a scenario in the week that begins at `week_start_s`.

    The run begins before that, with the warm-up.

    Raises:
        InvalidRequestError: The week does not begin on a UTC hour, or the scenario cannot be drawn.
        NotFoundError: The world does not cover the week; the message names zone and hour.
    """
    source = _recipe(scenario, week_start_s, seed)
    return _instance(source, world, JobLog(draw_tasks(source), source.catalogue.upstreams))


def replay(
    scenario: Scenario,
    world: World,
    jobs: Sequence[LoggedJob],
    *,
    week_start_s: float,
    seed: int,
) -> Instance:
    """Return an instance whose tasks are those of a job log, which begins with the warm-up.

    What the log lacks (models, data sets, origins, deadlines) is drawn as the generator does.

    Raises:
        InvalidRequestError: As `draw`, or no job of the log falls into the run.
        NotFoundError: As `draw`.
    """
    source = _recipe(scenario, week_start_s, seed)
    return _instance(source, world, read_log(source, world, jobs))


def _recipe(scenario: Scenario, week_start_s: float, seed: int) -> Recipe:
    start_s = week_start_s - scenario.warmup_h * S_PER_H
    if start_s % S_PER_H != 0:
        raise InvalidRequestError(
            f"a week begins on a UTC hour, and {week_start_s:g} s since the epoch is none",
            field="week_start_s",
        )
    return recipe(scenario, draw_catalogue(scenario, seed), start_s=start_s, seed=seed)


def _instance(source: Recipe, world: World, log: JobLog) -> Instance:
    scenario = source.scenario
    signals = run_signals(scenario, world, source.start_s)
    return Instance(
        name=scenario.name,
        seed=source.seed,
        start_s=source.start_s,
        warmup_s=scenario.warmup_h * S_PER_H,
        measure_s=scenario.measure_h * S_PER_H,
        sites=tuple(_site(plan, scenario) for plan in scenario.all_sites),
        price=signals.price,
        carbon=signals.carbon,
        links={
            (SiteId(src.id), SiteId(dst.id)): _link(src, dst, scenario, world)
            for src in scenario.all_sites
            for dst in scenario.all_sites
            if src.id != dst.id
        },
        shares_bandwidth=scenario.network.shared_bandwidth,
        upstreams=log.upstreams,
        tasks=log.tasks,
        carbon_price_usd_per_kg=scenario.carbon_price_usd_per_kg,
        network_kwh_per_gb=scenario.network_kwh_per_gb,
        scope=scenario.cost_scope,
        storage_usd_per_gb_h=scenario.storage_usd_per_gb_h,
        forecast=ForecastNoise(sigma=scenario.signals.forecast_error),
        churn=tuple(_churn(event, source.start_s) for event in scenario.events),
        faults=scenario.faults,
        notes=(*log.notes, *signals.notes, *_told_of_faults(scenario)),
    )


def _site(plan: SitePlan, scenario: Scenario) -> Site:
    """Return the site of a plan: one pool, whose type is the name of its hardware."""
    hardware = scenario.hardware[plan.hardware]
    pool = Pool(
        plan.hardware,
        gpu_count=plan.gpus,
        speed_ratio=hardware.speed,
        active_kw=hardware.active_kw,
        idle_kw=hardware.idle_kw,
        usd_per_gpu_h=hardware.usd_per_gpu_h,
    )
    return Site(
        SiteId(plan.id),
        incarnation="sim",
        address=plan.id,
        zone=plan.zone,
        pue=plan.pue,
        pools=(pool,),
        model_cache_bytes=round(scenario.caches.model_gb * BYTES_PER_GB),
        data_cache_bytes=round(scenario.caches.data_gb * BYTES_PER_GB),
    )


def _link(src: SitePlan, dst: SitePlan, scenario: Scenario, world: World) -> Link:
    """Return the link between two sites: rates by continent, prices and round trips by zone."""
    network = scenario.network
    if src.zone == dst.zone:
        gbps, rtt_s = network.same_continent_gbps, tables.SAME_ZONE_RTT_S
        egress_usd_per_gb = SAME_ZONE_EGRESS_USD_PER_GB
    else:
        is_near = world.continent(src.zone) == world.continent(dst.zone)
        gbps = network.same_continent_gbps if is_near else network.other_gbps
        rtt_s = world.link(src.zone, dst.zone).rtt_s
        egress_usd_per_gb = world.egress_usd_per_gb(src.zone, dst.zone)
    return Link(
        rtt_s=rtt_s,
        bytes_per_s=gbps * network.bandwidth_factor * _BYTES_PER_GBIT,
        egress_usd_per_gb=egress_usd_per_gb * network.egress_factor,
    )


def _told_of_faults(scenario: Scenario) -> tuple[str, ...]:
    """Return a note of every fault that is on; none of an undisturbed world."""
    faults = scenario.faults
    told = [
        f"{name} {getattr(faults, name):g}"
        for name in Faults.__dataclass_fields__
        if name != "restart_s" and getattr(faults, name) > 0
    ]
    return (f"with faults: {', '.join(told)}",) if told else ()


def _churn(event: Event, start_s: float) -> Churn:
    at_s = start_s + event.at_h * S_PER_H
    if event.leave is not None:
        return Churn(at_s, ChurnKind.LEAVE, SiteId(event.leave))
    joins = event.join if event.join_new is None else event.join_new.id
    assert joins is not None, "an event is exactly one of leave, join and join_new"
    return Churn(at_s, ChurnKind.JOIN, SiteId(joins), keeps_caches=event.caches == "kept")
