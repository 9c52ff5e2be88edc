"""Context paths, reference times, and what is refused."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.durations import Observation, Outcome, PoolSpeed, PredictionSource, WorkFeatures
from gcos.errors import InvalidRequestError
from gcos.ids import RunId
from gcos.roofline import Hardware, batch_s
from gcos.run_time_prior import (
    PRIOR_SIGMA,
    has_known_size,
    lengths,
    pool_reference_s,
    prior_predictions,
    reference_s,
)
from gcos.tasks import WorkKind
from predictor.features import (
    CONTEXTS,
    COUNT_MAX,
    DATA_COUNT_MAX,
    NAME_LENGTH_MAX,
    check_features,
    check_observation,
    check_pool,
    common_contexts,
    pool_contexts,
)

WORK = WorkFeatures(
    WorkKind.FINE_TUNE,
    model="llama",
    model_bytes=16_000_000_000,
    data=("alpaca",),
    data_bytes=40_000_000,
    token_count=10_000_000,
    batch_size_count=8,
    sequence_token_count=2048,
    gpu_count=2,
)
OBSERVATION = Observation(
    RunId("eu-1.1.1"), WORK, "H100", Outcome.SUCCEEDED, elapsed_s=60.0, ended_s=1e9
)


def test_contexts_go_from_general_to_specific() -> None:
    path = (*common_contexts(WORK), *pool_contexts(WORK, "H100"))
    assert path[0] == ()
    for outer, inner in itertools.pairwise(path):
        assert inner[: len(outer)] == outer
        assert len(inner) > len(outer)


@pytest.mark.parametrize("kind", list(WorkKind))
def test_work_of_unknown_size_shares_no_context_with_work_that_scales(kind: WorkKind) -> None:
    sized = replace(WORK, kind=kind)
    unsized = replace(sized, token_count=0, data_bytes=0)
    assert (has_known_size(sized), has_known_size(unsized)) == (True, False)
    paths = [
        {*common_contexts(features), *pool_contexts(features, "H100")}
        for features in (sized, unsized)
    ]
    assert len(paths[0]) == len(paths[1]) == len(CONTEXTS)
    assert not paths[0] & paths[1]


def test_a_shape_is_rounded_to_powers_of_two() -> None:
    near = replace(WORK, batch_size_count=7, sequence_token_count=2300, gpu_count=2)
    far = replace(WORK, batch_size_count=16)
    shape = pool_contexts(WORK, "H100")[1]
    assert pool_contexts(near, "H100")[1] == shape
    assert pool_contexts(far, "H100")[1] != shape


def test_token_counts_do_not_split_contexts() -> None:
    more = replace(WORK, token_count=999, epoch_count=7.0, model_bytes=1)
    assert pool_contexts(more, "H100") == pool_contexts(WORK, "H100")


def test_the_reference_is_the_roofline() -> None:
    # 6 FLOPs x 8e9 parameters x 1e7 tokens over 0.45 x 989 TFLOP/s.
    assert reference_s(WORK) == pytest.approx(6 * 8e9 * 1e7 / (0.45 * 989e12))


def test_the_reference_of_generation_is_the_fitted_roofline_of_its_batches() -> None:
    work = replace(
        WORK, kind=WorkKind.BATCH_INFERENCE, batch_size_count=8, sequence_token_count=1024
    )
    assert lengths(1024) == (512, 512)
    one_batch_s = batch_s(
        work.model_bytes,
        2.0,
        Hardware(989e12, 3.35e12, 4),
        batch_size_count=8,
        prompt_token_count=512,
        output_token_count=512,
    )
    four = replace(work, gpu_count=4)
    assert pool_reference_s(four, 1.0) == pytest.approx(1e7 / (8 * 1024) * one_batch_s)
    # More GPUs help, but have to exchange what they computed.
    assert 1 < reference_s(four) / reference_s(work) < 4


def test_a_short_sequence_is_four_fifths_prompt_and_an_unstated_one_is_640_tokens() -> None:
    assert lengths(100) == (80, 20)
    assert lengths(0) == (512, 128)


@given(
    st.sampled_from([WorkKind.FINE_TUNE, WorkKind.BATCH_INFERENCE, WorkKind.EVALUATION]),
    st.integers(1, 10**6),
    st.floats(1.5, 100),
    st.integers(1, 8),
    st.floats(0.1, 10),
)
def test_reference_time_grows_with_work_and_shrinks_with_speed(
    kind: WorkKind, token_count: int, factor: float, gpu_count: int, speed_ratio: float
) -> None:
    work = replace(WORK, kind=kind, token_count=token_count * 1000, gpu_count=gpu_count)
    longer = replace(work, epoch_count=factor)
    assert reference_s(longer) == pytest.approx(factor * reference_s(work))
    assert pool_reference_s(work, speed_ratio) == pytest.approx(
        max(reference_s(work) / (speed_ratio * gpu_count), 1e-3)
    )


def test_unstated_tokens_are_guessed_from_the_data() -> None:
    unstated = replace(WORK, token_count=0)
    assert reference_s(unstated) == pytest.approx(reference_s(WORK))


def test_work_of_unknown_size_takes_as_long_on_any_number_of_gpus() -> None:
    unknown = WorkFeatures(WorkKind.CUSTOM, data_bytes=10**9)
    many = replace(unknown, gpu_count=8)
    assert pool_reference_s(unknown, 1.0) == pool_reference_s(many, 1.0)


def test_prior_predictions_are_wide_cold_and_say_that_they_are_the_prior() -> None:
    fast, slow = prior_predictions(WORK, [PoolSpeed("H100", 1.0), PoolSpeed("A100", 0.5)])
    assert (fast.pool_type, slow.pool_type) == ("H100", "A100")
    assert fast.source is PredictionSource.PRIOR
    assert fast.is_cold
    assert slow.run_time.p50_s == pytest.approx(2 * fast.run_time.p50_s)
    width = math.log(fast.run_time.p90_s / fast.run_time.p50_s)
    assert width == pytest.approx(1.2816 * PRIOR_SIGMA, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"token_count": -1}, "token_count"),
        ({"token_count": COUNT_MAX + 1}, "token_count"),
        ({"model_bytes": -1}, "model_bytes"),
        ({"gpu_count": -1}, "gpu_count"),
        ({"epoch_count": 0.0}, "epoch_count"),
        ({"epoch_count": math.nan}, "epoch_count"),
        ({"model": "m" * (NAME_LENGTH_MAX + 1)}, "model"),
        ({"data": ("d",) * (DATA_COUNT_MAX + 1)}, "data"),
    ],
)
def test_impossible_features_are_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        check_features(replace(WORK, **change))  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("speed_ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_speed_that_is_no_speed_is_refused(speed_ratio: float) -> None:
    with pytest.raises(InvalidRequestError, match="speed_ratio"):
        check_pool(PoolSpeed("H100", speed_ratio))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"elapsed_s": -1.0}, "elapsed_s"),
        ({"elapsed_s": math.nan}, "elapsed_s"),
        ({"elapsed_s": math.inf}, "elapsed_s"),
        ({"ended_s": math.nan}, "ended_s"),
        ({"ended_s": -1.0}, "ended_s"),
        ({"run_id": ""}, "run_id"),
        ({"pool_type": ""}, "pool_type"),
    ],
)
def test_impossible_observations_are_refused(change: dict[str, object], field: str) -> None:
    check_observation(OBSERVATION)
    with pytest.raises(InvalidRequestError) as caught:
        check_observation(replace(OBSERVATION, **change))  # type: ignore[arg-type]
    assert caught.value.field == field
