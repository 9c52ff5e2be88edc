"""DiPTree over plain rows: what it learns, that it is one distribution, that it is causal."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.durations import LEVELS
from gcos.seeds import stream
from predictor.codes import Codes, frequent_names
from predictor.diptree import TABLE_WORTH_COUNT, DiPTree
from predictor.levels import LevelCalibration
from predictor.records import Finished, Hyperparameters, Row
from predictor.stack import Stack, gram, mass_matrix

pytest.importorskip("sklearn")
pytest.importorskip("lightgbm")
pytest.importorskip("onnx")
from predictor.fit import Fit
from predictor.fitting import causal_features, fit_history, memorize, replay, trained

SMALL = Hyperparameters(tree_count=5, leaf_count_max=16, head_round_count=10)


def runs_of(count: int, *, name: str = "runs", noise: float = 0.2) -> list[Finished]:
    """Times that depend on a number, and on a name that says nothing about the number."""
    rng = stream(5, name)
    runs = []
    for index in range(count):
        size, model = float(rng.uniform(1, 10)), f"m{rng.integers(4)}"
        seconds = size * (1 + int(model[1:])) * math.exp(noise * rng.normal())
        row = Row((size, math.nan), (model,), (model,))
        runs.append(Finished(row, seconds, started_s=10.0 * index, ended_s=10.0 * index + seconds))
    return runs


def crps(tree: DiPTree, runs: Sequence[Finished]) -> float:
    total = 0.0
    for run in runs:
        missed = math.log(run.seconds) - np.log(tree.predict(run.row).quantiles_s)
        total += 2 * float(np.maximum(LEVELS * missed, (LEVELS - 1) * missed).mean())
    return total / len(runs)


@pytest.fixture(scope="module")
def history() -> list[Finished]:
    return runs_of(600)


@pytest.fixture(scope="module")
def tree(history: list[Finished]) -> DiPTree:
    return trained(history, SMALL)


def test_trees_see_what_contexts_cannot(history: list[Finished], tree: DiPTree) -> None:
    fresh = runs_of(200, name="fresh")
    contexts_alone = trained(history, Hyperparameters(tree_count=0))
    assert crps(tree, fresh) < 0.75 * crps(contexts_alone, fresh)


def test_the_middle_80_percent_holds_about_80_percent(tree: DiPTree) -> None:
    fresh = runs_of(400, name="coverage")
    inside = 0
    for run in fresh:
        quantiles_s = tree.predict(run.row).quantiles_s
        inside += quantiles_s[1] <= run.seconds <= quantiles_s[17]
    assert 0.72 <= inside / len(fresh) <= 0.90


def test_quantiles_never_cross(tree: DiPTree) -> None:
    for run in runs_of(50, name="fresh"):
        assert (np.diff(tree.predict(run.row).quantiles_s) >= 0).all()


def test_asking_changes_nothing(history: list[Finished], tree: DiPTree) -> None:
    first = tree.predict(history[0].row).quantiles_s
    assert (tree.predict(history[0].row).quantiles_s == first).all()


def test_it_follows_times_that_double(tree: DiPTree) -> None:
    moved = tree.copy()
    row = Row((5.0, math.nan), ("m1",), ("m1",))
    before = moved.predict(row).quantiles_s[9]
    for _ in range(150):
        moved.observe(row, 40.0)
    assert before < 20
    assert moved.predict(row).quantiles_s[9] == pytest.approx(40, rel=0.25)
    assert tree.predict(row).quantiles_s[9] == before  # the copy was independent


def test_typical_is_a_median_of_the_deepest_context_with_five_runs() -> None:
    tree = DiPTree()
    deep, other = Row(contexts=("a", "b")), Row(contexts=("a", "c"))
    for seconds in (1.0, 2.0, 3.0, 4.0):
        tree.observe(deep, seconds)
    assert tree.predict(deep).typical_s is None
    tree.observe(other, 100.0)
    assert tree.predict(deep).typical_s == pytest.approx(3.0)  # of "a": 1 2 3 4 100
    tree.observe(deep, 5.0)
    assert tree.predict(deep).typical_s == pytest.approx(3.0)
    assert tree.predict(deep).depth == 3


def test_a_name_never_heard_of_gets_its_parents_answer(tree: DiPTree) -> None:
    told = tree.predict(Row((5.0, math.nan), ("new",), ("new",)))
    assert told.depth == 1
    assert 3 < told.quantiles_s[9] < 40


def test_contexts_are_bounded_and_the_longest_unheard_of_leaves() -> None:
    tree = DiPTree(Hyperparameters(context_count_max=10))
    for index in range(1000):
        tree.observe(Row(contexts=(f"c{index}",), categories=(f"d{index}",)), 1.0)
    assert tree.context_count == 10
    assert tree.predict(Row(contexts=("c999",), categories=("",))).depth == 2
    assert tree.predict(Row(contexts=("c5",), categories=("",))).depth == 1


@pytest.mark.parametrize("count", [0, 1, 2, 7, 59])
def test_little_history_is_enough_to_answer(count: int) -> None:
    tree = trained(runs_of(count), SMALL)
    told = tree.predict(Row((2.0, 1.0), ("m0",), ("m0",)))
    assert np.isfinite(told.quantiles_s).all()
    assert told.quantiles_s[18] > 1.5 * told.quantiles_s[0]


def test_history_in_any_order_gives_the_same_tree(history: list[Finished]) -> None:
    shuffled = [history[i] for i in stream(1, "shuffle").permutation(200)]
    told = [
        trained(runs, SMALL).predict(history[300].row).quantiles_s
        for runs in (history[:200], shuffled)
    ]
    assert (told[0] == told[1]).all()


def test_features_know_only_what_had_ended() -> None:
    row = Row(contexts=("a",))
    runs = [
        Finished(row, 100.0, started_s=0.0, ended_s=100.0),
        Finished(row, 50.0, started_s=90.0, ended_s=140.0),
        Finished(row, 1.0, started_s=139.0, ended_s=140.5),
    ]
    features, _ = causal_features(runs, Hyperparameters())
    counts = np.expm1(features[:, 4])  # runs of "all"
    assert counts.round().tolist() == [0, 0, 1]


def test_a_fit_survives_its_bytes(history: list[Finished]) -> None:
    fit, forecasts = fit_history(history[:200], SMALL, seed=0)
    again = Fit.decoded(fit.encoded())
    told = [one.tree().predict(history[0].row).quantiles_s for one in (fit, again)]
    assert (told[0] == told[1]).all()
    assert again.hyper == SMALL
    assert len(forecasts) == 40


def test_a_learned_history_is_the_same_whether_or_not_experts_are_asked(
    history: list[Finished],
) -> None:
    fit, _ = fit_history(history[:300], SMALL, seed=0)
    quick, thorough = fit.tree(), fit.tree()
    memorize(quick, history[:300], teaches_head=True)
    replay(thorough, history[:300])
    thorough.take(quick.lessons())  # a replay also teaches experts and levels
    for run in history[300:320]:
        told = [tree.predict(run.row) for tree in (quick, thorough)]
        assert told[0].quantiles_s == pytest.approx(told[1].quantiles_s, rel=1e-6)
        assert told[0].typical_s == told[1].typical_s


def test_the_head_is_wide_where_it_is_often_wrong() -> None:
    rng = stream(6, "noise")
    runs = []
    for index in range(600):
        name = f"m{index % 2}"
        seconds = math.exp(3 + (0.05, 0.8)[index % 2] * rng.normal())
        runs.append(Finished(Row((), (name,), ()), seconds, 10.0 * index, 10.0 * index + 1))
    tree = trained(runs, SMALL)
    steady, noisy = (tree.predict(Row((), (name,), ())).quantiles_s for name in ("m0", "m1"))
    assert math.log(noisy[17] / noisy[1]) > 3 * math.log(steady[17] / steady[1])
    _, of_errors = tree.predict(Row((), ("m0",), ())).ticket.cumulative[-2:]
    plain, _ = tree.predict(Row((), ("m0",), ())).ticket.cumulative[-2:]
    assert (np.diff(of_errors) ** 2).sum() > (np.diff(plain) ** 2).sum()


def test_names_have_ranks_by_frequency_and_new_names_none() -> None:
    rows = [Row((), (name, "one")) for name in ("b", "a", "b", "c", "a", "b")]
    names = frequent_names(rows)
    assert names == (("b", "a", "c"), ("one",))
    assert Codes(names).of(Row((), ("a", "new"))) == [2.0, 0.0]
    assert frequent_names([]) == ()


@given(
    st.lists(st.floats(1e-30, 1e30), min_size=1, max_size=20),
    st.floats(allow_nan=True, allow_infinity=True),
)
def test_no_number_breaks_it(times: list[float], number: float) -> None:
    tree = DiPTree()
    row = Row((number,), ("",), ("",))
    for seconds in times:
        tree.observe(row, seconds)
    told = tree.predict(row)
    assert np.isfinite(told.quantiles_s).all()
    assert (np.diff(told.quantiles_s) >= 0).all()


def steps(at: float, edges: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> list[float]:
    return [min(max(float(edge - at) / 0.5 + 0.5, 0.0), 1.0) for edge in edges]


@given(st.floats(-0.5, 10.5), st.floats(0.5, 9.5), st.floats(0.5, 9.5), st.floats(0, 1))
def test_the_gram_matrix_is_the_crps_of_every_mixture(
    happened: float, first: float, second: float, weight: float
) -> None:
    edges = np.linspace(0, 10, 41)
    cumulative = np.array([steps(first, edges), steps(second, edges)])
    weights = np.array([weight, 1 - weight])
    grid = np.linspace(0, 10, 400_001)
    at = min(max(happened, 0.0), 10.0)
    exact = np.trapezoid((np.interp(grid, edges, weights @ cumulative) - (grid >= at)) ** 2, grid)
    matrix = gram(cumulative, edges, mass_matrix(edges), happened)
    assert weights @ matrix @ weights == pytest.approx(exact, abs=1e-3)


def test_the_stack_finds_the_expert_that_is_right() -> None:
    edges = np.linspace(0, 10, 41)
    cumulative = np.array([steps(2, edges), steps(5, edges), steps(8, edges)])
    stack = Stack(edges, 3, 2, 0.999)
    rng = stream(2, "stack")
    for _ in range(200):
        stack.learn(cumulative, 5 + 0.1 * rng.normal(), 0)
        stack.learn(cumulative, 8 + 0.1 * rng.normal(), 1)
        assert (stack.weights >= 0).all()
        assert stack.weights.sum(axis=1) == pytest.approx(1)
    assert stack.weights[0, 1] > 0.75
    assert stack.weights[1, 2] > 0.55  # a group leans on all
    assert stack.weights[1].argmax() == 2


@settings(max_examples=20, deadline=None)
@given(st.floats(0.4, 2.5))
def test_levels_bring_coverage_to_80_percent(width: float) -> None:
    """A forecast that is too wide or too narrow is corrected; a right one is left alone."""
    edges = np.linspace(-8, 8, 257)
    told = 0.5 * np.array([math.erfc(-e / (width * math.sqrt(2))) for e in edges])
    levels, rng = LevelCalibration(), stream(4, "levels", str(width))
    for happened in rng.normal(size=2500):
        levels.learn(told, edges, happened, levels.corrected)
    low, high = np.interp(levels.levels()[[1, 17]], told, edges)
    inside = 0.5 * math.erfc(-high / math.sqrt(2)) - 0.5 * math.erfc(-low / math.sqrt(2))
    assert inside == pytest.approx(0.8, abs=0.07)
    assert (np.diff(levels.levels()) >= 0).all()


def test_corrections_are_judged_by_what_they_told_and_not_by_what_they_know_now() -> None:
    """A burst of runs alike: each would look right to a correction that learned from the last."""
    edges = np.linspace(-8, 8, 257)
    told = 0.5 * np.array([math.erfc(-e / math.sqrt(2)) for e in edges])
    levels, flattered = LevelCalibration(), LevelCalibration()
    rng = stream(7, "bursts")
    corrected_counts = [0, 0]
    for _ in range(60):
        as_told, happened = levels.corrected, rng.normal()
        for _ in range(40):
            levels.learn(told, edges, happened, as_told)
            flattered.learn(told, edges, happened, flattered.corrected)
        corrected_counts[0] += levels.chosen > 0
        corrected_counts[1] += flattered.chosen > 0
    # The forecasts are right: there is nothing to correct.
    assert 2 * corrected_counts[0] < corrected_counts[1]


@pytest.mark.parametrize("count", [1, 2, 3 * TABLE_WORTH_COUNT])
def test_many_rows_are_told_what_each_is_told(
    count: int, history: list[Finished], tree: DiPTree
) -> None:
    rows = [run.row for run in runs_of(count, name="many")]
    for one in (tree.copy(), trained(history, Hyperparameters(tree_count=0)), DiPTree()):
        together = one.predict_many(rows)
        for index, row in enumerate(rows):
            alone = one.predict(row)
            assert together.quantiles_s[index] == pytest.approx(alone.quantiles_s, rel=1e-5)
            nothing = math.isnan(together.typicals_s[index])
            assert (None if nothing else together.typicals_s[index]) == alone.typical_s
            assert together.effective_counts[index] == alone.effective_count
            assert together.depths[index] == alone.depth


def test_nothing_is_remembered_across_an_update(history: list[Finished], tree: DiPTree) -> None:
    asked, silent = tree.copy(), tree.copy()
    rows = [run.row for run in runs_of(2 * TABLE_WORTH_COUNT, name="asked")]
    for run in history[:20]:
        asked.predict_many(rows)
        for learner in (asked, silent):
            learner.observe(run.row, run.seconds)
    assert (asked.predict_many(rows).quantiles_s == silent.predict_many(rows).quantiles_s).all()


def test_a_number_that_is_none_is_unknown_also_among_many(tree: DiPTree) -> None:
    odd = [Row((value, math.nan), ("m1",), ("m1",)) for value in (math.inf, math.nan, 1e300)]
    told = tree.predict_many(odd)
    assert np.isfinite(told.quantiles_s).all()


def test_curves_of_many_forecasts_are_those_of_each(tree: DiPTree) -> None:
    told = np.column_stack((stream(9, "forecasts").normal(2, 4, 500), np.linspace(-3, 3, 500)))
    head = tree._head
    assert head is not None
    weights = stream(9, "weights").uniform(0, 0.5, (2, 500))
    mixed = np.zeros((500, len(tree.partition.edges)))
    head.add_to(mixed, told, list(weights))
    for index, (forecast, ln_error) in enumerate(told.tolist()):
        curves = np.empty((2, mixed.shape[1]))
        head.tell(curves, forecast, ln_error)
        alone = weights[:, index] @ curves
        alone[-1] = 1.0  # of the whole mixture
        assert mixed[index] == pytest.approx(alone, rel=0, abs=1e-12)
