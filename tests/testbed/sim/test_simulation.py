"""Whole runs of small worlds: every task ends once, and an independent checker finds no fault."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.accounting import Charge
from gcos.signals import HOUR_S, StepSeries
from policies.catalogue import POLICIES
from site_agent.effects import AddEntry, Ready
from testbed.sim.cache_modes import CacheMode
from testbed.sim.export import scenario_of
from testbed.sim.instance import Churn, ChurnKind, ForecastNoise, Instance
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from testbed.sim.simulation import Simulation
from tests.recheck.recheck import parse_export, recheck

NAMES = [name for name, policy in POLICIES.items() if not policy.is_central]
FEW = ["random", "joint", "joint-lookahead", "joint+reauction", "plan"]
TINY = Sample(model_cache_gb=15.0, data_cache_gb=21.0)
BUSY = Sample(task_count=60, tasks_per_h=12.0)
GONE = site_id(0)


def simulated(
    instance: Instance,
    policy: str = "joint",
    mode: CacheMode = CacheMode.DUAL,
    *,
    is_instant: bool = True,
) -> tuple[Simulation, list[dict[str, object]]]:
    """Run with every check on, and return the run with the lines of its log."""
    log = io.StringIO()
    run = Simulation(
        instance, POLICIES[policy], mode=mode, log=log, is_instant=is_instant, checks=True
    )
    run.run()
    verdict = recheck(
        parse_export(
            json.dumps(scenario_of(instance, mode)),
            log.getvalue(),
            json.dumps(run.books.reported()),
        )
    )
    assert not verdict.breaches, [str(breach) for breach in verdict.breaches]
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    ended = [line["task"] for line in lines if line["e"] == "run"]
    assert sorted(ended) == sorted(task.task_id for task in instance.tasks)
    assert run.books.whole.task_count == len(instance.tasks)
    for place in run.places.values():
        assert not place.origin.tasks, "a task that has ended is not kept"
        assert not place.participant.runs, "a report was never answered"
    return run, lines


@pytest.mark.parametrize("mode", list(CacheMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("policy", NAMES)
def test_every_policy_and_cache_mode_passes_the_checker(policy: str, mode: CacheMode) -> None:
    simulated(instance_of(Sample()), policy, mode)


@pytest.mark.parametrize("policy", FEW)
@pytest.mark.parametrize(
    "sample",
    [
        BUSY,
        replace(BUSY, seed=1, model_cache_gb=15.0, data_cache_gb=21.0),
        Sample(seed=2, shares_bandwidth=False),
        Sample(seed=3, forecast=ForecastNoise(sigma=0.2)),
    ],
    ids=["busy", "busy with tiny caches", "unshared", "noisy forecast"],
)
def test_other_worlds_pass_the_checker(sample: Sample, policy: str) -> None:
    simulated(instance_of(sample), policy)


@pytest.mark.parametrize("policy", FEW)
def test_messages_may_take_their_time(policy: str) -> None:
    """Longer than it takes until an unanswered award is sent again."""
    simulated(instance_of(replace(BUSY, rtt_s=4.0)), policy, is_instant=False)


def test_what_fits_no_cache_is_streamed_for_each_run_anew() -> None:
    instance = instance_of(TINY)
    _, lines = simulated(instance, "local")
    sizes = {u.artifact.name: u.artifact.size_bytes for u in instance.upstreams}
    streamed = [line for line in lines if line["e"] == "transfer" and not line["stored"]]
    large = [line for line in streamed if sizes[str(line["artifact"])] > 21e9]
    assert large
    keys = [(line["dst"], line["artifact"]) for line in large]
    assert len(set(keys)) < len(keys), "the same one more than once to one site"


def test_without_caches_everything_away_from_home_is_streamed() -> None:
    instance = instance_of(Sample())
    _, lines = simulated(instance, "random", CacheMode.NONE)
    sent = [line for line in lines if line["e"] == "transfer"]
    assert sent
    assert not any(line["stored"] for line in sent)


def test_caches_spare_transfers() -> None:
    instance = instance_of(Sample(task_count=60))
    moved = {
        mode: simulated(instance, "local", mode)[0].books.whole.charges.close().transfer_bytes
        for mode in (CacheMode.DUAL, CacheMode.NO_MODEL, CacheMode.NO_DATA, CacheMode.NONE)
    }
    assert moved[CacheMode.DUAL] < moved[CacheMode.NO_MODEL] < moved[CacheMode.NONE]
    assert moved[CacheMode.DUAL] < moved[CacheMode.NO_DATA] < moved[CacheMode.NONE]


def test_lookups_are_two_for_each_run() -> None:
    run, _ = simulated(instance_of(Sample()))
    totals = run.books.totals(run.books.whole)
    for lookups in (totals.models, totals.data_sets):
        assert lookups.hit_count + lookups.miss_count == totals.task_count
        assert lookups.hit_count > 0
        assert lookups.miss_count > 0


def test_runs_that_would_be_late_are_announced_again() -> None:
    instance = instance_of(replace(BUSY, task_count=120, tasks_per_h=30.0))
    run, _ = simulated(instance, "joint+reauction")
    assert run.reauction_count > 0
    assert run.auction_count >= len(instance.tasks) + run.reauction_count
    assert simulated(instance, "joint")[0].reauction_count == 0


# ------------------------------------------------------------------------ sites go and come


def churn(at_h: float, kind: ChurnKind, *, keeps_caches: bool = False) -> Churn:
    return Churn(START_S + at_h * HOUR_S, kind, GONE, keeps_caches)


def runs_at_gone(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    return [line for line in lines if line["e"] == "run" and line["site"] == 0]


@pytest.mark.parametrize("policy", FEW)
@pytest.mark.parametrize("is_instant", [True, False], ids=["instant", "latency"])
def test_a_site_that_leaves_loses_its_runs_and_no_task(policy: str, is_instant: bool) -> None:
    sample = replace(BUSY, rtt_s=2.0, churn=(churn(2.2, ChurnKind.LEAVE),))
    _, lines = simulated(instance_of(sample), policy, is_instant=is_instant)
    aborted = [line for line in lines if line["e"] == "abort"]
    assert aborted
    assert {line["site"] for line in aborted} == {0}
    assert [line["t1"] for line in aborted] == pytest.approx([2.2] * len(aborted))
    assert all(float(str(line["t0"])) < 2.2 for line in runs_at_gone(lines))


def test_a_site_that_joins_for_the_first_time_runs_nothing_before() -> None:
    sample = replace(BUSY, churn=(churn(2.0, ChurnKind.JOIN),))
    _, lines = simulated(instance_of(sample))
    begun = [float(str(line["t0"])) for line in runs_at_gone(lines)]
    assert begun
    assert min(begun) >= 2.0


@pytest.mark.parametrize("keeps_caches", [True, False], ids=["kept", "lost"])
def test_a_site_that_comes_back_has_its_copies_or_not(keeps_caches: bool) -> None:
    changes = (
        churn(2.2, ChurnKind.LEAVE),
        churn(3.0, ChurnKind.JOIN, keeps_caches=keeps_caches),
    )
    _, lines = simulated(instance_of(replace(BUSY, churn=changes)))
    evicted = [
        line
        for line in lines
        if line["e"] == "evict" and line["site"] == 0 and line["t"] == pytest.approx(3.0)
    ]
    assert bool(evicted) is not keeps_caches
    begun = [float(str(line["t0"])) for line in runs_at_gone(lines)]
    assert max(begun) >= 3.0, "it takes part again"


def test_a_site_that_is_away_serves_no_copies() -> None:
    slow = Sample(task_count=120, tasks_per_h=30.0, gb_per_s=0.1)
    instance = instance_of(replace(slow, churn=(churn(2.0, ChurnKind.LEAVE),)))
    _, lines = simulated(instance, "least-loaded")
    homes = {upstream.artifact.name: upstream.home for upstream in instance.upstreams}
    sent = [
        line
        for line in lines
        if line["e"] == "transfer" and line["src"] == 0 and float(str(line["t0"])) > 2.0
    ]
    assert {homes[str(line["artifact"])] for line in sent} <= {GONE}


def test_nothing_starts_at_a_site_that_has_just_left() -> None:
    """It leaves seconds before a transfer ends on which a run there waits."""
    plain = Sample()
    _, lines = simulated(instance_of(plain))
    arrived = {(line["dst"], line["t1"]) for line in lines if line["e"] == "transfer"}
    begun = [line for line in lines if line["e"] == "run" and (line["site"], line["t0"]) in arrived]
    assert len(begun) > 3
    for line in begun[:4]:
        site, start_h = int(str(line["site"])), float(str(line["t0"]))
        left_h = start_h - 10 / HOUR_S
        left = Churn(START_S + left_h * HOUR_S, ChurnKind.LEAVE, site_id(site))
        _, after = simulated(instance_of(replace(plain, churn=(left,))))
        starts = [run["t0"] for run in after if run["e"] == "run" and run["site"] == site]
        assert all(float(str(start)) < left_h for start in starts)


def test_a_site_that_comes_back_within_a_lease_takes_part_again() -> None:
    changes = (
        churn(2.2, ChurnKind.LEAVE),
        churn(2.2 + 10 / HOUR_S, ChurnKind.JOIN, keeps_caches=True),
    )
    _, lines = simulated(instance_of(replace(BUSY, churn=changes)))
    begun = [float(str(line["t0"])) for line in runs_at_gone(lines)]
    assert max(begun) > 3.0


def test_a_task_that_only_a_site_to_come_can_run_waits_for_it() -> None:
    drawn = instance_of(Sample(site_count=2, task_count=10, churn=(churn(3.0, ChurnKind.JOIN),)))
    large = replace(drawn.tasks[5], gpu_count=8)
    tasks = (*drawn.tasks[:5], large, *drawn.tasks[6:])
    assert large.arrival_s < START_S + 3.0 * HOUR_S
    _, lines = simulated(replace(drawn, tasks=tasks))
    (begun,) = [line for line in lines if line["e"] == "run" and line["task"] == large.task_id]
    assert begun["site"] == 0


def test_a_task_that_no_site_can_run_any_more_is_named() -> None:
    drawn = instance_of(Sample(site_count=2, task_count=10, churn=(churn(0.1, ChurnKind.LEAVE),)))
    large = replace(drawn.tasks[5], gpu_count=8)
    tasks = (*drawn.tasks[:5], large, *drawn.tasks[6:])
    with pytest.raises(AssertionError, match=f"{large.task_id} ends REJECTED"):
        simulated(replace(drawn, tasks=tasks))


# ------------------------------------------------------------------------ charges


class Ledgers(Simulation):
    """Keeps the entries that origins write of what participants report."""

    def __init__(self, *args: object, **options: object) -> None:
        self.entered: list[Charge] = []
        super().__init__(*args, **options)  # type: ignore[arg-type]

    def _apply(self, place: object, ready: Ready) -> None:
        self.entered += [
            write.entry.charge for write in ready.writes if isinstance(write, AddEntry)
        ]
        super()._apply(place, ready)  # type: ignore[arg-type]


@given(
    seed=st.integers(0, 100),
    policy=st.sampled_from(FEW),
    sigma=st.sampled_from((0.0, 0.2)),
    mode=st.sampled_from((CacheMode.DUAL, CacheMode.NONE)),
)
@settings(max_examples=8, deadline=None)
def test_ledgers_of_the_cores_agree_with_the_books(
    seed: int, policy: str, sigma: float, mode: CacheMode
) -> None:
    """Runs, transfers and penalties; storage is charged by the books alone."""
    sample = replace(BUSY, seed=seed, task_count=25, forecast=ForecastNoise(sigma=sigma))
    run = Ledgers(instance_of(sample), POLICIES[policy], mode=mode)
    run.run()
    entered = Charge.sum(run.entered)
    booked = replace(run.books.whole.charges.close(), storage_usd=0.0)
    for name in Charge.__slots__:
        assert getattr(entered, name) == pytest.approx(getattr(booked, name), rel=1e-9), name


def test_a_flat_signal_is_exported_hour_by_hour() -> None:
    instance = instance_of(Sample())
    flat = {**instance.carbon, GONE: StepSeries.constant(30.0)}

    exported = scenario_of(replace(instance, carbon=flat), CacheMode.DUAL)

    sites = exported["sites"]
    assert isinstance(sites, list)
    carbon = sites[0]["ci_kg_per_kwh"]
    assert set(carbon) == {0.03}
    assert len(carbon) == len(sites[0]["price_usd_per_kwh"])
