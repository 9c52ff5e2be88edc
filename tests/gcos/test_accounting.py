"""What running, moving, storing and being late cost."""

import math
import random
from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import (
    Charge,
    CostScope,
    LatePenalty,
    RunChargeArrays,
    RunTerms,
    expected_run_charges,
    idle_charge,
    run_charge,
    storage_charge,
    transfer_charge,
)
from gcos.errors import InvalidRequestError
from gcos.signals import HOUR_S, StepSeries

T0 = 1_690_000_000.0 // HOUR_S * HOUR_S
TERMS = RunTerms(gpu_count=4, active_kw=1.0, pue=1.25, gpu_usd_per_h=2.5)  # 5 kW at the meter
GB = 10**9

amounts = st.floats(-1e6, 1e6)
charges = st.builds(
    Charge, amounts, amounts, amounts, amounts, amounts, amounts, amounts, amounts, st.integers(0)
)
hourly = st.lists(st.floats(-1, 5), min_size=1, max_size=30)
hours = st.floats(0, 40)


def series(*values: float) -> StepSeries:
    return StepSeries(T0, HOUR_S, np.array(values))


def run(
    price: StepSeries,
    carbon: StepSeries | None,
    start_h: float,
    end_h: float,
    terms: RunTerms = TERMS,
) -> Charge:
    return run_charge(
        terms, price, carbon, start_s=T0 + start_h * HOUR_S, end_s=T0 + end_h * HOUR_S
    )


def close(found: Charge, expected: Charge) -> bool:
    return astuple(found) == pytest.approx(astuple(expected), rel=1e-9, abs=1e-6)


def test_a_run_over_partial_hours_pays_each_hour_its_price() -> None:
    # Half an hour at 0.10, an hour at -0.05 (a sunny spring noon), a quarter at 0.40 $/kWh.
    charge = run(series(0.10, -0.05, 0.40), series(100, 20, 400), 0.5, 2.25)

    assert charge.energy_kwh == pytest.approx(5 * 1.75)
    assert charge.energy_usd == pytest.approx(5 * (0.5 * 0.10 - 0.05 + 0.25 * 0.40))
    assert charge.gpu_usd == pytest.approx(4 * 1.75 * 2.5)
    assert charge.compute_gco2 == pytest.approx(5 * (0.5 * 100 + 20 + 0.25 * 400))
    assert charge.transfer_bytes == 0


def test_a_negative_price_pays_the_site() -> None:
    assert run(series(-0.5), None, 0, 1).energy_usd == pytest.approx(-2.5)


def test_a_run_past_the_last_hour_pays_its_price_on() -> None:
    charge = run(series(0.10, 0.20), series(100, 200), 1.5, 4)

    assert charge.energy_usd == pytest.approx(5 * 2.5 * 0.20)
    assert charge.compute_gco2 == pytest.approx(5 * 2.5 * 200)


def test_unknown_carbon_is_not_charged() -> None:
    assert run(series(0.1), None, 0, 1).carbon_gco2 == 0


def test_scopes_differ_by_gpu_hours_alone() -> None:
    charge = Charge(
        energy_usd=1, gpu_usd=10, transfer_usd=2, storage_usd=4, penalty_usd=8, compute_gco2=900,
        network_gco2=100,
    )  # fmt: skip

    assert charge.cost_usd(CostScope.OPERATOR) == 15
    assert charge.cost_usd(CostScope.WITH_GPU_HOURS) == 25
    assert charge.carbon_gco2 == 1000
    assert charge.joint_usd(CostScope.OPERATOR, 0.2) == pytest.approx(15.2)
    assert charge.joint_usd(CostScope.WITH_GPU_HOURS, 2.0) == pytest.approx(27.0)


def test_idle_power_costs_energy_and_carbon_only() -> None:
    charge = idle_charge(
        gpu_count=3,
        idle_kw=0.25,
        pue=1.2,
        price=series(0.1),
        carbon=series(300),
        start_s=T0,
        end_s=T0 + 2 * HOUR_S,
    )

    assert close(charge, Charge(energy_kwh=1.8, energy_usd=0.18, compute_gco2=540))


def test_a_transfer_pays_egress_and_the_mean_of_both_ends() -> None:
    charge = transfer_charge(
        20 * GB,
        egress_usd_per_gb=0.09,
        network_kwh_per_gb=0.0065,
        carbon_src=series(100, 300),  # mean over the transfer: 200
        carbon_dst=series(400),
        start_s=T0 + 0.5 * HOUR_S,
        end_s=T0 + 1.5 * HOUR_S,
    )

    assert charge.transfer_usd == pytest.approx(1.8)
    assert charge.network_gco2 == pytest.approx(20 * 0.0065 * 300)
    assert charge.transfer_bytes == 20 * GB
    assert charge.energy_usd == charge.energy_kwh == 0  # network electricity is carbon only


def test_a_transfer_without_duration_takes_the_intensity_at_its_start() -> None:
    charge = transfer_charge(
        GB,
        egress_usd_per_gb=0,
        network_kwh_per_gb=1,
        carbon_src=series(100, 300),
        carbon_dst=series(500, 700),
        start_s=T0 + HOUR_S,
        end_s=T0 + HOUR_S,
    )

    assert charge.network_gco2 == pytest.approx(500)


def test_a_transfer_with_one_unknown_end_charges_no_carbon() -> None:
    charge = transfer_charge(
        GB,
        egress_usd_per_gb=0.05,
        network_kwh_per_gb=1,
        carbon_src=None,
        carbon_dst=series(500),
        start_s=T0,
        end_s=T0 + 1,
    )

    assert charge == Charge(transfer_usd=0.05, transfer_bytes=GB)


def test_storage_is_paid_by_size_and_time() -> None:
    charge = storage_charge(500 * GB, 3e-7, T0, T0 + 100 * HOUR_S)

    assert charge.storage_usd == pytest.approx(0.015)
    assert charge.cost_usd(CostScope.OPERATOR) == charge.storage_usd


def test_lateness_costs_a_fixed_part_and_hours_up_to_the_cap() -> None:
    penalty = LatePenalty(fixed_usd=2, per_h_usd=0.5, cap_h=4)

    assert penalty.usd(-HOUR_S) == 0
    assert penalty.usd(0) == 0
    assert penalty.usd(2 * HOUR_S) == 3
    assert penalty.usd(4 * HOUR_S) == penalty.usd(400 * HOUR_S) == 4


def test_rounding_is_not_lateness() -> None:
    penalty = LatePenalty(fixed_usd=2, per_h_usd=0.5, cap_h=4)

    assert penalty.usd(0.9e-9 * HOUR_S) == 0
    assert penalty.usd(1.1e-9 * HOUR_S) == pytest.approx(2)


def test_the_expected_penalty_is_the_mean_over_finishes() -> None:
    penalty = LatePenalty(fixed_usd=2, per_h_usd=0.5, cap_h=4)
    late_s = np.array([[-1.0, 1.0, 10.0], [-3.0, -2.0, -1.0]]) * HOUR_S

    found = penalty.expected_usd(late_s, np.array([0.5, 0.25, 0.25]))

    assert found.tolist() == pytest.approx([0.25 * 2.5 + 0.25 * 4, 0])


@pytest.mark.parametrize("field", ["fixed_usd", "per_h_usd", "cap_h"])
@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_a_penalty_below_zero_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        LatePenalty(**{"fixed_usd": 1, "per_h_usd": 1, "cap_h": 1, field: value})


def test_expected_charges_are_the_weighted_mean_of_runs() -> None:
    price, carbon = series(0.1, -0.2, 0.5, 0.3), series(50, 400, 10, 200)
    starts_h, durations_h = [0.0, 0.7, 5.0], [0.2, 1.0, 2.5]
    mixtures = [[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]]

    every = expected_run_charges(
        TERMS,
        price,
        carbon,
        starts_s=T0 + np.array(starts_h) * HOUR_S,
        durations_s=np.array(durations_h) * HOUR_S,
        weights=np.array(mixtures).T,
    )

    for found, weights in zip(every, mixtures, strict=True):
        for k, start_h in enumerate(starts_h):
            runs = [run(price, carbon, start_h, start_h + d) for d in durations_h]
            for name in ("energy_kwh", "energy_usd", "gpu_usd", "compute_gco2"):
                mean = sum(w * getattr(r, name) for w, r in zip(weights, runs, strict=True))
                assert at(found, name, k) == pytest.approx(mean, rel=1e-9)


def at(charges: RunChargeArrays, name: str, k: int) -> float:
    """Return an item of the charges at start k."""
    found = getattr(charges, name)
    return found if isinstance(found, float) else float(found[k])


def test_signals_of_different_steps_are_charged_each_by_its_own() -> None:
    quarters = StepSeries(T0, HOUR_S / 4, np.array([50.0, 400.0, 10.0, 200.0, 90.0]))

    (found,) = expected_run_charges(
        TERMS,
        series(0.1, -0.2),
        quarters,
        starts_s=np.array([T0, T0 + 1000.0]),
        durations_s=np.array([2000.0]),
        weights=np.array([[1.0]]),
    )

    runs = [run(series(0.1, -0.2), quarters, h, h + 2000 / HOUR_S) for h in (0, 1000 / HOUR_S)]
    assert found.energy_usd == pytest.approx([each.energy_usd for each in runs])
    assert found.compute_gco2 == pytest.approx([each.compute_gco2 for each in runs])


@pytest.mark.parametrize("start_h", [-3.0, 0.0, 0.7, 3.2, 9.0])
def test_a_start_alone_is_charged_as_it_is_among_others(start_h: float) -> None:
    price, carbon = series(0.1, -0.2, 0.5, 0.3), series(50, 400, 10, 200)

    def charged(*starts_h: float) -> RunChargeArrays:
        (found,) = expected_run_charges(
            TERMS,
            price,
            carbon,
            starts_s=T0 + np.array(starts_h) * HOUR_S,
            durations_s=np.array([0.1, 0.9, 2.2]) * HOUR_S,
            weights=np.array([[0.3], [0.3], [0.4]]),
        )
        return found

    alone, first = charged(start_h), charged(start_h, 1.0)
    for name in ("energy_kwh", "energy_usd", "gpu_usd", "compute_gco2"):
        assert at(alone, name, 0) == pytest.approx(at(first, name, 0), rel=1e-14)


def test_expected_charges_without_carbon_are_zero_grams() -> None:
    (found,) = expected_run_charges(
        TERMS,
        series(0.1),
        None,
        starts_s=np.array([T0, T0 + 1]),
        durations_s=np.array([60.0]),
        weights=np.array([[1.0]]),
    )

    assert found.compute_gco2.tolist() == [0, 0]


@given(hourly, hourly, hours, hours, hours)
def test_a_run_costs_what_its_parts_cost(
    price: list[float], carbon: list[float], a: float, b: float, c: float
) -> None:
    a, b, c = sorted((a, b, c))
    p, g = series(*price), series(*carbon)

    assert close(run(p, g, a, b) + run(p, g, b, c), run(p, g, a, c))


@given(hourly, hours, hours, st.integers(1, 8), st.integers(1, 8))
def test_two_runs_cost_what_one_of_both_sizes_costs(
    price: list[float], a: float, b: float, m: int, n: int
) -> None:
    a, b = sorted((a, b))
    p = series(*price)
    parts = [run(p, p, a, b, replace(TERMS, gpu_count=k)) for k in (m, n)]

    assert close(Charge.sum(parts), run(p, p, a, b, replace(TERMS, gpu_count=m + n)))


@given(hourly, hours, hours)
def test_no_load_costs_nothing(price: list[float], a: float, b: float) -> None:
    a, b = sorted((a, b))
    p = series(*price)

    assert run(p, p, a, b, replace(TERMS, gpu_count=0)) == Charge()
    assert run(p, p, a, a) == Charge()
    assert storage_charge(0, 1.0, T0, T0 + b) == Charge()


@given(hourly, hours, hours)
def test_twice_the_price_is_twice_the_energy_cost_and_nothing_else(
    price: list[float], a: float, b: float
) -> None:
    a, b = sorted((a, b))
    once = run(series(*price), series(100), a, b)
    twice = run(series(*(2 * p for p in price)), series(100), a, b)

    assert close(twice, replace(once, energy_usd=2 * once.energy_usd))


@given(st.lists(charges, max_size=30), st.randoms())
def test_a_total_does_not_depend_on_the_order(items: list[Charge], chance: random.Random) -> None:
    shuffled = list(items)
    chance.shuffle(shuffled)

    assert Charge.sum(shuffled) == Charge.sum(items)


@given(charges, charges)
def test_a_sum_is_the_sum_of_its_items(a: Charge, b: Charge) -> None:
    assert a + b == Charge.sum([a, b])
    assert a + Charge() == a
    assert (a + b).cost_usd(CostScope.OPERATOR) == pytest.approx(
        a.cost_usd(CostScope.OPERATOR) + b.cost_usd(CostScope.OPERATOR), abs=1e-6
    )


@given(st.integers(0, 10**13), st.floats(0, 1), st.floats(0, 1))
def test_units_survive_the_round_trip(
    size_bytes: int, usd_per_gb: float, kwh_per_gb: float
) -> None:
    """1 GB is 1e9 bytes, 1 kg is 1000 g, 1 h is 3600 s: undone by hand, the inputs come back."""
    moved = transfer_charge(
        size_bytes,
        egress_usd_per_gb=usd_per_gb,
        network_kwh_per_gb=kwh_per_gb,
        carbon_src=series(250),
        carbon_dst=series(250),
        start_s=T0,
        end_s=T0 + 60,
    )
    kept = storage_charge(size_bytes, usd_per_gb, T0, T0 + 7200)

    assert moved.transfer_usd * 1e9 == pytest.approx(size_bytes * usd_per_gb)
    assert moved.network_gco2 / 250 * 1e9 == pytest.approx(size_bytes * kwh_per_gb)
    assert moved.joint_usd(CostScope.OPERATOR, 1.0) == pytest.approx(
        moved.transfer_usd + moved.network_gco2 / 1000
    )
    assert kept.storage_usd * 1e9 / 2 == pytest.approx(size_bytes * usd_per_gb)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_the_expected_penalty_agrees_with_the_penalty(late: list[float]) -> None:
    penalty = LatePenalty(fixed_usd=1.5, per_h_usd=0.25, cap_h=4)
    weights = np.full(len(late), 1 / len(late))

    found = penalty.expected_usd(np.array(late), weights)

    assert float(found) == pytest.approx(math.fsum(map(penalty.usd, late)) / len(late), abs=1e-9)
