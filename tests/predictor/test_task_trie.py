"""What the context trie learns, forgets, and tells."""

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.durations import Observation, Outcome, PoolSpeed, PredictionSource, WorkFeatures
from gcos.ids import RunId
from gcos.run_time_prior import pool_reference_s, prior_predictions
from gcos.seeds import stream
from gcos.tasks import WorkKind
from predictor.features import CONTEXTS
from predictor.task_trie import INNER_WINDOW_COUNT, LEAF_WINDOW_COUNT, TaskTrie

H100 = PoolSpeed("H100", 1.0)
A100 = PoolSpeed("A100", 0.5)
L40S = PoolSpeed("L40S", 0.35)
SIGMA = 0.15
#: A command whose size nobody states, such as `echo hello`.
COMMAND = WorkFeatures(WorkKind.CUSTOM)
#: So small that start-up is all its time: seconds, e^10 times its roofline.
TINY = WorkFeatures(
    WorkKind.BATCH_INFERENCE, model="tiny", model_bytes=10_000_000, token_count=1_000
)


def work(model: str = "llama", token_count: int = 10_000_000, data: str = "alpaca") -> WorkFeatures:
    return WorkFeatures(
        WorkKind.FINE_TUNE,
        model=model,
        model_bytes=16_000_000_000,
        data=(data,),
        token_count=token_count,
        batch_size_count=8,
        sequence_token_count=2048,
    )


def finished(
    run: int,
    features: WorkFeatures,
    *,
    pool: PoolSpeed = H100,
    factor: float = 1.0,
    ended_s: float | None = None,
    outcome: Outcome = Outcome.SUCCEEDED,
) -> Observation:
    """A run that took `factor` times what the roofline says."""
    return Observation(
        RunId(f"eu-{run}"),
        features,
        pool.type,
        outcome,
        elapsed_s=factor * pool_reference_s(features, pool.speed_ratio),
        ended_s=float(run) if ended_s is None else ended_s,
    )


def learned(observations: Sequence[Observation], **options: int) -> TaskTrie:
    tree = TaskTrie(**options)
    for observation in observations:
        tree.observe(observation)
        tree.check_invariants()
    return tree


def test_a_fresh_tree_tells_the_prior() -> None:
    (told,) = TaskTrie().predict(work(), [H100])
    (prior,) = prior_predictions(work(), [H100])
    # Doubt about the declared speed widens it a little.
    assert told.run_time.p50_s == pytest.approx(prior.run_time.p50_s, rel=0.01)
    assert told.run_time.p90_s == pytest.approx(prior.run_time.p90_s, rel=0.08)
    assert told.source is PredictionSource.PREDICTOR
    assert (told.is_cold, told.context, told.typical_s) == (True, "prior", None)
    assert told.effective_count == 0


def test_ten_finishes_correct_a_prior_that_is_twenty_times_off() -> None:
    """Median q-error over 40 models, each off by 20 in either direction: target 1.25."""
    errors = []
    for index in range(40):
        rng = stream(7, "models", index)
        factor = 20.0 if index % 2 else 1 / 20
        runs = [
            finished(run, work(f"m{index}"), factor=factor * math.exp(SIGMA * rng.normal()))
            for run in range(10)
        ]
        (told,) = learned(runs).predict(work(f"m{index}"), [H100])
        true_s = factor * pool_reference_s(work(f"m{index}"), 1.0)
        errors.append(max(told.run_time.p50_s / true_s, true_s / told.run_time.p50_s))
    assert np.median(errors) < 1.10
    assert max(errors) < 1.25


def test_three_finishes_correct_a_prior_that_is_twenty_times_off_in_the_median() -> None:
    errors = []
    for index in range(40):
        rng = stream(8, "models", index)
        runs = [
            finished(run, work(), factor=20 * math.exp(SIGMA * rng.normal())) for run in range(3)
        ]
        (told,) = learned(runs).predict(work(), [H100])
        errors.append(abs(math.log(told.run_time.p50_s / pool_reference_s(work(), 1.0) / 20)))
    assert math.exp(float(np.median(errors))) < 1.25


def test_an_unseen_size_of_a_known_model_scales() -> None:
    tree = learned([finished(run, work(), factor=5.0) for run in range(10)])
    small, large = (
        tree.predict(work(token_count=count), [H100])[0] for count in (1_000_000, 1_000_000_000)
    )
    assert large.run_time.p50_s == pytest.approx(1000 * small.run_time.p50_s, rel=1e-3)
    assert small.run_time.p50_s == pytest.approx(
        5 * pool_reference_s(work(token_count=1_000_000), 1.0), rel=0.1
    )


def test_a_known_model_on_an_unseen_pool_follows_the_declared_speed() -> None:
    tree = learned([finished(run, work(), pool=A100, factor=5.0) for run in range(10)])
    known, unseen = tree.predict(work(), [A100, H100])
    assert not known.is_cold
    assert unseen.is_cold
    assert unseen.context == "kind/model"
    assert unseen.run_time.p50_s == pytest.approx(5 * pool_reference_s(work(), 1.0), rel=0.15)
    assert _width(unseen.run_time.quantiles_s) > _width(known.run_time.quantiles_s)


def test_a_pool_type_with_runs_of_its_own_overrules_its_declared_speed() -> None:
    runs = [finished(run, work(), pool=H100) for run in range(10)]
    runs += [finished(run, work(), pool=A100, factor=3.0) for run in range(10, 20)]
    tree = learned(runs)
    _, told = tree.predict(work(), [H100, A100])
    assert told.run_time.p50_s == pytest.approx(3 * pool_reference_s(work(), 0.5), rel=0.1)


def test_redeclaring_a_speed_leaves_a_seen_pool_as_it_is() -> None:
    runs = [finished(run, work()) for run in range(30)]
    tree = learned(runs)
    (before,) = tree.predict(work(), [H100])
    (after,) = tree.predict(work(), [replace(H100, speed_ratio=4.0)])
    assert after.run_time.p50_s == pytest.approx(before.run_time.p50_s, rel=0.07)


def test_one_busy_model_does_not_make_the_tree_sure_of_another() -> None:
    tree = learned([finished(run, work("busy"), factor=8.0) for run in range(300)])
    (other,) = tree.predict(work("other"), [H100])
    (prior,) = TaskTrie().predict(work("other"), [H100])
    assert _width(other.run_time.quantiles_s) > 0.8 * _width(prior.run_time.quantiles_s)


def test_many_models_with_the_same_bias_move_the_prior_of_the_next() -> None:
    tree = learned([finished(run, work(f"m{run}"), factor=8.0) for run in range(30)])
    (told,) = tree.predict(work("next"), [H100])
    assert told.run_time.p50_s == pytest.approx(8 * pool_reference_s(work("next"), 1.0), rel=0.2)


def tiny_runs_and_commands(command_count: int) -> TaskTrie:
    """Two runs of a tiny model and some commands of one second, all on an H100."""
    runs = [finished(run, TINY, factor=math.exp(10)) for run in range(2)]
    commands = range(2, 2 + command_count)
    runs += [replace(finished(run, COMMAND), elapsed_s=1.0) for run in commands]
    return learned(runs)


def test_five_commands_of_a_second_are_enough_to_know_them_on_a_new_pool() -> None:
    (told,) = tiny_runs_and_commands(5).predict(COMMAND, [A100])
    assert told.is_cold
    assert 0.5 < told.run_time.p50_s < 3
    assert told.run_time.p90_s < 10
    assert told.run_time.mean_s < 100


@pytest.mark.parametrize("command_count", [0, 1, 2, 3, 4])
def test_fewer_commands_leave_at_most_the_tail_of_the_prior(command_count: int) -> None:
    (told,) = tiny_runs_and_commands(command_count).predict(COMMAND, [A100])
    (prior,) = TaskTrie().predict(COMMAND, [A100])
    assert told.run_time.quantiles_s[-1] <= prior.run_time.quantiles_s[-1]
    assert told.run_time.mean_s <= prior.run_time.mean_s


def test_runs_of_unknown_size_and_runs_that_scale_teach_each_other_nothing() -> None:
    both = tiny_runs_and_commands(5)
    only_tiny = tiny_runs_and_commands(0)
    only_commands = learned([replace(finished(run, COMMAND), elapsed_s=1.0) for run in range(5)])
    for features, alone in ((work(), only_tiny), (COMMAND, only_commands)):
        (told,) = both.predict(features, [A100])
        assert told.run_time == alone.predict(features, [A100])[0].run_time


def test_a_model_that_is_all_start_up_does_not_stretch_the_next() -> None:
    (told,) = tiny_runs_and_commands(0).predict(work(), [A100])
    (prior,) = TaskTrie().predict(work(), [A100])
    assert prior.run_time.p50_s / 3 < told.run_time.p50_s < 3 * prior.run_time.p50_s
    assert told.run_time.quantiles_s[-1] < 2 * prior.run_time.quantiles_s[-1]


@given(st.lists(st.floats(-14, 14), min_size=1, max_size=12))
def test_other_models_cannot_push_a_cold_tail_far_beyond_the_prior(residuals: list[float]) -> None:
    runs = [
        finished(run, work(f"m{run}"), factor=math.exp(residual))
        for run, residual in enumerate(residuals)
    ]
    (told,) = learned(runs).predict(work("next"), [H100])
    (prior,) = TaskTrie().predict(work("next"), [H100])
    assert told.run_time.quantiles_s[-1] < 50 * prior.run_time.quantiles_s[-1]


def test_one_finish_is_no_certainty() -> None:
    (told,) = learned([finished(1, work())]).predict(work(), [H100])
    assert told.run_time.p90_s > 1.3 * told.run_time.p50_s


def test_quantiles_cover_what_comes() -> None:
    """After 50 finishes, 80 % of further runs fall between the 10 % and the 90 % quantile."""
    rng = stream(3, "coverage")
    factors = np.exp(0.4 * rng.normal(size=2050))
    tree = learned([finished(run, work(), factor=factors[run]) for run in range(50)])
    (told,) = tree.predict(work(), [H100])
    fresh = factors[50:] * pool_reference_s(work(), 1.0)
    inside = (told.run_time.quantile_s(0.1) <= fresh) & (fresh <= told.run_time.quantile_s(0.9))
    assert 0.74 <= inside.mean() <= 0.92


def test_the_tree_follows_a_model_that_becomes_slower() -> None:
    runs = [finished(run, work(), factor=1.0) for run in range(200)]
    runs += [finished(run, work(), factor=3.0) for run in range(200, 280)]
    (told,) = learned(runs).predict(work(), [H100])
    assert told.run_time.p50_s == pytest.approx(3 * pool_reference_s(work(), 1.0), rel=0.1)


def test_typical_needs_five_finishes() -> None:
    runs = [finished(run, work(), factor=2.0) for run in range(5)]
    (four,) = learned(runs[:4]).predict(work(), [H100])
    (five,) = learned(runs).predict(work(), [H100])
    assert four.typical_s is None
    assert five.typical_s == pytest.approx(2 * pool_reference_s(work(), 1.0), rel=0.07)


def test_typical_is_the_median_of_the_deepest_context_with_enough_finishes() -> None:
    runs = [finished(run, work(data="known"), factor=2.0) for run in range(5)]
    runs += [finished(run, work(data="new"), factor=9.0) for run in range(5, 7)]
    (told,) = learned(runs).predict(work(data="new"), [H100])
    assert told.context == CONTEXTS[-1]
    assert told.typical_s == pytest.approx(2 * pool_reference_s(work(), 1.0), rel=0.1)


def test_the_effective_count_grows_with_runs_and_is_bounded_by_forgetting() -> None:
    counts = []
    for count in (1, 10, 2000):
        tree = TaskTrie()
        for run in range(count):
            tree.observe(finished(run, work()))
        counts.append(tree.predict(work(), [H100])[0].effective_count)
    assert 0 < counts[0] < 1
    assert 7 < counts[1] < 10
    assert 40 < counts[2] < 70


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED, Outcome.LOST])
def test_only_a_success_tells_a_duration(outcome: Outcome) -> None:
    runs = [finished(run, work()) for run in range(10)]
    tree = learned(runs)
    (before,) = tree.predict(work(), [H100])
    assert tree.observe(finished(99, work(), factor=1e-3, outcome=outcome)) == (True, None)
    (after,) = tree.predict(work(), [H100])
    assert after.run_time == before.run_time
    known = tree.describe()
    assert (known.finished_count, known.censored_count) == (10, 1)


def test_a_run_told_twice_counts_once() -> None:
    tree = learned([finished(1, work())])
    version = tree.describe().version
    assert tree.observe(finished(1, work(), factor=50.0)) == (False, None)
    assert tree.describe().version == version


def test_the_oldest_run_is_forgotten_with_its_contexts() -> None:
    tree = TaskTrie(observation_count_max=3)
    assert tree.observe(finished(1, work("old"))) == (True, None)
    for run in (2, 3):
        tree.observe(finished(run, work("new")))
    assert tree.observe(finished(4, work("new"))) == (True, RunId("eu-1"))
    tree.check_invariants()
    assert not tree.knows(RunId("eu-1"))
    # all, kind, model, pool, shape, data: nothing is left of the other model.
    assert tree.describe().context_count == len(CONTEXTS)


def test_a_run_older_than_a_full_memory_is_not_remembered() -> None:
    tree = learned([finished(run, work()) for run in (5, 6)], observation_count_max=2)
    version = tree.describe().version
    assert tree.observe(finished(1, work())) == (False, RunId("eu-1"))
    tree.check_invariants()
    assert tree.describe().version == version


def test_contexts_are_bounded_by_what_is_remembered() -> None:
    tree = TaskTrie(observation_count_max=20)
    for run in range(200):
        pool = PoolSpeed(f"gpu{run}", 1.0)
        tree.observe(finished(run, work(f"m{run}", data=f"d{run}"), pool=pool))
    tree.check_invariants()
    assert tree.describe().context_count == 2 + 20 * (len(CONTEXTS) - 2)


def test_windows_are_full_before_their_weight_matters() -> None:
    assert 0.98**LEAF_WINDOW_COUNT < 0.006
    assert 0.995**INNER_WINDOW_COUNT < 0.006


@given(st.floats(1e-3, 1e9), st.integers(0, 10**15), st.floats(1e-3, 1e3))
def test_no_run_time_breaks_the_reply(
    elapsed_s: float, token_count: int, speed_ratio: float
) -> None:
    features = work(token_count=token_count)
    tree = TaskTrie()
    for run in range(6):
        tree.observe(
            replace(finished(run, features), elapsed_s=elapsed_s * (1 + run), pool_type="X")
        )
    (told,) = tree.predict(features, [PoolSpeed("X", speed_ratio)])
    assert 0 < told.run_time.mean_s < math.inf
    assert told.typical_s is not None
    assert 1e-3 <= told.typical_s <= 1e9


def test_nothing_is_told_for_no_pool() -> None:
    assert TaskTrie().predict(work(), []) == ()


RUNS = st.lists(
    st.builds(
        finished,
        st.integers(0, 40),
        st.builds(work, st.sampled_from("abcd"), st.sampled_from([10**6, 10**7])),
        pool=st.sampled_from([H100, A100]),
        factor=st.floats(0.1, 10),
        ended_s=st.sampled_from([0.0, 1.0, 2.0, 3.0]),
        outcome=st.sampled_from([Outcome.SUCCEEDED] * 3 + [Outcome.FAILED]),
    ),
    max_size=30,
    unique_by=lambda observation: observation.run_id,
)


@settings(deadline=None)
@given(RUNS, st.randoms(use_true_random=False), st.sampled_from([8, 1000]))
def test_the_state_is_a_function_of_the_set_of_observations(
    runs: list[Observation], random: Random, memory: int
) -> None:
    """Any order, any repetition: the same answers, bit by bit, even where memory is full."""
    in_order = learned(
        sorted(runs, key=lambda o: (o.ended_s, o.run_id)), observation_count_max=memory
    )
    shuffled = [*runs, *random.sample(runs, len(runs) // 2)]
    random.shuffle(shuffled)
    out_of_order = TaskTrie(observation_count_max=memory)
    for observation in shuffled:
        out_of_order.observe(observation)
        out_of_order.predict(work("a"), [H100, A100])  # asking in between changes nothing
    out_of_order.check_invariants()
    assert out_of_order.describe() == in_order.describe()
    for model in "abcd":
        asked = (work(model), [H100, A100, L40S])
        assert out_of_order.predict(*asked) == in_order.predict(*asked)


def test_votes_and_windows_do_not_depend_on_arrival() -> None:
    """More models than a window holds, and more runs than a leaf holds, in two orders."""
    runs = [
        finished(run, work(f"m{run % 1100}" if run < 2200 else "hot"), factor=1 + run % 7)
        for run in range(2600)
    ]
    in_order, reverse = TaskTrie(), TaskTrie()
    for observation in runs:
        in_order.observe(observation)
    for observation in reversed(runs):
        reverse.observe(observation)
    in_order.check_invariants()
    reverse.check_invariants()
    for model in ("m3", "hot", "unknown"):
        assert in_order.predict(work(model), [H100]) == reverse.predict(work(model), [H100])


def _width(quantiles_s: tuple[float, ...]) -> float:
    return math.log(quantiles_s[17] / quantiles_s[1])
