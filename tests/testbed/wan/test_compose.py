"""The Compose file: what it says, read; and Compose itself where it is."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gcos import codec
from gcos.config import load
from gcos.system import unique_text
from site_agent.config import AgentConfig
from testbed.wan import compose, containers, docker_cluster
from testbed.wan.records import WanConfig

FILE = Path(compose.__file__).parent / "docker" / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict:
    return YAML(typ="safe").load(FILE.read_text())["services"]


def test_the_file_is_what_is_written_now():
    assert FILE.read_text() == compose.text(), "python -m testbed.wan.compose > " + str(FILE)


def test_each_place_is_a_process_and_a_sidecar_in_one_namespace(services):
    places = set(compose.plan_of(compose.SCENARIO).places)
    assert len(places) == 8
    assert {"broker", "predictor"} < places
    assert set(services) == {"files", *places, *(f"{place}-wan" for place in places)}
    for place in places:
        assert services[place]["network_mode"] == f"service:{place}-wan"
        assert services[place]["volumes"] == services[f"{place}-wan"]["volumes"]
    addresses = [services[f"{p}-wan"]["networks"]["wan"]["ipv4_address"] for p in places]
    assert len(set(addresses)) == 8


def test_nothing_has_more_rights_than_it_needs(services):
    for name, service in services.items():
        is_sidecar = name.endswith("-wan")
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert (service["user"] == "0") is is_sidecar
        assert ("cap_add" in service) is is_sidecar
        assert ("healthcheck" in service) is (name != "files")
        assert not {"ports", "privileged", "network", "pid", "devices"} & set(service)
    networks = YAML(typ="safe").load(FILE.read_text())["networks"]
    assert [network["internal"] for network in networks.values()] == [True]


def test_services_are_the_containers_of_the_testbed(services):
    """Whoever drives the engine without Compose gets the same: arguments, rights and checks."""
    plan = compose.plan_of(compose.SCENARIO)
    for place in plan.places:
        by_name = {
            place: containers.process_command(plan, place, "/d"),
            f"{place}-wan": containers.sidecar_command(plan, place, "/d"),
        }
        for name, command in by_name.items():
            service = services[name]
            assert command[-len(service["command"]) :] == tuple(service["command"])
            assert service["healthcheck"]["test"][1] in command
            assert service["user"] == command[command.index("--user") + 1]
            added = [command[at + 1] for at, word in enumerate(command) if word == "--cap-add"]
            assert added == service.get("cap_add", [])


def test_the_files_of_all_places_are_written_once(tmp_path):
    plan = compose.plan_of(compose.SCENARIO)
    for number in range(1, len(plan.places) + 1):
        (tmp_path / str(number)).mkdir()
    assert compose.write_files(compose.SCENARIO, tmp_path)
    home = tmp_path / str(plan.places.index("de") + 1)
    token = (home / "token").read_text()
    assert load(AgentConfig, home / containers.CONFIG_NAME, environ={}).site == "de"
    config = codec.decode(WanConfig, (home / containers.WAN_NAME).read_bytes())
    assert config.carrier is None
    assert {link.src for link in config.links if link.dst == "de"} == set(plan.places) - {"de"}
    assert not compose.write_files(compose.SCENARIO, tmp_path)
    assert (home / "token").read_text() == token


@pytest.mark.soak
@pytest.mark.live
def test_six_regions_come_up_by_compose_run_a_job_and_are_gone(tmp_path):
    reason = docker_cluster.why_not(containers.IMAGE)
    if reason:
        pytest.skip(f"no containers here: {reason}")
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed")
    project = f"gcos-{unique_text()[:8]}"
    command = ["docker-compose", "--project-name", project, "--file", str(FILE)]

    def told(*arguments: str, code: int | None = 0) -> str:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=300
        )
        assert code in {None, done.returncode}, done.stderr
        return done.stdout

    def in_region(*arguments: str, code: int | None = 0) -> str:
        return told("exec", "-T", "de", "gcos", *arguments, code=code)

    try:
        told("up", "--detach")
        for _ in range(60):  # each asks for about a second
            if len(in_region("sites", "ls", "-o", "name", code=None).split()) == 6:
                break
        task = '{"apiVersion": "gcos/v1", "kind": "Task", "name": "hello", "run": ["echo", "hi"]}'
        subprocess.run(
            [*command, "exec", "-T", "de", "gcos", "submit", "-", "--wait"],
            input=task,
            text=True,
            check=True,
            timeout=120,
        )
        tasks = json.loads(in_region("queue", "--all", "-o", "json"))
        assert "SUCCEEDED" in json.dumps(tasks)
        assert "Up (healthy)" in told("ps")
    finally:
        told("down", "--volumes", code=None)
    for what in (["ps", "--all"], ["network", "ls"], ["volume", "ls"]):
        label = f"label=com.docker.compose.project={project}"
        left = subprocess.run(
            ["docker", *what, "--quiet", "--filter", label],
            capture_output=True,
            text=True,
            check=True,
        )
        assert left.stdout == ""
