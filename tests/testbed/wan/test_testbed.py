"""`gcos testbed` with real processes: two regions, and nothing left behind."""

import json
import socket
from pathlib import Path

import pytest

from gcos.cli.main import main
from gcos.errors import NotFoundError, WrongStateError
from gcos.home import read_cluster
from testbed.wan import cluster
from testbed.wan.cluster import open_testbed

SCENARIO = 'base = "default"\nkeep_sites = ["de", "on"]\n'


def call(capsys, *arguments: str, expect: int = 0):
    """Run a command and return what it wrote to stdout."""
    code = main(list(arguments))
    captured = capsys.readouterr()
    assert code == expect, captured.err
    return captured.out


def port_is_free(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0


@pytest.fixture
def scenario(tmp_path: Path) -> str:
    path = tmp_path / "two.toml"
    path.write_text(SCENARIO)
    return str(path)


@pytest.mark.live
def test_two_regions_come_up_are_parted_healed_killed_brought_back_and_removed(
    tmp_path, scenario, capsys
):
    where = ["--dir", str(tmp_path / "bed")]
    try:
        call(capsys, "testbed", "up", "--backend", "relay", "--scenario", scenario, *where)
        bed = open_testbed(tmp_path / "bed")
        # Every agent dials broker, predictor and the other site through relays of its own.
        assert len(bed.config.relays) == 2 * 3
        for site in ("de", "on"):
            written = (tmp_path / "bed" / "sites" / site / "agent.toml").read_text()
            assert written.count("127.0.0.2:") == 3
        links = json.loads(call(capsys, "testbed", "links", "-o", "json", *where))
        assert len(links) == 5
        assert {link["is_measured"] for link in links} == {True}

        found = call(
            capsys, "testbed", "negotiate", "de", "on", "--count", "1", "-o", "json", *where
        )
        # Never sooner than the delays allow, but for what timers lead.
        reading = json.loads(found)
        assert reading["limit_s"] > 2 * 0.05
        assert reading["p50_s"] > 2 * reading["asked_rtt_s"] - 0.03
        assert reading["p50_s"] == pytest.approx(
            sum(reading[step] for step in ("announce_s", "judge_s", "award_s"))
        )
        # From outside it has asked predictor and broker as well.
        assert reading["outside_s"] > reading["p50_s"]

        flow = ("--size-mb", "1", "--count", "1", "-o", "json")
        came = json.loads(call(capsys, "testbed", "artifact", "de", "on", *flow, *where))
        assert 0 < came["artifact_bytes_per_s"] < 1.5 * came["asked_bytes_per_s"]

        # Registrations and beats have taken the links.
        status = json.loads(call(capsys, "testbed", "status", "-o", "json", *where))
        assert status["timing"]["deliveries"] > 0
        assert all(process["is_alive"] for process in status["processes"])
        assert len(status["processes"]) == 5

        call(capsys, "testbed", "partition", "de", "on", *where)
        call(capsys, "testbed", "slow", "de", "broker", "--factor", "3", *where)
        assert "CUT" in call(capsys, "testbed", "links", *where)
        shown = call(capsys, "testbed", "status", *where)
        assert "de to on: cut" in shown
        assert "broker to de: 3 times as far" in shown
        call(capsys, "testbed", "heal", "on", "de", *where)
        assert len(open_testbed(tmp_path / "bed").config.changes) == 2
        call(capsys, "testbed", "heal", *where)
        assert open_testbed(tmp_path / "bed").config.changes == ()
        call(capsys, "testbed", "heal", "de", *where, expect=2)
        call(capsys, "testbed", "partition", "de", "mars", *where, expect=2)

        call(capsys, "testbed", "kill", "de", *where)
        assert "ENDED" in call(capsys, "testbed", "status", *where)
        with pytest.raises(WrongStateError, match="has ended already"):
            cluster.kill(bed, "de")
        with pytest.raises(NotFoundError, match="no site 'mars'"):
            cluster.kill(bed, "mars")
        call(capsys, "testbed", "up", "--backend", "relay", "--scenario", scenario, *where)
        assert "ENDED" not in call(capsys, "testbed", "status", *where)
        assert len(read_cluster({"GCOS_HOME": str(tmp_path / "bed")}).agents) == 2
    finally:
        main(["testbed", "down", "--force", *where])
    assert not (tmp_path / "bed").exists()
    assert all(port_is_free(relay.address) for relay in bed.config.relays)
    call(capsys, "testbed", "status", *where, expect=2)


def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, capsys):
    where = ["--dir", str(tmp_path / "bed")]
    call(capsys, "testbed", "up", "--scenario", "no-such", *where, expect=2)
    call(capsys, "testbed", "up", "--backend", "carrier-pigeon", *where, expect=2)
    call(capsys, "testbed", "up", "--links", "string", *where, expect=2)
    call(capsys, "testbed", "up", "--backend", "relay", "--links", "netem", *where, expect=2)
    call(capsys, "testbed", "up", "--backend", "netns", "--links", "relay", *where, expect=2)
    call(capsys, "testbed", "up", "--network", str(tmp_path / "none.csv"), *where, expect=2)
    call(capsys, "testbed", "links", *where, expect=2)
    assert not (tmp_path / "bed").exists()
