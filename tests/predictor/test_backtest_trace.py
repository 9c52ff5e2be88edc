import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos.errors import InvalidRequestError
from predictor.backtest.reading import Cell, Table, TraceError
from predictor.backtest.trace import Columns, TimeUnit, Trace, contexts_of, trace_of

COLUMNS = Columns(submit="submit", duration="took")


def _table(**columns: list[Cell]) -> Table:
    count = len(next(iter(columns.values())))
    return Table(Path("jobs.csv"), columns, range(2, count + 2), "line", row_count=count)


def _trace(columns: Columns = COLUMNS, **cells: list[Cell]) -> Trace:
    return trace_of(_table(**cells), columns)


def _twenty(**others: list[Cell]) -> dict[str, list[Cell]]:
    return {"submit": [float(i) for i in range(20)], "took": [1.5] * 20, **others}


def test_every_dropped_row_is_counted_with_its_reason() -> None:
    cells = _twenty()
    cells["took"][3:9] = [-1.0, "0", None, "soon", "nan", 1e12]
    cells["submit"][10] = "yesterday"
    trace = _trace(**cells)
    dropped = {note.reason: (note.count, note.first) for note in trace.notes if note.is_dropped}
    assert dropped == {
        "submit missing or not readable": (1, "line 12"),
        "took missing or not readable": (3, "line 7"),
        "took negative": (1, "line 5"),
        "took zero": (1, "line 6"),
        "took above 1e+09 s": (1, "line 10"),
    }
    assert len(trace) + sum(count for count, _ in dropped.values()) == trace.row_count == 20
    assert 3 not in trace.file_rows


@given(st.lists(st.one_of(st.none(), st.text(max_size=5), st.floats()), min_size=10, max_size=40))
def test_no_cell_is_lost_without_a_count(cells: list[Cell]) -> None:
    count = len(cells)
    trace = _trace(submit=list(range(count + 10)), took=[*cells, *[1.0] * 10])
    dropped = sum(note.count for note in trace.notes if note.is_dropped)
    assert len(trace) + dropped == count + 10
    assert ((trace.duration_s >= 1e-3) & (trace.duration_s <= 1e9)).all()


def test_unsorted_rows_are_sorted_and_counted() -> None:
    cells = _twenty()
    cells["submit"] = [*cells["submit"][10:], *cells["submit"][:10]]
    trace = _trace(**cells)
    assert trace.submit_s.tolist() == list(range(20))
    assert trace.file_rows.tolist() == [*range(10, 20), *range(10)]
    (note,) = trace.notes
    assert (note.count, note.first, note.is_dropped) == (1, "line 12", False)


def test_times_may_be_dates_or_numbers_of_any_unit() -> None:
    dates = [f"2024-03-01 00:{minute:02}:00" for minute in range(10)]
    dates += [f"2024-03-01T01:{minute:02}:00+01:00" for minute in range(10, 20)]
    from_dates = _trace(submit=dates, took=[1] * 20)
    assert (np.diff(from_dates.submit_s) == 60).all()
    start_ms = from_dates.submit_s[0] * 1e3
    columns = Columns("submit", "took", time_unit=TimeUnit("ms"), duration_unit=TimeUnit("min"))
    from_numbers = _trace(
        columns, submit=[start_ms + 60_000 * i for i in range(20)], took=["0.5"] * 20
    )
    assert from_numbers.submit_s == pytest.approx(from_dates.submit_s)
    assert from_numbers.duration_s.tolist() == [30.0] * 20


def test_an_end_is_known_from_the_first_submission_that_is_not_before_it() -> None:
    trace = _trace(submit=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], took=[3, 2.5, 1, *[1] * 7])
    assert trace.known_from[:3].tolist() == [3, 4, 3]
    assert trace.ended().tolist()[:4] == [0, 2, 1, 3]  # ends at 3, 3, 3.5, 4


def test_waits_and_starts_postpone_what_is_known() -> None:
    cells = _twenty(wait=[2] * 20, start=[float(i + 2) for i in range(20)])
    for columns in (
        Columns("submit", "took", wait="wait"),
        Columns("submit", "took", start="start"),
    ):
        assert _trace(columns, **cells).known_from[0] == 4
    cells["start"][0] = -5.0
    trace = _trace(Columns("submit", "took", start="start"), **cells)
    assert trace.end_s[0] == 1.5
    assert trace.notes[0].count == 1
    assert not trace.notes[0].is_dropped


def test_of_an_order_alone_ends_are_known_a_number_of_submissions_later() -> None:
    trace = _trace(Columns("submit", "took", known_after_count=3), **_twenty())
    assert trace.known_from.tolist() == [3, 4, 5, *range(6, 20), 20, 20, 20]


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 50)), min_size=10, max_size=60),
    st.integers(0, 5),
)
def test_nothing_is_known_before_it_has_ended(
    jobs: list[tuple[float, float]], after_count: int
) -> None:
    submits, durations = map(list, zip(*jobs, strict=True))
    columns = Columns("submit", "took", known_after_count=after_count)
    trace = _trace(columns, submit=submits, took=durations)
    for index in range(len(trace)):
        known = trace.known_at(index)
        assert (known < index).all()
        assert (trace.end_s[known] <= trace.submit_s[index]).all()
        if not after_count:
            others = np.setdiff1d(np.arange(index), known)
            assert (trace.end_s[others] >= trace.submit_s[index]).all()


def test_keys_that_are_missing_are_kept_as_unknown_and_counted() -> None:
    columns = Columns(
        "submit", "took", numeric=("gpus", "void"), categorical=("user",), contexts=(("user",),)
    )
    cells = _twenty(gpus=[1] * 18 + [None, "many"], user=["u"] * 19 + [None], void=[None] * 20)
    trace = _trace(columns, **cells)
    assert len(trace) == 20
    assert np.isnan(trace.numeric[18:, 0]).all()
    assert math.isnan(trace.row(0).numbers[1])
    assert trace.row(19).categories == ("",)
    assert [note.count for note in trace.notes] == [1, 1, 20, 1]


def test_contexts_run_from_general_to_specific() -> None:
    assert contexts_of("") == ()
    columns = Columns("submit", "took", contexts=contexts_of("queue; queue,user"))
    trace = _trace(columns, **_twenty(queue=["q"] * 20, user=["u", "v"] * 10))
    assert trace.path(0, 0) == trace.path(0, 1)
    assert trace.path(1, 0) != trace.path(1, 1)
    assert trace.path(1, 0) == trace.row(0).contexts
    for text in ("a;;b", "a,a"):
        with pytest.raises(InvalidRequestError, match="context"):
            contexts_of(text)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"start": "a", "wait": "b"}, "not both"),
        ({"known_after_count": -1}, "1 or more"),
        ({"known_after_count": 1, "wait": "b"}, "no --start"),
        ({"numeric": ("took",)}, "cannot be a key"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    columns: dict[str, object], said: str
) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        Columns("submit", "took", **columns)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"submit": [], "took": []}, "no rows"),
        ({"submit": [1], "took": [1]}, "1 usable rows of 1, 10 are the least"),
        ({"submit": [None] * 9, "took": [1] * 9}, "column 'submit': every cell is empty"),
        ({"submit": range(20), "took": ["x"] * 20}, "column 'took': no cell can be read; line 2"),
        ({"submit": range(20), "took": [-1] * 20}, "0 usable rows of 20.* 20 took negative"),
    ],
)
def test_a_useless_table_is_refused_by_name(cells: dict[str, list[Cell]], said: str) -> None:
    with pytest.raises(TraceError, match=said):
        _trace(**{name: list(column) for name, column in cells.items()})


def test_a_million_names_are_names() -> None:
    count = 200_000  # as many as a test has time for; memory grows linearly
    cells: dict[str, list[Cell]] = {
        "submit": list(range(count)),
        "took": [1.0] * count,
        "id": [f"job-{i}" for i in range(count)],
    }
    trace = _trace(Columns("submit", "took", categorical=("id",), contexts=(("id",),)), **cells)
    assert len(set(trace.categorical[0])) == count
    assert trace.notes == ()
