"""Links of a testbed from a table, scaled; pure."""

from pathlib import Path

import pytest

from gcos import tables
from gcos.errors import InvalidRequestError, NotFoundError
from testbed.scenarios import load_scenario
from testbed.wan import matrix
from testbed.wan.control import asked_reading
from testbed.wan.records import (
    BROKER,
    PREDICTOR,
    LaneReading,
    LinkChange,
    RelayPlan,
    WanConfig,
    merged,
    routes,
    verdict,
)
from testbed.world import BadTableError, load_world

ZONES = {"de": "DE", "sg": "SG", BROKER: "GB", PREDICTOR: "CA-ON"}


def links(**changes):
    values = {"speed": 60.0, "byte_ratio": 1000.0, "bytes_per_s_max": 1e12}
    return matrix.links(ZONES, load_world(None), **(values | changes))


def config(all_links, **changes):
    values = {"address": "a:1", "token_file": "t", "links": all_links, "relays": ()}
    return WanConfig(**(values | changes))


def test_a_scenario_gives_its_sites_and_regions_for_broker_and_predictor():
    zones = matrix.places(load_scenario("no-clean-zones"))
    assert list(zones) == ["cal", "tex", "pjm", "de", "sg", "jp", BROKER, PREDICTOR]
    assert (zones["de"], zones[BROKER], zones[PREDICTOR]) == ("DE", "GB", "CA-ON")
    told = matrix.places(load_scenario("sites-5"), broker_zone="ZA", predictor_zone="ZA")
    assert (told[BROKER], told[PREDICTOR]) == ("ZA", "ZA")
    assert len(set(matrix.places(load_scenario("sites-5")).values())) == 7
    with pytest.raises(InvalidRequestError, match="site 'de2' in zone DE is not in the shipped"):
        matrix.places(load_scenario("sites-14"))


def test_every_direction_that_messages_take_has_the_figures_of_the_table():
    found = {(link.src, link.dst): link for link in links()}
    assert len(found) == 4 * 3 - 2
    assert (BROKER, PREDICTOR) not in found
    stated = tables.link("DE", "SG")
    assert found["de", "sg"].rtt_s == stated.rtt_s
    assert found["de", "sg"].delay_s == stated.rtt_s / 2
    assert found["de", "sg"].is_measured
    assert found["de", "sg"].bytes_per_s == pytest.approx(stated.bytes_per_s * 60 / 1000)


def test_a_rate_is_capped_by_what_the_emulator_carries_and_never_so_low_that_none_is_left():
    capped = links(byte_ratio=1.0, bytes_per_s_max=1e8)[0]
    assert capped.bytes_per_s == 1e8
    assert capped.asked_bytes_per_s > 1e9
    with pytest.raises(InvalidRequestError, match=r"bytes/s here, less than 10000"):
        links(speed=1.0, byte_ratio=1e6)


def test_another_table_counts_and_its_errors_name_the_place(tmp_path: Path):
    table = tmp_path / "network.csv"
    table.write_text(
        "src_zone,dst_zone,rtt_ms,gbps,jitter_ms,loss_ratio\nDE,SG,200,1.5,3,0.001\nSG,DE,220,,,\n"
    )
    found = {
        (link.src, link.dst): link
        for link in matrix.links(
            ZONES, load_world(table), speed=1.0, byte_ratio=1.0, bytes_per_s_max=1e12
        )
    }
    there, back = found["de", "sg"], found["sg", "de"]
    assert (there.rtt_s, there.bytes_per_s) == (0.2, 1.5e9 / 8)
    assert (there.jitter_s, there.loss_ratio) == (0.003, 0.001)
    assert (back.rtt_s, back.jitter_s, back.loss_ratio) == (0.22, 0.0, 0.0)
    asked = asked_reading(config(tuple(found.values())), (), "de", "sg")
    assert asked.asked_rtt_s == pytest.approx(0.21)

    table.write_text("src_zone,dst_zone,rtt_ms,loss_ratio\nDE,SG,200,0\nSG,DE,200,1.5\n")
    with pytest.raises(BadTableError, match=r"network.csv, column loss_ratio, row 3: 1.5 is above"):
        matrix.links(ZONES, load_world(table), speed=1.0, byte_ratio=1.0)
    table.write_text("src_zone,dst_zone,rtt_ms\nDE,SG,fast\n")
    with pytest.raises(BadTableError, match=r"network.csv, column rtt_ms, row 2"):
        matrix.links(ZONES, load_world(table), speed=1.0, byte_ratio=1.0)


def test_changes_are_kept_by_direction_and_vanish_when_undone():
    some = links()
    cut = (LinkChange("de", "sg", is_cut=True), LinkChange("sg", "de", is_cut=True))
    once = merged((), cut, some)
    assert once == cut
    slow = LinkChange("de", "sg", factor=4.0)
    assert set(merged(once, [slow], some)) == {slow, cut[1]}
    assert merged(once, [LinkChange("de", "sg"), LinkChange("sg", "de")], some) == ()
    with pytest.raises(NotFoundError, match="no link from 'de' to 'mars'"):
        merged((), [LinkChange("de", "mars")], some)

    plain = asked_reading(config(some), (), "de", "sg")
    slowed = asked_reading(config(some), [slow, LinkChange("sg", "de", factor=4.0)], "de", "sg")
    assert slowed.asked_rtt_s == pytest.approx(4 * plain.asked_rtt_s)
    assert slowed.asked_bytes_per_s == pytest.approx(plain.asked_bytes_per_s / 4)
    assert asked_reading(config(some), cut, "de", "sg").is_cut


def test_an_agent_dials_its_own_relays():
    relays = (RelayPlan("de", "sg", "r:1", "sg:1"), RelayPlan("sg", "de", "r:2", "de:1"))
    assert routes(relays, "de") == {"sg:1": "r:1"}


def test_a_run_is_void_when_too_many_deliveries_come_late_or_none_came():
    def lane(late: int) -> LaneReading:
        counts = [1000 - late, 0, 0, 0, late, 0, 0, 0, 0, 0, 0]
        return LaneReading("a", "b", tuple(counts), worst_s=0.02 if late else 0.0)

    kept = verdict([lane(0), lane(10)])
    assert (kept.is_void, kept.deliveries, kept.late_share) == (False, 2000, 0.005)
    assert verdict([lane(11)]).is_void
    assert verdict([lane(11)]).worst_s == 0.02
    assert verdict([]).is_void
