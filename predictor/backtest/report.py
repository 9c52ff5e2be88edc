"""What a backtest says: one record for programs, tables and sentences for people."""

from dataclasses import dataclass

import numpy as np

from gcos.cli.output import Output, Table
from gcos.durations import LEVELS
from predictor.backtest.reading import Note
from predictor.backtest.scores import BLOCK_COUNT, Difference, Interval, Scores
from predictor.backtest.study import (
    BUDGET,
    TEST_FIT_COUNT,
    VALIDATION_FIT_COUNT,
    Result,
    Trial,
)
from predictor.backtest.trace import Trace

_OF_SCORES = (
    "CRPS and pinball are on ln seconds; CRPS is the mean of 2 x pinball over the 19 levels"
    " 0.05, 0.10 ... 0.95."
)
_OF_INTERVALS = (
    "q-error is max(told / came, came / told); coverage counts times within [q10, q90];"
    " width is the mean of ln(q90 / q10)."
)
_OF_DIFFERENCES = (
    "ours is: CRPS of ours / theirs - 1, below 0 where ours is better, with a 95 % bootstrap"
    f" interval over {BLOCK_COUNT} blocks of time."
)
DEFINITIONS = (_OF_SCORES, _OF_INTERVALS, _OF_DIFFERENCES)


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of each part, in order of submission.

    Attributes:
        file_row_count: Rows of the file.
        dropped_count: Rows that were dropped.
        train_count: Rows to learn from.
        validation_count: Rows to choose hyperparameters on.
        test_count: Rows that are scored.
        known_count: Rows whose end is known when the first row of the test part is handed in.
    """

    file_row_count: int
    dropped_count: int
    train_count: int
    validation_count: int
    test_count: int
    known_count: int


@dataclass(frozen=True, slots=True)
class Contestant:
    """One contender in the report.

    Attributes:
        name: Name.
        trials: What was tried on validation.
        chosen: The hyperparameters of the test; empty: its defaults.
        scores: Scores on the test part.
        difference: CRPS of ours against its own; None for ours.
        predict_us: Median time of a prediction.
        update_us: Median time to learn from an ended job; None: it learns by fits alone.
        fit_s: Mean time of a fit.
        fit_count: Fits during the test part.
    """

    name: str
    trials: tuple[Trial, ...]
    chosen: dict[str, float]
    scores: Scores
    difference: Difference | None
    predict_us: float
    update_us: float | None
    fit_s: float
    fit_count: int


@dataclass(frozen=True, slots=True)
class Report:
    """A backtest.

    Attributes:
        trace: The file.
        split: Rows of each part.
        notes: Rows that were dropped or altered.
        budget: Configurations that a contender may try on validation.
        fit_counts: Fits before validation and in the test part.
        definitions: What the scores mean.
        levels: The levels of `frequencies`.
        contestants: Ours first.
    """

    trace: str
    split: Split
    notes: tuple[Note, ...]
    budget: int
    fit_counts: tuple[int, int]
    definitions: tuple[str, ...]
    levels: tuple[float, ...]
    contestants: tuple[Contestant, ...]


def report_of(name: str, trace: Trace, results: list[Result]) -> Report:
    """Return the report of a study of the job log `name`."""
    test_from, validation_from = trace.test_from, trace.validation_from
    return Report(
        trace=name,
        split=Split(
            file_row_count=trace.row_count,
            dropped_count=trace.row_count - len(trace),
            train_count=validation_from,
            validation_count=test_from - validation_from,
            test_count=len(trace) - test_from,
            known_count=len(trace.known_at(test_from)),
        ),
        notes=trace.notes,
        budget=BUDGET,
        fit_counts=(VALIDATION_FIT_COUNT, TEST_FIT_COUNT),
        definitions=DEFINITIONS,
        levels=tuple(LEVELS.tolist()),
        contestants=tuple(_contestant(result) for result in results),
    )


def _contestant(result: Result) -> Contestant:
    told = result.forecasts
    return Contestant(
        name=result.name,
        trials=result.trials,
        chosen=dict(result.configuration),
        scores=result.scores,
        difference=result.against,
        predict_us=told.predict_us,
        update_us=told.update_us,
        fit_s=told.fit_s,
        fit_count=told.fit_count,
    )


def say_notes(out: Output, report: Report) -> None:
    """Tell which rows were dropped or altered: on stderr, so that no reader of data misses them."""
    for note in report.notes:
        what = "dropped" if note.is_dropped else "note"
        rows = "row" if note.count == 1 else "rows"
        out.warn(
            f"{what}: {note.count} {rows}: {note.reason} (first: {note.first})",
            reason="ROWS_DROPPED" if note.is_dropped else "ROWS_ALTERED",
            hint="the scores are of the other rows" if note.is_dropped else "they are scored",
        )


def show(out: Output, report: Report) -> None:
    """Write the report as tables."""
    split = report.split
    parts = (
        f"{report.trace}: {split.file_row_count} rows, {split.dropped_count} dropped;"
        f" {split.train_count} to learn from, {split.validation_count} to choose on,"
        f" {split.test_count} scored once."
    )
    budget = (
        f"Each chose from at most {report.budget} configurations on validation;"
        f" {report.fit_counts[1]} fits in the scored part."
    )
    out.prose([parts, *report.definitions, budget])
    out.line("")
    out.table(_scores_table(report))
    out.line("")
    ours = report.contestants[0]
    out.line(f"{ours.name}, the 80 % interval in slices of time:")
    out.table(_slices_table(ours.scores))
    chosen = [f"{one.name}: {_chosen(one)}" for one in report.contestants if one.trials]
    out.line("")
    out.prose(["Chosen on validation:", *chosen])


def _scores_table(report: Report) -> Table:
    columns = (
        "who",
        ">CRPS",
        ">pinball .1",
        ">.5",
        ">.9",
        ">q-error",
        ">typical",
        ">coverage",
        ">width",
        ">ours is",
        ">predict us",
        ">update us",
        ">fit s",
    )
    return Table(
        columns,
        tuple(_scores_row(one) for one in report.contestants),
        optional=(">fit s", ">pinball .1", ">.9", ">.5", ">update us", ">predict us"),
    )


def _scores_row(one: Contestant) -> tuple[str, ...]:
    scores, against = one.scores, one.difference
    return (
        one.name,
        f"{scores.crps:.4f}",
        f"{scores.pinball10:.4f}",
        f"{scores.pinball50:.4f}",
        f"{scores.pinball90:.4f}",
        f"{scores.q_error_median:.3f}",
        f"{scores.typical_q_error_median:.3f}",
        f"{scores.overall.coverage:.1%}",
        f"{scores.overall.width_ln:.2f}",
        "" if against is None else percents(against),
        f"{one.predict_us:.0f}",
        "" if one.update_us is None else f"{one.update_us:.0f}",
        f"{one.fit_s:.2f}",
    )


def percents(against: Difference) -> str:
    """Return a difference in percent with its interval."""
    return f"{against.relative:+.1%} [{against.low:+.1%}, {against.high:+.1%}]"


def _slices_table(scores: Scores) -> Table:
    columns = ("rows", ">coverage", ">width", ">CRPS")
    rows = [_slice_row(_span(part), part) for part in scores.slices]
    return Table(columns, (*rows, _slice_row("all", scores.overall)))


def _slice_row(name: str, part: Interval) -> tuple[str, ...]:
    return name, f"{part.coverage:.1%}", f"{part.width_ln:.2f}", f"{part.crps:.4f}"


def _span(part: Interval) -> str:
    return f"{part.from_row}..{part.from_row + part.row_count - 1}"


def _chosen(one: Contestant) -> str:
    words = ", ".join(f"{name} {value:g}" for name, value in one.chosen.items()) or "defaults"
    crps = np.array([trial.crps for trial in one.trials])
    return f"{words} (CRPS {crps.min():.4f} of {crps.min():.4f}..{crps.max():.4f})"
