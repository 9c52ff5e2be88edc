"""What `gcos data import` takes, refuses and writes."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from gcos.cli.invocation import Invocation
from gcos.errors import InvalidRequestError
from gcos.signals import HOUR_S, EmissionFactor
from testbed.world import BadTableError, NotCoveredError, load_world
from testbed.world.checked_rows import Rows, Span
from testbed.world.commands import data_commands
from testbed.world.importing import import_tables, write_rows
from testbed.world.schema import CARBON, PRICE
from testbed.world.table_directory import TableDirectory

EXCERPTS = Path(__file__).parents[2] / "fixtures" / "world"
CARBON_HEAD = "zone,time,ci_lifecycle"
PRICE_HEAD = "zone,time_utc,price_usd_per_mwh"


def write(directory: Path, name: str, *lines: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def refusal(tmp_path: Path, *lines: str, name: str = "table.csv") -> BadTableError:
    write(tmp_path / "source", name, *lines)
    with pytest.raises(BadTableError) as caught:
        import_tables(tmp_path / "source", tmp_path / "to")
    assert not list((tmp_path / "to").glob("*"))
    return caught.value


@pytest.mark.parametrize(
    ("row", "column", "said"),
    [
        ("DE,2023-07-02T12:00,100", "time_utc", "has no offset from UTC"),
        ("DE,2023-07-02,100", "time_utc", "has no offset from UTC"),
        ("DE,2023-07-02T12:30Z,100", "time_utc", "is not a whole UTC hour"),
        ("DE,2023-07-02T12:00+05:30,100", "time_utc", "is not a whole UTC hour"),
        ("DE,02.07.2023 12:00,100", "time_utc", "is no time"),
        ("DE,1688299200,100", "time_utc", "is no time"),
        ("DE,,100", "time_utc", "is no time"),
        (",2023-07-02T12:00Z,100", "zone", "an empty cell"),
        ("DE,2023-07-02T12:00Z,nan", "price_usd_per_mwh", "is not finite"),
        ("DE,2023-07-02T12:00Z,-inf", "price_usd_per_mwh", "is not finite"),
        ("DE,2023-07-02T12:00Z,1e999", "price_usd_per_mwh", "is not finite"),
        ("DE,2023-07-02T12:00Z,", "price_usd_per_mwh", "an empty cell"),
        ("DE,2023-07-02T12:00Z,cheap", "price_usd_per_mwh", "'cheap' is no number"),
        ("DE,2023-07-02T10:00Z,100", "time_utc", "once more, after row 2"),
        ("DE,2023-07-02T12:00+02:00,100", "time_utc", "once more, after row 2"),
        ("DE,0001-01-01T00:00+05:00,100", "time_utc", "is no time"),
        ("DE,2023-07-02T12:00Z,1_0", "price_usd_per_mwh", "'1_0' is no number"),
        ('DE,2023-07-02T12:00Z,"50,5"', "price_usd_per_mwh", "'50,5' is no number"),
    ],
)
def test_a_bad_cell_is_refused_with_file_column_and_row(
    tmp_path: Path, row: str, column: str, said: str
) -> None:
    rows = ["DE,2023-07-02T10:00Z,100", "DE,2023-07-02T11:00Z,-500", row]

    error = refusal(tmp_path, PRICE_HEAD, *rows)

    assert (error.file, error.column, error.row) == ("table.csv", column, 4)
    assert said in error.message
    assert error.hint


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([[5.0], [6.0]]), "no plain values"),
        (pa.array([b"5", b"6"]), "no plain values"),
        (pa.array([True, False]), "is no number"),
        (pa.array(["5", "x"]), "'x' is no number"),
    ],
    ids=["lists", "bytes", "flags", "text"],
)
def test_parquet_of_the_wrong_type_is_refused(tmp_path: Path, values: pa.Array, said: str) -> None:
    times = [datetime(2023, 7, 2, hour, tzinfo=UTC) for hour in (0, 1)]
    columns = {"zone": ["DE", "DE"], "time_utc": times, "price_usd_per_mwh": values}
    pq.write_table(pa.table(columns), tmp_path / "price.parquet")

    with pytest.raises(BadTableError, match=said) as caught:
        import_tables(tmp_path / "price.parquet", tmp_path / "to")

    assert (caught.value.file, caught.value.column) == ("price.parquet", "price_usd_per_mwh")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "head"), [("price.csv", PRICE_HEAD), ("jobs_x.csv", "job_id,submit_s,duration_s")]
)
def test_a_header_alone_is_refused(tmp_path: Path, name: str, head: str) -> None:
    error = refusal(tmp_path, head, name=name)
    assert (error.file, "has no rows" in error.message) == (name, True)
    assert "leave the file out" in error.hint


def test_a_file_that_is_not_utf_8_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "price.csv").write_bytes(f"{PRICE_HEAD}\nDé,x,1\n".encode("latin-1"))
    with pytest.raises(BadTableError, match=r"price\.csv: cannot be read") as caught:
        import_tables(tmp_path, tmp_path / "to")
    assert caught.value.hint == "store the file as UTF-8"


@pytest.mark.parametrize("form", ["bom", "crlf", "gzip"])
def test_tables_as_spreadsheets_and_archives_write_them_are_read(tmp_path: Path, form: str) -> None:
    text = f"{PRICE_HEAD}\nDE,2023-07-02T12:00Z,-500\n"
    source = tmp_path / ("price.csv.gz" if form == "gzip" else "price.csv")
    forms = {
        "bom": b"\xef\xbb\xbf" + text.encode(),
        "crlf": text.replace("\n", "\r\n").encode(),
        "gzip": gzip.compress(text.encode()),
    }
    source.write_bytes(forms[form])

    report = import_tables(source, tmp_path / "to")

    assert [(found.zone, found.rows) for found in report.found] == [("DE", 1)]


def test_a_local_time_is_told_the_fix(tmp_path: Path) -> None:
    error = refusal(tmp_path, CARBON_HEAD, "DE,2023-07-02T12:00,100")

    assert str(error) == (
        "table.csv, column time, row 2: '2023-07-02T12:00' has no offset from UTC "
        "(append Z, or the offset of the local time such as +02:00)"
    )


def test_negative_carbon_is_refused_and_negative_prices_are_not(tmp_path: Path) -> None:
    assert "below 0" in refusal(tmp_path, CARBON_HEAD, "DE,2023-07-02T12:00Z,-1").message


def test_a_row_with_no_carbon_at_all_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, CARBON_HEAD, "DE,2023-07-02T12:00Z,")

    assert (error.row, error.hint) == (2, "a gap is an absent row: leave it out")


@pytest.mark.parametrize("column", ["price", "price_aud_per_mwh", "price_per_mwh", "eur_per_mwh"])
def test_a_price_in_another_currency_is_never_read_as_dollars(tmp_path: Path, column: str) -> None:
    error = refusal(tmp_path, f"zone,time,{column}", "AU-NSW,2023-07-02T12:00Z,100")

    assert (error.file, error.column, error.row) == ("table.csv", column, 1)
    assert "is not price_usd_per_mwh" in error.message
    assert "nothing else is read as dollars" in error.hint


def test_dollars_that_equal_the_native_price_throughout_are_refused(tmp_path: Path) -> None:
    rows = [f"AU-NSW,2023-07-02T{hour:02d}:00Z,{50 + hour},AUD,{50 + hour}" for hour in range(24)]

    error = refusal(tmp_path, "zone,time,price,currency,price_usd_per_mwh", *rows)

    assert "these are AUD, not US dollars" in error.message


def test_carbon_of_an_unnamed_factor_is_refused(tmp_path: Path) -> None:
    error = refusal(tmp_path, "zone,time,carbon_gco2_per_kwh", "DE,2023-07-02T12:00Z,100")

    assert "name the factor" in error.hint


def test_a_table_named_as_ours_must_have_its_columns(tmp_path: Path) -> None:
    error = refusal(tmp_path, "area,when,value", "DE,2023-07-02T12:00Z,1", name="carbon.csv")

    assert "needs a column zone" in error.message


def test_a_row_of_another_length_and_a_name_twice_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, PRICE_HEAD, "DE,2023-07-02T12:00Z").row == 2
    twice = refusal(tmp_path / "b", "zone,zone,time_utc", "DE,DE,x", name="price.csv")
    assert "two columns have this name" in twice.message


def test_a_blank_line_and_a_line_break_in_a_cell_count_as_lines(tmp_path: Path) -> None:
    head = f"{PRICE_HEAD},kind"
    rows = ["DE,2023-07-02T10:00Z,1,", "", 'DE,2023-07-02T11:00Z,1,"a', 'b"']

    assert refusal(tmp_path, head, *rows, "DE,2023-07-02T12:00Z,x,").row == 6


@pytest.mark.parametrize("unit", ["us", "ns", "s"])
def test_parquet_without_a_time_zone_is_refused(tmp_path: Path, unit: str) -> None:
    times = pa.array([1688299200], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit))
    table = pa.table({"zone": ["DE"], "time": times, "ci_lifecycle": [1.0]})
    pq.write_table(table, tmp_path / "carbon.parquet")

    with pytest.raises(BadTableError, match=r"carbon.parquet, column time, row 1: .* no offset"):
        import_tables(tmp_path, tmp_path / "to")


def test_parquet_with_nan_or_null_prices_is_refused(tmp_path: Path) -> None:
    for value in (float("nan"), None, float("inf")):
        times = pa.array([1688295600, 1688299200], pa.timestamp("s", tz="Europe/Berlin"))
        prices = pa.array([1.0, value], pa.float32())
        table = pa.table({"zone": ["DE"] * 2, "time": times, "price_usd_per_mwh": prices})
        pq.write_table(table, tmp_path / "price.parquet")

        with pytest.raises(BadTableError) as caught:
            import_tables(tmp_path, tmp_path / "to")
        assert (caught.value.column, caught.value.row) == ("price_usd_per_mwh", 2)


def test_the_same_hour_in_two_files_is_a_duplicate(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", PRICE_HEAD, "DE,2023-07-02T10:00Z,1")
    write(tmp_path, "b.csv", PRICE_HEAD, "FR,2023-07-02T10:00Z,1", "DE,2023-07-02T10:00Z,1")

    with pytest.raises(BadTableError) as caught:
        import_tables(tmp_path, tmp_path / "to")

    assert (caught.value.file, caught.value.row) == ("b.csv", 3)
    assert "after a.csv, row 2" in caught.value.message


def test_other_months_and_zones_of_the_known_layout_are_read(tmp_path: Path) -> None:
    write(tmp_path / "in", "se.csv", CARBON_HEAD, "SE,2027-02-03T04:00+01:00,21.5")

    import_tables(tmp_path / "in", tmp_path / "to")

    at_s = datetime(2027, 2, 3, 3, tzinfo=UTC).timestamp()
    carbon = load_world(tmp_path / "to").carbon("SE", EmissionFactor.LIFECYCLE, at_s, 1)
    assert carbon.values == pytest.approx([21.5])


def test_generation_by_fuel_is_not_taken_for_carbon(tmp_path: Path) -> None:
    write(tmp_path / "in", "mix.csv", "zone,time,coal,ci_lifecycle,origin", "DE,x,1,1,dc-rl")

    with pytest.raises(InvalidRequestError, match=r"no file in .* is a table"):
        import_tables(tmp_path / "in", tmp_path / "to")


def test_the_excerpts_import_and_come_back_the_same(tmp_path: Path) -> None:
    report = import_tables(EXCERPTS, tmp_path)

    shown = [(f.table, f.zone, f.rows, f.first_utc, f.gap_count, f.currency) for f in report.found]
    assert shown == [
        ("carbon", "AU-NSW", 24, "2023-06-30T14:00Z", 0, ""),
        ("carbon", "DE", 24, "2023-07-01T00:00Z", 0, ""),
        ("carbon", "US-CAL-CISO", 24, "2023-10-04T08:00Z", 0, ""),
        ("price", "DE", 96, "2023-06-29T00:00Z", 0, "EUR"),
    ]
    again = import_tables(tmp_path, tmp_path / "again")
    assert again.found == report.found
    for table in (CARBON, PRICE):
        file = f"{table.name}.parquet"
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()


HOURS = st.integers(-(10**5), 10**6)
VALUES = st.floats(-1e6, 1e6)


@given(st.dictionaries(st.sampled_from("AB"), st.dictionaries(HOURS, VALUES, min_size=1)))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, zones: dict[str, dict[int, float]]
) -> None:
    directory = tmp_path_factory.mktemp("trip")

    def part(zone: str) -> Rows:
        hours = sorted(zones[zone])
        n = len(hours)
        columns = {
            "zone": np.full(n, zone, dtype=np.object_),
            "time_utc": np.array(hours, dtype=np.int64),
            "price_usd_per_mwh": np.array([zones[zone][hour] for hour in hours]),
            "currency": np.full(n, "EUR", dtype=np.object_),
            "kind": np.full(n, None, dtype=np.object_),
        }
        row = np.arange(1, n + 1, dtype=np.int64)
        return Rows(PRICE, columns, row, np.full(n, "x", dtype=np.object_))

    parts = [part(zone) for zone in sorted(zones)]
    write_rows(directory / "price.parquet", PRICE, parts)

    opened = TableDirectory(directory)
    assert opened.zones(PRICE) == tuple(sorted(zones))
    for written in parts:
        read = opened.zone_rows(PRICE, written.columns["zone"][0])
        for name, values in written.columns.items():
            assert read.columns[name].tolist() == values.tolist()


def hours_of(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp() / HOUR_S)  # type: ignore[arg-type, misc]


def test_months_and_zones_are_chosen_and_bad_rows_outside_them_do_not_matter(
    tmp_path: Path,
) -> None:
    rows = ["DE,2023-06-30T23:00Z,nan", "DE,2023-07-01T00:00Z,1", "FR,2023-07-01T00:00Z,nan"]
    write(tmp_path, "p.csv", PRICE_HEAD, *rows)
    july = Span(hours_of(2023, 7, 1), hours_of(2023, 8, 1))

    report = import_tables(tmp_path, tmp_path / "to", zones=["DE"], span=july)

    assert [(found.zone, found.rows) for found in report.found] == [("DE", 1)]
    assert "price of DE ends already at 2023-07-01T00:00Z" in report.notes


def test_a_missing_month_or_zone_is_refused_and_told_what_is_covered(tmp_path: Path) -> None:
    write(tmp_path, "p.csv", PRICE_HEAD, "DE,2023-07-01T00:00Z,1", "FR,2024-07-01T00:00Z,1")
    august = Span(hours_of(2023, 8, 1), hours_of(2023, 9, 1))

    with pytest.raises(NotCoveredError, match="covers DE 2023-07-01T00:00Z"):
        import_tables(tmp_path, tmp_path / "to", span=august)
    with pytest.raises(NotCoveredError, match="has the zone 'SE'"):
        import_tables(tmp_path, tmp_path / "to", zones=["SE"])
    assert not list((tmp_path / "to").glob("*"))


def test_a_month_in_a_long_gap_is_told_what_lies_around_it(tmp_path: Path) -> None:
    write(tmp_path, "p.csv", PRICE_HEAD, "GB,2020-12-31T22:00Z,1", "GB,2021-10-31T00:00Z,1")
    may = Span(hours_of(2021, 5, 1), hours_of(2021, 6, 1))

    with pytest.raises(NotCoveredError, match=r"to 2020-12-31T22:00Z and 2021-10-31T00:00Z to"):
        import_tables(tmp_path, tmp_path / "to", zones=["GB"], span=may)


def test_a_directory_that_has_the_table_in_another_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "to", "price_old.csv", PRICE_HEAD, "DE,2023-07-01T00:00Z,1")

    with pytest.raises(InvalidRequestError, match=r"already, in price_old\.csv"):
        import_tables(EXCERPTS, tmp_path / "to")


def run(*words: str) -> None:
    group = typer.main.get_command(data_commands)
    group.main(list(words), prog_name="data", standalone_mode=False, obj=Invocation({}))


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import", str(EXCERPTS), "--to", str(tmp_path), "--zones", "DE")

    out, err = capsys.readouterr()
    header, carbon, price = out.splitlines()
    assert header.split() == [
        "TABLE",
        "ZONE",
        "ROWS",
        "FIRST",
        "LAST",
        "GAPS",
        "ESTIMATED",
        "CURRENCY",
    ]
    assert carbon.split()[:3] == ["carbon", "DE", "24"]
    assert price.split()[-1] == "EUR"
    assert "note: electricity_price.csv: ignored columns price" in err


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("import", str(EXCERPTS), "--to", str(tmp_path), "--from", "2023-07", "-o", "json")

    record = json.loads(capsys.readouterr().out)
    assert record["written_to"] == str(tmp_path)
    assert {each["first_utc"] for each in record["found"] if each["zone"] == "DE"} == {
        "2023-07-01T00:00Z"
    }


@pytest.mark.parametrize("month", ["2023", "2023-13", "July"])
def test_a_month_is_year_and_month(tmp_path: Path, month: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no month"):
        run("import", str(EXCERPTS), "--to", str(tmp_path), "--from", month)
