"""The testbed in containers as a Compose file, for people who like to read one.

    python -m testbed.wan.compose [SCENARIO]         print the file
    python -m testbed.wan.compose files SCENARIO     write the files of all places, in a container

Containers are those of `gcos testbed up --backend docker`: the same arguments, rights and
addresses. What is different is that Compose makes volumes, one for each place, and that a service
which ends at once writes into them. Their directories are in the image, so that they belong to who
uses them.
"""

import io
import sys
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from testbed.scenarios import load_scenario
from testbed.wan import matrix
from testbed.wan.containers import (
    CONFIG_NAME,
    HOME,
    IMAGE,
    IMAGE_UID,
    PROCESS_HEALTH_S,
    RULING_CAPABILITIES,
    SIDECAR_HEALTH,
    SIDECAR_HEALTH_S,
    SIDECAR_SHARES,
    ContainerPlan,
    process_arguments,
    process_environ,
    process_health,
    sidecar_arguments,
)
from testbed.wan.kernel_links import SETTINGS
from testbed.wan.place_files import PlaceSettings, write_places
from testbed.world import load_world

SCENARIO: Final = "no-clean-zones"
#: Not among those of `gcos testbed up`, so that both can be there.
_SUBNET: Final = "10.231.40"
_NETWORK: Final = "wan"
_FILES: Final = "files"
_PLACES: Final = Path("/places")
_SETTINGS: Final = PlaceSettings("joint", speed=60.0, byte_ratio=1000.0, gpu_count=2)
_HEAD: Final = """\
# Six regions, a broker and a predictor, each in a container with a sidecar that puts the distances
# between them. Written by: python -m testbed.wan.compose
#
#   testbed/wan/docker/build.sh
#   docker-compose -f testbed/wan/docker/compose.yaml up -d        (or: docker compose ...)
#   docker-compose -f testbed/wan/docker/compose.yaml exec de gcos sites ls
#   docker-compose -f testbed/wan/docker/compose.yaml down --volumes
"""


def plan_of(scenario: str) -> ContainerPlan:
    """Return the plan of a scenario's places; each sidecar finds out what carries its links."""
    zones = matrix.places(load_scenario(scenario))
    return ContainerPlan("compose", _SUBNET, IMAGE, IMAGE_UID, tuple(zones), carrier=None)


def document(scenario: str) -> dict[str, Any]:
    """Return the Compose file of a scenario."""
    plan = plan_of(scenario)
    services: dict[str, Any] = {
        _FILES: _common(plan)
        | {
            "user": str(plan.uid),
            "command": ["testbed.wan.compose", _FILES, scenario],
            "network_mode": "none",
            "volumes": [f"{place}:{home}" for place, home in _homes(plan).items()],
        }
    }
    for place in plan.places:
        services[f"{place}-wan"] = _sidecar(plan, place)
        services[place] = _process(plan, place)
    return {
        "services": services,
        "networks": {
            _NETWORK: {"internal": True, "ipam": {"config": [{"subnet": f"{plan.subnet}.0/24"}]}}
        },
        "volumes": {place: {} for place in plan.places},
    }


def text(scenario: str = SCENARIO) -> str:
    """Return the same as YAML."""
    written = io.StringIO()
    yaml = YAML()
    yaml.width = 100
    yaml.dump(document(scenario), written)
    return _HEAD + written.getvalue()


def write_files(scenario: str, root: Path = _PLACES) -> bool:
    """Write the files of all places, unless they are there; return whether they were not.

    Args:
        scenario: Whose places.
        root: Where their directories are, by their numbers from 1.
    """
    plan = plan_of(scenario)
    homes = _homes(plan, root)
    if any((home / CONFIG_NAME).exists() for home in homes.values()):
        return False
    zones = matrix.places(load_scenario(scenario))
    links = matrix.links(
        zones, load_world(None), speed=_SETTINGS.speed, byte_ratio=_SETTINGS.byte_ratio
    )
    write_places(plan, homes, _SETTINGS, links)
    return True


def _homes(plan: ContainerPlan, root: Path = _PLACES) -> dict[str, Path]:
    return {place: root / str(number) for number, place in enumerate(plan.places, start=1)}


def _common(plan: ContainerPlan) -> dict[str, Any]:
    return {
        "image": plan.image,
        "init": True,
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108  inside a container, whose it is alone
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }


def _sidecar(plan: ContainerPlan, place: str) -> dict[str, Any]:
    return _common(plan) | {
        "user": "0",
        "cap_add": list(RULING_CAPABILITIES),
        "cpu_shares": SIDECAR_SHARES,
        "sysctls": dict(SETTINGS),
        "command": list(sidecar_arguments(plan, place)),
        "networks": {_NETWORK: {"ipv4_address": plan.address(place)}},
        "volumes": [f"{place}:{HOME}"],
        "healthcheck": _health(SIDECAR_HEALTH, SIDECAR_HEALTH_S),
        "depends_on": {_FILES: {"condition": "service_completed_successfully"}},
    }


def _process(plan: ContainerPlan, place: str) -> dict[str, Any]:
    return _common(plan) | {
        "user": str(plan.uid),
        "command": list(process_arguments(place)),
        "environment": process_environ(plan, place),
        "network_mode": f"service:{place}-wan",
        "volumes": [f"{place}:{HOME}"],
        "healthcheck": _health(process_health(plan, place), PROCESS_HEALTH_S),
        "depends_on": {f"{place}-wan": {"condition": "service_healthy"}},
    }


def _health(command: str, interval_s: int) -> dict[str, Any]:
    return {
        "test": ["CMD-SHELL", command],
        "interval": f"{interval_s}s",
        "retries": 3,
        "start_period": "30s",
    }


def main(arguments: list[str]) -> int:
    """Do what the arguments ask for and return the exit code."""
    match arguments:
        case ["files", scenario]:
            write_files(scenario)
        case [] | [_]:
            sys.stdout.write(text(*arguments))
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
