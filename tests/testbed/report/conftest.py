"""Evaluations made by hand: what each run costs is a formula, so every figure can be foretold."""

from collections.abc import Callable

import pytest

from gcos.accounting import Charge, CostScope
from testbed.evaluation import Evaluation, Origin, evaluation
from testbed.run_store import RunRecord
from testbed.sim.result import Lookups, RunResult, Totals

MONDAYS_S = (1_704_067_200.0, 1_704_672_000.0)
#: Cost and carbon of a run of each policy, before its seed adds to them.
LEVELS = {"joint": (100.0, 400.0), "locality": (180.0, 900.0), "carbon-greedy": (300.0, 250.0)}


def record(
    policy: str, seed: int, *, carbon_price: float = 0.2, scenario: str = "default", late: int = 2
) -> RunRecord:
    """A run that costs its level and a dollar for each seed, and less carbon at higher prices."""
    usd, kg = LEVELS[policy]
    charge = Charge(
        energy_kwh=1000.0,
        energy_usd=usd / 2 + seed,
        transfer_usd=usd / 2,
        penalty_usd=float(late),
        compute_gco2=1000.0 * kg / (1.0 + carbon_price),
        transfer_bytes=10**12 * seed,
    )
    totals = Totals(
        charge,
        idle=Charge(energy_kwh=7.0),
        task_count=100,
        miss_count=late,
        wait_mean_s=600.0,
        wait_p95_s=7200.0,
        models=Lookups(90, 10),
        data_sets=Lookups(80, 20),
    )
    result = RunResult(policy, "dual", totals, totals, 1, wall_s=0.1, trace_hash="00")
    return RunRecord(
        f"{policy}-{seed}-{carbon_price}",
        scenario=scenario,
        week_start_s=MONDAYS_S[seed % 2],
        seed=seed,
        policy=policy,
        cache_mode="dual",
        cost_scope=CostScope.OPERATOR,
        carbon_price_usd_per_kg=carbon_price,
        network_kwh_per_gb=0.0065,
        notes=("a note with <b>markup</b>",),
        result=result,
    )


def evaluated(
    policies: tuple[str, ...] = tuple(LEVELS),
    *,
    seeds: int = 4,
    carbon_price: float = 0.2,
    scenario: str = "default",
) -> Evaluation:
    """Return the evaluation of `policies` at a carbon price; the first one is the baseline."""
    records = [
        record(policy, seed, carbon_price=carbon_price, scenario=scenario)
        for seed in range(1, seeds + 1)
        for policy in policies
    ]
    parameters = {"carbon_price_usd_per_kg": carbon_price, "network_kwh_per_gb": 0.0065}
    return evaluation(
        records,
        baseline=policies[0],
        data="",
        origin=Origin("gcos evaluate --policies x", "gcos 1, commit abc", "default", parameters),
    )


@pytest.fixture
def make() -> Callable[..., Evaluation]:
    return evaluated
