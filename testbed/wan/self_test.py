"""What a backend makes of a link that is asked for: round-trip time, rate, lateness.

Every backend is measured alike, by TCP echo and a flow, `testbed.relay.read_link`. In the kernel
both ends are in network namespaces made for it.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gcos.errors import InvalidRequestError, UnavailableError
from testbed.lateness import Lateness
from testbed.relay import Lane, Relay, RelayReading, echoing, read_link
from testbed.timekeeping import keep_time, run_fine
from testbed.wan.control import RATE_ERROR_MAX, RTT_ERROR_MAX_S
from testbed.wan.kernel_links import KernelLink, netem_commands, queue_commands, rate_commands
from testbed.wan.namespaces import INTERFACE, Namespace, has_netem, two_namespaces
from testbed.wan.records import LaneReading, Verdict, verdict

#: Best first: netem keeps time in the kernel, NFQUEUE keeps TCP whole, a relay needs no root.
BACKENDS: Final = ("netem", "nfqueue", "relay")
_PORT: Final = 7900
_FLOW_S: Final = 2.0
_START_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class SelfTest:
    """A link as asked for and as a backend made it.

    Attributes:
        backend: What carried it.
        asked_rtt_s: Round-trip time asked for.
        rtt_s: Median measured by TCP echo.
        asked_bytes_per_s: Rate asked for.
        bytes_per_s: Throughput of one connection, headers not counted.
        timing: Whether deliveries kept their time; None: the kernel keeps it and does not tell.
        is_true: Within 1 ms and 5 %.
    """

    backend: str
    asked_rtt_s: float
    rtt_s: float
    asked_bytes_per_s: float
    bytes_per_s: float
    timing: Verdict | None
    is_true: bool

    @property
    def is_void(self) -> bool:
        """Whether time was kept too badly for the figures to mean anything."""
        return self.timing is not None and self.timing.is_void


def self_test(backend: str, *, rtt_s: float, bytes_per_s: float) -> SelfTest:
    """Measure a backend on a link of its own, which is gone when this returns.

    Raises:
        InvalidRequestError: There is no such backend.
        UnavailableError: It cannot be used here; the message says why.
    """
    lateness: list[Lateness]
    if backend == "relay":
        reading, lateness = run_fine(_relayed(rtt_s, bytes_per_s))
    elif backend in BACKENDS:
        with _kernel_link(backend, rtt_s, bytes_per_s) as (near, far, lateness):
            reading = _read_between(near, far, int(bytes_per_s * _FLOW_S))
    else:
        raise InvalidRequestError(
            f"{backend!r} is no backend", field="backend", hint=f"there are {', '.join(BACKENDS)}"
        )
    lanes = [LaneReading("a", "b", tuple(each.counts), worst_s=each.worst_s) for each in lateness]
    return SelfTest(
        backend=backend,
        asked_rtt_s=rtt_s,
        rtt_s=reading.rtt_s,
        asked_bytes_per_s=bytes_per_s,
        bytes_per_s=reading.bytes_per_s,
        timing=verdict(lanes) if lanes else None,
        is_true=abs(reading.rtt_s - rtt_s) <= RTT_ERROR_MAX_S
        and abs(reading.bytes_per_s / bytes_per_s - 1) <= RATE_ERROR_MAX,
    )


async def _relayed(rtt_s: float, bytes_per_s: float) -> tuple[RelayReading, list[Lateness]]:
    there, back = (Lane(bytes_per_s, rtt_s / 2) for _ in range(2))
    async with echoing() as target, Relay(target, there=there, back=back) as relay:
        reading = await read_link(relay.address, flow_bytes=int(bytes_per_s * _FLOW_S))
    return reading, [there.lateness, back.lateness]


@contextlib.contextmanager
def _kernel_link(
    backend: str, rtt_s: float, bytes_per_s: float
) -> Iterator[tuple[Namespace, Namespace, list[Lateness]]]:
    """Give two namespaces with the link between them; lateness is known when the block ends."""
    late: list[Lateness] = []
    with two_namespaces() as (near, far), contextlib.ExitStack() as stack:
        if backend == "netem" and not has_netem(near):
            raise UnavailableError("this kernel has no netem", hint="use nfqueue or relay")
        for each in (near, far):
            link = KernelLink(each.peer, number=1, delay_s=rtt_s / 2, bytes_per_s=bytes_per_s)
            make = netem_commands if backend == "netem" else rate_commands
            for command in make(INTERFACE, [link]):
                each.run(command)
            if backend == "nfqueue":
                stack.enter_context(_queueing(each, link, late))
                for command in queue_commands(INTERFACE, [link]):
                    each.run(command)
        yield near, far, late


@contextlib.contextmanager
def _queueing(each: Namespace, link: KernelLink, late: list[Lateness]) -> Iterator[None]:
    module = ("testbed.wan.nfqueue", f"{link.number}:{link.delay_s}")
    with _process(each, module) as child:
        yield
        child.terminate()
        said, _ = child.communicate(timeout=_START_S)
        document = json.loads(said)
        late.append(Lateness(document["counts"], document["worst_s"]))


def _read_between(near: Namespace, far: Namespace, flow_bytes: int) -> RelayReading:
    me = "testbed.wan.self_test"
    with _process(far, (me, "serve", far.address)):
        said = near.run(
            (sys.executable, "-P", "-m", me, "read", f"{far.address}:{_PORT}", str(flow_bytes))
        )
    return RelayReading(**json.loads(said))


@contextlib.contextmanager
def _process(each: Namespace, arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """Give a process in a namespace that has said that it is ready; it ends with the block."""
    child = subprocess.Popen(
        each.command((sys.executable, "-P", "-m", *arguments)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None, "it was asked for"
        if child.stdout.readline() != "ready\n":
            _, complaint = child.communicate(timeout=_START_S)
            last = complaint.strip().splitlines()[-1:] or ["nothing"]
            raise UnavailableError(f"{arguments[0]} did not start: {last[0]}")
        yield child
    finally:
        child.kill()
        child.communicate()


async def _serve(host: str) -> None:
    async with echoing(host, _PORT):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def _read(address: str, flow_bytes: int) -> None:
    reading = await read_link(address, flow_bytes=flow_bytes)
    said = {"rtt_s": reading.rtt_s, "bytes_per_s": reading.bytes_per_s}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    keep_time()
    if sys.argv[1] == "serve":
        asyncio.run(_serve(sys.argv[2]))
    else:
        asyncio.run(_read(sys.argv[2], int(sys.argv[3])))
