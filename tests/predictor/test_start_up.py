"""How long runs take before they work, learned from runs of different sizes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.durations import Observation, Outcome, PoolSpeed, WorkFeatures
from gcos.ids import RunId
from gcos.run_time_prior import START_UP_S, pool_reference_s
from gcos.seeds import stream
from gcos.tasks import WorkKind
from predictor.start_up import LONGEST_S, start_up_s
from predictor.task_trie import TaskTrie

H100 = PoolSpeed("H100", 1.0)
TRUE_S = 3_000.0


def learned_s(times_s: np.ndarray, references_s: np.ndarray) -> float:
    return start_up_s(np.log(times_s / references_s), np.log(references_s))


def test_what_runs_of_different_sizes_share_is_start_up() -> None:
    references_s = np.geomspace(3, 3_000, 12)
    noise = np.exp(0.2 * stream(3, "start-up").normal(size=12))
    assert learned_s((TRUE_S + references_s) * noise, references_s) == pytest.approx(
        TRUE_S, rel=0.4
    )


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_where_all_is_slower_by_one_factor_start_up_stays_short(factor: float) -> None:
    references_s = np.geomspace(300, 300_000, 12)
    found_s = learned_s(factor * (START_UP_S + references_s), references_s)
    assert START_UP_S / 5 < found_s < 5 * START_UP_S


def test_a_short_run_speaks_against_a_long_start_up() -> None:
    references_s = np.full(8, 10.0)
    times_s = np.full(8, 4_000.0)
    times_s[3] = 20.0
    assert learned_s(times_s, references_s) < 100


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-7, 20)), min_size=1, max_size=70))
def test_any_runs_tell_a_start_up_within_its_limits(runs: list[tuple[float, float]]) -> None:
    residuals, ln_references = np.array(runs).T
    assert 1 <= start_up_s(residuals, ln_references) <= LONGEST_S


def task(kind: WorkKind, model: str) -> WorkFeatures:
    return WorkFeatures(kind, model, model_bytes=2_000_000_000, token_count=50_000_000)


def test_a_model_of_which_no_run_is_known_is_told_the_start_up_of_all() -> None:
    """Evaluations are small beside generations, so that start-up is all their time."""
    trie = TaskTrie()

    def finish(features: WorkFeatures) -> None:
        count = trie.describe().finished_count
        elapsed_s = TRUE_S + pool_reference_s(features, 1.0)
        run_id = RunId(f"eu-{count}")
        trie.observe(
            Observation(run_id, features, H100.type, Outcome.SUCCEEDED, elapsed_s, float(count))
        )

    def quotient(features: WorkFeatures) -> float:
        (told,) = trie.predict(features, [H100])
        true_s = TRUE_S + pool_reference_s(features, 1.0)
        return math.exp(abs(math.log(told.run_time.p50_s / true_s)))

    unseen = [task(WorkKind.EVALUATION, "c"), task(WorkKind.CUSTOM, "c")]
    before = [quotient(features) for features in unseen]
    for model in ("a", "b"):
        finish(task(WorkKind.BATCH_INFERENCE, model))
        finish(task(WorkKind.EVALUATION, model))
    after = [quotient(features) for features in unseen]
    assert min(before) > 10
    assert max(after) < 2
