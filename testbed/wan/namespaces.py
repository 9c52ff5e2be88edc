"""Two network namespaces with a cable between them, which are gone when their block ends.

Needs root and `ip` of iproute2. Names have a random part, so that two runs never meet; deleting a
namespace takes its interfaces, queues and rules with it.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gcos.errors import UnavailableError
from gcos.system import unique_text
from testbed.wan.kernel_links import Command, netem_probe

#: Inside the namespaces alone, so that nothing of the machine can be shadowed.
ADDRESSES: Final = ("10.231.7.1", "10.231.7.2")
INTERFACE: Final = "eth0"
PREFIX: Final = "gcos-wan-"
_TIMEOUT_S: Final = 20.0


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
        return ("ip", "netns", "exec", self.name, *command)

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
        done = subprocess.run(
            list(command), check=False, capture_output=True, text=True, timeout=_TIMEOUT_S
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
            run(("ip", "netns", "add", each.name))
            stack.callback(run, ("ip", "netns", "del", each.name), may_fail=True)
        # Made inside, so that no interface of the machine is ever called like it.
        near.run(
            ("ip", "link", "add", INTERFACE, "type", "veth", "peer", INTERFACE, "netns", far.name)
        )
        for each in (near, far):
            each.run(("ip", "address", "add", f"{each.address}/24", "dev", INTERFACE))
            each.run(("ip", "link", "set", INTERFACE, "up"))
            each.run(("ip", "link", "set", "lo", "up"))
        yield near, far


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
    add, remove = netem_probe(INTERFACE)
    try:
        namespace.run(add)
    except UnavailableError:
        return False
    namespace.run(remove)
    return True
