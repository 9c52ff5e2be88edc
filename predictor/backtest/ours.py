"""DiPTree in a backtest: refits as a predictor process makes them, and learns from each end."""

from collections.abc import Sequence

from gcos.errors import WrongStateError
from predictor.backtest.contender import Configuration
from predictor.backtest.forecaster import Told
from predictor.diptree import DiPTree
from predictor.fitting import trained
from predictor.records import Finished, Hyperparameters, Row, Ticket

#: Newest ended jobs that a refit replays; more would make it take minutes.
HISTORY_COUNT_MAX = 50_000

#: The defaults first.
CONFIGURATIONS: tuple[Configuration, ...] = (
    {},
    {"kappa": 8.0},
    {"leaf_decay": 0.998, "inner_decay": 0.9995, "kappa": 8.0},
    {"leaf_decay": 0.995, "inner_decay": 0.999},
    {"leaf_decay": 0.95, "inner_decay": 0.99},
    {"leaf_decay": 0.998, "inner_decay": 0.9995},
)


class OnlineDiPTree:
    """A DiPTree as a `Forecaster`."""

    def __init__(self, configuration: Configuration) -> None:
        self._hyperparameters = hyperparameters_of(configuration)
        self._tree = DiPTree(self._hyperparameters)
        #: What `observe` needs of the predictions of jobs that have not ended.
        self._tickets: dict[int, Ticket] = {}

    def fit(self, history: Sequence[Finished]) -> None:
        """Forget everything and learn from `history`.

        Raises:
            WrongStateError: What fits is not installed.
        """
        try:
            self._tree = trained(history[-HISTORY_COUNT_MAX:], self._hyperparameters)
        except ImportError as exc:
            hint = "pip install 'gcos[research]'"
            raise WrongStateError(f"a fit needs {exc.name}: {exc}", hint=hint) from exc
        # Tickets name leaves of the trees that are gone.
        self._tickets = {}

    def predict(self, row: Row, index: int) -> Told:
        """Return the forecast for job `index`."""
        forecast = self._tree.predict(row)
        self._tickets[index] = forecast.ticket
        return Told(forecast.quantiles_s, forecast.typical_s)

    def observe(self, ended: Finished, index: int) -> None:
        """Learn from job `index`, which has ended."""
        self._tree.observe(ended.row, ended.seconds, self._tickets.pop(index, None))


def hyperparameters_of(configuration: Configuration) -> Hyperparameters:
    """Return the defaults with the values of `configuration` in their place."""
    defaults = Hyperparameters()
    return Hyperparameters(
        **{name: type(getattr(defaults, name))(value) for name, value in configuration.items()}
    )
