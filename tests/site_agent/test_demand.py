"""How often artifacts are used, and at what rate."""

import pytest

from gcos.ids import ArtifactId
from site_agent.demand import DEMAND_S, RATE_H, Demand

HOUR_S = 3600.0
STEADY, BURST = (ArtifactId(f"sha256:{digit * 64}") for digit in "12")


def test_a_use_fades_with_the_time_constant() -> None:
    demand = Demand()
    demand.note(STEADY, now_s=0.0)
    demand.note(BURST, now_s=DEMAND_S)
    assert demand.here(STEADY) == pytest.approx(0.3679, abs=1e-4)
    assert demand.here(BURST) == 1.0


def test_steady_use_over_months_has_its_rate() -> None:
    """Twice a day; the estimates over an hour and over eight differ with the time of day."""
    demand = Demand()
    for half_day in range(360):
        demand.note(STEADY, now_s=half_day * 12 * HOUR_S)
    assert demand.rate_per_h(STEADY) > 2 / 24
    demand.note(BURST, now_s=360 * 12 * HOUR_S)
    slow = sum(1 / 12 for tau_h in RATE_H if tau_h > 12) / len(RATE_H)
    assert demand.rate_per_h(STEADY) == pytest.approx(slow, rel=0.6)


def test_a_burst_counts_more_for_hours_and_less_after_days() -> None:
    demand = Demand()
    for day in range(60):
        demand.note(STEADY, now_s=day * 24 * HOUR_S)
    for minute in range(5):
        demand.note(BURST, now_s=59 * 24 * HOUR_S + minute * 60)
    assert demand.rate_per_h(BURST) > demand.rate_per_h(STEADY)
    demand.note(ArtifactId("sha256:" + "3" * 64), now_s=66 * 24 * HOUR_S)
    assert demand.rate_per_h(BURST) < demand.rate_per_h(STEADY)


def test_what_was_never_used_has_no_rate() -> None:
    assert Demand().rate_per_h(STEADY) == 0.0
