"""A testbed in containers: what is written for each place, and the docker commands. Pure.

Each place, a region with its agent, or broker or predictor in regions of their own, has a network
namespace with two containers. The sidecar has what the agent dials on loopback go over the emulated
link and a private network to the other place, and hands in what comes from there: as a relay, or by
rules that it gives the kernel. So agents speak on loopback alone, as they must without TLS, and the
private network has no way out. Containers run without root and without capabilities, except
sidecars that give the kernel rules.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from testbed.wan.kernel_links import GATE_PORT, SETTINGS
from testbed.wan.records import (
    BROKER,
    PREDICTOR,
    Carrier,
    RelayPlan,
    WanConfig,
    WanLink,
    WanPlace,
)

LABEL: Final = "gcos.testbed"
IMAGE: Final = "gcos-testbed:latest"
#: What `USER` of the image is; who is not root runs containers as themselves.
IMAGE_UID: Final = 10001
HOME: Final = "/gcos"
CONFIG_NAME: Final = "process.toml"
WAN_NAME: Final = "wan.json"
CONTROL: Final = "127.0.0.1:7799"
PROBE_PORT: Final = 7801
#: The only other place where containers can write, in memory.
_SCRATCH: Final = "/tmp"  # noqa: S108  inside a container, whose it is alone
_PORT: Final = 7700
#: Asks the kernel alone. What executes it is a shell of Debian's, but the engine takes 50 ms of a
#: core to start it: every 2 s in eight sidecars that were a fifth of a core. Compose waits for the
#: first, which comes after one interval.
SIDECAR_HEALTH: Final = f"bash -c ': < /dev/tcp/{CONTROL.replace(':', '/')}'"
SIDECAR_HEALTH_S: Final = 10
#: Half a second of a core each time, which all places share.
PROCESS_HEALTH_S: Final = 60
#: What a sidecar may that gives the kernel rules, in its own network namespace alone; the files of
#: its place are another user's; timers of one who may not be nicer come later.
RULING_CAPABILITIES: Final = ("NET_ADMIN", "DAC_OVERRIDE", "SYS_NICE")
#: Sidecars weigh in the machine's scheduler what a process weighs that is nicer than others by 10,
#: the kernel's own figure (sched_prio_to_weight): whatever runs in other places, links come first.
SIDECAR_SHARES: Final = 9548
_RULING: Final = (
    *("--user", "0", "--cap-drop", "ALL"),
    *(part for name in RULING_CAPABILITIES for part in ("--cap-add", name)),
    *(part for name, value in SETTINGS.items() for part in ("--sysctl", f"{name}={value}")),
)

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """Places, their addresses and their containers.

    Attributes:
        name: Of the network, and the beginning of the names of containers.
        subnet: First three bytes of the private network, such as `10.231.8`.
        image: Image of all containers.
        uid: Who runs them.
        places: Places in a fixed order; their number is theirs in addresses.
        carrier: What carries links; None: each sidecar finds out.
        cgroup_parent: Control group of all containers; empty: the engine's own, in which all that
            it runs weighs as much as one process of the machine.
    """

    name: str
    subnet: str
    image: str
    uid: int
    places: tuple[str, ...]
    carrier: Carrier | None = Carrier.RELAY
    cgroup_parent: str = ""

    def serving(self, place: str) -> str:
        """Return where a place's process serves, as brokers list it.

        In the namespaces of other places the sidecar answers there: so agents and people's commands
        dial it anywhere.
        """
        return f"127.1.0.{self._number(place)}:{_PORT}"

    def address(self, place: str) -> str:
        """Return a place's address on the private network."""
        return f"{self.subnet}.{self._number(place) + 10}"

    def gate(self, place: str) -> str:
        """Return where a place's sidecar takes what comes from other places."""
        return f"{self.address(place)}:{GATE_PORT}"

    def container(self, place: str) -> str:
        """Return the container of a place's process."""
        return f"{self.name}-{place}"

    def sidecar(self, place: str) -> str:
        """Return the container of a place's sidecar."""
        return f"{self.name}-{place}-wan"

    def _number(self, place: str) -> int:
        return self.places.index(place) + 1


def wan_config(plan: ContainerPlan, links: Sequence[WanLink], place: str, seed: int) -> WanConfig:
    """Return what a place's sidecar is told: links that begin or end there, ways that begin."""
    mine = tuple(link for link in links if place in {link.src, link.dst})
    is_site = place not in {BROKER, PREDICTOR}
    ways = [link.dst for link in mine if link.src == place and is_site]
    return WanConfig(
        address=CONTROL,
        token_file=f"{HOME}/token",
        links=mine,
        relays=tuple(
            RelayPlan(place, dst, address=plan.serving(dst), target=plan.gate(dst)) for dst in ways
        ),
        seed=seed,
        carrier=plan.carrier,
        places=tuple(
            WanPlace(other, address=plan.address(other), serving=plan.serving(other))
            for other in plan.places
        ),
        here=place,
    )


def process_toml(
    plan: ContainerPlan,
    place: str,
    *,
    policy: str,
    world: Mapping[str, float],
    pool: Mapping[str, object],
) -> str:
    """Return the configuration of a place's process.

    Args:
        plan: Where everything is.
        place: A site, broker or predictor.
        policy: How a site bids.
        world: The table `world` of an agent.
        pool: The pool of an agent.
    """
    values: dict[str, object] = {
        "address": plan.serving(place),
        "token_file": f"{HOME}/token",
    }
    if place != BROKER:
        values["data_dir"] = f"{HOME}/data"
    if place in {BROKER, PREDICTOR}:
        return _toml(values)
    values |= {
        "site": place,
        "brokers": [plan.serving(BROKER)],
        "predictors": [plan.serving(PREDICTOR)],
        "artifact_roots": [f"{HOME}/artifacts"],
        "run_path": "/opt/gcos/bin:/usr/local/bin:/usr/bin:/bin",
        "policy": policy,
    }
    return f"{_toml(values)}\n[[pools]]\n{_toml(pool)}\n[world]\n{_toml(world)}"


def network_command(plan: ContainerPlan) -> Command:
    """Return the command that makes the private network, without a way out."""
    return (
        *("docker", "network", "create", "--internal", "--label", f"{LABEL}={plan.name}"),
        *("--subnet", f"{plan.subnet}.0/24", plan.name),
    )


def sidecar_command(plan: ContainerPlan, place: str, directory: str) -> Command:
    """Return the command that starts a place's sidecar, whose namespace its process shares."""
    return (
        *_run(plan, plan.sidecar(place), directory, may_rule=plan.carrier is not Carrier.RELAY),
        *("--network", plan.name, "--ip", plan.address(place)),
        *("--cpu-shares", str(SIDECAR_SHARES)),
        *(*_healthy(SIDECAR_HEALTH, SIDECAR_HEALTH_S), plan.image, *sidecar_arguments(plan, place)),
    )


def sidecar_arguments(plan: ContainerPlan, place: str) -> Command:
    """Return what a place's sidecar executes."""
    return (
        *("testbed.wan.sidecar", f"{HOME}/{WAN_NAME}", plan.address(place), plan.serving(place)),
    )


def probe_command(image: str) -> Command:
    """Return the command that tells what could carry links in containers here, and why."""
    return (
        *("docker", "run", "--rm", "--network", "none", *_RULING, image),
        *("testbed.wan.sidecar", "carrier"),
    )


def process_command(plan: ContainerPlan, place: str, directory: str) -> Command:
    """Return the command that starts a place's process."""
    environ = [f"{name}={value}" for name, value in process_environ(plan, place).items()]
    return (
        *_run(plan, plan.container(place), directory),
        *("--network", f"container:{plan.sidecar(place)}"),
        *(part for pair in environ for part in ("--env", pair)),
        *(*_healthy(process_health(plan, place), PROCESS_HEALTH_S), plan.image),
        *process_arguments(place),
    )


def process_arguments(place: str) -> Command:
    """Return what a place's process executes."""
    config = ("--config", f"{HOME}/{CONFIG_NAME}")
    if place in {BROKER, PREDICTOR}:
        return ("gcos.cli.main", place, "run", *config)
    return ("site_agent", *config)


def process_environ(plan: ContainerPlan, place: str) -> dict[str, str]:
    """Return what commands in a place's container find their agent by."""
    return {"GCOS_AGENT": plan.serving(place), "GCOS_TOKEN_FILE": f"{HOME}/token"}


def process_health(plan: ContainerPlan, place: str) -> str:
    """Return the command that succeeds where a place's process serves."""
    return f"python -P -m testbed.wan.sidecar health {plan.serving(place)}"


def ready_command(plan: ContainerPlan, place: str) -> Command:
    """Return the command that succeeds once a place's process serves.

    Python is started only where something listens: places that start need the cores themselves.
    """
    listens = f": < /dev/tcp/{plan.serving(place).replace(':', '/')}"
    script = f"({listens}) && exec {process_health(plan, place)}"
    return ("docker", "exec", plan.container(place), "bash", "-c", script)


def exec_command(container: str, *arguments: str) -> Command:
    """Return the command that runs a module in a container."""
    return ("docker", "exec", container, "python", "-P", "-m", *arguments)


def listing_command(name: str) -> Command:
    """Return the command that lists the containers of a testbed: name and status, by line."""
    return (
        *("docker", "ps", "--all", "--filter", f"label={LABEL}={name}"),
        *("--format", "{{.Names}}\t{{.Status}}"),
    )


def _run(plan: ContainerPlan, container: str, directory: str, *, may_rule: bool = False) -> Command:
    return (
        *("docker", "run", "--detach", "--init", "--name", container),
        *("--label", f"{LABEL}={plan.name}"),
        *(("--cgroup-parent", plan.cgroup_parent) if plan.cgroup_parent else ()),
        *(_RULING if may_rule else ("--user", str(plan.uid), "--cap-drop", "ALL")),
        *("--security-opt", "no-new-privileges", "--read-only"),
        *("--tmpfs", _SCRATCH, "--volume", f"{directory}:{HOME}"),
    )


def _healthy(command: str, interval_s: int) -> Command:
    return (
        *("--health-cmd", command, "--health-interval", f"{interval_s}s"),
        *("--health-retries", "3", "--health-start-period", "30s"),
    )


def _toml(values: Mapping[str, object]) -> str:
    # Texts, numbers and lists of texts are spelled alike in JSON and TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
