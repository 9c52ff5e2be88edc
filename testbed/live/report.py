"""What `gcos testbed parity` shows."""

from gcos.cli.output import Output, Table
from testbed.live.parity import Parity
from testbed.statistics import Comparison

_SHOWN_COUNT = 5


def show_parity(found: Parity, out: Output) -> None:
    """Write how alike agents and the simulator are."""
    if out.is_record:
        out.record(found)
        return
    decisions, trajectory, loop = found.decisions, found.trajectory, found.closed_loop
    out.table(
        Table(
            ("PARITY", ">ALIKE", ">OF", ">SHARE"),
            (
                _row("bids and awards made again", len(decisions.differences), decisions.total),
                _row("tasks placed", len(trajectory.differences), trajectory.task_count),
            ),
        )
    )
    for difference in (*decisions.differences, *trajectory.differences)[:_SHOWN_COUNT]:
        out.line(f"  {difference}")
    out.line(
        f"with the times of the live run, starts differ by {trajectory.start_error_s:.1f} world "
        "seconds at the median"
    )
    out.line("")
    out.table(
        Table(
            ("LIVE LESS SIMULATED, A TASK", ">MEAN", ">95 % INTERVAL"),
            (
                _compared("J $", loop.joint_usd),
                _compared("cost $", loop.cost_usd),
                _compared("CO2 kg", loop.carbon_kg),
            ),
        )
    )
    out.line(
        f"J of all {trajectory.task_count} tasks: {loop.live_joint_usd:.4g} $ live, "
        f"{loop.simulated_joint_usd:.4g} $ simulated ({found.policy}, {found.scenario}, "
        f"{found.on}, {found.speed:g} world seconds a second)"
    )
    if found.is_void:
        out.line(f"VOID: links were late ({found.late_share:.1%} of deliveries)")


def _row(what: str, difference_count: int, total: int) -> tuple[str, ...]:
    alike = total - difference_count
    return what, str(alike), str(total), f"{alike / total:.2%}" if total else "-"


def _compared(what: str, found: Comparison) -> tuple[str, ...]:
    interval = found.difference.interval
    told = "-" if interval is None else f"{interval.low:+.4g} to {interval.high:+.4g}"
    return what, f"{found.difference.mean:+.4g}", told
