"""What the artifact actor sees, and how its answer enters the plan."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.maccs.artifact_features import (
    FEATURE_COUNT,
    FEATURES,
    LEAST_USD,
    amounts_of,
    corrected_usd,
    demand_of,
    features_of,
    surroundings_of,
)

USD = st.floats(0, 1e6)


def row(**changes: float) -> dict[str, float]:
    """Return the features of the only artifact at the only site."""
    values = {
        "saved_usd": 6.0,
        "squares": 9.0,
        "task_count": 4.0,
        "gpu_h": 12.0,
        "assigned": 1.0,
        "price_usd": 3.0,
        "size_gb": 40.0,
        "uses": 2.0,
        "latest_h": 5.0,
        "rate_ratio": -0.2,
        "planned_ratio": 0.4,
        "holder_count": 2.0,
        **changes,
    }
    lines = {"size_gb", "uses", "latest_h", "rate_ratio", "planned_ratio", "holder_count"}
    amounts = amounts_of(
        **{key: np.full(1 if key in lines else (1, 1), value) for key, value in values.items()},
        kind=np.array([1]),
        occupied_ratio=np.array([[0.5], [0.9]]),
        memory_h=168.0,
    )
    (found,) = features_of(amounts.reshape(-1, FEATURE_COUNT))
    return dict(zip(FEATURES, found.tolist(), strict=True))


def test_each_feature_stands_in_its_place() -> None:
    found = row()
    assert found["saving_ratio"] == pytest.approx(math.log1p(2.0))
    assert found["spread_ratio"] == pytest.approx(math.log1p(1.0))
    assert found["recency"] == pytest.approx(math.log1p(5.0))
    assert found["task_count"] == pytest.approx(math.log1p(4.0))
    assert found["gpu_hours"] == pytest.approx(math.log1p(12.0))
    assert found["demand"] == pytest.approx(math.log1p(2.0))
    assert found["assigned"] == pytest.approx(math.log1p(1.0))
    assert found["price"] == pytest.approx(math.log1p(3.0))
    assert found["size"] == pytest.approx(math.log1p(40.0))
    assert found["saving"] == pytest.approx(math.log1p(6.0))
    assert found["holders"] == pytest.approx(math.log1p(2.0))
    assert found["memory"] == pytest.approx(math.log1p(168.0))
    plain = ("is_data", "rate_ratio", "planned_ratio", "occupied_ratio")
    assert [found[name] for name in plain] == [1.0, -0.2, 0.4, 0.9]


def test_copy_that_is_free_has_finite_features() -> None:
    assert all(math.isfinite(value) for value in row(price_usd=0.0).values())


@given(saved_usd=USD, price_usd=USD, told=st.floats(0, 15))
def test_scale_0_leaves_the_saving_to_the_last_bit(
    saved_usd: float, price_usd: float, told: float
) -> None:
    assert corrected_usd(saved_usd, price_usd, told, 0.0) == saved_usd


def test_scale_mixes_what_was_learned_with_what_the_plan_expects() -> None:
    assert corrected_usd(6.0, 2.0, 5.0, 1.0) == pytest.approx(10.0)
    assert corrected_usd(6.0, 2.0, 5.0, 0.5) == pytest.approx(2.0 * (0.5 * 5.0 + 0.5 * 6.0 / 2.0))
    assert corrected_usd(6.0, 2.0, 15.0, 1.0) == 18.0, "at most thrice what the plan expects"
    assert corrected_usd(0.0, 2.0, 15.0, 1.0) == 0.0
    assert corrected_usd(6.0, LEAST_USD / 2, 5.0, 1.0) == 6.0, "of next to nothing no multiple"


def test_demand_fades_and_the_latest_use_is_known() -> None:
    artifacts = np.array([[0, 1], [0, 2]])
    uses, latest_h = demand_of(artifacts, np.array([24.0, 0.0]), 4)
    assert uses.tolist() == pytest.approx([1.0 + math.exp(-1.0), math.exp(-1.0), 1.0, 0.0])
    assert latest_h.tolist() == [0.0, 24.0, 0.0, math.inf]


def test_level_of_rates_is_relative_and_needs_a_mean_above_zero() -> None:
    rates = np.array([[0.1] * 96, [0.3] * 96])
    assert surroundings_of(np.zeros(0), rates, 1.0).rate_ratio.tolist() == pytest.approx(
        [-0.5, 0.5]
    )
    below = surroundings_of(np.zeros(0), -rates, 1.0)
    assert below.rate_ratio.tolist() == [0.0, 0.0]
    assert surroundings_of(np.zeros(0), np.zeros((0, 96)), 1.0).rate_ratio.tolist() == []
