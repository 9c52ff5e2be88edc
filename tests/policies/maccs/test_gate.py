"""What was learned is used only where it is better with confidence, and nowhere much worse."""

import pytest

from policies.maccs.actor_card import FamilyResult
from policies.maccs.gate import candidates, verdict


def result(mean: float, high: float, count: int = 24, scenario: str = "default") -> FamilyResult:
    return FamilyResult(scenario, count, mean, 2 * mean - high, high)


GOOD = result(-0.02, -0.01)
BETTER = result(-0.03, -0.005)
FINE = (result(0.0099, 0.03, 12, "load-high"), result(-0.01, 0.0, 12, "cache-tenth"))
BAD = (*FINE, result(0.0101, 0.03, 12, "egress-dear"))


def judged(
    tried: dict[float, FamilyResult], families: dict[float, tuple[FamilyResult, ...]]
) -> tuple[bool, float, str]:
    found = verdict(tried, families, weeks="2023", first_seed=1)
    assert set(found.tried) == {f"{scale:g}" for scale in tried}
    return found.is_passed, found.residual_scale, found.why


def test_best_of_the_weights_that_pass_is_taken() -> None:
    assert candidates({0.5: GOOD, 1.0: BETTER}) == (1.0, 0.5)
    assert judged({0.5: GOOD, 1.0: BETTER}, {1.0: FINE, 0.5: FINE})[:2] == (True, 1.0)


def test_next_best_is_taken_where_a_family_refuses_the_best() -> None:
    passed, scale, why = judged({0.5: GOOD, 1.0: BETTER}, {1.0: BAD, 0.5: FINE})
    assert (passed, scale) == (True, 0.5)
    assert "24 weeks" in why


def test_family_that_is_worse_refuses_and_is_named() -> None:
    passed, scale, why = judged({0.5: GOOD}, {0.5: BAD})
    assert (passed, scale) == (False, 0.0)
    assert "egress-dear (+1.01%)" in why


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        (result(-0.02, 0.0), "interval"),
        (result(-0.02, 0.001), "interval"),
        (result(0.0, 0.01), "not below zero"),
        (result(-0.02, -0.01, count=23), "24 are asked for"),
        (result(float("nan"), float("nan")), "not below zero"),
    ],
)
def test_main_scenario_refuses_what_is_not_surely_better(bad: FamilyResult, word: str) -> None:
    passed, scale, why = judged({0.5: bad}, {0.5: FINE})
    assert (passed, scale) == (False, 0.0)
    assert word in why


def test_families_that_nobody_ran_refuse() -> None:
    assert judged({0.5: GOOD}, {})[:2] == (False, 0.0)


def test_family_that_is_no_number_refuses() -> None:
    odd = (result(float("nan"), 0.0, 12, "churn"),)
    assert judged({0.5: GOOD}, {0.5: odd})[0] is False


def test_nothing_tried_is_not_passed() -> None:
    assert judged({}, {}) == (False, 0.0, "nothing was tried")
