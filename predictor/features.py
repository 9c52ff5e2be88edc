"""What the predictor reads of a task: its context path and its reference time. Pure.

The context path names ever smaller groups of tasks, from all of them to those that share everything
but the number of tokens. Times are compared as *residuals*, ln(run time) minus ln(reference time),
so that runs of different sizes teach each other: the reference carries the size, the residual what
the roofline does not know.

Work of unknown size has a tree of its own. Its reference is one flat guess, so that its residuals
say how long such work takes, not how far the roofline is off; neither informs the other.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from gcos.durations import SECONDS_MAX, SECONDS_MIN, Observation, PoolSpeed, WorkFeatures
from gcos.errors import InvalidRequestError
from gcos.run_time_prior import Pace, has_known_size, pace_of, reference_s
from predictor.records import Row

#: Names of the contexts, from general to specific: what a prediction reports.
CONTEXTS = (
    "all",
    "kind",
    "kind/model",
    "kind/model/pool",
    "kind/model/pool/shape",
    "kind/model/pool/shape/data",
)
#: Index of the first context that knows the model; those above it span models.
MODEL_DEPTH = 2
#: Index of the first context that knows the pool type.
POOL_DEPTH = 3
#: First name in the path of work of unknown size; no kind is called so.
_UNSIZED = "unsized"

Context = tuple[str, ...]

#: Places of `ln_work` and of ln of 1 + tokens among the numeric keys: what their number decides.
WORK_AT = 0
TOKENS_AT = 3

NAME_LENGTH_MAX = 512
DATA_COUNT_MAX = 64
GPU_COUNT_MAX = 65_536
EPOCH_COUNT_MAX = 1e6
SPEED_RATIO_MIN = 1e-6
SPEED_RATIO_MAX = 1e6
#: 2**53: counts beyond it lose digits as float.
COUNT_MAX = 9_007_199_254_740_992


def common_contexts(features: WorkFeatures) -> tuple[Context, ...]:
    """Return the contexts above the pool type: all of known or of unknown size, kind, model."""
    return _common(features.kind.value, features.model, has_known_size(features))


def pool_contexts(features: WorkFeatures, pool_type: str) -> tuple[Context, ...]:
    """Return the contexts from the pool type down: pool, shape, and data with project."""
    *_, model = common_contexts(features)
    pool = (*model, pool_type)
    shape = (
        *pool,
        _shape(features.batch_size_count, features.sequence_token_count, features.gpu_count),
    )
    return pool, shape, (*shape, features.project, *features.data)


def ln_work(features: WorkFeatures) -> float:
    """Return ln of the reference seconds on the task's number of GPUs, at speed ratio 1."""
    return math.log(reference_s(features) / max(features.gpu_count, 1))


def row_of(features: WorkFeatures, pool_type: str) -> Row:
    """Return what the trees see of a task on a pool type; its time there is a residual."""
    return Row(numbers_of(features), *names_of(features, pool_type)[:2])


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """A task without its number of tokens, which many tasks share. Compared by identity.

    Attributes:
        features: The task, with 1 token if it has any.
        pace: How its tokens are worked off.
        least_s: Reference seconds are at least this; all of them without tokens.
        gpu_count: GPUs of the run, at least 1.
        numbers: Numeric keys; those at `WORK_AT` and `TOKENS_AT` are of another number of tokens.
    """

    features: WorkFeatures
    pace: Pace
    least_s: float
    gpu_count: int
    numbers: tuple[float, ...]


#: A template, and how many tokens the task has: none only if the template has none.
Question = tuple[Template, int]


def template_of(features: WorkFeatures) -> Template:
    """Return what `features` shares with tasks of other numbers of tokens."""
    has_tokens = features.token_count > 0
    one = replace(features, token_count=1) if has_tokens else features
    return Template(
        features=one,
        pace=pace_of(one),
        least_s=SECONDS_MIN if has_tokens else reference_s(one),
        gpu_count=max(one.gpu_count, 1),
        numbers=numbers_of(one),
    )


def question_of(features: WorkFeatures) -> Question:
    """Return the question after a task."""
    return template_of(features), features.token_count


def reference_at(question: Question) -> float:
    """Return the reference seconds of a task on its GPUs: exp of its `ln_work`."""
    template, token_count = question
    pace = template.pace
    batch_count = token_count * pace.epoch_count / pace.batch_token_count
    seconds = max(batch_count * pace.batch_s * pace.gpu_count, template.least_s)
    return seconds / template.gpu_count


def numbers_of(features: WorkFeatures) -> tuple[float, ...]:
    """Return the numeric keys of a task."""
    return (
        ln_work(features),
        math.log1p(features.model_bytes),
        math.log1p(features.data_bytes),
        math.log1p(features.token_count),
        features.epoch_count,
        float(features.batch_size_count),
        float(features.sequence_token_count),
        float(features.gpu_count),
    )


def names_of(
    features: WorkFeatures, pool_type: str
) -> tuple[tuple[str, ...], tuple[str, ...], Context]:
    """Return the categories and contexts of a row, and the context of its model on its pool."""
    return _names(
        features.kind.value,  # an enum's hash is slow
        features.model,
        features.project,
        features.data,
        _shape(features.batch_size_count, features.sequence_token_count, features.gpu_count),
        has_known_size(features),
        pool_type,
    )


@lru_cache(maxsize=4096)
def _names(
    kind: str,
    model: str,
    project: str,
    data: tuple[str, ...],
    shape: str,
    is_sized: bool,
    pool_type: str,
) -> tuple[tuple[str, ...], tuple[str, ...], Context]:
    """Remembered, since tasks share names far more often than sizes."""
    _, of_kind, of_model = _common(kind, model, is_sized)
    pool = (*of_model, pool_type)
    # "all" is implied.
    names = (of_kind, of_model, pool, (*pool, shape), (*pool, shape, project, *data))
    return (kind, model, pool_type, project), tuple("/".join(n) for n in names), pool


def check_features(features: WorkFeatures) -> None:
    """Refuse features that no task has.

    Raises:
        InvalidRequestError: A count, size or name is outside its stated limits.
    """
    if _is_plain(features):
        return
    for name, limit in (
        ("model_bytes", COUNT_MAX),
        ("data_bytes", COUNT_MAX),
        ("token_count", COUNT_MAX),
        ("batch_size_count", COUNT_MAX),
        ("sequence_token_count", COUNT_MAX),
        ("gpu_count", GPU_COUNT_MAX),
    ):
        if not 0 <= getattr(features, name) <= limit:
            raise InvalidRequestError(f"{name} must be within 0 and {limit}", field=name)
    if not 0 < features.epoch_count <= EPOCH_COUNT_MAX:
        raise InvalidRequestError(
            f"epoch_count must be above 0 and at most {EPOCH_COUNT_MAX:g}", field="epoch_count"
        )
    if len(features.data) > DATA_COUNT_MAX:
        raise InvalidRequestError(f"more than {DATA_COUNT_MAX} data sets", field="data")
    for field, text in (
        ("model", features.model),
        ("project", features.project),
        *(("data", name) for name in features.data),
    ):
        _check_name(text, field)


def _is_plain(features: WorkFeatures) -> bool:
    """Tell whether all is within its limits: the same as `check_features`, without its words."""
    return (
        0 <= features.model_bytes <= COUNT_MAX
        and 0 <= features.data_bytes <= COUNT_MAX
        and 0 <= features.token_count <= COUNT_MAX
        and 0 <= features.batch_size_count <= COUNT_MAX
        and 0 <= features.sequence_token_count <= COUNT_MAX
        and 0 <= features.gpu_count <= GPU_COUNT_MAX
        and 0 < features.epoch_count <= EPOCH_COUNT_MAX
        and len(features.model) <= NAME_LENGTH_MAX
        and len(features.project) <= NAME_LENGTH_MAX
        and len(features.data) <= DATA_COUNT_MAX
        and all(len(name) <= NAME_LENGTH_MAX for name in features.data)
    )


def check_pool(pool: PoolSpeed) -> None:
    """Refuse a pool type without a name, or with a speed that is no speed.

    Raises:
        InvalidRequestError: As above.
    """
    _check_name(pool.type, "type", is_needed=True)
    if not SPEED_RATIO_MIN <= pool.speed_ratio <= SPEED_RATIO_MAX:
        raise InvalidRequestError(
            f"speed_ratio must be within {SPEED_RATIO_MIN:g} and {SPEED_RATIO_MAX:g}",
            field="speed_ratio",
        )


def check_observation(observation: Observation) -> None:
    """Refuse the end of a run that cannot have been.

    Raises:
        InvalidRequestError: A time is negative or not finite, or a name or count is wrong.
    """
    _check_name(observation.run_id, "run_id", is_needed=True)
    _check_name(observation.pool_type, "pool_type", is_needed=True)
    if not 0 <= observation.elapsed_s <= SECONDS_MAX:
        raise InvalidRequestError(
            f"elapsed_s must be within 0 and {SECONDS_MAX:g}", field="elapsed_s"
        )
    if not (math.isfinite(observation.ended_s) and observation.ended_s >= 0):
        raise InvalidRequestError("ended_s must be an instant since the epoch", field="ended_s")
    check_features(observation.features)


def _check_name(text: str, field: str, *, is_needed: bool = False) -> None:
    if is_needed and not text:
        raise InvalidRequestError(f"{field} is empty", field=field)
    if len(text) > NAME_LENGTH_MAX:
        raise InvalidRequestError(
            f"{field} has more than {NAME_LENGTH_MAX} characters", field=field
        )


def _common(kind: str, model: str, is_sized: bool) -> tuple[Context, ...]:
    root: Context = () if is_sized else (_UNSIZED,)
    of_kind = (*root, kind)
    return root, of_kind, (*of_kind, model)


@lru_cache(maxsize=4096)
def _shape(batch_size_count: int, sequence_token_count: int, gpu_count: int) -> str:
    """Return batch size, sequence length and GPUs, each as its nearest power of two."""
    counts = (batch_size_count, sequence_token_count, gpu_count)
    return ",".join(str(_power_of_two(count)) for count in counts)


def _power_of_two(count: int) -> int:
    """Return the nearest power of two on the log scale; 0 for 0, which means unknown."""
    return 2 ** round(math.log2(count)) if count > 0 else 0
