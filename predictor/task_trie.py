"""DiPTree's context trie: run-time distributions from finished runs, by shrinkage. Pure.

Every finished run leaves its residual (ln run time minus ln reference time, see `features`) in each
context on its path, all > kind > model > pool type > shape > data. A context's density `H_v` is a
histogram of its residuals, the newest weighing 1 and each older one `decay` times the next, then
smoothed. A prediction walks the path down from the physics prior and mixes (DESIGN section 6):

    p_v = (H_v + kappa p_parent) / (N_v + kappa),   N_v = mass of H_v

so that a context with few runs leans on its parents. All that is told comes from the last p_v.

- A context's state is a function of the *set* of its newest runs in the order (ended, run id), not
  of their arrival: late, repeated or shuffled observations give the same answers, bit by bit.
- The two top contexts hold one run a model, its newest: a thousand runs of one model say no more
  about another model than one does. This vote is measured from start-up and roofline together, as
  the prior is: a model so small that start-up is all its time would otherwise tell every other
  model that it takes ten thousand times its roofline. It is also cut at three sigmas of the prior:
  what lies beyond says something of that model, not of the next.
- How long start-up takes is learned from the same votes, across kinds and models (`start_up`): what
  short runs of one kind of work show, the first run of another kind is told.
- Work of unknown size walks a tree of its own (`features`).
- Once a model has `TYPICAL_COUNT_MIN` runs on any pool type, what other models say is moved to its
  median before it is mixed in: it still tells how wide, no longer where. Left in place, three
  pseudo-counts of a reference that is off by 1,000 would set p90 and mean of every pool type that
  is new to the model. Fewer runs move nothing, since one odd run would be their median.
- Residuals are compared at speed ratio 1, by the ratios declared in the latest request that names
  the pool type. The ratio cancels for a pool type that the context has seen.
- A failed, cancelled or lost run is counted and nothing more: most crashes come early, for reasons
  that say nothing about how long the work takes, so that its elapsed time is not even a bound.
"""

import hashlib
import math
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gcos.durations import (
    LEVELS,
    SECONDS_MAX,
    SECONDS_MIN,
    Observation,
    Outcome,
    PoolSpeed,
    Prediction,
    PredictionSource,
    RunTime,
    WorkFeatures,
)
from gcos.ids import RunId
from gcos.run_time_prior import PRIOR_SIGMA, START_UP_S, has_known_size
from predictor.features import (
    CONTEXTS,
    MODEL_DEPTH,
    POOL_DEPTH,
    Context,
    common_contexts,
    ln_work,
    pool_contexts,
)
from predictor.residuals import (
    EDGES,
    Floats,
    Key,
    Residuals,
    median_of,
    moved,
    smoothed,
)
from predictor.start_up import start_up_s

#: Observations remembered; the oldest leave. It bounds the contexts too: each holds at least one
#: finished run, and one run is in `len(CONTEXTS)` of them.
OBSERVATION_COUNT_MAX = 20_000

#: DESIGN section 6.
KAPPA = 3.0
LEAF_DECAY = 0.98
INNER_DECAY = 0.995
#: Runs after which less than 0.6 % of the weight is left out.
LEAF_WINDOW_COUNT = 256
INNER_WINDOW_COUNT = 1024

#: Error of declared speed ratios in ln(run time), added where a pool type is new to a model
#: (assumed: LLM work does not scale with one number).
SPEED_SIGMA = 0.3

#: Least finished runs for which a context's own median is told as typical, and trusted over what
#: other models say: two odd ones among five do not carry it.
TYPICAL_COUNT_MIN = 5


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the predictor knows.

    Attributes:
        version: Name of the state; equal observations give equal versions.
        finished_count: Remembered runs that succeeded.
        censored_count: Remembered runs that ended otherwise.
        context_count: Contexts with at least one finished run.
    """

    version: str
    finished_count: int
    censored_count: int
    context_count: int


class TaskTrie:
    """Learns from ended runs and predicts run times; not thread-safe."""

    def __init__(self, *, observation_count_max: int = OBSERVATION_COUNT_MAX) -> None:
        assert observation_count_max > 0
        self._observation_count_max = observation_count_max
        #: Remembered observations, and their keys in order; the same runs in both.
        self._observations: dict[RunId, Observation] = {}
        self._keys: list[Key] = []
        #: Contexts by path; none is empty.
        self._contexts: dict[Context, Residuals] = {}
        self._speeds = _DeclaredSpeeds()
        self._finished_count = 0
        #: Sum of the hashes of all remembered run ids, which no order changes.
        self._checksum = 0
        self._start_up_s = START_UP_S
        #: Remembered runs and speeds that it was learned from.
        self._start_up_of: tuple[int, int] | None = None

    def knows(self, run_id: RunId) -> bool:
        """Tell whether the end of this run is remembered."""
        return run_id in self._observations

    def observe(self, observation: Observation) -> tuple[bool, RunId | None]:
        """Learn from an ended run, unless it is known.

        Returns:
            Whether it is remembered now and was not before, and the run that was forgotten for it.
            One older than everything remembered is itself forgotten when memory is full.
        """
        run_id = observation.run_id
        if run_id in self._observations:
            return False, None
        self._observations[run_id] = observation
        insort(self._keys, (observation.ended_s, run_id))
        self._add(observation)
        if len(self._keys) <= self._observation_count_max:
            return True, None
        _, oldest_id = self._keys.pop(0)
        self._remove(self._observations.pop(oldest_id))
        return oldest_id != run_id, oldest_id

    def predict(self, features: WorkFeatures, pools: Sequence[PoolSpeed]) -> tuple[Prediction, ...]:
        """Return one prediction for each pool type, in order."""
        for pool in pools:
            self._speeds.declare(pool.type, math.log(pool.speed_ratio))
        work = ln_work(features)
        *spanning, model = common_contexts(features)
        start_up_s = self.start_up_s(features)
        common = _Belief(_PRIOR, 0.0, -1, None)
        for depth, context in enumerate(spanning):
            common = self._narrow(common, context, depth, start_up_s)
        # From here on, from the roofline alone.
        common = common.moved(math.log1p(start_up_s * math.exp(-work)))
        common = self._narrow(self._moved_to_median(common, model), model, MODEL_DEPTH)
        # A pool type's own runs replace this doubt about its declared speed as they come in.
        common.density = smoothed(common.density, SPEED_SIGMA, mass=1.0)
        beliefs = []
        for pool in pools:
            belief = common
            for depth, context in enumerate(pool_contexts(features, pool.type), POOL_DEPTH):
                belief = self._narrow(belief, context, depth)
            beliefs.append(belief)
        if not beliefs:
            return ()
        cumulative = np.cumsum(np.stack([belief.density for belief in beliefs]), axis=1)
        version = self.version()
        return tuple(
            _prediction(pool, belief, row, work - math.log(pool.speed_ratio), version)
            for pool, belief, row in zip(pools, beliefs, cumulative, strict=True)
        )

    def start_up_s(self, features: WorkFeatures) -> float:
        """Return how long a task takes before it works, at speed ratio 1, as far as is known.

        Work of unknown size has one reference: of it, start-up cannot be told from work.
        """
        everything, *_ = common_contexts(features)
        residuals = self._contexts.get(everything)
        if residuals is None or not has_known_size(features):
            return START_UP_S
        key = (self._checksum, self._speeds.generation)
        if key != self._start_up_of:
            at_speed_one = residuals.at_speed_one(self._speeds.ln_speed_ratios)
            self._start_up_s, self._start_up_of = start_up_s(*at_speed_one), key
        return self._start_up_s

    def run_count(self, context: Context) -> int:
        """Return how many runs of a context speak, bounded."""
        residuals = self._contexts.get(context)
        return 0 if residuals is None else len(residuals)

    def speed_ratio(self, pool_type: str) -> float:
        """Return the declared ratio of a type; 1 where no remembered run used it."""
        return self._speeds.ratio(pool_type)

    @property
    def speed_generation(self) -> int:
        """Another number whenever a declared speed ratio is another."""
        return self._speeds.generation

    def describe(self) -> Knowledge:
        """Return what is known."""
        return Knowledge(
            version=self.version(),
            finished_count=self._finished_count,
            censored_count=len(self._observations) - self._finished_count,
            context_count=len(self._contexts),
        )

    def check_invariants(self) -> None:
        """Assert what must hold between any two calls."""
        assert len(self._keys) == len(self._observations) <= self._observation_count_max
        assert self._keys == sorted(self._keys)
        finished = [o for o in self._observations.values() if o.outcome is Outcome.SUCCEEDED]
        assert len(finished) == self._finished_count
        assert set(self._contexts) == {c for o in finished for _, c, _ in _path(o)}
        for residuals in self._contexts.values():
            residuals.check_invariants()

    def _narrow(
        self, belief: "_Belief", context: Context, depth: int, start_up_s: float | None = None
    ) -> "_Belief":
        """Return `belief` after what the runs of `context` say: one step of the shrinkage.

        Contexts that span models are given `start_up_s`, see `Residuals.summary`.
        """
        residuals = self._contexts.get(context)
        if residuals is None:
            return belief
        own = residuals.summary(self._speeds.ln_speed_ratios, self._speeds.generation, start_up_s)
        total = own.mass + KAPPA
        return _Belief(
            density=(own.density + KAPPA * belief.density) / total,
            effective_count=(own.mass * own.mass + KAPPA * belief.effective_count) / total,
            depth=depth,
            typical=own.median if len(residuals) >= TYPICAL_COUNT_MIN else belief.typical,
        )

    def _moved_to_median(self, belief: "_Belief", model: Context) -> "_Belief":
        """Return `belief`, held of other models, moved to the median of `model` if it has one."""
        residuals = self._contexts.get(model)
        if residuals is None or len(residuals) < TYPICAL_COUNT_MIN:
            return belief
        own = residuals.summary(self._speeds.ln_speed_ratios, self._speeds.generation)
        return belief.moved(own.median - median_of(belief.density))

    def _add(self, observation: Observation) -> None:
        self._checksum += _hash(observation.run_id)
        if observation.outcome is not Outcome.SUCCEEDED:
            return
        self._finished_count += 1
        key = (observation.ended_s, observation.run_id)
        work = ln_work(observation.features)
        residual = math.log(max(observation.elapsed_s, SECONDS_MIN)) - work
        pool_code = self._speeds.hold(observation.pool_type)
        for depth, context, voter in _path(observation):
            residuals = self._contexts.get(context)
            if residuals is None:
                is_leaf = depth == len(CONTEXTS) - 1
                residuals = Residuals(_LEAF_WEIGHTS if is_leaf else _INNER_WEIGHTS)
                self._contexts[context] = residuals
            residuals.add(key, voter, residual, pool_code, work)

    def _remove(self, observation: Observation) -> None:
        self._checksum -= _hash(observation.run_id)
        if observation.outcome is not Outcome.SUCCEEDED:
            return
        self._finished_count -= 1
        self._speeds.release(observation.pool_type)
        for _, context, _ in _path(observation):
            residuals = self._contexts[context]
            residuals.remove((observation.ended_s, observation.run_id))
            if len(residuals) == 0:
                del self._contexts[context]

    def version(self) -> str:
        """Return the name of the state; equal observations give equal names."""
        return f"trie3-{len(self._keys)}-{self._checksum % 2**32:08x}"


@dataclass(slots=True)
class _Belief:
    """What is believed about residuals at one step of the walk.

    Attributes:
        density: Probability of each bin, (BIN_COUNT,), sum 1.
        effective_count: Finished runs behind it: the mass of each context, weighted by its share.
        depth: Index in `CONTEXTS` of the deepest context used; -1 for the prior alone.
        typical: Median residual of the deepest context with enough runs.
    """

    density: Floats
    effective_count: float
    depth: int
    typical: float | None

    def moved(self, by: float) -> "_Belief":
        """Return the same belief about a residual that is larger by `by`."""
        typical = None if self.typical is None else self.typical + by
        return replace(self, density=moved(self.density, by), typical=typical)


class _DeclaredSpeeds:
    """ln of the declared speed ratio by pool type, for the types of remembered runs.

    Types have small codes, so that contexts store numbers; a code is reused after its last run.
    """

    def __init__(self) -> None:
        self.ln_speed_ratios: Floats = np.zeros(8)
        #: Raised whenever a ratio changes, which outdates summaries.
        self.generation = 0
        self._codes: dict[str, int] = {}
        self._run_counts: dict[str, int] = {}
        self._free_codes: list[int] = list(range(8))

    def hold(self, pool_type: str) -> int:
        """Return the code of `pool_type` for one more run."""
        self._run_counts[pool_type] = self._run_counts.get(pool_type, 0) + 1
        if pool_type not in self._codes:
            if not self._free_codes:
                size = len(self.ln_speed_ratios)
                self._free_codes = list(range(size, 2 * size))
                self.ln_speed_ratios = np.concatenate((self.ln_speed_ratios, np.zeros(size)))
            self._codes[pool_type] = self._free_codes.pop()
        return self._codes[pool_type]

    def release(self, pool_type: str) -> None:
        """Forget `pool_type` with its last run."""
        self._run_counts[pool_type] -= 1
        if self._run_counts[pool_type] == 0:
            del self._run_counts[pool_type]
            code = self._codes.pop(pool_type)
            self.ln_speed_ratios[code] = 0.0
            self._free_codes.append(code)

    def ratio(self, pool_type: str) -> float:
        """Return the declared ratio of a type; 1 where there is none."""
        code = self._codes.get(pool_type)
        return 1.0 if code is None else math.exp(self.ln_speed_ratios[code])

    def declare(self, pool_type: str, ln_speed_ratio: float) -> None:
        """Note the ratio of a type, if any remembered run used it."""
        code = self._codes.get(pool_type)
        if code is not None and self.ln_speed_ratios[code] != ln_speed_ratio:
            self.ln_speed_ratios[code] = ln_speed_ratio
            self.generation += 1


def _hash(run_id: RunId) -> int:
    return int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=8).digest(), "big")


def _path(observation: Observation) -> Iterator[tuple[int, Context, str]]:
    """Yield depth, context and voter of a finished run's contexts.

    In the two top contexts a model votes once, by its newest run; below, each run votes.
    """
    features = observation.features
    model_voter = f"{features.kind.value}/{features.model}"
    everything, kind, model = common_contexts(features)
    yield 0, everything, model_voter
    yield 1, kind, model_voter
    yield 2, model, observation.run_id
    below = pool_contexts(features, observation.pool_type)
    for depth, context in enumerate(below, POOL_DEPTH):
        yield depth, context, observation.run_id


def _prediction(
    pool: PoolSpeed, belief: _Belief, cumulative: Floats, ln_reference: float, version: str
) -> Prediction:
    """Return the reply for one pool type from the distribution of its residual."""
    at_edges = np.concatenate(([0.0], cumulative))
    ln_quantiles = np.interp(LEVELS * cumulative[-1], at_edges, EDGES) + ln_reference
    quantiles_s = np.clip(np.exp(ln_quantiles), SECONDS_MIN, SECONDS_MAX)
    typical_s = None if belief.typical is None else _seconds(belief.typical + ln_reference)
    return Prediction(
        pool_type=pool.type,
        run_time=RunTime(tuple(np.maximum.accumulate(quantiles_s).tolist())),
        source=PredictionSource.PREDICTOR,
        typical_s=typical_s,
        effective_count=belief.effective_count,
        context=CONTEXTS[belief.depth] if belief.depth >= 0 else "prior",
        is_cold=belief.depth < POOL_DEPTH,
        version=version,
    )


def _seconds(ln_seconds: float) -> float:
    return min(max(math.exp(min(ln_seconds, 50.0)), SECONDS_MIN), SECONDS_MAX)


def _lognormal_bins(sigma: float) -> Floats:
    """Return the mass of N(0, sigma) in each bin, (BIN_COUNT,), sum 1."""
    below = np.array([0.5 * math.erfc(-edge / (sigma * math.sqrt(2))) for edge in EDGES])
    masses: Floats = np.diff(below)
    masses /= masses.sum()
    return masses


_PRIOR: Floats = _lognormal_bins(PRIOR_SIGMA)
_LEAF_WEIGHTS: Floats = np.power(LEAF_DECAY, np.arange(LEAF_WINDOW_COUNT, dtype=float))[::-1]
_INNER_WEIGHTS: Floats = np.power(INNER_DECAY, np.arange(INNER_WINDOW_COUNT, dtype=float))[::-1]
