"""Laws that hold whatever the numbers are."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.accounting import Charge, LatePenalty
from gcos.ids import SiteId
from gcos.signals import HOUR_S, HOURS_A_DAY, StepSeries
from policies.catalogue import POLICIES
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Instance
from testbed.sim.result import Totals
from testbed.sim.samples import Sample, instance_of, site_id
from testbed.sim.simulation import Simulation

SMALL = Sample(task_count=20, tasks_per_h=6.0)
FEW = settings(max_examples=5, deadline=None)
SEEDS = st.integers(0, 1000)
NO_PENALTY = LatePenalty(0.0, 0.0, 0.0)
#: Policies that start at once, whatever a later start would cost.
AT_ONCE = [
    name
    for name, policy in POLICIES.items()
    if not policy.bidder().may_start_later and policy.dispatcher is None and not policy.is_central
]
BLIND_TO_PRICES = ["random", "round-robin", "local", "least-loaded", "locality"]


def totals_of(instance: Instance, policy: str, mode: CacheMode = CacheMode.DUAL) -> Totals:
    run = Simulation(instance, POLICIES[policy], mode=mode)
    run.run()
    return run.books.totals(run.books.whole)


def scaled(series: Mapping[SiteId, StepSeries], factor: float) -> dict[SiteId, StepSeries]:
    return {
        key: StepSeries(one.start_s, one.step_s, one.values * factor) for key, one in series.items()
    }


def without_penalties(instance: Instance) -> Instance:
    tasks = tuple(replace(task, late_penalty=NO_PENALTY) for task in instance.tasks)
    return replace(instance, tasks=tasks)


@pytest.mark.parametrize("policy", [name for name in POLICIES if not POLICIES[name].is_central])
def test_no_load_costs_nothing(policy: str) -> None:
    totals = totals_of(instance_of(replace(SMALL, task_count=0)), policy)
    assert totals.charge == Charge()
    assert totals.task_count == 0


@given(seed=SEEDS, homes=st.lists(st.integers(0, 2), min_size=10, max_size=10))
@FEW
def test_a_free_network_makes_locality_irrelevant(seed: int, homes: list[int]) -> None:
    free = replace(
        SMALL,
        seed=seed,
        rtt_s=0.0,
        gb_per_s=math.inf,
        egress_usd_per_gb=0.0,
        network_kwh_per_gb=0.0,
        storage_usd_per_gb_h=0.0,
    )
    instance = instance_of(free)
    moved = tuple(
        replace(upstream, home=site_id(home))
        for upstream, home in zip(instance.upstreams, homes, strict=True)
    )
    here = totals_of(instance, "joint").charge
    there = totals_of(replace(instance, upstreams=moved), "joint").charge
    assert replace(there, transfer_bytes=0) == replace(here, transfer_bytes=0)


@given(seed=SEEDS)
@FEW
def test_with_one_site_all_policies_that_start_at_once_are_equal(seed: int) -> None:
    instance = instance_of(replace(SMALL, seed=seed, site_count=1))
    # Giving back reorders a queue.
    names = [name for name in AT_ONCE if not POLICIES[name].gives_back_late]
    found = {policy: totals_of(instance, policy) for policy in names}
    assert all(totals == found["joint"] for totals in found.values())


@pytest.mark.parametrize("policy", BLIND_TO_PRICES)
@given(seed=SEEDS)
@FEW
def test_doubled_prices_double_the_cost_of_energy_and_nothing_else(policy: str, seed: int) -> None:
    instance = instance_of(replace(SMALL, seed=seed))
    once = totals_of(instance, policy).charge
    twice = totals_of(replace(instance, price=scaled(instance.price, 2.0)), policy).charge
    assert twice == replace(once, energy_usd=2.0 * once.energy_usd)


@given(seed=SEEDS)
@FEW
def test_where_only_energy_costs_doubled_prices_double_the_joint_cost(seed: int) -> None:
    sample = replace(
        SMALL,
        seed=seed,
        carbon_price_usd_per_kg=0.0,
        egress_usd_per_gb=0.0,
        storage_usd_per_gb_h=0.0,
    )
    instance = without_penalties(instance_of(sample))
    once = totals_of(instance, "joint").charge
    twice = totals_of(replace(instance, price=scaled(instance.price, 2.0)), "joint").charge
    assert once.joint_usd(instance.scope, 0.0) == once.energy_usd
    assert twice == replace(once, energy_usd=2.0 * once.energy_usd)


@given(seed=SEEDS)
@FEW
def test_a_carbon_price_of_nothing_makes_carbon_irrelevant(seed: int) -> None:
    instance = instance_of(replace(SMALL, seed=seed, carbon_price_usd_per_kg=0.0))
    clean = replace(instance, carbon=scaled(instance.carbon, 0.0))
    once, twice = (totals_of(each, "joint").charge for each in (instance, clean))
    assert twice == replace(once, compute_gco2=0.0, network_gco2=0.0)


@given(seed=SEEDS, day_count=st.integers(-3000, 3000), policy=st.sampled_from(AT_ONCE))
@FEW
def test_under_constant_signals_the_day_does_not_matter(
    seed: int, day_count: int, policy: str
) -> None:
    drawn = instance_of(replace(SMALL, seed=seed))
    here = replace(
        drawn,
        price={key: StepSeries.constant(one.values[0]) for key, one in drawn.price.items()},
        carbon={key: StepSeries.constant(one.values[0]) for key, one in drawn.carbon.items()},
    )
    shift_s = day_count * HOURS_A_DAY * HOUR_S
    tasks = tuple(
        replace(task, arrival_s=task.arrival_s + shift_s, deadline_s=task.deadline_s + shift_s)
        for task in here.tasks
    )
    there = replace(here, start_s=here.start_s + shift_s, tasks=tasks)
    one, other = (totals_of(each, policy) for each in (here, there))
    assert other.miss_count == one.miss_count
    assert other.wait_mean_s == pytest.approx(one.wait_mean_s, abs=1e-3)
    for name in Charge.__slots__:
        expected = getattr(one.charge, name)
        assert getattr(other.charge, name) == pytest.approx(expected, rel=1e-7), name


@given(seed=SEEDS)
@FEW
def test_a_world_of_equal_sites_has_no_cheaper_one(seed: int) -> None:
    """Without transfers that cost, each policy that starts at once burns the same electricity."""
    drawn = instance_of(
        replace(
            SMALL,
            seed=seed,
            gb_per_s=math.inf,
            rtt_s=0.0,
            egress_usd_per_gb=0.0,
            network_kwh_per_gb=0.0,
        )
    )
    first = drawn.sites[0]
    sites = tuple(replace(site, pue=first.pue, pools=first.pools) for site in drawn.sites)
    level = StepSeries.constant(0.1)
    carbon = StepSeries.constant(300.0)
    instance = replace(
        drawn,
        sites=sites,
        price=dict.fromkeys(drawn.price, level),
        carbon=dict.fromkeys(drawn.carbon, carbon),
    )
    burned = [totals_of(instance, policy).charge.energy_usd for policy in ("random", "joint")]
    hours = sum(task.gpu_count * task.work_s / HOUR_S for task in instance.tasks)
    pool = first.pools[0]
    expected = hours / pool.speed_ratio * pool.active_kw * first.pue * 0.1
    assert np.allclose(burned, expected, rtol=1e-9)
