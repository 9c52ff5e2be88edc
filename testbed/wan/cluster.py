"""A testbed on this machine: a local cluster whose processes talk over emulated links.

Agents know where the others serve, as always, and dial the emulator instead: `routes` in their
configuration. So each message between two regions, and each byte of an artifact, takes the link
between them; clients, who stand beside the cluster, do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gcos import codec
from gcos.errors import GcosError, NotFoundError, WrongStateError
from gcos.home import LocalCluster
from gcos.rpc.security import read_token
from testbed import local_cluster, local_processes
from testbed.interruption import uninterrupted
from testbed.local_directory import AGENT, SITES_NAME, TOKEN_NAME, WAN, Tell, write_whole
from testbed.local_plan import Plan, free_addresses, launch_of
from testbed.local_processes import LocalProcess
from testbed.local_state import ClusterOptions, ClusterState, read_state
from testbed.wan.kernel_links import GATE_PORT
from testbed.wan.namespaces import make_network, remove, stem_of
from testbed.wan.records import (
    BROKER,
    PREDICTOR,
    Carrier,
    LinkChange,
    RelayPlan,
    WanConfig,
    WanLink,
    WanPlace,
    routes,
)

CONFIG_NAME: Final = "wan.json"
#: Relays listen beside the processes, at an address of loopback of their own.
_RELAY_HOST: Final = "127.0.0.2"
#: Private to the namespaces of a testbed, so that each testbed may use it.
_SUBNET: Final = "10.231.8"
_HUB: Final = "hub"


@dataclass(frozen=True, slots=True)
class Testbed:
    """A testbed that was found running.

    Attributes:
        directory: Where it lies.
        state: Its processes.
        config: Its links, as they were at the last change.
        token: Its secret.
    """

    directory: Path
    state: ClusterState
    config: WanConfig
    token: str

    def process(self, name: str) -> LocalProcess:
        """Return a process: a site, `broker`, `predictor` or `wan`.

        Raises:
            NotFoundError: There is none of that name.
        """
        by_name = {each.name.removeprefix(AGENT): each for each in self.state.processes}
        if name not in by_name:
            raise NotFoundError(
                f"there is no site {name!r} in this testbed",
                hint=f"there are {', '.join(sorted(by_name))}",
            )
        return by_name[name]


def up(
    options: ClusterOptions,
    links: Sequence[WanLink],
    *,
    tell: Tell,
    seed: int = 0,
    carrier: Carrier = Carrier.RELAY,
    extend: Callable[[Plan], Plan] | None = None,
) -> LocalCluster:
    """Start broker, predictor, an agent for each site and the links between them.

    On failure, and on KeyboardInterrupt, everything that was started is stopped again.

    Args:
        options: What the cluster is to be.
        links: All directions, as `matrix.links` returns them.
        tell: Gets a line for each step.
        seed: Of jitter and loss.
        carrier: What carries links: relays, or the kernel between network namespaces, which takes
            root.
        extend: Adds to the plan before it is carried out, as of `testbed.local_cluster.up`.

    Raises:
        GcosError: As `testbed.local_cluster.up`.
    """
    directory = options.directory

    def with_links(plan: Plan) -> Plan:
        # Those of an earlier testbed here, whose processes all died.
        remove(stem_of(directory))
        if extend is not None:
            plan = extend(plan)
        if carrier is Carrier.RELAY:
            return _with_relays(plan, options, links, seed)
        return _in_namespaces(plan, directory, links, seed, carrier)

    try:
        return local_cluster.up(options, tell=tell, extend=with_links)
    except WrongStateError:
        raise  # one runs there already, and goes on
    except BaseException:
        with uninterrupted():
            remove(stem_of(directory))
        raise


def down(directory: Path, *, keep: bool, tell: Tell) -> bool:
    """Stop a testbed, as `testbed.local_cluster.down` does, and remove its namespaces."""
    with uninterrupted():
        was_there = local_cluster.down(directory, keep=keep, tell=tell)
        count = remove(stem_of(directory))
    if count:
        tell(f"removed {count} network namespaces")
    return was_there or bool(count)


def open_testbed(directory: Path) -> Testbed:
    """Return the testbed that runs in a directory.

    Raises:
        WrongStateError: None does.
    """
    state = read_state(directory)
    path = directory / CONFIG_NAME
    if state is None or not state.alive or not path.exists():
        raise WrongStateError(
            f"no testbed runs in {directory}", hint="start one with: gcos testbed up"
        )
    try:
        config = codec.decode(WanConfig, path.read_bytes())
    except GcosError as exc:
        raise WrongStateError(
            f"{path} is damaged: {exc.message}", hint="start anew: gcos testbed down"
        ) from exc
    return Testbed(directory, state, config, read_token(directory / TOKEN_NAME))


def cut(src: str, dst: str) -> tuple[LinkChange, ...]:
    """Return the changes that part two places, both ways."""
    return LinkChange(src, dst, is_cut=True), LinkChange(dst, src, is_cut=True)


def slowed(src: str, dst: str, factor: float) -> tuple[LinkChange, ...]:
    """Return the changes that make a link worse by a factor, both ways."""
    return LinkChange(src, dst, factor=factor), LinkChange(dst, src, factor=factor)


def healed(changes: Sequence[LinkChange], places: Sequence[str] = ()) -> tuple[LinkChange, ...]:
    """Return the changes that undo others: all, or those between two places."""
    return tuple(
        LinkChange(each.src, each.dst)
        for each in changes
        if not places or {each.src, each.dst} == set(places)
    )


def kill(testbed: Testbed, site: str) -> LocalProcess:
    """End an agent at once, as a power failure does; what it was running goes on or dies with it.

    Raises:
        NotFoundError: There is no such site.
        WrongStateError: It has ended already.
    """
    process = testbed.process(site)
    if not process.is_alive:
        raise WrongStateError(
            f"{process.name} has ended already", hint="bring it back with: gcos testbed up"
        )
    local_processes.kill(process)
    return process


def _with_relays(plan: Plan, options: ClusterOptions, links: Sequence[WanLink], seed: int) -> Plan:
    """Write the emulator's file and the routes of the agents; return the plan with its process."""
    directory = options.directory
    serving = _serving(plan)
    ways = _ways(links)
    names = [WAN, *(f"{src} {dst}" for src, dst in ways)]
    listening = free_addresses(names, None, _RELAY_HOST)
    config = WanConfig(
        address=listening[WAN],
        token_file=str(directory / TOKEN_NAME),
        links=tuple(links),
        relays=tuple(
            RelayPlan(src, dst, address=listening[f"{src} {dst}"], target=serving[dst])
            for src, dst in ways
        ),
        seed=seed,
    )
    write_whole(directory / CONFIG_NAME, codec.encode(config))
    for site in options.site_ids:
        _add_routes(directory / SITES_NAME / site / "agent.toml", config, site)
    return replace(plan, launches=(*plan.launches, launch_of(directory, WAN, listening[WAN])))


def _in_namespaces(
    plan: Plan, directory: Path, links: Sequence[WanLink], seed: int, carrier: Carrier
) -> Plan:
    """Make the namespaces and write the emulator's file; return the plan with its process.

    Agents dial the addresses of others as they are: on the loopback of their own namespace nobody
    else serves there, and the kernel redirects them. At the machine's loopback the emulator listens
    at the same addresses, for clients.
    """
    stem = stem_of(directory)
    places = tuple(
        WanPlace(
            name,
            address=f"{_SUBNET}.{number}",
            serving=address,
            namespace=f"{stem}-{name}",
        )
        for number, (name, address) in enumerate(_serving(plan).items(), start=1)
    )
    by_name = {place.name: place for place in places}
    listening = free_addresses([WAN], None, _RELAY_HOST)[WAN]
    config = WanConfig(
        address=listening,
        token_file=str(directory / TOKEN_NAME),
        links=tuple(links),
        relays=tuple(
            RelayPlan(
                src,
                dst,
                address=by_name[dst].serving,
                target=f"{by_name[dst].address}:{GATE_PORT}",
            )
            for src, dst in _ways(links)
        ),
        seed=seed,
        carrier=carrier,
        places=places,
    )
    write_whole(directory / CONFIG_NAME, codec.encode(config))
    make_network(places, f"{stem}-{_HUB}")
    launches = tuple(
        replace(launch, namespace=by_name[launch.name.removeprefix(AGENT)].namespace)
        for launch in plan.launches
    )
    return replace(plan, launches=(*launches, launch_of(directory, WAN, listening)))


def _serving(plan: Plan) -> dict[str, str]:
    return {launch.name.removeprefix(AGENT): launch.address for launch in plan.launches}


def _ways(links: Sequence[WanLink]) -> list[tuple[str, str]]:
    # Only agents dial: broker and predictor answer.
    return [(link.src, link.dst) for link in links if link.src not in {BROKER, PREDICTOR}]


def _add_routes(path: Path, config: WanConfig, site: str) -> None:
    lines = ["", "[routes]"]
    lines += [
        f'"{target}" = "{address}"' for target, address in routes(config.relays, site).items()
    ]
    write_whole(path, path.read_bytes() + ("\n".join(lines) + "\n").encode())
