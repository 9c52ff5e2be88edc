import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from predictor.backtest.reading import TraceError, read


def _written(tmp_path: Path, text: str, name: str = "jobs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_columns_come_back_as_text_with_line_numbers(tmp_path: Path) -> None:
    table = read(_written(tmp_path, "a,b,c\n1,x,\n\n2,y, z \n"), ["c", "a"])
    assert table.columns == {"c": [None, "z"], "a": ["1", "2"]}
    assert [table.where(i) for i in range(2)] == ["line 2", "line 4"]
    assert table.row_count == 2


def test_gzip_and_a_byte_order_mark_are_seen_through(tmp_path: Path) -> None:
    path = tmp_path / "jobs.txt"
    path.write_bytes(gzip.compress("\ufeffa,b\n1,2\n".encode()))
    assert read(path, ["a"]).columns == {"a": ["1"]}


def test_ragged_rows_are_counted_not_read(tmp_path: Path) -> None:
    table = read(_written(tmp_path, "a,b\n1,2\n3\n4,5,6\n7,8\n"), ["a"])
    assert table.columns["a"] == ["1", "7"]
    (note,) = table.notes
    assert (note.count, note.first, note.is_dropped) == (2, "line 3", True)
    assert table.row_count == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n1,2\n", "no header"),
        ("aa,b\n1,2\n", "'a': there is no such column"),
        ("a,a\n1,2\n", "2 times"),
        ("a,b\n1," + "x" * (1 << 21) + "\n", "line 2: field larger"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = _written(tmp_path, text)
    with pytest.raises(TraceError, match=said) as caught:
        read(path, ["a"])
    assert str(path) in str(caught.value)


def test_the_nearest_column_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="did you mean 'duration_s'"):
        read(_written(tmp_path, "submit,duration_s\n1,2\n"), ["duration"])


def test_what_is_no_text_and_what_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a,b\n1,\xff\xfe\n")
    with pytest.raises(TraceError, match="not UTF-8"):
        read(tmp_path / "a", ["a"])
    (tmp_path / "b").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10_000)[:-20])
    with pytest.raises(TraceError, match="broken gzip"):
        read(tmp_path / "b", ["a"])
    (tmp_path / "c").write_bytes(b"PAR1 and then nothing of the sort")
    with pytest.raises(TraceError, match="broken Parquet"):
        read(tmp_path / "c", ["a"])
    with pytest.raises(TraceError, match="no such file"):
        read(tmp_path / "d", ["a"])
    with pytest.raises(TraceError, match="is a directory"):
        read(tmp_path, ["a"])


def test_parquet_columns_of_every_common_type(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    instant = datetime(2024, 5, 1, tzinfo=UTC)
    path = tmp_path / "jobs"
    columns = {
        "when": pa.array([instant, None], pa.timestamp("ns", "UTC")),
        "seconds": pa.array([1.5, None], pa.float32()),
        "gpus": pa.array([8, None]),
        "user": pa.array(["a", None]).dictionary_encode(),
        "queue": pa.array([" b ", ""]),
        "is_big": pa.array([True, None]),
        "nothing": pa.nulls(2),
        "nested": pa.array([[1], None]),
    }
    pq.write_table(pa.table(columns), path)
    table = read(path, [name for name in columns if name != "nested"])
    assert table.columns == {
        "when": [instant.timestamp(), None],
        "seconds": [1.5, None],
        "gpus": [8, None],
        "user": ["a", None],
        "queue": ["b", None],
        "is_big": ["true", None],
        "nothing": [None, None],
    }
    assert table.times == {"when"}
    assert table.where(1) == "row 2"
    with pytest.raises(TraceError, match="neither text, number nor time"):
        read(path, ["nested"])
