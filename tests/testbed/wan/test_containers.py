"""Files and commands of a testbed in containers, pure; and Docker itself where it is."""

import json
import subprocess
import tomllib
from dataclasses import replace

import pytest

from gcos import codec
from gcos.cli.main import main
from gcos.config import load
from gcos.errors import UnavailableError
from site_agent.config import AgentConfig
from testbed.local_plan import pool_of
from testbed.wan import containers, docker_cluster, matrix
from testbed.wan.containers import ContainerPlan
from testbed.wan.records import BROKER, PREDICTOR
from testbed.world import load_world

ZONES = {"de": "DE", "on": "CA-ON", BROKER: "GB", PREDICTOR: "ZA"}
PLAN = ContainerPlan("gcos-x", "10.231.20", "image", 10001, tuple(ZONES))


def links():
    return matrix.links(ZONES, load_world(None), speed=60.0, byte_ratio=1000.0)


def test_a_sidecar_carries_the_links_of_its_place_and_dials_the_gates_of_others():
    config = containers.wan_config(PLAN, links(), "de", seed=3)
    assert all("de" in {link.src, link.dst} for link in config.links)
    assert len(config.links) == 6
    ways = {way.dst: (way.address, way.target) for way in config.relays}
    assert ways["on"] == ("127.1.0.2:7700", "10.231.20.12:7800")
    assert set(ways) == {"on", BROKER, PREDICTOR}
    assert containers.wan_config(PLAN, links(), BROKER, seed=3).relays == ()


def test_an_agent_is_told_addresses_that_differ(tmp_path):
    text = containers.process_toml(
        PLAN,
        "de",
        policy="joint",
        world={"speed": 60.0, "byte_ratio": 1000.0},
        pool=pool_of("de", 2),
    )
    path = tmp_path / "process.toml"
    path.write_text(text)
    config = load(AgentConfig, path, environ={})
    assert (config.site, config.address, config.policy) == ("de", "127.1.0.1:7700", "joint")
    assert config.brokers == ("127.1.0.3:7700",)
    assert config.pools[0].gpu_count == 2
    broker = tomllib.loads(containers.process_toml(PLAN, BROKER, policy="", world={}, pool={}))
    assert broker == {"address": "127.1.0.3:7700", "token_file": "/gcos/token"}


def test_containers_have_no_rights_and_no_way_out():
    network = " ".join(containers.network_command(PLAN))
    assert "--internal" in network
    assert "--subnet 10.231.20.0/24 gcos-x" in network
    for command in (
        containers.sidecar_command(PLAN, "on", "/d/on"),
        containers.process_command(PLAN, "on", "/d/on"),
    ):
        line = " ".join(command)
        assert "--cap-drop ALL --security-opt no-new-privileges --read-only" in line
        assert "--user 10001" in line
        assert "--label gcos.testbed=gcos-x" in line
        assert "--volume /d/on:/gcos" in line
        assert "--publish" not in line
        assert "--privileged" not in line
        assert "--cgroup-parent" not in line
    process = " ".join(containers.process_command(PLAN, BROKER, "/d/broker"))
    assert "--network container:gcos-x-broker-wan" in process
    assert process.endswith("image gcos.cli.main broker run --config /gcos/process.toml")
    assert "--health-cmd" in process


def test_each_container_weighs_as_a_process_and_sidecars_more():
    plan = replace(PLAN, cgroup_parent="/")
    sidecar = containers.sidecar_command(plan, "on", "/d/on")
    process = containers.process_command(plan, "on", "/d/on")
    for command in (sidecar, process):
        assert command[command.index("--cgroup-parent") + 1] == "/"
    assert int(sidecar[sidecar.index("--cpu-shares") + 1]) > 1024
    assert "--cpu-shares" not in process


def test_what_the_engine_refuses_to_end_is_tried_again_until_it_is_gone(tmp_path, monkeypatch):
    """An engine was seen to count endpoints of a network that had none."""
    (tmp_path / docker_cluster.STATE_NAME).write_bytes(codec.encode(PLAN))
    there = {"containers": True, "network": True}
    refusals = iter(["active endpoints"])
    ran = []

    def engine(command, **_options):
        ran.append(command[1:3])
        match command[1]:
            case "ps":
                return "gcos-x-on-wan\tUp\ngcos-x-on\tUp\n" if there["containers"] else ""
            case "rm":
                assert there["network"]
                there["containers"] = command[-1] != "gcos-x-on-wan"
            case "network" if command[2] == "ls":
                return "0123\n" if there["network"] else ""
            case "network":
                for refusal in refusals:
                    raise UnavailableError(refusal)
                there["network"] = False
        return ""

    monkeypatch.setattr(docker_cluster, "run", engine)
    monkeypatch.setattr(docker_cluster, "sleep_blocking", lambda _: None)
    assert docker_cluster.down(tmp_path, tell=lambda _: None)
    assert ran.count(("network", "rm")) == 2
    assert ran[-2:] == [("ps", "--all"), ("network", "ls")], "it looked once more"
    assert not tmp_path.exists()


def test_what_the_engine_does_not_end_is_told_and_found_again(tmp_path, monkeypatch):
    (tmp_path / docker_cluster.STATE_NAME).write_bytes(codec.encode(PLAN))
    monkeypatch.setattr(docker_cluster, "run", lambda command, **_: "gcos-x-on-wan\tUp\n")
    monkeypatch.setattr(docker_cluster, "_GONE_S", -1.0)
    with pytest.raises(UnavailableError, match="does not end gcos-x"):
        docker_cluster.down(tmp_path, tell=lambda _: None)
    assert docker_cluster.read_plan(tmp_path) == PLAN


def docker_names(what: str) -> list[str]:
    """Return containers or networks that carry our label."""
    command = {"ps": ["ps", "--all"], "network": ["network", "ls"]}[what]
    done = subprocess.run(
        ["docker", *command, "--quiet", "--filter", f"label={containers.LABEL}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.soak
@pytest.mark.live
def test_two_regions_come_up_in_containers_are_parted_and_removed(tmp_path, capsys):
    reason = docker_cluster.why_not(containers.IMAGE)
    if reason:
        pytest.skip(f"no containers here: {reason}")
    before = docker_names("ps"), docker_names("network")
    scenario = tmp_path / "two.toml"
    scenario.write_text('base = "default"\nkeep_sites = ["de", "on"]\n')
    where = ["--dir", str(tmp_path / "boxes")]
    up = ["testbed", "up", "--backend", "docker", "--scenario", str(scenario), *where]
    try:
        assert main(up) == 0
        assert main(["testbed", "partition", "de", "on", *where]) == 0
        capsys.readouterr()
        assert main(["testbed", "links", "-o", "json", *where]) == 0
        cut = [link for link in json.loads(capsys.readouterr().out) if link["is_cut"]]
        assert [(link["src"], link["dst"]) for link in cut] == [("de", "on")]
        assert main(["testbed", "heal", *where]) == 0
        assert main(["testbed", "kill", "on", *where]) == 0
        assert main(up) == 0
        capsys.readouterr()
        assert main(["testbed", "status", "-o", "json", *where]) == 0
        status = json.loads(capsys.readouterr().out)
        assert len(status["processes"]) == 8
        assert all(process["is_alive"] for process in status["processes"])
        assert status["changes"] == []
    finally:
        assert main(["testbed", "down", "--force", *where]) == 0
    assert (docker_names("ps"), docker_names("network")) == before
    assert not (tmp_path / "boxes").exists()
