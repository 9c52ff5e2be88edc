"""What the demo shows while it runs: a live table on a terminal, lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gcos.client_records import SiteSignalsReading
from gcos.ids import SiteId
from gcos.signals import HOUR_S
from gcos.task_record import Task
from gcos.tasks import TaskState
from testbed.demo_report import KIND_WORDS, clock_text, hours_text

_SHOWN = frozenset(
    {TaskState.WAITING, TaskState.RUNNING, TaskState.SUCCEEDED}
    | {TaskState.FAILED, TaskState.CANCELLED, TaskState.REJECTED}
)


@dataclass(slots=True)
class DemoView:
    """Tells of tasks as they change.

    Attributes:
        console: Where to.
        job_count: Jobs that will come.
    """

    console: Console
    job_count: int
    _states: dict[str, TaskState] = field(default_factory=dict)
    _live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show what `update` gets until the block ends."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def update(
        self, tasks: Sequence[Task], signals: Sequence[SiteSignalsReading], *, now_s: float
    ) -> None:
        """Print what has changed and show what is.

        Args:
            tasks: All tasks so far.
            signals: Price and carbon of each site.
            now_s: World instant.
        """
        changed = []
        for task in tasks:
            if self._states.get(task.task_id) is not task.state and task.state in _SHOWN:
                changed.append((_instant_s(task, now_s=now_s), task.spec.name, task))
            self._states[task.task_id] = task.state
        for at_s, _, task in sorted(changed, key=lambda change: change[:2]):
            # A line too long for the terminal is cut; a file has room for all of it.
            is_cut = self.console.is_terminal
            overflow: OverflowMethod = "ellipsis" if is_cut else "ignore"
            event = _event(task, at_s=at_s)
            self.console.print(event, no_wrap=True, overflow=overflow, crop=is_cut)
        if self._live is not None:
            self._live.update(self._picture(tasks, signals, now_s=now_s), refresh=True)

    def _picture(
        self, tasks: Sequence[Task], signals: Sequence[SiteSignalsReading], *, now_s: float
    ) -> RenderableType:
        done = sum(task.state.is_terminal for task in tasks)
        waiting = sum(task.state is TaskState.WAITING for task in tasks)
        head = Text.assemble(
            (f"{clock_text(now_s)} UTC", "bold"),
            f"   {len(tasks)} of {self.job_count} jobs submitted, {done} ended, "
            f"{waiting} wait for a greener start",
        )
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for title in ("site", "gCO2/kWh", "$/kWh", "running", "next"):
            is_number = "/" in title
            table.add_column(title, justify="right" if is_number else "left", no_wrap=True)
        for reading in signals:
            table.add_row(*_site_row(reading, tasks, now_s=now_s))
        return Group(Text(), head, table)


def _site_row(
    reading: SiteSignalsReading, tasks: Sequence[Task], *, now_s: float
) -> tuple[str, str, str, str, str]:
    hour = max(0, int((now_s - reading.price.start_s) // HOUR_S))

    def value(values: tuple[float, ...]) -> float:
        return values[min(hour, len(values) - 1)]

    carbon = "?" if reading.carbon is None else f"{value(reading.carbon.values):.0f}"
    here = [task for task in tasks if _site_of(task) == reading.site_id]
    running = [task for task in here if task.state is TaskState.RUNNING]
    coming = [task for task in here if task.state is not TaskState.RUNNING]
    return (
        reading.site_id,
        carbon,
        f"{value(reading.price.values):.3f}",
        ", ".join(f"{task.spec.name} {task.spec.model}" for task in running) or "-",
        " ".join(task.spec.name for task in coming) or "-",
    )


def _site_of(task: Task) -> SiteId | None:
    """Return the site that a task is at or waits for; None once it has ended."""
    if task.state.is_terminal:
        return None
    return task.bid.site_id if task.bid is not None else None


def _instant_s(task: Task, *, now_s: float) -> float:
    """Return the world instant at which a task came into its state, as near as is known."""
    if task.state.is_terminal:
        return task.ended_s or now_s
    return task.started_s or now_s if task.state is TaskState.RUNNING else now_s


def _event(task: Task, *, at_s: float) -> Text:
    """Return one line about what has just happened to a task."""
    spec, bid = task.spec, task.bid
    name = f"{KIND_WORDS[spec.work.kind]} {spec.model} on {', '.join(spec.data)}"
    head = f"{clock_text(at_s)}  job {spec.name} "
    site = bid.site_id if bid is not None else "?"
    route = f"{task.origin:>3} → {site:<3}  "
    if task.state is TaskState.WAITING and bid is not None:
        until = f"until {clock_text(bid.start_s)}: "
        return Text.assemble(head, ("waits   ", "cyan"), route, until, name)
    if task.state is TaskState.RUNNING:
        return Text.assemble(head, ("starts  ", "blue"), route, name)
    if task.state is TaskState.SUCCEEDED and task.report is not None:
        ran = f"after {hours_text(task.report.run_s)} h"
        return Text.assemble(head, ("done    ", "green"), route, ran)
    return Text.assemble(head, (task.state.value.lower(), "red"), f": {task.message}")
