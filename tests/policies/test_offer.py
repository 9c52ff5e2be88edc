from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.accounting import Charge, CostScope, LatePenalty, transfer_charge
from gcos.contract_net import Announcement, Terms
from gcos.durations import RunTime
from gcos.ids import Fence, SiteId, TaskId
from gcos.signals import HOUR_S, Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Pool
from gcos.tasks import GpuRequest, Work
from policies.interface import Option
from policies.offer import HORIZON_H, PoolOffer, candidate_starts, cheapest, options_of

#: Half an hour, known to a hair: the tail rule spreads it by 1 % at either end.
HALF_HOUR = RunTime((1800.0,) * 19)
QUARTER_TO = 0.75 * HOUR_S
PROVENANCE = Provenance("test", "Z", None, None, 0.0, is_estimated=False)

#: 0.1 then 0.3 $/kWh; 100 then 500 g/kWh; both change on the hour and stay.
PRICE = Signal(StepSeries(0.0, HOUR_S, np.array([0.1, 0.3])), PROVENANCE, "USD/kWh")
CARBON = Signal(StepSeries(0.0, HOUR_S, np.array([100.0, 500.0])), PROVENANCE, "gCO2/kWh")
SIGNALS = SiteSignals(carbon=CARBON, price=PRICE)

POOL = Pool(
    type="H100", gpu_count=8, speed_ratio=1.0, active_kw=0.5, idle_kw=0.1, usd_per_gpu_h=2.0
)
TERMS = Terms(
    carbon_price_usd_per_kg=0.2,
    network_kwh_per_gb=0.01,
    scope=CostScope.OPERATOR,
    late_penalty=LatePenalty(fixed_usd=1.0, per_h_usd=2.0, cap_h=4.0),
)
TASK = Announcement(
    task_id=TaskId("oslo-1"),
    fence=Fence(1, 1),
    origin=SiteId("oslo"),
    gpu=GpuRequest("any", 2),
    work=Work(),
    needs=(),
    predictions=(),
    terms=TERMS,
)


def pool_offer(run_time: RunTime = HALF_HOUR, *, pool: Pool = POOL) -> PoolOffer:
    return PoolOffer(pool=pool, run_time=run_time, earliest_starts=lambda instants: instants)


def options(
    announcement: Announcement = TASK,
    *,
    offer: PoolOffer | None = None,
    ready_s: float = QUARTER_TO,
    signals: SiteSignals = SIGNALS,
    transfers: Charge | None = None,
) -> list[Option]:
    return options_of(
        offer or pool_offer(),
        announcement,
        signals=signals,
        pue=1.5,
        ready_s=ready_s,
        transfers=transfers or Charge(),
    )


def test_the_offer_is_the_integral_of_price_and_carbon_over_the_run() -> None:
    """2 GPUs x 0.5 kW x PUE 1.5 = 1.5 kW, a quarter of an hour on either side of the step."""
    (option,) = options()
    assert option.charge.energy_kwh == pytest.approx(0.75, rel=1e-4)
    assert option.charge.energy_usd == pytest.approx(1.5 * (0.25 * 0.1 + 0.25 * 0.3), rel=1e-3)
    assert option.charge.compute_gco2 == pytest.approx(1.5 * (0.25 * 100 + 0.25 * 500), rel=1e-3)
    assert option.offer_usd == pytest.approx(0.15 + 0.2 * 0.225, rel=1e-3)


def test_gpu_hours_count_only_in_their_scope() -> None:
    terms = replace(TERMS, scope=CostScope.WITH_GPU_HOURS)
    (without,) = options()
    (with_hours,) = options(replace(TASK, terms=terms))
    assert without.charge.gpu_usd == with_hours.charge.gpu_usd
    assert with_hours.offer_usd - without.offer_usd == pytest.approx(2 * 0.5 * 2.0, rel=1e-4)


def test_twice_the_gpus_draw_twice_the_power() -> None:
    (two,) = options()
    (four,) = options(replace(TASK, gpu=GpuRequest("any", 4)))
    assert four.offer_usd == pytest.approx(2 * two.offer_usd)


def test_egress_and_network_carbon_are_part_of_the_offer() -> None:
    """10 GB x 0.02 $/GB, and 10 GB x 0.01 kWh/GB x (100 + 300) / 2 g/kWh = 20 g."""
    transfers = transfer_charge(
        10_000_000_000,
        egress_usd_per_gb=0.02,
        network_kwh_per_gb=0.01,
        carbon_src=StepSeries.constant(300.0),
        carbon_dst=CARBON.series,
        start_s=0.0,
        end_s=600.0,
    )
    (held,) = options()
    (fetched,) = options(transfers=transfers)
    assert fetched.offer_usd - held.offer_usd == pytest.approx(0.2 + 0.2 * 0.020)
    assert fetched.charge.transfer_bytes == 10_000_000_000


def test_a_free_network_makes_locality_irrelevant() -> None:
    free = transfer_charge(
        10_000_000_000,
        egress_usd_per_gb=0.0,
        network_kwh_per_gb=0.0,
        carbon_src=StepSeries.constant(300.0),
        carbon_dst=CARBON.series,
        start_s=0.0,
        end_s=0.0,
    )
    assert options(transfers=free)[0].offer_usd == options()[0].offer_usd


def test_a_pool_without_power_costs_only_transfers() -> None:
    pool = replace(POOL, active_kw=0.0)
    transfers = Charge(transfer_usd=0.3, network_gco2=50.0)
    (option,) = options(offer=pool_offer(pool=pool), transfers=transfers)
    assert option.offer_usd == pytest.approx(0.3 + 0.2 * 0.05)


def test_without_a_carbon_signal_the_offer_is_by_cost_alone() -> None:
    (option,) = options(signals=SiteSignals(carbon=None, price=PRICE))
    assert option.charge.carbon_gco2 == 0.0
    assert option.offer_usd == pytest.approx(0.15, rel=1e-3)


def test_hard_limits_are_judged_at_the_p90_of_the_run_time_without_penalty() -> None:
    run_time = RunTime.lognormal(1800.0, 0.5)
    late = replace(TASK, deadline_s=0.0)
    (option,) = options(late, offer=pool_offer(run_time), transfers=Charge(transfer_usd=0.5))
    in_first_h, in_second_h = 0.25, run_time.p90_s / HOUR_S - 0.25
    assert option.charge.penalty_usd > 0
    assert option.p90_cost_usd == pytest.approx(0.5 + 1.5 * (0.1 * in_first_h + 0.3 * in_second_h))
    assert option.p90_carbon_gco2 == pytest.approx(1.5 * (100 * in_first_h + 500 * in_second_h))
    assert option.p90_finish_s == pytest.approx(QUARTER_TO + run_time.p90_s)
    assert option.p50_finish_s == pytest.approx(QUARTER_TO + 1800.0)


@pytest.mark.parametrize(("late_h", "penalty_usd"), [(-1.0, 0.0), (0.5, 2.0), (3.0, 7.0), (9, 9.0)])
def test_lateness_costs_a_fixed_part_and_hours_up_to_the_cap(
    late_h: float, penalty_usd: float
) -> None:
    deadline_s = QUARTER_TO + 1800.0 - late_h * HOUR_S
    (option, *_) = options(replace(TASK, deadline_s=deadline_s, may_defer=False))
    assert option.charge.penalty_usd == pytest.approx(penalty_usd, rel=1e-3)


def test_the_probability_of_being_late_is_that_of_the_distribution() -> None:
    run_time = RunTime.lognormal(1800.0, 0.4)
    for level in (0.02, 0.33, 0.5, 0.9, 0.984, 0.995):
        deadline_s = QUARTER_TO + run_time.quantile_s(level)
        task = replace(TASK, deadline_s=deadline_s, may_defer=False)
        (option,) = options(task, offer=pool_offer(run_time))
        assert option.late_probability == pytest.approx(1 - level, abs=1e-6)


def test_a_task_without_deadline_starts_as_soon_as_it_can() -> None:
    (option,) = options()
    assert option.start_s == QUARTER_TO
    assert option.is_earliest
    assert option.late_probability == 0.0


def test_a_task_starts_no_sooner_than_it_may() -> None:
    (option,) = options(replace(TASK, earliest_start_s=QUARTER_TO + 600.0))
    assert option.start_s == QUARTER_TO + 600.0
    (option,) = options(replace(TASK, earliest_start_s=QUARTER_TO - 600.0))
    assert option.start_s == QUARTER_TO


def test_later_starts_are_on_the_hour_and_their_p90_meets_the_deadline() -> None:
    task = replace(TASK, deadline_s=4.6 * HOUR_S)
    starts = [option.start_s for option in options(task)]
    assert starts == [QUARTER_TO, HOUR_S, 2 * HOUR_S, 3 * HOUR_S, 4 * HOUR_S]
    starts = [option.start_s for option in options(replace(task, deadline_s=4.4 * HOUR_S))]
    assert starts[-1] == 3 * HOUR_S


def test_a_task_that_may_not_defer_has_one_option() -> None:
    assert len(options(replace(TASK, deadline_s=9 * HOUR_S, may_defer=False))) == 1


def test_a_task_that_is_late_anyhow_has_its_earliest_start_only() -> None:
    (option,) = options(replace(TASK, deadline_s=0.0))
    assert option.is_earliest


def test_later_starts_end_with_the_horizon() -> None:
    starts = candidate_starts(
        pool_offer(), replace(TASK, deadline_s=1000 * HOUR_S), ready_s=QUARTER_TO
    )
    assert len(starts) == 1 + HORIZON_H


@given(
    ready_s=st.floats(0, 1e5),
    busy=st.lists(st.floats(0, 2e5), max_size=6),
    slack_s=st.floats(0, 1e5),
)
def test_starts_are_feasible_distinct_and_ascending(
    ready_s: float, busy: list[float], slack_s: float
) -> None:
    """The pool is free from the given instants only, and after the last."""

    def earliest_start(t_s: float) -> float:
        return min((b for b in busy if b >= t_s), default=max([t_s, *busy]))

    def earliest_starts(instants: Sequence[float]) -> list[float]:
        return [earliest_start(t_s) for t_s in instants]

    offer = PoolOffer(pool=POOL, run_time=HALF_HOUR, earliest_starts=earliest_starts)
    deadline_s = ready_s + 1800.0 + slack_s
    starts = candidate_starts(offer, replace(TASK, deadline_s=deadline_s), ready_s=ready_s)
    assert starts[0] == earliest_start(ready_s)
    assert (np.diff(starts) > 0).all()
    assert all(earliest_start(t) == t for t in starts)
    assert (starts[1:] + HALF_HOUR.p90_s <= deadline_s).all()


def test_of_equal_offers_the_earlier_start_wins() -> None:
    (option,) = options()
    later = replace(option, start_s=option.start_s + 1)
    assert cheapest([later, option]) == 1
    assert cheapest([option, later]) == 0
    assert cheapest([option, replace(later, offer_usd=option.offer_usd - 1)]) == 1
