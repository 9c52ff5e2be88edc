"""LightGBM quantile regression, a quantile forest and NGBoost, as `fitted.Learner`s.

They come with the extra `research`, and are imported by the first fit.
"""

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcos.durations import LEVELS
from gcos.errors import WrongStateError
from predictor.backtest.contender import Configuration
from predictor.baselines.design import Design
from predictor.baselines.fitted import Quantiles

Floats = NDArray[np.float64]

#: What the learners import, all of which the extra brings.
MODULES = ("lightgbm", "quantile_forest", "ngboost", "ngboost.distns", "sklearn.tree")

_SEED = 0
#: Rows that a step of NGBoost fits its trees to, drawn anew for each step.
_STEP_ROWS = 8000


@dataclass(frozen=True, slots=True)
class LightGBM:
    """Gradient-boosted trees, one model for each level (Ke et al., NeurIPS 2017).

    Attributes:
        has_history: Also give it the history columns, which most people would not have at hand.
    """

    has_history: bool

    @property
    def name(self) -> str:
        """Name in reports."""
        return "LightGBM + history" if self.has_history else "LightGBM"

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Rounds, learning rate, leaves of a tree, rows of a leaf."""
        return (
            {"rounds": 100, "rate": 0.1, "leaves": 15, "leaf_rows": 20},
            {"rounds": 100, "rate": 0.1, "leaves": 31, "leaf_rows": 20},
            {"rounds": 100, "rate": 0.1, "leaves": 31, "leaf_rows": 80},
            {"rounds": 100, "rate": 0.05, "leaves": 63, "leaf_rows": 40},
            {"rounds": 250, "rate": 0.05, "leaves": 31, "leaf_rows": 40},
            {"rounds": 250, "rate": 0.03, "leaves": 63, "leaf_rows": 80},
        )

    def columns(self, design: Design) -> list[int]:
        """Return the columns of the matrix that it uses."""
        count = design.matrix.shape[1] if self.has_history else design.history_from
        return list(range(count))

    def fit(
        self, matrix: Floats, target: Floats, code_columns: list[int], chosen: Configuration
    ) -> Quantiles:
        """Fit one model for each level."""
        lightgbm = research_module("lightgbm")
        matrix = _with_a_column(matrix)
        # A Dataset bins the matrix once for all levels.
        data = lightgbm.Dataset(
            matrix, target, categorical_feature=code_columns, free_raw_data=False
        )
        boosters = [
            lightgbm.train(
                {
                    "objective": "quantile",
                    "alpha": float(level),
                    "learning_rate": chosen["rate"],
                    "num_leaves": int(chosen["leaves"]),
                    "min_data_in_leaf": min(int(chosen["leaf_rows"]), max(1, len(target) // 4)),
                    "num_threads": 1,
                    "seed": _SEED,
                    "deterministic": True,
                    "verbosity": -1,
                },
                data,
                num_boost_round=int(chosen["rounds"]),
            )
            for level in LEVELS
        ]

        def quantiles(rows: Floats) -> Floats:
            filled = _with_a_column(rows)
            return np.column_stack([b.predict(filled, num_threads=1) for b in boosters])

        return quantiles


@dataclass(frozen=True, slots=True)
class QuantileForest:
    """A quantile regression forest (Meinshausen, JMLR 2006)."""

    name: str = "quantile forest"

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Rows of a leaf and share of columns tried at a split."""
        return (
            {"leaf_rows": 5, "columns": 0.5},
            {"leaf_rows": 10, "columns": 0.5},
            {"leaf_rows": 20, "columns": 0.5},
            {"leaf_rows": 10, "columns": 1.0},
            {"leaf_rows": 20, "columns": 1.0},
            {"leaf_rows": 40, "columns": 1.0},
        )

    def columns(self, design: Design) -> list[int]:
        """Return all columns: it knows no names, so that history stands in for them."""
        return list(range(design.matrix.shape[1]))

    def fit(
        self, matrix: Floats, target: Floats, code_columns: list[int], chosen: Configuration
    ) -> Quantiles:
        """Fit a forest of 100 trees; codes are taken as numbers."""
        del code_columns
        forest = research_module("quantile_forest").RandomForestQuantileRegressor(
            n_estimators=100,
            min_samples_leaf=int(chosen["leaf_rows"]),
            max_features=chosen["columns"],
            random_state=_SEED,
            n_jobs=1,
        )
        forest.fit(_filled(matrix), target)

        def quantiles(rows: Floats) -> Floats:
            return np.asarray(forest.predict(_filled(rows), quantiles=LEVELS.tolist()))

        return quantiles


@dataclass(frozen=True, slots=True)
class NGBoost:
    """Natural gradient boosting of a parametric distribution (Duan et al., ICML 2020)."""

    name: str = "NGBoost"

    @property
    def configurations(self) -> tuple[Configuration, ...]:
        """Rounds, learning rate, depth of a tree; Laplace distribution instead of normal."""
        return (
            {"rounds": 150, "rate": 0.1, "depth": 3, "is_laplace": 0},
            {"rounds": 150, "rate": 0.1, "depth": 5, "is_laplace": 0},
            {"rounds": 150, "rate": 0.05, "depth": 5, "is_laplace": 0},
            {"rounds": 150, "rate": 0.1, "depth": 3, "is_laplace": 1},
            {"rounds": 150, "rate": 0.1, "depth": 5, "is_laplace": 1},
            {"rounds": 150, "rate": 0.05, "depth": 7, "is_laplace": 1},
        )

    def columns(self, design: Design) -> list[int]:
        """Return all columns: it knows no names, so that history stands in for them."""
        return list(range(design.matrix.shape[1]))

    def fit(
        self, matrix: Floats, target: Floats, code_columns: list[int], chosen: Configuration
    ) -> Quantiles:
        """Fit location and scale of ln t; codes are taken as numbers."""
        del code_columns
        distributions = research_module("ngboost.distns")
        tree = research_module("sklearn.tree").DecisionTreeRegressor
        model = research_module("ngboost").NGBRegressor(
            Dist=distributions.Laplace if chosen["is_laplace"] else distributions.Normal,
            Base=tree(max_depth=int(chosen["depth"]), min_samples_leaf=10, random_state=_SEED),
            n_estimators=int(chosen["rounds"]),
            learning_rate=chosen["rate"],
            minibatch_frac=min(1.0, _STEP_ROWS / len(target)),
            random_state=_SEED,
            verbose=False,
        )
        model.fit(_filled(matrix), target)

        def quantiles(rows: Floats) -> Floats:
            told = model.pred_dist(_filled(rows))
            return np.column_stack([told.ppf(level) for level in LEVELS])

        return quantiles


def research_module(name: str) -> Any:
    """Return a module of the extra `research`, which has no types.

    Raises:
        WrongStateError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        hint = "pip install 'gcos[research]', or leave --baselines out"
        raise WrongStateError(f"baselines need {name.partition('.')[0]}: {exc}", hint=hint) from exc


def _filled(matrix: Floats) -> Floats:
    """Return the matrix with -1 for what is unknown: no key that counts something is below 0."""
    return np.nan_to_num(_with_a_column(matrix), nan=-1.0)


def _with_a_column(matrix: Floats) -> Floats:
    """Return the matrix, or one column of zeros where a job log has no keys at all."""
    return matrix if matrix.shape[1] else np.zeros((len(matrix), 1))
