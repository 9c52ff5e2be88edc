"""Worlds from small directories, and from the shipped tables."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcos import tables
from gcos.errors import GcosError, InvalidRequestError, NotFoundError
from gcos.signals import HOUR_S, EmissionFactor
from testbed.world import GapError, NotCoveredError, World, load_world

T0 = datetime(2025, 3, 3, tzinfo=UTC).timestamp()  # a Monday
LIFECYCLE, DIRECT = EmissionFactor.LIFECYCLE, EmissionFactor.DIRECT


def stamp(hour: int) -> str:
    return datetime.fromtimestamp(T0 + hour * HOUR_S, UTC).strftime("%Y-%m-%dT%H:%MZ")


def at(hour: int) -> float:
    return T0 + hour * HOUR_S


def write(directory: Path, name: str, *lines: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def write_price(directory: Path, hours: list[int], zone: str = "XX") -> Path:
    rows = [f"{zone},{stamp(hour)},{10 * hour}" for hour in hours]
    return write(directory, "price.csv", "zone,time_utc,price_usd_per_mwh", *rows)


@pytest.fixture
def shipped() -> World:
    return load_world(None)


def test_values_are_in_dollars_a_kwh_and_name_their_file(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0, 1, 2]))

    found = world.price("XX", at(1), 2)

    assert found.values == pytest.approx([0.010, 0.020])
    assert not found.values.flags.writeable
    assert not found.is_estimated
    assert found.interpolated_count == 0
    assert found.source == "price.csv, column price_usd_per_mwh"


def test_a_gap_of_three_hours_is_interpolated_and_counted(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0, 1, 5, 6]))

    found = world.price("XX", at(0), 7)

    assert found.values == pytest.approx(np.arange(7) / 100)
    assert found.interpolated_count == 3
    assert found.is_estimated
    assert "3 h interpolated" in found.source


def test_a_longer_gap_names_zone_first_missing_hour_and_length(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0, 1, 6, 7]))

    with pytest.raises(GapError) as caught:
        world.price("XX", at(0), 8)

    assert (caught.value.zone, caught.value.gap_hours) == ("XX", 4)
    assert caught.value.first_missing_s == at(2)
    assert "XX misses 4 h from 2025-03-03T02:00Z on" in str(caught.value)


def test_a_long_gap_refuses_a_window_that_only_touches_it(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0, 1, 6, 7]))

    with pytest.raises(GapError):
        world.price("XX", at(0), 3)
    with pytest.raises(GapError):
        world.price("XX", at(5), 2)
    assert world.price("XX", at(6), 2).interpolated_count == 0


@given(present=st.sets(st.integers(0, 30), min_size=2), data=st.data())
def test_a_window_is_given_if_and_only_if_its_gaps_are_short(
    tmp_path_factory: pytest.TempPathFactory, present: set[int], data: st.DataObject
) -> None:
    """The dumb reference looks at each missing hour and walks to its neighbours."""
    hours = sorted(present)
    begin = data.draw(st.integers(hours[0], hours[-1]))
    end = data.draw(st.integers(begin, hours[-1])) + 1
    world = load_world(write_price(tmp_path_factory.mktemp("gaps"), hours))

    def gap_around(hour: int) -> int:
        low, high = hour, hour
        while low not in present:
            low -= 1
        while high not in present:
            high += 1
        return high - low - 1

    missing = [hour for hour in range(begin, end) if hour not in present]
    if any(gap_around(hour) > 3 for hour in missing):
        with pytest.raises(GapError) as caught:
            world.price("XX", at(begin), end - begin)
        assert caught.value.gap_hours == next(g for h in missing if (g := gap_around(h)) > 3)
    else:
        found = world.price("XX", at(begin), end - begin)
        assert found.interpolated_count == len(missing)
        assert found.values == pytest.approx(np.arange(begin, end) / 100)


def test_an_uncovered_hour_or_zone_says_what_is_covered(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0, 1, 2]))

    with pytest.raises(NotCoveredError, match=r"2025-03-03T00:00Z to 2025-03-03T02:00Z, not"):
        world.price("XX", at(2), 2)
    with pytest.raises(NotCoveredError, match="covers"):
        world.price("XX", at(-1), 1)
    with pytest.raises(NotCoveredError, match=r"no row of zone 'DE' \(it has XX\)"):
        world.price("DE", at(0), 1)


def test_a_table_that_the_directory_lacks_comes_from_the_shipped_ones(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0, 1], zone="DE"))

    carbon = world.carbon("DE", LIFECYCLE, at(0), 24)

    assert carbon.values == pytest.approx(tables.carbon_profile("DE").mean[2])
    assert carbon.is_estimated
    assert "typical days" in carbon.source


def test_shipped_tables_hold_no_direct_carbon(shipped: World) -> None:
    assert shipped.carbon("DE", LIFECYCLE, at(0), 1).values.shape == (1,)
    with pytest.raises(NotFoundError, match="no direct carbon"):
        shipped.carbon("DE", DIRECT, at(0), 1)
    with pytest.raises(NotFoundError):
        shipped.price("XX", at(0), 1)


def test_an_empty_cell_of_one_factor_is_a_gap_of_that_factor_only(tmp_path: Path) -> None:
    write(
        tmp_path,
        "carbon.csv",
        "zone,time_utc,lifecycle_gco2_per_kwh,direct_gco2_per_kwh,is_estimated",
        f"XX,{stamp(0)},100,80,false",
        f"XX,{stamp(1)},,70,true",
        f"XX,{stamp(2)},300,,false",
    )
    world = load_world(tmp_path)

    lifecycle = world.carbon("XX", LIFECYCLE, at(0), 3)
    assert lifecycle.values == pytest.approx([100, 200, 300])
    assert lifecycle.interpolated_count == 1
    assert world.carbon("XX", DIRECT, at(0), 2).is_estimated
    with pytest.raises(NotCoveredError):
        world.carbon("XX", DIRECT, at(0), 3)


def test_a_factor_that_is_empty_throughout_is_not_covered(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "zone,time,ci_lifecycle", f"XX,{stamp(0)},100")

    with pytest.raises(NotCoveredError, match="no direct_gco2_per_kwh of XX"):
        load_world(tmp_path).carbon("XX", DIRECT, at(0), 1)


def test_a_start_off_the_hour_and_an_empty_window_are_refused(shipped: World) -> None:
    for start_s, hours in ((at(0) + 1800, 1), (at(0), 0), (float("nan"), 1)):
        with pytest.raises(InvalidRequestError):
            shipped.price("DE", start_s, hours)


def test_a_week_needs_its_warm_up_and_its_drain(tmp_path: Path) -> None:
    everything = list(range(-24, 3 * 168 + 96))
    without = [hour for hour in everything if not 200 <= hour < 205]
    world = load_world(write_price(tmp_path, without, zone="DE"))

    weeks = world.weeks(["DE"], date(2025, 2, 25), date(2025, 3, 24))

    # The hole lies in the drain of the first week and in the second; the fourth is not covered.
    assert weeks.mondays_s == (at(2 * 168),)
    assert [week.monday_s for week in weeks.refused] == [at(0), at(168), at(3 * 168)]
    assert "DE misses 5 h from 2025-03-11T08:00Z on" in weeks.refused[0].reason
    assert "covers" in weeks.refused[2].reason


def test_weeks_of_an_unknown_zone_are_an_error_and_not_an_empty_list(tmp_path: Path) -> None:
    world = load_world(write_price(tmp_path, [0], zone="DE"))

    with pytest.raises(NotCoveredError):
        world.weeks(["SG"], date(2025, 3, 3), date(2025, 3, 10))


def test_every_week_of_the_shipped_tables_can_be_had(shipped: World) -> None:
    weeks = shipped.weeks(["DE", "CA-ON"], date(2025, 1, 1), date(2025, 12, 31))

    assert len(weeks.mondays_s) == 52
    assert weeks.refused == ()
    assert weeks.mondays_s[0] == datetime(2025, 1, 6, tzinfo=UTC).timestamp()


def test_shipped_links_say_what_was_measured(shipped: World) -> None:
    measured = shipped.link("US-CAL-CISO", "US-MIDA-PJM")
    assert measured.is_rtt_measured
    assert measured.rtt_s == pytest.approx(0.05954)
    assert measured.gbps == pytest.approx(4.362)

    # Nobody measured Texas: the rate is the scenario's to choose.
    texas = shipped.link("US-CAL-CISO", "US-TEX-ERCO")
    assert (texas.gbps, texas.is_rtt_measured) == (None, False)
    assert texas.rtt_s == pytest.approx(0.038, abs=5e-4)
    assert texas.egress_usd_per_gb == 0.09

    assert shipped.egress_usd_per_gb("DE", "DE") == 0.02
    assert shipped.link("DE", "DE").egress_usd_per_gb == 0.02


def test_a_network_table_wins_and_the_shipped_ones_fill_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        "links.csv",
        "src_zone,dst_zone,rtt_ms,gbps,egress_usd_per_gb",
        "DE,SG,200,,0.5",
        "DE,XX,,,0.7",
    )
    write(tmp_path, "zones.csv", "zone,continent,lat,lon,country", "XX,,40,-100,US")
    world = load_world(tmp_path)

    known = world.link("DE", "SG")
    assert (known.rtt_s, known.egress_usd_per_gb, known.is_rtt_measured) == (0.2, 0.5, True)
    assert known.gbps == pytest.approx(tables.link("DE", "SG").bytes_per_s * 8 / 1e9)

    new = world.link("DE", "XX")
    assert (new.gbps, new.egress_usd_per_gb, new.is_rtt_measured) == (None, 0.7, False)
    assert 0.08 < new.rtt_s < 0.2
    assert world.continent("XX") == "NA"
    with pytest.raises(NotFoundError, match="egress price from XX to DE"):
        world.link("XX", "DE")
    with pytest.raises(NotFoundError, match="where the zone 'YY'"):
        world.continent("YY")


def test_continents_of_shipped_zones_are_known(shipped: World) -> None:
    assert {zone: shipped.continent(zone) for zone in ("DE", "CA-ON", "AU-NSW")} == {
        "DE": "EU",
        "CA-ON": "NA",
        "AU-NSW": "OC",
    }


def test_catalogues_are_sorted_by_size_and_forgive_a_repeated_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        "models.csv",
        "name,parameters_b,size_gb",
        "large,70,43",
        "small,,1.3",
        "small,1,9",
        "unknown,7,",
    )
    world = load_world(tmp_path)

    assert [(m.name, m.parameters_b, m.size_bytes) for m in world.models()] == [
        ("small", None, 1_300_000_000),
        ("large", 70, 43_000_000_000),
    ]
    assert len(world.data_sets()) == len(tables.data_sets())


def test_a_job_log_is_read_in_order_of_submission(tmp_path: Path) -> None:
    write(
        tmp_path,
        "jobs.csv",
        "job_id,submit_s,duration_s,gpus,model,data_set",
        "b,60,30,8,llama,",
        "a,0,10.5,1,,web",
    )
    first, second = load_world(tmp_path).jobs()

    assert (first.job_id, first.submit_s, first.duration_s, first.gpus) == ("a", 0, 10.5, 1)
    assert (first.model, first.data_set, second.model) == (None, "web", "llama")
    assert load_world(None).jobs() == ()


def test_job_logs_are_never_mixed(tmp_path: Path) -> None:
    write(tmp_path, "jobs_x.csv", "arrival_h,length_h", "0,1", "2,0.5")
    write(
        tmp_path,
        "jobs_y.csv",
        "submit_time,num_gpus,duration_s",
        "2017-09-25 00:10:00,2,5",
        "2017-09-25 00:00:00,1,5",
    )
    world = load_world(tmp_path)

    assert world.job_logs() == ("x", "y")
    with pytest.raises(NotFoundError, match="several job logs"):
        world.jobs()
    assert [job.submit_s for job in world.jobs("x")] == [0, 7200]
    assert [(job.submit_s, job.gpus) for job in world.jobs("y")] == [(0, 1), (600, 2)]


def test_a_directory_without_a_table_is_refused(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(GcosError):
            load_world(directory)
