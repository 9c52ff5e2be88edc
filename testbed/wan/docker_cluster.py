"""A testbed in containers, brought up and taken down through the `docker` command.

Everything it makes carries one label, by which it is found again and removed: containers, network.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gcos import codec
from gcos.errors import GcosError, InvalidRequestError, UnavailableError, WrongStateError
from gcos.locks import LOCK_NAME
from gcos.system import SystemClock, sleep_blocking, unique_text
from testbed.interruption import uninterrupted
from testbed.local_directory import Tell, write_whole
from testbed.wan.containers import (
    HOME,
    IMAGE_UID,
    PROBE_PORT,
    WAN_NAME,
    Command,
    ContainerPlan,
    exec_command,
    listing_command,
    network_command,
    probe_command,
    process_command,
    ready_command,
    sidecar_command,
)
from testbed.wan.control import LinkReading, asked_reading
from testbed.wan.place_files import PlaceSettings, write_places
from testbed.wan.records import (
    BROKER,
    PREDICTOR,
    Answer,
    Carrier,
    LinkChange,
    Order,
    WanConfig,
    WanLink,
)

STATE_NAME: Final = "containers.json"
_SIDECAR: Final = "testbed.wan.sidecar"
_COMMAND_S: Final = 120.0
#: Wall seconds for all processes to serve.
_READY_S: Final = 300.0
_LOOK_S: Final = 0.5
#: Wall seconds in which the engine ends what it was asked to end.
_GONE_S: Final = 60.0
_SUBNETS: Final = tuple(f"10.231.{number}" for number in range(20, 40))


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """What a testbed in containers is to be.

    Attributes:
        directory: Where its files lie, a directory for each place.
        image: Image of all containers.
        settings: What all places have in common.
        carrier: What carries links; None: the best that there is.
    """

    directory: Path
    image: str
    settings: PlaceSettings
    carrier: Carrier | None = None


def is_there(directory: Path) -> bool:
    """Tell whether a testbed in containers lies in a directory."""
    return (directory / STATE_NAME).exists()


def read_plan(directory: Path) -> ContainerPlan:
    """Return the plan of the testbed in a directory.

    Raises:
        WrongStateError: There is none.
    """
    try:
        return codec.decode(ContainerPlan, (directory / STATE_NAME).read_bytes())
    except (OSError, GcosError) as exc:
        raise WrongStateError(
            f"no testbed in containers is in {directory}",
            hint="start one with: gcos testbed up --backend docker",
        ) from exc


def up(
    options: ContainerOptions, zones: Mapping[str, str], links: Sequence[WanLink], *, tell: Tell
) -> ContainerPlan:
    """Start two containers for each place and return once all of them serve.

    On failure, and on KeyboardInterrupt, everything that was made is removed again.

    Raises:
        WrongStateError: The directory is not empty.
        UnavailableError: Docker or the image is not there, or a process did not serve in time.
    """
    directory = options.directory
    if directory.exists() and any(each.name != LOCK_NAME for each in directory.iterdir()):
        raise WrongStateError(
            f"{directory} is not empty", hint="gcos testbed down, or another --dir"
        )
    _require_image(options.image)
    uid = IMAGE_UID if os.getuid() == 0 else os.getuid()
    name = f"gcos-{unique_text()[:8]}"
    carrier = _chosen(options, tell)
    plan = ContainerPlan(
        *(name, _SUBNETS[0], options.image, uid, tuple(zones), carrier),
        cgroup_parent=_cgroup_parent(),
    )
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        with _sole(directory) as lock:
            plan = _with_network(plan, directory, lock)
            homes = {place: directory / place for place in plan.places}
            for home in homes.values():
                home.mkdir(mode=0o700)
            write_places(plan, homes, options.settings, links)
            tell(f"{len(plan.places)} places on the private network {plan.subnet}.0/24")
            for place in plan.places:
                run(sidecar_command(plan, place, str(directory / place)), held=(lock,))
            for place in plan.places:
                run(process_command(plan, place, str(directory / place)), held=(lock,))
        _await_ready(plan, plan.places, tell)
    except BaseException:
        with uninterrupted():
            tell("removing what was made")
            down(directory, tell=tell)
        raise
    return plan


@contextlib.contextmanager
def _sole(directory: Path) -> Iterator[int]:
    """Give the descriptor of the directory's lock, once nobody else holds it.

    A command that was given it holds the lock too: where we are killed while one runs, `down`
    waits for its end, and so finds what it has made.
    """
    clock = SystemClock()
    until_s = clock.protocol_s() + _COMMAND_S
    with (directory / LOCK_NAME).open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.protocol_s() > until_s:
                    raise WrongStateError(
                        f"{directory} is in use", hint="wait for the other gcos testbed to end"
                    ) from None
                sleep_blocking(_LOOK_S)
        yield file.fileno()


def down(directory: Path, *, tell: Tell) -> bool:
    """Remove containers, network and files of a testbed; return False where there is none.

    Interruptions wait until it has ended.

    Raises:
        UnavailableError: Docker does not answer, or refused; the files stay, by which the rest is
            found when this is called again.
    """
    if not is_there(directory):
        return False
    with uninterrupted(), _sole(directory):
        _remove(read_plan(directory), tell)
        shutil.rmtree(directory)
    return True


def _remove(plan: ContainerPlan, tell: Tell) -> None:
    """Remove containers and network, and look until there are none.

    A command that took too long was given up by us, not by the engine, which may carry it out after
    we have looked, and refuses the end of a network that it is just adding a container to.
    """
    clock = SystemClock()
    until_s = clock.protocol_s() + _GONE_S
    while left := _removed_once(plan, tell):
        if clock.protocol_s() > until_s:
            raise UnavailableError(
                f"Docker does not end {plan.name}: {left}",
                hint="restart Docker, then: gcos testbed down --force",
            )
        sleep_blocking(_LOOK_S)


def _removed_once(plan: ContainerPlan, tell: Tell) -> str:
    """Remove what there is and return what it was, or why it could not be; empty: nothing is."""
    containers = [line.split("\t")[0] for line in run(listing_command(plan.name)).splitlines()]
    sidecars = sorted({plan.sidecar(place) for place in plan.places} & set(containers))
    remove = ("docker", "rm", "--force", "--volumes")
    try:
        if containers:
            tell(f"removing {len(containers)} containers")
        if served := [each for each in containers if each not in sidecars]:
            run((*remove, *served))
        # One after the other: they alone are on the network, and an engine that takes several off
        # at once was seen to go on counting one of them, and to refuse the network's end.
        for sidecar in sidecars:
            run((*remove, sidecar))
        listing = ("docker", "network", "ls", "--quiet", "--filter", f"name=^{plan.name}$")
        if not run(listing).strip():
            return ", ".join(containers)
        run(("docker", "network", "rm", plan.name))
    except UnavailableError as exc:
        return exc.message
    return plan.name


def processes(directory: Path) -> dict[str, str]:
    """Return what Docker says of each container of a testbed."""
    listing = run(listing_command(read_plan(directory).name))
    rows = (line.partition("\t") for line in listing.splitlines())
    return {name: status for name, _, status in sorted(rows)}


def change(directory: Path, changes: Sequence[LinkChange]) -> None:
    """Cut, heal or slow directions, at both of their ends.

    Raises:
        InvalidRequestError: There is no such link.
    """
    plan = read_plan(directory)
    for place in sorted({place for each in changes for place in (each.src, each.dst)}):
        if place not in plan.places:
            raise InvalidRequestError(
                f"there is no place {place!r}", hint=f"places are {', '.join(plan.places)}"
            )
        concerned = tuple(each for each in changes if place in {each.src, each.dst})
        order(plan, place, Order("", changes=concerned))


def changes_of(directory: Path) -> tuple[LinkChange, ...]:
    """Return what was done to links."""
    plan = read_plan(directory)
    found = {
        (change.src, change.dst): change
        for place in plan.places
        for change in _config(directory, place).changes
    }
    return tuple(found.values())


def answers(directory: Path) -> tuple[Answer, ...]:
    """Return what each place's sidecar says."""
    plan = read_plan(directory)
    return tuple(order(plan, place, Order("")) for place in plan.places)


def order(plan: ContainerPlan, place: str, asked: Order) -> Answer:
    """Give a place's sidecar an order and return what it says."""
    document = codec.encode(asked).decode()
    said = run(exec_command(plan.sidecar(place), _SIDECAR, "order", f"{HOME}/{WAN_NAME}", document))
    return codec.decode(Answer, said.encode())


def readings(directory: Path, *, flow_s: float | None) -> tuple[LinkReading, ...]:
    """Return each link once, as asked for and, unless `flow_s` is None, as measured."""
    plan = read_plan(directory)
    found: dict[frozenset[str], LinkReading] = {}
    for src in plan.places:
        config = _config(directory, src)
        for way in config.relays:
            pair = frozenset((src, way.dst))
            if pair in found:
                continue
            found[pair] = asked_reading(config, config.changes, src, way.dst)
            if flow_s is not None:
                target = f"{plan.address(way.dst)}:{PROBE_PORT}"
                arguments = ("measure", f"{HOME}/{WAN_NAME}", src, way.dst, target, str(flow_s))
                said = run(exec_command(plan.sidecar(src), _SIDECAR, *arguments))
                found[pair] = codec.decode(LinkReading, said.encode())
    return tuple(found.values())


def kill(directory: Path, place: str) -> str:
    """End the process of a place at once and return its container.

    Raises:
        InvalidRequestError: There is no such place.
    """
    plan = read_plan(directory)
    if place not in plan.places:
        raise InvalidRequestError(
            f"there is no place {place!r}", hint=f"places are {', '.join(plan.places)}"
        )
    run(("docker", "kill", plan.container(place)))
    return plan.container(place)


def revive(directory: Path) -> tuple[str, ...]:
    """Start the processes again that have ended, and return their containers."""
    plan = read_plan(directory)
    ended = [name for name, status in processes(directory).items() if not status.startswith("Up")]
    if ended:
        run(("docker", "start", *ended))
        concerned = [
            place
            for place in plan.places
            if {plan.container(place), plan.sidecar(place)} & set(ended)
        ]
        _await_ready(plan, concerned, lambda _: None)
    return tuple(ended)


def run(command: Command, *, may_fail: bool = False, held: Sequence[int] = ()) -> str:
    """Run a docker command and return what it wrote to stdout.

    Args:
        command: What to run.
        may_fail: Say nothing where it fails.
        held: Descriptors of locks that are held until it has ended, though we die before.

    Raises:
        UnavailableError: Docker is not installed, does not answer, or refused.
    """
    try:
        # In a session of its own: what Ctrl-C would break off at the client, the engine would
        # finish, after `down` has looked.
        with subprocess.Popen(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=held,
        ) as child:
            try:
                said, complaint = child.communicate(timeout=_COMMAND_S)
            except KeyboardInterrupt:
                child.communicate(timeout=_COMMAND_S)
                raise
            except subprocess.TimeoutExpired:
                child.kill()
                raise
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise UnavailableError(
            f"docker cannot be used: {exc}", hint="install it, or use --backend relay"
        ) from exc
    if child.returncode and not may_fail:
        raise UnavailableError(
            f"{' '.join(command[:3])} failed: {' '.join(complaint.split())[-300:]}",
            hint="is the Docker engine running, and may you use it?",
        )
    return said


def why_not(image: str) -> str:
    """Return why containers of an image cannot be run here; empty: they can."""
    try:
        _require_image(image)
    except UnavailableError as exc:
        return exc.message
    return ""


def _require_image(image: str) -> None:
    run(("docker", "info", "--format", "{{.ServerVersion}}"))
    if not run(("docker", "image", "ls", "--quiet", image)).strip():
        raise UnavailableError(
            f"there is no image {image}", hint="build it: testbed/wan/docker/build.sh"
        )


def _chosen(options: ContainerOptions, tell: Tell) -> Carrier:
    """Return what carries links: as asked for, if it can be had, else the best."""
    if options.carrier is Carrier.RELAY:
        return Carrier.RELAY
    best, _, why = run(probe_command(options.image)).strip().partition(" ")
    if options.carrier is Carrier.NFQUEUE and best == Carrier.NETEM.value:
        best = Carrier.NFQUEUE.value
    if options.carrier is not None and options.carrier.value != best:
        raise UnavailableError(
            f"{options.carrier.value} cannot be had in containers here: {why}",
            hint="leave --links out",
        )
    tell(f"links: {best} in containers, since {why}")
    return Carrier(best)


def _cgroup_parent() -> str:
    """Return the control group for containers: the machine's own, where the engine may name it.

    There each container weighs in the scheduler what a process of the machine does. systemd, where
    it keeps the groups, has slices instead, and the engine's is one beside that of all users.
    """
    driver = run(("docker", "info", "--format", "{{.CgroupDriver}}")).strip()
    return "/" if driver == "cgroupfs" else ""


def _with_network(plan: ContainerPlan, directory: Path, lock: int) -> ContainerPlan:
    """Make the private network in the first range that is free."""
    refusal: UnavailableError | None = None
    for subnet in _SUBNETS:
        placed = replace(plan, subnet=subnet)
        # At once: whatever becomes of us, `down` finds what was made.
        write_whole(directory / STATE_NAME, codec.encode(placed))
        try:
            run(network_command(placed), held=(lock,))
        except UnavailableError as exc:
            if "overlap" not in exc.message:
                raise
            refusal = exc
            continue
        return placed
    assert refusal is not None, "there is a range to try"
    raise refusal


def _await_ready(plan: ContainerPlan, places: Sequence[str], tell: Tell) -> None:
    """Return once the processes of some places serve and the broker lists every site."""
    clock = SystemClock()
    until_s = clock.protocol_s() + _READY_S
    for place in places:
        while True:
            try:
                run(ready_command(plan, place))
                break
            except UnavailableError as exc:
                said = run(("docker", "logs", "--tail", "5", plan.container(place)), may_fail=True)
                if clock.protocol_s() > until_s:
                    raise UnavailableError(
                        f"{place} did not serve within {_READY_S:.0f} s: {said.strip()[-300:]}"
                    ) from exc
            sleep_blocking(_LOOK_S)
        tell(f"{plan.container(place)} serves")
    site = next(place for place in plan.places if place not in {BROKER, PREDICTOR})
    wanted = len(plan.places) - 2
    while True:
        listing = exec_command(plan.container(site), "gcos.cli.main", "sites", "ls", "-o", "name")
        if len(run(listing, may_fail=True).split()) >= wanted:
            return
        if clock.protocol_s() > until_s:
            raise UnavailableError(f"not all of {wanted} sites were listed in {_READY_S:.0f} s")
        sleep_blocking(_LOOK_S)


def _config(directory: Path, place: str) -> WanConfig:
    return codec.decode(WanConfig, (directory / place / WAN_NAME).read_bytes())
