"""The baselines of a backtest, in the order of reports."""

from predictor.backtest.contender import Configuration, Contender, Stopwatch
from predictor.backtest.forecaster import Forecaster
from predictor.backtest.replay import Replayed
from predictor.backtest.trace import Trace
from predictor.baselines.design import design_of
from predictor.baselines.fitted import Fitted, Learner
from predictor.baselines.learners import MODULES, LightGBM, NGBoost, QuantileForest, research_module
from predictor.baselines.recent import GlobalQuantiles, LastOfContext

_LAST_CONFIGURATIONS: tuple[Configuration, ...] = (
    {"newest": 10, "least": 5},
    {"newest": 30, "least": 15},
    {"newest": 100, "least": 5},
    {"newest": 300, "least": 15},
    {"newest": 1000, "least": 30},
    {"newest": 3000, "least": 30},
)


def baselines_of(trace: Trace, stopwatch: Stopwatch) -> list[Contender]:
    """Return all baselines for a job log.

    Raises:
        WrongStateError: A package is missing, which is better told before the first of many fits.
    """
    for module in MODULES:
        research_module(module)
    design = design_of(trace)
    learners: tuple[Learner, ...] = (
        LightGBM(has_history=False),
        LightGBM(has_history=True),
        QuantileForest(),
        NGBoost(),
    )
    return [
        Replayed("global quantiles", ({},), _global_quantiles, trace=trace, stopwatch=stopwatch),
        Replayed(
            "last N of context",
            _LAST_CONFIGURATIONS,
            _last_of_context,
            trace=trace,
            stopwatch=stopwatch,
        ),
        *(Fitted(learner, trace, design=design, stopwatch=stopwatch) for learner in learners),
    ]


def _global_quantiles(configuration: Configuration) -> Forecaster:
    del configuration
    return GlobalQuantiles()


def _last_of_context(configuration: Configuration) -> Forecaster:
    return LastOfContext(
        newest_count=int(configuration["newest"]), least_count=int(configuration["least"])
    )
