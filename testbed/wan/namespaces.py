"""Network namespaces: those of a testbed, and two with a cable between them for a self-test.

Needs root and `ip` of iproute2. Names have a random part, so that two runs never meet; deleting a
namespace takes its interfaces, queues and rules with it.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from gcos.errors import UnavailableError
from gcos.system import SystemClock, sleep_blocking, unique_text
from testbed.wan.kernel_links import SETTINGS, Command, netem_probe, queue_probe
from testbed.wan.records import Carrier, WanPlace

#: Inside the namespaces alone, so that nothing of the machine can be shadowed.
ADDRESSES: Final = ("10.231.7.1", "10.231.7.2")
INTERFACE: Final = "eth0"
PREFIX: Final = "gcos-wan-"
_TIMEOUT_S: Final = 20.0
#: Protocol seconds after SIGKILL: only a process in uninterruptible sleep takes longer.
_KILL_WAIT_S: Final = 5.0
_LOOK_S: Final = 0.02
_BRIDGE: Final = "bridge"
_NAMESPACES: Final = Path("/run/netns")
_SETTINGS: Final = Path("/proc/sys")
_CLONE_NEWNET: Final = 0x40000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace.

    Attributes:
        name: As `ip netns` knows it.
        address: Its own address, at `INTERFACE`.
        peer: The address of the other.
    """

    name: str
    address: str
    peer: str

    def command(self, command: Sequence[str]) -> Command:
        """Return a command that runs in it."""
        return in_namespace(self.name, command)

    def run(self, command: Sequence[str], *, may_fail: bool = False) -> str:
        """Run a command in it and return what it wrote.

        Raises:
            UnavailableError: It failed.
        """
        return run(self.command(command), may_fail=may_fail)


def run(command: Sequence[str], *, may_fail: bool = False) -> str:
    """Run a command and return what it wrote to stdout.

    Raises:
        UnavailableError: It is not installed, failed, or did not end in time.
    """
    try:
        # In a session of its own: Ctrl-C must not end what removes things.
        done = subprocess.run(
            list(command),
            check=False,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise UnavailableError(f"{' '.join(command)}: {exc}") from exc
    if done.returncode and not may_fail:
        raise UnavailableError(
            f"{' '.join(command)} failed: {' '.join((done.stderr or done.stdout).split())}",
            hint="links in the kernel need root, iproute2 and iptables",
        )
    return done.stdout


@contextlib.contextmanager
def two_namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    """Give two namespaces whose interfaces are the ends of one cable.

    Raises:
        UnavailableError: No root, or no `ip`.
    """
    stem = f"{PREFIX}{unique_text()[:8]}"
    near = Namespace(f"{stem}-a", *ADDRESSES)
    far = Namespace(f"{stem}-b", *reversed(ADDRESSES))
    with contextlib.ExitStack() as stack:
        for each in (near, far):
            # Before: we may be interrupted while it is made.
            stack.callback(run, ("ip", "netns", "del", each.name), may_fail=True)
            run(("ip", "netns", "add", each.name))
        # Made inside, so that no interface of the machine is ever called like it.
        near.run(
            ("ip", "link", "add", INTERFACE, "type", "veth", "peer", INTERFACE, "netns", far.name)
        )
        for each in (near, far):
            each.run(("ip", "address", "add", f"{each.address}/24", "dev", INTERFACE))
            each.run(("ip", "link", "set", INTERFACE, "up"))
            each.run(("ip", "link", "set", "lo", "up"))
        yield near, far


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """Have this thread in a network namespace: sockets that are made meanwhile belong there.

    Args:
        name: As `ip netns` knows it; empty: where we are.

    Raises:
        UnavailableError: It is not there, or we are not root.
    """
    if not name:
        yield
        return
    with open("/proc/thread-self/ns/net", "rb") as here:  # noqa: PTH123  a link that is no path
        try:
            with (_NAMESPACES / name).open("rb") as there:
                _enter(there.fileno())
        except OSError as exc:
            raise UnavailableError(f"network namespace {name} cannot be entered: {exc}") from exc
        try:
            yield
        finally:
            _enter(here.fileno())


def _enter(descriptor: int) -> None:
    # os.setns came with Python 3.12.
    if _LIBC.setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def in_namespace(name: str, command: Sequence[str]) -> Command:
    """Return the command that runs another in a namespace; empty: where we are."""
    return ("ip", "netns", "exec", name, *command) if name else tuple(command)


def make_network(places: Sequence[WanPlace], hub: str) -> None:
    """Make the namespaces of all places, each with a cable to a bridge in a namespace of its own.

    Nothing of it is in the machine's own network.

    Raises:
        UnavailableError: No root, no `ip`, or a name is taken.
    """
    run(("ip", "netns", "add", hub))
    run(in_namespace(hub, ("ip", "link", "add", _BRIDGE, "type", "bridge")))
    run(in_namespace(hub, ("ip", "link", "set", _BRIDGE, "up")))
    for number, place in enumerate(places):
        name = place.namespace
        run(("ip", "netns", "add", name))
        cable = f"cable{number}"
        ends = ("type", "veth", "peer", INTERFACE, "netns", name)
        run(in_namespace(hub, ("ip", "link", "add", cable, *ends)))
        run(in_namespace(hub, ("ip", "link", "set", cable, "master", _BRIDGE, "up")))
        own = f"{place.address}/24"
        run(in_namespace(name, ("ip", "address", "add", own, "dev", INTERFACE)))
        for interface in (INTERFACE, "lo"):
            run(in_namespace(name, ("ip", "link", "set", interface, "up")))
        with inside(name):
            for setting, value in SETTINGS.items():
                (_SETTINGS / setting.replace(".", "/")).write_text(value, encoding="ascii")


def stem_of(directory: Path) -> str:
    """Return what names of a testbed's namespaces begin with: they are found without any file."""
    return f"{PREFIX}{sha256(bytes(directory)).hexdigest()[:8]}"


def remove(stem: str) -> int:
    """End what runs in the namespaces of a testbed, remove them with all in them, and count them.

    Args:
        stem: What `stem_of` returned.
    """
    if not _NAMESPACES.is_dir():
        return 0  # nobody ever made one
    names = [each.name for each in _NAMESPACES.iterdir() if each.name.startswith(f"{stem}-")]
    for name in names:
        _end_all_in(name)
        run(("ip", "netns", "del", name))
    return len(names)


def _end_all_in(name: str) -> None:
    """Kill what runs in a namespace, and wait for its end."""
    clock = SystemClock()
    until_s = clock.protocol_s() + _KILL_WAIT_S
    while pids := run(("ip", "netns", "pids", name), may_fail=True).split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if clock.protocol_s() >= until_s:
            return
        sleep_blocking(_LOOK_S)


def best_carrier() -> tuple[Carrier, str]:
    """Return the best that carries links between namespaces here, and why it is that."""
    reason = why_not("tc", "iptables")
    if reason:
        return Carrier.RELAY, f"the kernel cannot be used: {reason}"
    with two_namespaces() as (near, _):
        return best_inside(near.name)


def best_inside(name: str, interface: str = INTERFACE) -> tuple[Carrier, str]:
    """Return what carries links of a namespace best, and why.

    Args:
        name: Of the namespace; empty: that where we are.
        interface: One of its interfaces, to try rules on.
    """
    if _can(name, netem_probe(interface)):
        return Carrier.NETEM, "this kernel has netem"
    if _can(name, queue_probe(interface)):
        return Carrier.NFQUEUE, "this kernel has NFQUEUE, and no netem"
    return Carrier.RELAY, "the kernel lets us have neither netem nor NFQUEUE"


def _can(name: str, probe: tuple[Command, Command]) -> bool:
    do, undo = probe
    try:
        run(in_namespace(name, do))
        run(in_namespace(name, undo))
    except UnavailableError:
        return False
    return True


def why_not(*tools: str) -> str:
    """Return why namespaces with these tools cannot be used here; empty: they can."""
    missing = [tool for tool in ("ip", *tools) if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} is not installed"
    try:
        with two_namespaces():
            return ""
    except UnavailableError as exc:
        return exc.message


def has_netem(namespace: Namespace) -> bool:
    """Tell whether the kernel has netem."""
    return _can(namespace.name, netem_probe(INTERFACE))
