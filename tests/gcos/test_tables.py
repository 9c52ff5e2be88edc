"""The shipped tables of facts and the script that writes them."""

import csv
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gcos import ids, tables
from gcos.errors import NotFoundError
from testbed.distances import great_circle_km
from testbed.tables import day_cells, read_hourly, write_price_profiles

FOLDER = resources.files("gcos.tables")
JULY = 6


def test_thirteen_zones_on_six_continents_are_complete() -> None:
    assert len(tables.zones()) == len(set(tables.zones())) == 13
    continents = {site.continent for site in tables.default_sites().values()}
    assert continents == {"AF", "AS", "EU", "NA", "OC", "SA"}
    for zone in tables.zones():
        carbon, price = tables.carbon_profile(zone), tables.price_profile(zone)
        assert carbon.mean.min() > 0
        assert carbon.std.min() >= 0
        assert carbon.mean.max() < 1000
        assert -0.1 < price.mean.min() <= price.mean.max() < 1  # $/kWh, not $/MWh
        for other in tables.zones():
            link = tables.link(zone, other)
            assert 0 < link.rtt_s < 0.6
            assert 1e7 < link.bytes_per_s < 4e9
            assert 0 < link.egress_usd_per_gb < 0.5


def test_times_are_utc_california_is_greenest_at_its_noon() -> None:
    """Read as local time, the dip of the sun (19-21 UTC) would lie seven hours earlier."""
    spring = tables.carbon_profile("US-CAL-CISO").mean[3]

    assert 18 <= int(np.argmin(spring)) <= 21
    assert spring[19:22].mean() < 0.7 * spring[5:11].mean()


def test_times_are_utc_german_power_is_cheapest_at_noon_in_summer() -> None:
    july = tables.price_profile("DE").mean[JULY]

    assert 11 <= int(np.argmin(july)) <= 13
    assert 17 <= int(np.argmax(july)) <= 20
    assert july[12] < 0.5 * july[18]


def test_levels_are_the_known_ones() -> None:
    means = {zone: tables.carbon_profile(zone).mean.mean() for zone in tables.zones()}

    assert means["CA-ON"] == pytest.approx(66, rel=0.05)
    assert means["DE"] == pytest.approx(406, rel=0.05)
    assert means["ZA"] == pytest.approx(707, rel=0.05)


def test_spikes_are_stated_not_lost() -> None:
    texas = tables.price_spikes("US-TEX-ERCO")

    assert texas.max_usd_per_kwh == pytest.approx(8.995, abs=0.01)
    assert texas.mean_with_spikes_usd_per_kwh > 1.8 * texas.mean_without_spikes_usd_per_kwh
    for zone in tables.zones():
        spikes = tables.price_spikes(zone)
        assert spikes.spike_hours <= 0.01 * spikes.hours + 1
        assert tables.price_profile(zone).mean.max() <= spikes.threshold_usd_per_kwh


def test_links_are_measured_but_for_texas() -> None:
    for src in tables.zones():
        for dst in tables.zones():
            touches_texas = "US-TEX-ERCO" in {src, dst}
            assert tables.link(src, dst).is_measured == (src != dst and not touches_texas)
    assert tables.link("DE", "GB").rtt_s < tables.link("DE", "AU-NSW").rtt_s
    assert tables.link("US-CAL-CISO", "US-TEX-ERCO").bytes_per_s == 5e8  # 4 Gbit/s
    assert tables.link("DE", "US-TEX-ERCO").bytes_per_s == 2.5e8


def test_two_sites_of_one_zone_have_a_declared_link() -> None:
    link = tables.link("DE", "DE")

    assert link.egress_usd_per_gb == 0.02
    assert link.bytes_per_s == 5e8


def test_default_sites_are_usable_as_they_are() -> None:
    assert list(tables.default_sites())[:8] == ["cal", "tex", "pjm", "de", "sg", "jp", "br", "on"]
    for site_id, site in tables.default_sites().items():
        assert ids.is_site_id(site_id)
        assert site.hardware in tables.hardware()
        assert 1 < site.pue < 2
        assert site.gpu_count == 2
        assert -90 <= site.lat <= 90
        assert -180 <= site.lon <= 180


def test_hardware_figures_are_marked_assumed() -> None:
    assert list(tables.hardware()) == ["large", "medium", "small"]
    large = tables.hardware()["large"]
    assert (large.gpu_type, large.speed_ratio, large.active_kw, large.idle_kw) == (
        "H100",
        1.0,
        1.0,
        0.25,
    )
    assert large.memory_bytes == 80 * 10**9
    text = (FOLDER / "hardware.csv").read_text()
    assert text.count(",assumed") == 3


def test_catalogues_have_sizes() -> None:
    assert len(tables.models()) >= 50
    assert len(tables.data_sets()) >= 25
    assert len(tables.gpu_types()) >= 15
    assert all(m.size_bytes > 10**8 and m.parameters_b > 0 for m in tables.models())
    assert all(d.size_bytes > 0 and d.url.startswith("https://") for d in tables.data_sets())
    assert all(20 < g.tdp_watts <= 1000 and g.memory_bytes >= 8e9 for g in tables.gpu_types())
    assert len({m.name for m in tables.models()}) == len(tables.models())
    assert len({d.name for d in tables.data_sets()}) == len(tables.data_sets())


@pytest.mark.parametrize("wrong", ["US-CAL", "us-cal-ciso", "US-CAL-CISO "])
def test_an_unknown_zone_is_an_error_that_names_the_nearest(wrong: str) -> None:
    with pytest.raises(NotFoundError, match="nearest: US-CAL-CISO"):
        tables.carbon_profile(wrong)


def test_every_table_refuses_an_unknown_zone() -> None:
    with pytest.raises(NotFoundError, match="CA-ON"):
        tables.price_profile("XX")
    with pytest.raises(NotFoundError):
        tables.price_spikes("XX")
    with pytest.raises(NotFoundError):
        tables.link("DE", "XX")


def test_every_table_is_small_and_named_in_the_sources() -> None:
    sources = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    files = [f for f in FOLDER.iterdir() if f.name.endswith(".csv")]

    assert len(files) == 9
    for file in files:
        assert f"`{file.name}`" in sources
        text = file.read_text(encoding="utf-8")
        assert len(text) < 200_000
        assert text.startswith("# ")


def test_carbon_is_attributed_in_its_own_file() -> None:
    head = (FOLDER / "carbon_profiles.csv").read_text()[:600]

    assert "Electricity Maps" in head
    assert "ODbL" in head
    assert "Electricity Maps" in (FOLDER / "LICENSE-ODbL.md").read_text()


def write_hourly(path: Path, tz: str | None) -> None:
    begin = datetime(2021, 1, 1, tzinfo=UTC)
    times = [begin + timedelta(hours=h) for h in range(3 * 365 * 24)]
    zones = [site.zone for site in tables.default_sites().values()]
    price = [float(t.hour) for t in times]
    price[:24] = [9000.0] * 24  # a day of spikes
    table = {
        "zone": pa.array([z for z in zones for _ in times]),
        "time": pa.array(
            [t if tz else t.replace(tzinfo=None) for _ in zones for t in times],
            type=pa.timestamp("us", tz=tz),
        ),
        "price_usd_per_mwh": pa.array(price * len(zones)),
    }
    pq.write_table(pa.table(table), path)


def test_the_script_leaves_spikes_out_and_counts_them(tmp_path: Path) -> None:
    write_hourly(tmp_path / "electricity_price.parquet", "UTC")

    write_price_profiles(tmp_path, tmp_path)

    with (tmp_path / "price_profiles.csv").open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    january = next(
        r for r in rows if (r["zone"], r["month"], r["statistic"]) == ("DE", "1", "mean")
    )
    assert float(january["h13"]) == pytest.approx(0.013)
    with (tmp_path / "price_spikes.csv").open() as file:
        spikes = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert {(r["spike_hours"], r["max_usd_per_kwh"]) for r in spikes} == {("24", "9.00000")}


def test_the_script_refuses_local_time(tmp_path: Path) -> None:
    write_hourly(tmp_path / "local.parquet", None)

    with pytest.raises(ValueError, match="not UTC"):
        read_hourly(tmp_path / "local.parquet", "price_usd_per_mwh")


def test_a_month_without_enough_hours_is_refused() -> None:
    hours = np.arange(np.datetime64("2021-01-01T00"), np.datetime64("2021-12-01T00"))

    with pytest.raises(ValueError, match="month 12"):
        day_cells(hours.astype("datetime64[us]"), np.ones(len(hours)))


def test_a_great_circle_is_a_quarter_of_the_equator_from_it_to_the_pole() -> None:
    assert great_circle_km((0, 0), (90, 0)) == pytest.approx(10_007.5, abs=1)
