"""The compiled core against the simulator: the same events, instants and totals."""

import io
import math
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from policies.catalogue import POLICIES
from policies.evictors import EVICTORS
from policies.maccs.copy_plan import plan_copies
from testbed.fast.run import FastWorld, fast_policy, run_fast, why_not
from testbed.instances import draw
from testbed.planner import learned, planner
from testbed.scenarios import load_scenario, scenario_names
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Churn, ChurnKind, Faults, ForecastNoise, Instance
from testbed.sim.result import Totals
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from testbed.sim.simulation import Simulation
from testbed.world import load_world

ROOT = Path(__file__).resolve().parents[3]
WEEK_S = datetime(2023, 7, 3, tzinfo=UTC).timestamp()
#: The full simulator has no `central`; its parity stands in `test_learned_bids`.
COMPILED = [
    name
    for name, policy in POLICIES.items()
    if why_not(instance_of(Sample(task_count=1)), name) is None
    and not policy.is_central
    and not name.startswith("maccs-")
]
BUSY = Sample(task_count=120, tasks_per_h=30.0)
FULL_WEIGHT = {"artifact": 1.0}
TINY = replace(BUSY, seed=1, model_cache_gb=15.0, data_cache_gb=21.0)
#: A third of the tasks run, the others wait.
CROWDED = Sample(task_count=110, tasks_per_h=250.0, site_count=2, seed=2)
#: Nearly all arrive within a quarter of an hour, so that offers are compared as far as plans go.
RUSH = Sample(task_count=190, tasks_per_h=600.0, site_count=5, seed=1)


def in_steps(instance: Instance, minutes: float) -> Instance:
    """Return an instance whose tasks arrive together, once in so many minutes; 0: as they do."""
    if not minutes:
        return instance
    step_s = 60.0 * minutes
    return replace(
        instance,
        tasks=tuple(
            replace(task, arrival_s=instance.start_s + step_s * math.floor(since_s / step_s))
            for task in instance.tasks
            for since_s in [task.arrival_s - instance.start_s]
        ),
    )


def check_same(
    instance: Instance,
    policy: str,
    mode: CacheMode = CacheMode.DUAL,
    eviction: str = "value",
) -> str:
    """Run both, and compare line by line, then sum by sum; return the log.

    What was learned has its full weight, whatever the gate gave: by its file where the plan is not
    compiled, by its arrays where it is.
    """
    full_log, fast_log = io.StringIO(), io.StringIO()
    is_compiled = len(instance.tasks) >= 200
    full = Simulation(
        instance,
        POLICIES[policy],
        mode=mode,
        eviction=eviction,
        log=full_log,
        planner=planner() if is_compiled else plan_copies,
        learned=learned(POLICIES[policy].learned, scales=FULL_WEIGHT, is_compiled=is_compiled),
    )
    full.run()
    fast = run_fast(
        FastWorld(instance),
        replace(
            fast_policy(policy),
            eviction=eviction,
            residual_scales=tuple(FULL_WEIGHT.items()),
        ),
        mode=mode,
        log=fast_log,
    )
    pairs = zip(full_log.getvalue().splitlines(), fast_log.getvalue().splitlines(), strict=False)
    for number, (theirs, ours) in enumerate(pairs):
        assert ours == theirs, f"line {number}"
    assert full_log.getvalue() == fast_log.getvalue()
    assert fast.trace_hash == full.books.trace_hash
    assert fast.event_count == full.engine.event_count
    check_totals(fast.whole, full.books.totals(full.books.whole))
    check_totals(fast.measured, full.books.totals(full.books.measured))
    return full_log.getvalue()


def check_totals(ours: Totals, theirs: Totals) -> None:
    for group in ("charge", "idle"):
        our, their = getattr(ours, group), getattr(theirs, group)
        for name in our.__slots__:
            assert getattr(our, name) == pytest.approx(getattr(their, name), rel=1e-9, abs=1e-9), (
                f"{group}.{name}"
            )
    assert replace(ours, charge=theirs.charge, idle=theirs.idle) == theirs


def short(name: str, *, warmup_h: int, measure_h: int, seed: int = 1) -> Instance:
    """Return a scenario in a window that is short enough to run twice; churn moves into it."""
    scenario = load_scenario(name)
    hours = warmup_h + measure_h
    ratio = hours / (scenario.warmup_h + scenario.measure_h)
    early = tuple(replace(event, at_h=event.at_h * ratio) for event in scenario.events)
    cut = replace(scenario, warmup_h=warmup_h, measure_h=measure_h, events=early)
    place = Path(os.environ.get("GCOS_TEST_DATA", ROOT.parent / "shared" / "data"))
    world = load_world(place if place.is_dir() else None)
    return draw(cut, world, week_start_s=WEEK_S, seed=seed)


@pytest.mark.parametrize("mode", list(CacheMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("policy", COMPILED)
def test_every_policy_and_cache_mode(policy: str, mode: CacheMode) -> None:
    check_same(instance_of(TINY), policy, mode)


@pytest.mark.parametrize("policy", COMPILED)
@pytest.mark.parametrize(
    "sample",
    [BUSY, replace(BUSY, shares_bandwidth=False), replace(BUSY, forecast=ForecastNoise(0.2))],
    ids=["busy", "unshared", "noisy forecast"],
)
def test_other_worlds(sample: Sample, policy: str) -> None:
    check_same(instance_of(sample), policy)


@pytest.mark.parametrize("policy", ["maccs-reauction", "maccs-regret"])
def test_maccs_without_a_part(policy: str) -> None:
    """One world each: what is left of it meets the others as part of `maccs`."""
    check_same(instance_of(BUSY), policy)


@pytest.mark.parametrize("minutes", [0.0, 15.0], ids=["spread", "in steps"])
@pytest.mark.parametrize("policy", ["carbon-greedy", "locality", "rule"])
def test_long_queues(policy: str, minutes: float) -> None:
    """Plans of dozens of waiting runs, asked for once at an instant or many times."""
    check_same(in_steps(instance_of(CROWDED), minutes), policy)


@pytest.mark.parametrize("policy", ["carbon-greedy", "cost-greedy"])
def test_plans_that_end_where_a_bid_has_lost(policy: str) -> None:
    """One of them ends just where a plan is kept, and is gone on with later."""
    check_same(in_steps(instance_of(RUSH), 15.0), policy)


def test_short_runs_under_signals_that_never_change() -> None:
    """Sites then differ by no more than what their instants are rounded by."""
    drawn = instance_of(replace(BUSY, site_count=5, tasks_per_h=600.0, rtt_s=0.0, gb_per_s=1e3))
    carbon = {
        key: replace(each, values=0.0 * each.values + 500) for key, each in drawn.carbon.items()
    }
    pool = replace(drawn.sites[0].pools[0], gpu_count=64)
    short = replace(
        drawn,
        carbon=carbon,
        sites=tuple(replace(site, pue=1.2, pools=(pool,)) for site in drawn.sites),
        tasks=tuple(
            replace(
                task,
                gpu_count=16 * task.gpu_count,
                predicted_work_s=task.predicted_work_s / 200,
                work_s=task.work_s / 200,
            )
            for task in drawn.tasks
        ),
    )
    check_same(in_steps(short, 0.1), "carbon-greedy")


@pytest.mark.parametrize("eviction", EVICTORS)
@pytest.mark.parametrize("policy", ["joint", "random"])
def test_every_evictor(policy: str, eviction: str) -> None:
    full = Sample(task_count=60, tasks_per_h=1.0, seed=2, data_cache_gb=25.0)
    check_same(instance_of(full), policy, eviction=eviction)


@pytest.mark.parametrize("keeps_caches", [True, False], ids=["kept", "lost"])
@pytest.mark.parametrize("policy", COMPILED)
def test_sites_that_go_and_come(policy: str, *, keeps_caches: bool) -> None:
    changes = (
        Churn(START_S + 1.2 * 3600, ChurnKind.JOIN, site_id(1)),
        Churn(START_S + 1.3 * 3600, ChurnKind.LEAVE, site_id(0)),
        Churn(START_S + 1.3 * 3600 + 10, ChurnKind.JOIN, site_id(0), keeps_caches=True),
        Churn(START_S + 2.2 * 3600, ChurnKind.LEAVE, site_id(0)),
        Churn(START_S + 4.0 * 3600, ChurnKind.JOIN, site_id(0), keeps_caches=keeps_caches),
    )
    check_same(instance_of(replace(BUSY, churn=changes)), policy)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        pytest.param("default", "plan", marks=pytest.mark.soak),
        ("default", "maccs"),
        ("default", "oracle-demand"),
        pytest.param("cache-tenth", "plan", marks=pytest.mark.soak),
        pytest.param("gpu-hours", "plan", marks=pytest.mark.soak),
        ("churn", "plan"),
    ],
)
def test_planned_copies(name: str, policy: str) -> None:
    """Long enough that demand is remembered and copies pay."""
    log = check_same(short(name, warmup_h=6, measure_h=12), policy)
    copies = [line for line in log.splitlines() if '"transfer"' in line and '"task":null' in line]
    assert copies, "no copy was planned"


def test_weights_run_at_any_number_of_sites() -> None:
    check_same(instance_of(replace(BUSY, site_count=5)), "maccs")
    check_same(short("sites-20", warmup_h=1, measure_h=2), "maccs")


def test_run_times_that_are_told_as_if_they_were_sure() -> None:
    tasks = tuple(replace(task, sigma=0.0) for task in instance_of(BUSY).tasks)
    check_same(replace(instance_of(BUSY), tasks=tasks), "rule")


@pytest.mark.parametrize(
    "name", [name for name in scenario_names() if load_scenario(name).faults == Faults()]
)
def test_every_scenario_without_faults(name: str) -> None:
    check_same(short(name, warmup_h=2, measure_h=6), "joint")
