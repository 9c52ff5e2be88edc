"""What the commands of a testbed show."""

from collections.abc import Sequence
from dataclasses import dataclass

from gcos.cli.output import Output, Table
from testbed.wan.cluster import Testbed
from testbed.wan.control import LinkReading
from testbed.wan.records import Answer, LinkChange, Verdict, verdict


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process of a testbed.

    Attributes:
        name: What it is.
        pid: Its id.
        address: Where it serves.
        is_alive: It executes.
    """

    name: str
    pid: int
    address: str
    is_alive: bool


@dataclass(frozen=True, slots=True)
class TestbedStatus:
    """A testbed as it is.

    Attributes:
        processes: Its processes.
        changes: What was done to links.
        timing: Whether deliveries kept their time.
    """

    processes: tuple[ProcessStatus, ...]
    changes: tuple[LinkChange, ...]
    timing: Verdict


def status_of(testbed: Testbed, answer: Answer) -> TestbedStatus:
    """Return the state of a testbed, given what its emulator says."""
    return TestbedStatus(
        tuple(
            ProcessStatus(each.name, each.pid, each.address, each.is_alive)
            for each in testbed.state.processes
        ),
        answer.changes,
        verdict(answer.lanes),
    )


def show_status(status: TestbedStatus, out: Output) -> None:
    """Write it."""
    if out.is_record:
        out.record(status)
        return
    out.table(
        Table(
            ("PROCESS", ">PID", "ADDRESS", "STATE"),
            tuple(
                (each.name, str(each.pid), each.address, "runs" if each.is_alive else "ENDED")
                for each in status.processes
            ),
        )
    )
    for change in status.changes:
        what = "cut" if change.is_cut else f"{change.factor:g} times as far"
        out.line(f"{change.src} to {change.dst}: {what}")
    timing = status.timing
    out.line(
        f"{timing.deliveries} deliveries, {timing.late_share:.2%} later than "
        f"{timing.bound_s * 1e3:g} ms, worst {timing.worst_s * 1e3:.1f} ms: "
        + ("VOID, this machine is too busy" if timing.is_void else "time is kept")
    )


def show_links(readings: Sequence[LinkReading], out: Output) -> None:
    """Write links as asked for beside what was measured."""
    if out.is_record:
        out.record(tuple(readings))
        return
    out.table(
        Table(
            ("FROM", "TO", ">RTT ms", ">MEASURED", ">MB/s", ">MEASURED", "SOURCE", "NOTE"),
            tuple(
                (
                    each.src,
                    each.dst,
                    f"{each.asked_rtt_s * 1e3:.1f}",
                    "-" if each.rtt_s is None else f"{each.rtt_s * 1e3:.1f}",
                    f"{each.asked_bytes_per_s / 1e6:.3g}",
                    "-" if each.bytes_per_s is None else f"{each.bytes_per_s / 1e6:.3g}",
                    "measured" if each.is_measured else "estimated",
                    _note(each),
                )
                for each in readings
            ),
            optional=("SOURCE",),
        )
    )


def _note(reading: LinkReading) -> str:
    if reading.is_cut:
        return "CUT"
    notes = [] if reading.is_true else ["NOT AS ASKED"]
    return ", ".join([*notes, *(["rate capped"] if reading.is_capped else [])])
