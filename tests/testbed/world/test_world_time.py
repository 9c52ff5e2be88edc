"""Time is right: known events of real series fall into the hour in which they happened."""

import os
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from gcos.signals import HOUR_S, EmissionFactor, StepSeries
from testbed.world import World, load_world

ROOT = Path(__file__).parents[3]
EXCERPTS = ROOT / "tests" / "fixtures" / "world"
FULL = Path(os.environ.get("GCOS_TEST_DATA", ROOT.parent / "shared" / "data"))

needs_full_data = pytest.mark.skipif(
    not (FULL / "carbon_intensity.parquet").exists(),
    reason=f"no carbon_intensity.parquet in {FULL}; GCOS_TEST_DATA names another directory",
)


def utc_s(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.fixture(scope="module")
def full() -> World:
    return load_world(FULL)


def lowest_s(values: np.ndarray, start_s: float) -> float:
    return start_s + int(np.argmin(values)) * HOUR_S


def assert_negative_price_of_july_2023(world: World, start_s: float, hours: int) -> None:
    price = world.price("DE", start_s, hours)

    at_s = utc_s(2023, 7, 2, 12)
    assert lowest_s(price.values, start_s) == at_s
    # -500 EUR/MWh, the floor of the European auction, at 1.1058 $/EUR.
    series = StepSeries(start_s, HOUR_S, price.values)
    assert series.at(at_s + HOUR_S / 2) == pytest.approx(-0.5529, abs=1e-4)
    assert series.at(at_s + HOUR_S / 2) == series.values.min()
    assert series.at(at_s - 1) > series.values.min() < series.at(at_s + HOUR_S)


def test_the_negative_price_of_2_july_2023_falls_on_12_utc() -> None:
    assert_negative_price_of_july_2023(load_world(EXCERPTS), utc_s(2023, 6, 29), 96)


@needs_full_data
def test_the_negative_price_of_2_july_2023_is_the_lowest_of_its_week(full: World) -> None:
    assert_negative_price_of_july_2023(full, utc_s(2023, 6, 26), 168)


@pytest.mark.parametrize(
    ("zone", "day_begins_s", "noon_utc"),
    [
        ("US-CAL-CISO", utc_s(2023, 10, 4, 8), 20),
        ("DE", utc_s(2023, 7, 1), 11),
        ("AU-NSW", utc_s(2023, 6, 30, 14), 2),
    ],
)
def test_carbon_dips_when_the_sun_is_high(zone: str, day_begins_s: float, noon_utc: int) -> None:
    day = load_world(EXCERPTS).carbon(zone, EmissionFactor.LIFECYCLE, day_begins_s, 24)

    assert lowest_s(day.values, day_begins_s) % (24 * HOUR_S) == noon_utc * HOUR_S


@needs_full_data
@pytest.mark.parametrize(
    ("zone", "year_month", "noon_utc"),
    [
        ("US-CAL-CISO", (2023, 10), 20),
        ("DE", (2023, 7), 11),
        ("AU-NSW", (2023, 7), 2),
        ("CL-SEN", (2023, 10), 15),
        ("ZA", (2023, 10), 10),
        ("JP-TK", (2023, 7), 2),
        ("SG", (2023, 7), 5),
        ("GB", (2023, 7), 12),
    ],
)
def test_the_typical_day_of_a_month_dips_at_noon(
    full: World, zone: str, year_month: tuple[int, int], noon_utc: int
) -> None:
    """Of zones with enough sun in the grid; local time taken for UTC would be 7 to 10 h off."""
    start_s = utc_s(*year_month, 1)
    month = full.carbon(zone, EmissionFactor.LIFECYCLE, start_s, 28 * 24)

    lowest = int(np.argmin(month.values.reshape(28, 24).mean(axis=0)))
    assert (lowest - noon_utc + 12) % 24 - 12 in range(-3, 4)


@needs_full_data
@pytest.mark.parametrize(
    ("zone", "peak_utc"),
    [
        ("US-CAL-CISO", 2),
        ("US-TEX-ERCO", 0),
        ("US-MIDA-PJM", 20),
        ("CA-ON", 21),
        ("CL-SEN", 22),
        ("DE", 18),
        ("GB", 18),
        ("ZA", 4),
        ("IN-WE", 16),
        ("SG", 11),
        ("JP-TK", 9),
        ("AU-NSW", 7),
    ],
)
def test_the_typical_price_of_july_peaks_with_demand(full: World, zone: str, peak_utc: int) -> None:
    """Late afternoon or evening there; in South Africa the tariff's morning peak, 06:00 SAST."""
    july = full.price(zone, utc_s(2023, 7, 1), 28 * 24)

    highest = int(np.argmax(np.median(july.values.reshape(28, 24), axis=0)))
    assert (highest - peak_utc + 12) % 24 - 12 in range(-2, 3)


@needs_full_data
def test_the_texan_price_cap_of_february_2021_begins_at_local_midnight(full: World) -> None:
    start_s = utc_s(2021, 2, 12)
    price = full.price("US-TEX-ERCO", start_s, 240)

    first = int(np.argmax(price.values > 8.9))
    assert start_s + first * HOUR_S == utc_s(2021, 2, 17, 6)  # 00:00 CST


@needs_full_data
def test_australian_prices_are_us_dollars(full: World) -> None:
    """README of the data: the median of 2021-01 to 2024-08 is 56 $/MWh, 82 in Australian ones."""
    start_s = utc_s(2021, 1, 1)
    price = full.price("AU-NSW", start_s, int((utc_s(2024, 9, 1) - start_s) / HOUR_S))

    assert np.median(price.values) * 1000 == pytest.approx(56, abs=1)


@needs_full_data
def test_weeks_of_the_default_sites_are_refused_only_for_long_gaps(full: World) -> None:
    zones = ["US-CAL-CISO", "US-TEX-ERCO", "US-MIDA-PJM", "DE", "SG", "JP-TK", "BR-CS", "CA-ON"]

    weeks = full.weeks(zones, date(2023, 1, 1), date(2023, 12, 31))

    assert len(weeks.mondays_s) + len(weeks.refused) == 52
    assert utc_s(2023, 6, 26) in weeks.mondays_s
    assert all("misses" in week.reason for week in weeks.refused)
