"""What the commands of a testbed show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcos.cli.output import Output, Table
from testbed.wan import docker_cluster
from testbed.wan.artifact_flow import ArtifactFlow
from testbed.wan.cluster import Testbed
from testbed.wan.control import LinkReading
from testbed.wan.experiment import Experiment
from testbed.wan.negotiation import NegotiationReading
from testbed.wan.records import Answer, LinkChange, Verdict, timing_of
from testbed.wan.self_test import SelfTest


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process of a testbed.

    Attributes:
        name: What it is.
        pid: Its id.
        address: Where it serves; of a container, what Docker says of it.
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
        timing_of((answer,)),
    )


def container_status(directory: Path) -> TestbedStatus:
    """Return the state of a testbed in containers, which have no ids of their own here: 0."""
    return TestbedStatus(
        tuple(
            ProcessStatus(name, 0, status, is_alive=status.startswith("Up"))
            for name, status in docker_cluster.processes(directory).items()
        ),
        docker_cluster.changes_of(directory),
        timing_of(docker_cluster.answers(directory)),
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


def show_self_tests(tests: Sequence[SelfTest], out: Output) -> None:
    """Write what backends made of a link."""
    if out.is_record:
        out.record(tuple(tests))
        return
    out.table(
        Table(
            ("BACKEND", ">RTT ms", ">MEASURED", ">MB/s", ">MEASURED", ">LATE", "VERDICT"),
            tuple(
                (
                    each.backend,
                    f"{each.asked_rtt_s * 1e3:.1f}",
                    f"{each.rtt_s * 1e3:.2f}",
                    f"{each.asked_bytes_per_s / 1e6:.3g}",
                    f"{each.bytes_per_s / 1e6:.3g}",
                    "-" if each.timing is None else f"{each.timing.late_share:.2%}",
                    "VOID, too busy"
                    if each.is_void
                    else ("as asked" if each.is_true else "NOT AS ASKED"),
                )
                for each in tests
            ),
        )
    )


def show_negotiations(found: NegotiationReading, out: Output) -> None:
    """Write what negotiations took."""
    if out.is_record:
        out.record(found)
        return
    rows = (
        ("announcement to bids", found.announce_s, found.rtt_s),
        ("bids to award sent", found.judge_s, 0.0),
        ("award to acceptance", found.award_s, found.rtt_s + found.fdatasync_s),
        ("announcement to accepted award", found.p50_s, found.limit_s),
        ("task acknowledged to lease seen", found.outside_s, found.outside_limit_s),
    )
    out.table(
        Table(
            ("STEP", ">MEDIAN ms", ">DELAYS AND FDATASYNC ms"),
            tuple((name, f"{took * 1e3:.1f}", f"{limit * 1e3:.1f}") for name, took, limit in rows),
        )
    )
    out.line(
        f"{found.count} negotiations from {found.origin} to {found.winner}: "
        f"{found.over_s * 1e3:.1f} ms over the limit of their round at the median (gRPC and the "
        f"journal with nothing of ours: {found.floor_over_s * 1e3:.1f} ms), "
        f"{found.outside_over_s * 1e3:.1f} ms from outside; round trip "
        f"{found.rtt_s * 1e3:.1f} ms (asked for {found.asked_rtt_s * 1e3:.1f}), fdatasync "
        f"{found.fdatasync_s * 1e3:.2f} ms"
    )


def show_artifact_flow(found: ArtifactFlow, out: Output) -> None:
    """Write how fast artifacts came."""
    if out.is_record:
        out.record(found)
        return
    out.line(
        f"{found.count} artifacts of {found.size_bytes / 1e6:g} MB from {found.holder} to "
        f"{found.taker}: {found.artifact_bytes_per_s / 1e6:.3g} MB/s at the median, fetched, "
        f"verified and published; one connection over the bare link "
        f"{found.link_bytes_per_s / 1e6:.3g} MB/s (asked for "
        f"{found.asked_bytes_per_s / 1e6:.3g}): ratio {found.link_ratio:.2f}"
    )


def show_experiment(experiment: Experiment, out: Output) -> None:
    """Write what became of the jobs."""
    if out.is_record:
        out.record(experiment)
        return
    out.table(experiment_table(experiment))
    out.line(_verdict(experiment))
    for run in experiment.runs:
        if run.timing.is_void:
            out.line(
                f"{run.policy}: links were late ({run.timing.late_share:.1%} of deliveries); its "
                "times say nothing about distance"
            )


def _verdict(experiment: Experiment) -> str:
    if not all(run.is_whole for run in experiment.runs):
        return "NOT every acknowledged job ended in one terminal state."
    told = "Every acknowledged job ended in one terminal state"
    changed = sum(len(run.changed_decisions) for run in experiment.runs)
    if changed:
        return f"{told}, but {changed} DECISIONS came out otherwise when they were made again."
    if not any(run.decision_count for run in experiment.runs):
        return f"{told}."
    return f"{told}, and every recorded decision came out alike when it was made again."


def experiment_table(experiment: Experiment) -> Table:
    """Return a row for each policy."""
    return Table(
        (
            *("POLICY", ">JOBS", ">TAKEN", "ENDED AS", ">NOT ENDED", ">CHANGED"),
            *(">DECISIONS ALIKE", ">COST $", ">CO2 g", ">WAIT s", ">LATE", "RAN AT"),
        ),
        tuple(
            (
                run.policy,
                str(run.submitted),
                str(run.acknowledged),
                ", ".join(f"{count} {state}" for state, count in sorted(run.states.items())),
                str(run.unended),
                str(run.changed),
                f"{run.decision_count - len(run.changed_decisions)}/{run.decision_count}",
                f"{run.cost_usd:.4g}",
                f"{run.carbon_gco2:.4g}",
                f"{run.mean_wait_s:.1f}",
                f"{run.timing.late_share:.1%}" + (" VOID" if run.timing.is_void else ""),
                ", ".join(f"{site} {count}" for site, count in run.sites.items()),
            )
            for run in experiment.runs
        ),
        optional=("RAN AT", ">LATE", ">DECISIONS ALIKE"),
    )


def experiment_markdown(experiment: Experiment) -> str:
    """Return the report as Markdown."""
    table = experiment_table(experiment)
    parted = " and ".join(experiment.mishaps.parted)
    rows = [[column.removeprefix(">") for column in table.columns], ["---"] * len(table.columns)]
    rows += [list(row) for row in table.rows]
    return "\n".join(
        [
            f"# {experiment.jobs} jobs over the regions of {experiment.scenario}",
            "",
            (
                f"After a quarter of the jobs nothing passed between {parted}; after half of them "
                f"the agent of {experiment.mishaps.killed} was killed; after three quarters both "
                "were as before. Waits are world seconds. What became of each acknowledged job was "
                "asked of the site that owns it, until all had ended and once more. Jobs are equal "
                "and short: costs compare policies on this run alone."
            ),
            "",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
            _verdict(experiment),
            "",
        ]
    )
