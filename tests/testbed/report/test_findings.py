"""Savings, losses, distances, sweeps and fronts from runs whose every figure is foretold."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from testbed.evaluate import day
from testbed.evaluation import Evaluation, RunBound, joint_usd
from testbed.report.findings import (
    CARBON,
    COST,
    JOINT,
    best_policy,
    distances,
    lost_runs,
    mean_losses,
    runs_of,
    savings,
)
from testbed.report.fronts import CARBON_PRICE, front, sweeps

Make = Callable[..., Evaluation]


def test_savings_are_those_of_the_evaluation_with_the_sign_turned(make: Make) -> None:
    found = make(("joint", "locality", "carbon-greedy"))
    assert best_policy(found) == "joint"
    rows = {(row.baseline, row.metric.name): row for row in savings(found, "locality")}
    against = next(each for each in found.policies if each.policy == "locality")
    assert against.joint_vs_baseline is not None
    relative = against.joint_vs_baseline.relative_percent
    saved = rows["joint", "J"].percent
    assert relative is not None
    assert saved is not None
    assert saved.mean == -relative.mean
    assert relative.interval is not None
    assert saved.interval is not None
    assert (saved.interval.low, saved.interval.high) == (
        -relative.interval.high,
        -relative.interval.low,
    )
    assert rows["joint", "J"].win_count == 0
    assert rows["carbon-greedy", "cost"].win_count == 4


def test_every_metric_in_which_another_is_better_is_a_loss(make: Make) -> None:
    found = make()
    losses = {(loss.metric, loss.other) for loss in mean_losses(found, "joint")}
    assert losses == {(CARBON, "carbon-greedy")}
    losses = {(loss.metric, loss.other) for loss in mean_losses(found, "carbon-greedy")}
    assert {(JOINT, "joint"), (COST, "joint"), (COST, "locality")} <= losses


def test_single_runs_are_lost_though_the_mean_is_won(make: Make) -> None:
    found = make(("joint", "locality"))
    runs = [
        run
        if (run.policy, run.seed) != ("joint", 3)
        else replace(
            run,
            result=replace(
                run.result,
                measured=replace(
                    run.result.measured,
                    charge=replace(run.result.measured.charge, penalty_usd=300.0),
                ),
            ),
        )
        for run in found.runs
    ]
    (loss,) = lost_runs(replace(found, runs=tuple(runs)), "joint", day)
    assert loss.where == "2024-01-08, seed 3"
    assert loss.percent == pytest.approx(
        100 * (loss.subject_value - loss.other_value) / loss.other_value
    )


def test_distances_are_ratios_over_the_runs_that_have_a_bound(make: Make) -> None:
    found = make(("joint",))
    assert all(each.over_bound is None for each in distances(found))
    bounds = tuple(
        RunBound(run.week_start_s, run.seed, bound_usd=joint_usd(run) / 2)
        for run in runs_of(found, "joint")[:3]
    )
    (distance,) = distances(replace(found, bounds=bounds))
    assert distance.over_bound is not None
    assert (distance.over_bound.mean, distance.over_bound.count) == (pytest.approx(2.0), 3)
    assert distance.over_search is None


def test_a_sweep_is_of_evaluations_that_differ_in_one_parameter(make: Make) -> None:
    main = make()
    dear, cheap = make(carbon_price=1.0), make(carbon_price=0.0)
    other = replace(make(carbon_price=3.0), seeds=(9,))
    (sweep,) = sweeps(main, [dear, cheap, other])
    assert sweep.parameter == CARBON_PRICE
    assert [point.value for point in sweep.points] == [0.0, 0.2, 1.0]
    assert sweeps(main, [other]) == ()
    fewer = make(("joint", "locality"), carbon_price=1.0)
    assert sweeps(main, [fewer])[0].policies == ("joint", "locality")


def test_the_front_and_its_volume(make: Make) -> None:
    """By hand: joint is on the front, and so is carbon-greedy at the highest price."""
    (sweep,) = sweeps(make(), [make(carbon_price=1.0)])
    found = front(sweep)
    on = {(each.policy, each.carbon_price_usd_per_kg) for each in found.points if each.is_on_front}
    assert on == {("joint", 1.0), ("carbon-greedy", 1.0)}
    # Costs 104.5, 184.5 and 304.5 $; at 1 $/kg half of 400, 900 and 250 kg.
    assert found.reference == (pytest.approx(304.5), pytest.approx(750.0))
    joint = found.hypervolume_percent["joint"]
    assert joint == pytest.approx(100 * (1 - 104.5 / 304.5) * (1 - 200 / 750))
    assert found.hypervolume_percent["carbon-greedy"] == 0.0
