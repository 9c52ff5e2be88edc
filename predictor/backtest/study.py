"""A backtest: hyperparameters are chosen on validation, then frozen; the last part is scored once.

Rows are split 60/20/20 in order of submission. Every contender may try `BUDGET` configurations on
the second part, each with one fit before it. The best by CRPS then predicts the third part, with a
fit before each quarter of it, and is scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.backtest.contender import Configuration, Contender, Forecasts, Progress
from predictor.backtest.scores import Difference, Scores, crps_of, difference, scores_of
from predictor.backtest.trace import Trace

#: Configurations that each contender may try on validation.
BUDGET = 6
VALIDATION_FIT_COUNT = 1
TEST_FIT_COUNT = 4


@dataclass(frozen=True, slots=True)
class Trial:
    """One configuration on validation.

    Attributes:
        configuration: The hyperparameters.
        crps: Mean CRPS on ln seconds.
    """

    configuration: Configuration
    crps: float


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one contender.

    Attributes:
        name: The contender.
        trials: What it tried on validation; empty where there was nothing to choose.
        configuration: What was chosen.
        scores: Scores on the test part.
        forecasts: What it told about the test part.
        against: How our CRPS compares with its own; None for ours.
    """

    name: str
    trials: tuple[Trial, ...]
    configuration: Configuration
    scores: Scores
    forecasts: Forecasts
    against: Difference | None


def rows_to_predict(trace: Trace, contenders: Sequence[Contender]) -> int:
    """Return how many rows a study predicts in all, for a progress bar."""
    validation = trace.test_from - trace.validation_from
    trial_count = sum(_trial_count(contender) for contender in contenders)
    return trial_count * validation + len(contenders) * (len(trace) - trace.test_from)


def study(trace: Trace, contenders: Sequence[Contender], progress: Progress) -> list[Result]:
    """Return a result for each contender; the first one is ours."""
    validation = range(trace.validation_from, trace.test_from)
    test = range(trace.test_from, len(trace))
    results: list[Result] = []
    ours: np.ndarray | None = None
    for contender in contenders:
        trials = _tried(trace, contender, validation, progress)
        best = min(trials, key=lambda trial: trial.crps) if trials else None
        chosen = contender.configurations[0] if best is None else best.configuration
        told = contender.forecast(chosen, test, fit_count=TEST_FIT_COUNT, progress=progress)
        duration_s = trace.duration_s[test.start :]
        crps = crps_of(told.quantiles_s, duration_s)
        results.append(
            Result(
                name=contender.name,
                trials=trials,
                configuration=chosen,
                scores=scores_of(told.quantiles_s, told.typical_s, duration_s),
                forecasts=told,
                against=None if ours is None else difference(ours, crps),
            )
        )
        ours = crps if ours is None else ours
    return results


def _trial_count(contender: Contender) -> int:
    count = len(contender.configurations)
    assert 1 <= count <= BUDGET
    return count if count > 1 else 0


def _tried(
    trace: Trace, contender: Contender, rows: range, progress: Progress
) -> tuple[Trial, ...]:
    """Return the CRPS of each configuration on `rows`; nothing if there is only one."""
    if _trial_count(contender) == 0:
        return ()
    trials = []
    for configuration in contender.configurations:
        told = contender.forecast(
            configuration, rows, fit_count=VALIDATION_FIT_COUNT, progress=progress
        )
        crps = crps_of(told.quantiles_s, trace.duration_s[rows.start : rows.stop])
        trials.append(Trial(configuration, float(crps.mean())))
    return tuple(trials)
