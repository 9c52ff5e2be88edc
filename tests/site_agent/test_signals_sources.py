"""Sources of signals: typical days and traces."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcos import tables
from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from gcos.signals import HOUR_S, EmissionFactor, SignalKind
from site_agent.signals.profile import ProfileSource
from site_agent.signals.source import SignalSource
from site_agent.signals.trace import TraceSource
from site_agent.signals.trace_table import parse_zone

T0 = datetime(2023, 7, 1, tzinfo=UTC).timestamp()
HEADER = "zone,time,carbon_gco2_per_kwh,price_usd_per_kwh\n"


def at(hour: float) -> float:
    return T0 + hour * HOUR_S


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def hourly(hours: list[int], zone: str = "DE") -> str:
    """Return a trace with carbon 100 + hour and price hour / 100."""
    return HEADER + "".join(f"{zone},{int(at(h))},{100 + h},{h / 100}\n" for h in hours)


async def refusal(path: Path, start_h: float = 0, end_h: float = 2) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        await TraceSource(path).signals("DE", at(start_h), at(end_h))
    return str(caught.value)


async def test_a_profile_is_always_marked_estimated() -> None:
    source: SignalSource = ProfileSource()

    signals = await source.signals("DE", at(12), at(14))

    assert signals.carbon is not None
    assert signals.carbon.unit == "gCO2/kWh"
    assert signals.carbon.provenance.is_estimated
    assert signals.carbon.provenance.kind is SignalKind.AVERAGE
    assert signals.carbon.provenance.factor is EmissionFactor.LIFECYCLE
    assert "Electricity Maps" in signals.carbon.provenance.source
    assert signals.price.unit == "USD/kWh"
    assert signals.price.provenance.is_estimated
    assert "left out" in signals.price.provenance.source
    assert signals.price.series.at(at(12)) == tables.price_profile("DE").mean[6, 12]


async def test_a_profile_of_an_unknown_zone_is_an_error() -> None:
    with pytest.raises(NotFoundError, match="nearest"):
        await ProfileSource().signals("US-CAL", at(0), at(1))


async def test_a_trace_is_read_as_it_is(tmp_path: Path) -> None:
    source = TraceSource(write(tmp_path, hourly([2, 0, 1, 3])))  # in any order

    signals = await source.signals("DE", at(0.5), at(2.5))

    assert signals.carbon is not None
    assert signals.carbon.series.start_s == at(0)
    assert signals.carbon.series.values.tolist() == [100, 101, 102]
    assert signals.price.series.values.tolist() == [0, 0.01, 0.02]
    assert not signals.carbon.provenance.is_estimated
    assert not signals.price.provenance.is_estimated
    assert "trace.csv" in signals.price.provenance.source


@pytest.mark.parametrize(
    "first",
    ["2023-07-01T00:00:00Z", "2023-07-01 02:00:00+02:00", "2023-06-30T17:00-07:00", "1688169600"],
)
async def test_times_with_an_offset_become_utc(tmp_path: Path, first: str) -> None:
    path = write(tmp_path, HEADER + f"DE,{first},300,-0.05\n")

    signals = await TraceSource(path).signals("DE", at(0), at(1))

    assert signals.price.series.values.tolist() == [-0.05]
    assert not signals.price.provenance.is_estimated


@pytest.mark.parametrize(
    ("time", "why"),
    [
        ("2023-07-01T00:00:00", "no offset"),
        ("2023-07-01T00:30:00Z", "whole UTC hour"),
        ("2023-07-01T00:00:00+05:30", "whole UTC hour"),
        ("1688169600000", "no epoch time"),
        ("20230701", "no epoch time"),
        ("nan", "no epoch time"),
        ("noon", "no time"),
        ("", "no time"),
    ],
)
async def test_a_doubtful_time_is_refused(tmp_path: Path, time: str, why: str) -> None:
    path = write(tmp_path, HEADER + f"GB,noon,1,1\nDE,{time},300,0.1\n")

    said = await refusal(path)

    assert "trace.csv, column time, row 3" in said
    assert why in said


@pytest.mark.parametrize(
    ("carbon", "price", "column"),
    [
        ("", "0.1", "carbon_gco2_per_kwh"),
        ("NaN", "0.1", "carbon_gco2_per_kwh"),
        ("-1", "0.1", "carbon_gco2_per_kwh"),
        ("300", "inf", "price_usd_per_kwh"),
        ("300", "10 ct", "price_usd_per_kwh"),
    ],
)
async def test_a_bad_value_is_refused_by_file_column_and_row(
    tmp_path: Path, carbon: str, price: str, column: str
) -> None:
    path = write(tmp_path, hourly([0, 1]) + f"DE,{int(at(2))},{carbon},{price}\n")

    assert f"trace.csv, column {column}, row 4" in await refusal(path)


async def test_an_hour_that_comes_twice_is_refused(tmp_path: Path) -> None:
    said = await refusal(write(tmp_path, hourly([0, 1, 2, 1])))

    assert "row 5" in said
    assert "row 3" in said


async def test_a_gap_of_three_hours_is_interpolated_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, hourly([0, 4, 5]))

    signals = await TraceSource(path).signals("DE", at(0), at(6))

    assert signals.price.series.values.tolist() == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05])
    assert "3 h interpolated" in signals.price.provenance.source
    assert signals.price.provenance.is_estimated


async def test_a_longer_gap_refuses_the_windows_that_touch_it(tmp_path: Path) -> None:
    path = write(tmp_path, hourly([0, 1, 6, 7]))

    said = await refusal(path, 0, 3)
    signals = await TraceSource(path).signals("DE", at(6), at(8))

    assert "row 4" in said
    assert "4 h without a row" in said
    assert signals.price.series.values.tolist() == [0.06, 0.07]


async def test_outside_the_trace_typical_days_take_over_and_say_so(tmp_path: Path) -> None:
    path = write(tmp_path, hourly([0, 1]))

    signals = await TraceSource(path).signals("DE", at(-1), at(3))

    typical = tables.carbon_profile("DE").mean
    assert signals.carbon is not None
    assert signals.carbon.series.values.tolist() == [typical[5, 23], 100, 101, typical[6, 2]]
    assert signals.carbon.provenance.is_estimated
    assert "2 h outside" in signals.carbon.provenance.source
    assert "typical days" in signals.carbon.provenance.source


async def test_a_column_that_the_trace_lacks_comes_from_typical_days(tmp_path: Path) -> None:
    path = write(tmp_path, f"zone,time,price_usd_per_kwh\nDE,{int(at(0))},0.5\n")

    signals = await TraceSource(path).signals("DE", at(0), at(1))

    assert signals.price.series.values.tolist() == [0.5]
    assert signals.carbon is not None
    assert signals.carbon.provenance.is_estimated
    assert signals.carbon.provenance.source.startswith("trace.csv states no gCO2/kWh; typical days")


async def test_carbon_and_price_may_come_from_two_files(tmp_path: Path) -> None:
    carbon, price = tmp_path / "carbon.csv", tmp_path / "price.csv"
    carbon.write_text(f"zone,time,ci_lifecycle\nDE,{int(at(0))},321\n")
    price.write_text(f"zone,time,price,price_usd_per_mwh\nDE,{int(at(0))},9,80\n")

    signals = await TraceSource(carbon, price).signals("DE", at(0), at(1))

    assert signals.carbon is not None
    assert signals.carbon.series.values.tolist() == [321]
    assert signals.price.series.values.tolist() == pytest.approx([0.08])  # per MWh to per kWh
    assert "price.csv, column price_usd_per_mwh" in signals.price.provenance.source


async def test_marginal_carbon_is_never_completed_from_average_days(tmp_path: Path) -> None:
    source = TraceSource(write(tmp_path, hourly([0, 1])), kind=SignalKind.MARGINAL)

    inside = await source.signals("DE", at(0), at(2))
    beyond = await source.signals("DE", at(0), at(3))

    assert inside.carbon is not None
    assert inside.carbon.provenance.kind is SignalKind.MARGINAL
    assert beyond.carbon is None
    assert beyond.price.provenance.is_estimated


async def test_a_zone_that_the_tables_lack_is_served_within_its_trace(tmp_path: Path) -> None:
    source = TraceSource(write(tmp_path, hourly([0, 1], zone="IS")))

    inside = await source.signals("IS", at(0), at(2))

    assert inside.carbon is not None
    with pytest.raises(NotFoundError, match="embedded tables"):
        await source.signals("IS", at(0), at(3))


async def test_a_zone_that_the_file_lacks_is_an_error_that_names_the_others(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no row of zone 'GB' \(it has DE\)"):
        await TraceSource(write(tmp_path, hourly([0]))).signals("GB", at(0), at(1))


async def test_estimates_of_the_file_stay_estimates(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "zone,time,ci_lifecycle,price_usd_per_kwh,estimated\n"
        f"DE,{int(at(0))},300,0.1,False\nDE,{int(at(1))},300,0.1,True\n",
    )
    source = TraceSource(path)

    measured = await source.signals("DE", at(0), at(1))
    estimated = await source.signals("DE", at(0), at(2))

    assert measured.carbon is not None
    assert estimated.carbon is not None
    assert not measured.carbon.provenance.is_estimated
    assert estimated.carbon.provenance.is_estimated


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("time,price_usd_per_kwh\n", "no column zone"),
        ("zone,price_usd_per_kwh\nDE,1\n", "no column time"),
        ("zone,time,ci_direct\nDE,1688169600,1\n", "no column of carbon or price"),
    ],
)
async def test_a_file_without_its_columns_is_refused(tmp_path: Path, text: str, why: str) -> None:
    assert why in await refusal(write(tmp_path, text))


async def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "cannot read" in await refusal(tmp_path / "nothing.csv")
    assert "cannot read" in await refusal(tmp_path / "nothing.parquet")


def test_more_hours_than_the_limit_are_refused() -> None:
    first = 300_000
    rows = ((h, {"time": str((first + h) * 3600), "ci_lifecycle": "1"}) for h in range(200_000))

    with pytest.raises(GcosError, match="more than"):
        parse_zone("trace.csv", ["time", "ci_lifecycle"], rows)


def write_parquet(path: Path, time: pa.Array, **columns: list[float | None]) -> Path:
    zones = pa.array(["GB", *["DE"] * (len(time) - 1)]).dictionary_encode()
    pq.write_table(pa.table({"zone": zones, "time": time, **columns}), path)
    return path


def utc_times(hours: list[int], tz: str | None = "UTC") -> pa.Array:
    times = [datetime.fromtimestamp(at(h), tz=UTC) for h in hours]
    if tz is None:
        times = [t.replace(tzinfo=None) for t in times]
    return pa.array(times, type=pa.timestamp("us", tz=tz))


async def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "t.parquet",
        utc_times([0, 0, 1, 3]),
        ci_lifecycle=[9.0, 100.0, 101.0, 103.0],
        price_usd_per_mwh=[9.0, 10.0, -20.0, 20.0],
    )

    signals = await TraceSource(path).signals("DE", at(0), at(4))

    assert signals.carbon is not None
    assert signals.carbon.series.values.tolist() == pytest.approx([100, 101, 102, 103])
    assert signals.price.series.values.tolist() == pytest.approx([0.01, -0.02, 0, 0.02])
    assert "1 h interpolated" in signals.price.provenance.source


async def test_parquet_is_refused_by_file_column_and_row(tmp_path: Path) -> None:
    null = write_parquet(tmp_path / "null.parquet", utc_times([0, 0, 1]), ci_lifecycle=[1, 1, None])
    local = write_parquet(
        tmp_path / "local.parquet", utc_times([0, 0], tz=None), ci_lifecycle=[1, 1]
    )

    assert "null.parquet, column ci_lifecycle, row 3" in await refusal(null)
    assert "local.parquet, column time: times have no zone" in await refusal(local)
    with pytest.raises(NotFoundError, match="it has DE, GB"):
        await TraceSource(null).signals("FR", at(0), at(1))


def test_a_missing_parquet_extra_says_what_to_install() -> None:
    program = (
        "import runpy, sys; sys.modules['pyarrow'] = None; "
        "runpy.run_module('site_agent.signals.parquet', run_name='__main__')"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert ended.stderr.strip() == "reading Parquet needs an extra: pip install 'gcos[parquet]'"


def test_an_agent_process_never_loads_the_parquet_library() -> None:
    program = (
        "import site_agent.signals.trace, sys;"
        " print(sorted({'pyarrow', 'pandas'} & {*sys.modules}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ended.stdout.strip() == "[]"
