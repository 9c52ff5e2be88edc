"""Tasks on DiPTree: late, repeated and shuffled runs, and the answers for what is new."""

import gc
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos import codec
from gcos.durations import Observation, Outcome, PoolSpeed, PredictionSource, WorkFeatures
from gcos.ids import RunId
from gcos.run_time_prior import pool_reference_s
from gcos.run_time_snapshot import RunTimeSnapshot, snapshot_predictions
from gcos.seeds import stream
from gcos.tasks import WorkKind

pytest.importorskip("sklearn")
pytest.importorskip("lightgbm")
pytest.importorskip("onnx")
from predictor import refit, task_predictor, templates
from predictor.answers import Answer, AnswerColumns, Answers
from predictor.features import Template, question_of
from predictor.fit import Fit
from predictor.fitting import fit_history
from predictor.records import Hyperparameters
from predictor.task_predictor import WATERMARK_S, Structure, TaskPredictor, finished

H100, A100 = PoolSpeed("H100", 1.0), PoolSpeed("A100", 0.5)


def work(model: str, batch_size_count: int = 8) -> WorkFeatures:
    return WorkFeatures(
        WorkKind.BATCH_INFERENCE,
        model=model,
        model_bytes=16_000_000_000,
        token_count=10**6,
        batch_size_count=batch_size_count,
    )


def run_of(index: int, *, ended_s: float | None = None, seed: int = 0) -> Observation:
    """Batches are slower than the roofline says, by a law that contexts do not know."""
    rng = stream(seed, "run", index)
    features = work(f"m{rng.integers(5)}", int(2 ** rng.uniform(0, 6)))
    pool = (H100, A100)[int(rng.integers(2))]
    factor = features.batch_size_count**0.7 * math.exp(0.1 * rng.normal())
    return Observation(
        RunId(f"eu-{index}"),
        features,
        pool.type,
        Outcome.SUCCEEDED if rng.uniform() < 0.95 else Outcome.FAILED,
        elapsed_s=factor * pool_reference_s(features, pool.speed_ratio),
        ended_s=100.0 * index if ended_s is None else ended_s,
    )


@pytest.fixture(scope="module")
def fit() -> Fit:
    hyper = Hyperparameters(tree_count=5, leaf_count_max=16, head_round_count=10)
    runs = [finished(o) for o in map(run_of, range(200)) if o.outcome is Outcome.SUCCEEDED]
    return fit_history(runs, hyper, seed=0)[0]


@pytest.fixture(scope="module")
def structure(fit: Fit) -> Structure:
    return Structure(blank=fit.tree, until_s=fit.until_s, version="v")


def told(predictor: TaskPredictor) -> list[object]:
    works = [work(f"m{model}", batch) for model in range(6) for batch in (1, 8, 64)]
    return [
        replace(prediction, version="")
        for features in works
        for prediction in predictor.predict(features, [H100, A100])
    ]


def using(structure: Structure, observations: Sequence[Observation]) -> TaskPredictor:
    """A predictor that was started under `structure`, then observed."""
    predictor = TaskPredictor()
    replay(predictor, structure)
    for observation in observations:
        predictor.observe(observation)
        predictor.check_invariants()
    return predictor


def replay(predictor: TaskPredictor, structure: Structure) -> None:
    for _ in predictor.replay(structure, step_count=16):
        pass
    predictor.check_invariants()


RUNS = st.lists(
    st.builds(
        run_of,
        st.integers(0, 300),
        ended_s=st.sampled_from([0.0, 10.0, 3000.0, 5000.0, 2e4, 2.1e4, 9e4]),
    ),
    max_size=40,
    unique_by=lambda observation: observation.run_id,
)


@settings(deadline=None, max_examples=25)
@given(runs=RUNS, random=st.randoms(use_true_random=False))
def test_repeated_shuffled_and_very_late_runs_give_the_same_state_after_replay(
    structure: Structure, runs: list[Observation], random: Random
) -> None:
    in_order = using(structure, sorted(runs, key=lambda o: (o.ended_s, o.run_id)))
    mixed = [*runs, *random.sample(runs, len(runs) // 2)]
    random.shuffle(mixed)
    out_of_order = using(structure, mixed)
    replay(out_of_order, structure)
    assert told(out_of_order) == told(in_order)
    assert out_of_order.describe() == in_order.describe()


def test_runs_out_of_order_within_the_hour_are_put_in_their_place_at_once(
    structure: Structure,
) -> None:
    runs = [run_of(index, ended_s=20.0 * index) for index in range(170)]
    late = using(structure, [*runs[:100], *runs[101:], runs[100]])
    assert late.late_count == 0
    assert told(late) == told(using(structure, runs))


def test_older_runs_wait_for_the_next_replay(structure: Structure) -> None:
    runs = [run_of(index, ended_s=20.0 * index) for index in range(60)]
    oldest = run_of(999, ended_s=20.0 * 59 - WATERMARK_S - 1)
    assert oldest.ended_s < 0  # older than all, and than the hour
    oldest = replace(oldest, outcome=Outcome.SUCCEEDED)
    late = using(structure, [*runs, oldest])
    assert late.late_count == 1
    replay(late, structure)
    assert late.late_count == 0
    assert told(late) == told(using(structure, [oldest, *runs]))


def test_what_is_observed_while_replaying_is_not_missed(structure: Structure) -> None:
    runs = [run_of(index, ended_s=20.0 * index) for index in range(120)]
    predictor = using(structure, [*runs[:60], *runs[61:100]])
    waiting = [runs[60], *runs[100:]]
    for _ in predictor.replay(structure, step_count=16):
        if waiting:
            predictor.observe(waiting.pop(0))
    for observation in waiting:
        predictor.observe(observation)
    assert told(predictor) == told(using(structure, runs))


def test_a_new_model_is_predicted_by_the_trie_and_a_known_one_by_the_trees(
    structure: Structure,
) -> None:
    runs = [run_of(index) for index in range(300)]
    with_trees, trie_alone = using(structure, runs), TaskPredictor()
    for observation in runs:
        trie_alone.observe(observation)
    (new,) = with_trees.predict(work("new"), [H100])
    alone = trie_alone.predict(work("new"), [H100])[0]
    assert replace(new, version="") == replace(alone, version="")
    (known,) = with_trees.predict(work("m1", 16), [H100])
    assert known.source is PredictionSource.PREDICTOR
    assert known.version.endswith("-v")
    true_s = 16**0.7 * pool_reference_s(work("m1", 16), 1.0)
    assert known.run_time.p50_s == pytest.approx(true_s, rel=0.25)


def test_what_is_forgotten_leaves_the_log(structure: Structure) -> None:
    predictor = TaskPredictor(observation_count_max=20)
    replay(predictor, structure)
    for index in range(50):
        predictor.observe(run_of(index))
        predictor.check_invariants()
    assert predictor.finished_count <= 20


def test_a_fit_wins_only_on_runs_that_neither_has_seen() -> None:
    observations = [o for o in map(run_of, range(400)) if o.outcome is Outcome.SUCCEEDED]
    runs = [finished(o) for o in observations]
    new, forecasts = fit_history(runs, refit.HYPER, seed=0)
    assert refit.is_better(runs, observations, forecasts, None)
    assert not refit.is_better(runs, observations, forecasts, new)  # it has seen them all


def test_a_worker_process_fits(tmp_path: object) -> None:
    import asyncio

    observations = [o for o in map(run_of, range(300)) if o.outcome is Outcome.SUCCEEDED]
    document = asyncio.run(refit.refit(observations, None))
    assert document is not None
    assert Fit.decoded(document).until_s == observations[-1].ended_s
    assert asyncio.run(refit.refit(observations, document)) is None


def test_serving_imports_no_library_of_fitting() -> None:
    import subprocess
    import sys

    code = (
        "import sys, predictor.wiring;"
        "print([m for m in ('sklearn', 'lightgbm', 'onnx', 'scipy', 'pandas', 'torch')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_snapshot_scales_what_was_known_and_leaves_the_rest_to_the_prior(
    structure: Structure,
) -> None:
    predictor = using(structure, [run_of(index) for index in range(300)])
    document = codec.encode(predictor.snapshot())
    snapshot = codec.decode(RunTimeSnapshot, document)
    size = replace(work("m1", 8), token_count=10**7)
    known, unknown = snapshot_predictions(snapshot, size, [A100, PoolSpeed("L40S", 0.3)])
    assert (known.source, known.is_cold) == (PredictionSource.SNAPSHOT, False)
    assert (unknown.source, unknown.is_cold) == (PredictionSource.PRIOR, True)
    assert known.version == predictor.describe().version
    newest = next(c for c in snapshot.contexts if (c.model, c.pool_type) == ("m1", "A100"))
    assert known.run_time.p50_s == pytest.approx(
        newest.quantiles_ratio[9] * pool_reference_s(size, 1.0)
    )


def asked_of(count: int) -> list[WorkFeatures]:
    """Known and new models, sizes of all kinds, and none."""
    rng = stream(8, "asked")
    return [
        replace(
            work(f"m{rng.integers(7)}", int(2 ** rng.uniform(0, 6))),
            token_count=0 if rng.uniform() < 0.1 else int(10 ** rng.uniform(0, 9)),
            gpu_count=int(rng.integers(3)),
        )
        for _ in range(count)
    ]


def test_many_are_told_what_each_is_told(structure: Structure) -> None:
    predictor = using(structure, [run_of(index) for index in range(200)])
    works = asked_of(150)
    pools = [H100, PoolSpeed("new", 2.0), A100]
    predictor.predict(work("unheard of"), pools)  # declares the speeds
    for _ in range(2):  # what the first learns of the order of a batch changes no answer
        answers = predictor.predict_many([question_of(features) for features in works], pools)
        alone = [told for features in works for told in predictor.predict(features, pools)]
        assert isinstance(answers, AnswerColumns)
        for together, told in zip(answers.predictions(), alone, strict=True):
            assert together.run_time.quantiles_s == pytest.approx(told.run_time.quantiles_s, 1e-9)
            assert together.typical_s == pytest.approx(told.typical_s)
            assert replace(together, run_time=told.run_time, typical_s=told.typical_s) == told
        contexts = {told.context for told in alone}
        assert contexts > {"kind", "kind/model", "kind/model/pool/shape/data"}
    as_rows = Answers(answers.pool_types, answers_of(answers), answers.version)
    assert answers.encoded() == as_rows.encoded()
    first = answers.pool_types[:1]
    one_pool = predictor.predict_many([question_of(features) for features in works], pools[:1])
    assert isinstance(one_pool, AnswerColumns)
    assert one_pool.encoded() == Answers(first, answers_of(one_pool), one_pool.version).encoded()


def answers_of(columns: AnswerColumns) -> list[Answer]:
    return [Answer.of(told) for told in columns.predictions()]


def test_many_are_told_what_was_learned_since(structure: Structure) -> None:
    runs = [run_of(index) for index in range(200)]
    asked, fresh = using(structure, runs), using(structure, runs)
    questions = [question_of(features) for features in asked_of(60)]
    for index in range(200, 230):
        asked.predict_many(questions, [H100])
        for predictor in (asked, fresh):
            predictor.observe(run_of(index))
    assert (
        asked.predict_many(questions, [H100]).encoded()
        == fresh.predict_many(questions, [H100]).encoded()
    )


def test_what_is_made_ready_is_told_as_what_is_not(structure: Structure) -> None:
    runs = [run_of(index) for index in range(200)]
    ready, other = using(structure, runs), using(structure, runs)
    questions = [question_of(work(f"m{index}", 4)) for index in range(7)]
    pools = [H100, PoolSpeed("new", 2.0)]
    for index in range(200, 210):
        for predictor in (ready, other):
            predictor.observe(run_of(index))
        ready.make_ready(questions, pools)
        for question in questions:
            told = ready.predict_many([question], pools).encoded()
            assert told == other.predict_many([question], pools).encoded()


def test_a_predictor_without_trees_is_made_ready() -> None:
    ready, other = TaskPredictor(), TaskPredictor()
    question = question_of(work("m1", 4))
    ready.make_ready([question], [H100])
    told = ready.predict_many([question], [H100])
    assert told.encoded() == other.predict_many([question], [H100]).encoded()


def test_templates_asked_for_once_are_not_remembered_without_end(
    structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = using(structure, [run_of(index) for index in range(200)])
    monkeypatch.setattr(task_predictor, "PLACE_COUNT_MAX", 10)
    asked = Counter(type(each) for each in gc.get_objects())[Template]
    for size in range(1, 100):
        predictor.predict(work("m1", size), [H100])
    gc.collect()
    held = Counter(type(each) for each in gc.get_objects())[Template]
    assert held - asked <= 20


def test_more_templates_than_are_remembered_are_answered(
    structure: Structure, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = using(structure, [run_of(index) for index in range(200)])
    questions = [question_of(features) for features in asked_of(60)]
    told = predictor.predict_many(questions, [H100]).predictions()
    monkeypatch.setattr(task_predictor, "PLACE_COUNT_MAX", 10)
    monkeypatch.setattr(templates, "TEMPLATE_COUNT_MAX", 40)
    predictor.observe(run_of(1))  # known; but what was remembered is forgotten
    for part in (slice(0, 30), slice(30, 60), slice(0, 30)):
        again = predictor.predict_many(questions[part], [H100]).predictions()
        assert [a.run_time.p50_s for a in again] == pytest.approx(
            [a.run_time.p50_s for a in told[part]], 1e-5
        )
