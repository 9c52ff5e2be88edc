"""What the demo found, from the ledger: a row for each job, totals, and the predictor's error."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from gcos.accounting import BYTES_PER_GB, G_PER_KG, Charge, CostScope
from gcos.client_records import Scales
from gcos.ledger import LedgerEntry, Savings, savings
from gcos.task_record import Task
from gcos.tasks import TaskState, WorkKind

#: Runs at either end that show how the predictor learns.
LEARNING_COUNT: Final = 5
#: How many runs had ended, in words, and at most.
KNOWN_GROUPS: Final = (("none", 0.0), ("1 to 4", 4.0), ("5 to 9", 9.0), ("10 or more", math.inf))
#: From here on the table of jobs has all its columns; the narrow one fits 80.
WIDE_COLUMNS: Final = 118

KIND_WORDS: Final = {
    WorkKind.FINE_TUNE: "fine-tune",
    WorkKind.BATCH_INFERENCE: "inference",
    WorkKind.EVALUATION: "evaluation",
    WorkKind.CUSTOM: "custom",
}
SHORT_KIND_WORDS: Final = KIND_WORDS | {
    WorkKind.FINE_TUNE: "tune",
    WorkKind.BATCH_INFERENCE: "infer",
    WorkKind.EVALUATION: "eval",
}
SCOPE_WORDS: Final = {
    CostScope.OPERATOR: "electricity, egress and late penalties; GPU hours are not counted",
    CostScope.WITH_GPU_HOURS: "electricity, egress, late penalties and GPU hours",
}
YARDSTICK: Final = (
    "the same measured run times, each job by itself at its origin at the moment of submission: "
    "no queueing, and what was not there then fetched from the cheapest holder, anew for each job"
)


@dataclass(frozen=True, slots=True)
class JobResult:
    """One job, with what its attempts cost together.

    Attributes:
        name: Its name.
        task: The task as it ended.
        entries: Its ledger entries, oldest first.
    """

    name: str
    task: Task
    entries: tuple[LedgerEntry, ...]

    @property
    def is_success(self) -> bool:
        """It ended well."""
        return self.task.state is TaskState.SUCCEEDED

    @property
    def last(self) -> LedgerEntry | None:
        """The attempt that ended it; None: it never had one."""
        return self.entries[-1] if self.entries else None

    @property
    def totals(self) -> Savings:
        """What it cost, and would have cost at its origin."""
        return savings(self.entries)

    @property
    def run_s(self) -> float:
        """World seconds that the last attempt ran."""
        last = self.last
        return 0.0 if last is None or last.started_s is None else last.ended_s - last.started_s

    @property
    def wait_s(self) -> float:
        """World seconds from the submission to the last attempt's start."""
        last = self.last
        if last is None or last.started_s is None:
            return 0.0
        return last.started_s - self.task.submitted_s

    @property
    def is_late(self) -> bool | None:
        """Whether it missed its deadline; None without one."""
        if self.task.spec.deadline_s is None:
            return None
        return self.last is None or self.last.late_s > 0 or not self.is_success

    @property
    def quotient(self) -> float | None:
        """q-error of the predicted median: the larger of predicted and run over the smaller."""
        predicted = self.predicted_s
        if predicted is None or not self.run_s > 0:
            return None
        return max(predicted / self.run_s, self.run_s / predicted)

    @property
    def predicted_s(self) -> float | None:
        """Predicted median of the run time on the pool that ran it, world seconds."""
        last = self.last
        if last is None:
            return None
        found = [p for p in self.task.predictions if p.pool_type == last.pool_type]
        return found[0].run_time.p50_s if found else None


@dataclass(frozen=True, slots=True)
class DemoReport:
    """All that the demo shows at its end.

    Attributes:
        jobs: Every job, in the order of submission.
        scales: How the world was scaled.
        token_ratio: World tokens that one processed token stands for.
        wall_s: Wall seconds from the first submission to the last end.
    """

    jobs: tuple[JobResult, ...]
    scales: Scales
    token_ratio: int
    wall_s: float

    @property
    def entries(self) -> list[LedgerEntry]:
        """All ledger entries."""
        return [entry for job in self.jobs for entry in job.entries]

    @property
    def totals(self) -> Savings:
        """What everything cost, and would have cost at the origins."""
        return savings(self.entries)

    @property
    def scope(self) -> CostScope:
        """Which items are cost; the same at all sites of the demo."""
        return self.entries[0].scope if self.entries else CostScope.OPERATOR

    @property
    def carbon_price_usd_per_kg(self) -> float:
        """Lambda; the same at all sites of the demo."""
        return self.entries[0].carbon_price_usd_per_kg if self.entries else 0.0

    @property
    def is_success(self) -> bool:
        """Every job succeeded."""
        return all(job.is_success for job in self.jobs)

    def learning(self) -> tuple[float, float] | None:
        """Return the median q-error of the first and of the last runs to end; None: too few."""
        ended = sorted(
            (job.last.ended_s, job.quotient)
            for job in self.jobs
            if job.last is not None and job.quotient is not None
        )
        quotients = [quotient for _, quotient in ended]
        if len(quotients) < 2 * LEARNING_COUNT:
            return None
        return median(quotients[:LEARNING_COUNT]), median(quotients[-LEARNING_COUNT:])

    def learning_by_known(self) -> list[tuple[str, int, float]]:
        """Return the median q-error by how many runs had ended when a job was submitted.

        A job that waits was predicted long before it ends, so that the order of ends alone says
        little about what was known.

        Returns:
            Words for how many, jobs, and their median q-error; groups without jobs are left out.
        """
        ends = sorted(job.last.ended_s for job in self.jobs if job.last is not None)
        quotients: dict[str, list[float]] = {words: [] for words, _ in KNOWN_GROUPS}
        for job in self.jobs:
            if job.quotient is None:
                continue
            known = bisect_left(ends, job.task.submitted_s)
            words = next(words for words, most in KNOWN_GROUPS if known <= most)
            quotients[words].append(job.quotient)
        return [(words, len(found), median(found)) for words, found in quotients.items() if found]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render for a terminal of 80 columns or more."""
        del console
        is_wide = options.max_width >= WIDE_COLUMNS
        yield job_table(self.jobs, is_wide=is_wide)
        yield Text()
        yield Text(headline(self), style="bold")
        yield Text()
        yield total_table(self)
        for title, text in notes(self):
            yield Text()
            yield Text.assemble((f"{title}  ", "bold"), text)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the table of jobs: title, cell, where it is shown, and how."""

    title: str
    cell: Callable[[JobResult], str]
    in_narrow: bool = True
    in_wide: bool = True
    is_number: bool = False
    width_max: int | None = None


def job_table(jobs: Sequence[JobResult], *, is_wide: bool) -> Table:
    """Return a row for each job; the narrow table fits 80 columns."""
    columns = [column for column in _COLUMNS if (column.in_wide if is_wide else column.in_narrow)]
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.is_number else "left",
            max_width=None if is_wide else column.width_max,
            no_wrap=True,
            overflow="ellipsis",
        )
    for job in jobs:
        style = "" if job.is_success and not job.is_late else "yellow" if job.is_success else "red"
        table.add_row(*(column.cell(job) for column in columns), style=style)
    return table


def total_table(report: DemoReport) -> Table:
    """Return totals beside those of the yardstick."""
    scope, price = report.scope, report.carbon_price_usd_per_kg
    items: list[tuple[str, Callable[[Charge], float], str]] = [
        ("cost, $", lambda c: c.cost_usd(scope), ".2f"),
        ("  electricity", lambda c: c.energy_usd, ".2f"),
        ("  egress", lambda c: c.transfer_usd, ".2f"),
        ("  late penalties", lambda c: c.penalty_usd, ".2f"),
    ]
    if scope is CostScope.WITH_GPU_HOURS:
        items.append(("  GPU hours", lambda c: c.gpu_usd, ".2f"))
    items += [
        ("carbon, kg CO2", lambda c: c.carbon_gco2 / G_PER_KG, ".2f"),
        ("  computing", lambda c: c.compute_gco2 / G_PER_KG, ".2f"),
        ("  network", lambda c: c.network_gco2 / G_PER_KG, ".2f"),
        (f"J = cost + {price:g} $/kg x carbon, $", lambda c: c.joint_usd(scope, price), ".2f"),
        ("energy, kWh", lambda c: c.energy_kwh, ".1f"),
        ("moved, GB", lambda c: c.transfer_bytes / BYTES_PER_GB, ".1f"),
    ]
    totals = report.totals
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for title in ("total", "GCOS", "at origin at once", "saved", ""):
        table.add_column(title, justify="left" if title == "total" else "right", no_wrap=True)
    for title, value, form in items:
        spent, at_origin = value(totals.spent), value(totals.at_origin)
        is_main = not title.startswith(" ")
        share = f"{100 * (at_origin - spent) / at_origin:.0f} %" if at_origin > 0 else ""
        table.add_row(
            title,
            *(_number(number, form) for number in (spent, at_origin, at_origin - spent)),
            share if is_main else "",
            style="bold" if is_main else "",
        )
    return table


def headline(report: DemoReport) -> str:
    """Return the result in one sentence."""
    totals, scope = report.totals, report.scope

    def change(value: Callable[[Charge], float]) -> str:
        before = value(totals.at_origin)
        if not before > 0:
            return "as much"
        percent = 100 * (value(totals.spent) - before) / before
        return f"{abs(percent):.0f} % {'less' if percent <= 0 else 'more'}"

    carbon = change(lambda charge: charge.carbon_gco2)
    cost = change(lambda charge: charge.cost_usd(scope))
    return (
        f"{carbon} carbon and {cost} cost (scope {scope.value}) than running each job at its "
        f"origin at once."
    )


def notes(report: DemoReport) -> list[tuple[str, str]]:
    """Return what one must know to read the tables, as titles and sentences."""
    with_deadline = [job for job in report.jobs if job.is_late is not None]
    met = sum(not job.is_late for job in with_deadline)
    found = [
        ("Deadlines", f"{met} of {len(with_deadline)} met; {_count_without(report)} had none."),
        ("At origin at once", f"{YARDSTICK[0].upper()}{YARDSTICK[1:]}."),
        ("Cost", f"Scope {report.scope.value}: {SCOPE_WORDS[report.scope]}."),
        ("Energy and carbon", _energy_note(report)),
        ("Scales", scales_text(report)),
    ]
    learning = report.learning()
    if learning is not None:
        first, last = learning
        text = (
            f"Run times were off by a factor of {first:.2f} in the first {LEARNING_COUNT} jobs to "
            f"end and of {last:.2f} in the last {LEARNING_COUNT} (median q-error). By runs that "
            "had ended when a job was submitted: "
            + ", ".join(
                f"{words} {error:.2f} ({count} jobs)"
                for words, count, error in report.learning_by_known()
            )
            + "."
        )
        found.append(("Predictor", text))
    return found


def scales_text(report: DemoReport) -> str:
    """Return the scales of the demo in one sentence."""
    return (
        f"1 s on the wall is {report.scales.speed_ratio / 60:g} min of world time, 1 stored byte "
        f"stands for {report.scales.byte_ratio:g}, 1 token processed for {report.token_ratio:,}; "
        f"all figures above are the world's. It took {report.wall_s:.0f} s on the wall."
    )


def json_document(report: DemoReport) -> dict[str, object]:
    """Return the report as JSON values; units end the names."""
    scope, price = report.scope, report.carbon_price_usd_per_kg
    learning = report.learning()
    return {
        "definitions": {
            "at_origin": YARDSTICK,
            "cost": f"scope {scope.value}: {SCOPE_WORDS[scope]}",
            "joint_usd": f"cost + {price:g} $/kg x carbon",
            "energy": _energy_note(report),
            "q_error": "the larger of predicted median and measured run time over the smaller",
        },
        "scales": {
            "speed_ratio": report.scales.speed_ratio,
            "byte_ratio": report.scales.byte_ratio,
            "token_ratio": report.token_ratio,
        },
        "wall_s": round(report.wall_s, 3),
        "jobs": [_job_document(job) for job in report.jobs],
        "totals": {
            "scope": scope.value,
            "carbon_price_usd_per_kg": price,
            "spent": _charge_document(report.totals.spent, scope, price),
            "at_origin": _charge_document(report.totals.at_origin, scope, price),
        },
        "predictor": None
        if learning is None
        else {
            "runs_count": LEARNING_COUNT,
            "first_q_error_ratio": learning[0],
            "last_q_error_ratio": learning[1],
            "by_runs_known": [
                {"runs_known": words, "jobs_count": count, "q_error_ratio": error}
                for words, count, error in report.learning_by_known()
            ],
        },
    }


def _job_document(job: JobResult) -> dict[str, object]:
    spec, last, totals = job.task.spec, job.last, job.totals
    scope = CostScope.OPERATOR if last is None else last.scope
    price = 0.0 if last is None else last.carbon_price_usd_per_kg
    return {
        "name": job.name,
        "task_id": job.task.task_id,
        "kind": spec.work.kind.value,
        "model": spec.model,
        "data": list(spec.data),
        "origin": job.task.origin,
        "site": None if last is None else last.site_id,
        "pool_type": None if last is None else last.pool_type,
        "state": job.task.state.value,
        "reason": job.task.reason.value,
        "attempts_count": len(job.entries),
        "submitted_s": job.task.submitted_s,
        "started_s": None if last is None else last.started_s,
        "ended_s": job.task.ended_s,
        "deadline_s": spec.deadline_s,
        "is_late": job.is_late,
        "wait_s": job.wait_s,
        "run_s": job.run_s,
        "predicted_s": job.predicted_s,
        "spent": _charge_document(totals.spent, scope, price),
        "at_origin": _charge_document(totals.at_origin, scope, price),
    }


def _charge_document(
    charge: Charge, scope: CostScope, carbon_price_usd_per_kg: float
) -> dict[str, object]:
    return {
        "cost_usd": charge.cost_usd(scope),
        "energy_usd": charge.energy_usd,
        "transfer_usd": charge.transfer_usd,
        "storage_usd": charge.storage_usd,
        "penalty_usd": charge.penalty_usd,
        "gpu_usd": charge.gpu_usd,
        "carbon_gco2": charge.carbon_gco2,
        "compute_gco2": charge.compute_gco2,
        "network_gco2": charge.network_gco2,
        "joint_usd": charge.joint_usd(scope, carbon_price_usd_per_kg),
        "energy_kwh": charge.energy_kwh,
        "transfer_bytes": charge.transfer_bytes,
    }


def _energy_note(report: DemoReport) -> str:
    entries = report.entries
    is_measured = bool(entries) and all(entry.is_energy_measured for entry in entries)
    how = (
        "Energy is measured by the hardware."
        if is_measured
        else "Energy is modelled, not measured: power of the site's GPU type x PUE x run time."
    )
    unknown = sum(not entry.is_carbon_known for entry in entries)
    gap = f" Carbon was unknown for {unknown} runs and counts as 0 there." if unknown else ""
    return (
        f"{how} Price and carbon are typical days of each site's zone, from the shipped tables."
        f"{gap} Jobs compute on this machine's cores, equally fast at every site."
    )


def _count_without(report: DemoReport) -> int:
    return sum(job.is_late is None for job in report.jobs)


def _number(value: float, form: str) -> str:
    text = f"{value:{form}}"
    return text.removeprefix("-") if float(text) == 0 else text  # no -0.00


def clock_text(world_s: float | None) -> str:
    """Return a world instant as hours and minutes, UTC."""
    return "-" if world_s is None else f"{datetime.fromtimestamp(world_s, UTC):%H:%M}"


def hours_text(duration_s: float) -> str:
    """Return a duration as h:mm."""
    minutes = round(max(0.0, duration_s) / 60)
    return f"{minutes // 60}:{minutes % 60:02d}"


def _in_time(job: JobResult) -> str:
    if not job.is_success:
        return job.task.state.value.lower()
    if job.is_late is None:
        return "-"
    return f"late {hours_text(job.entries[-1].late_s)}" if job.is_late else "yes"


def _cost(job: JobResult, charge: Charge) -> str:
    scope = CostScope.OPERATOR if job.last is None else job.last.scope
    return f"{charge.cost_usd(scope):.3f}"


def _route(job: JobResult) -> str:
    site = "-" if job.last is None else job.last.site_id
    return f"{job.task.origin}→{site}"


_COLUMNS: Final = (
    _Column("job", lambda job: job.name),
    _Column("kind", lambda job: KIND_WORDS[job.task.spec.work.kind], in_narrow=False),
    _Column("kind", lambda job: SHORT_KIND_WORDS[job.task.spec.work.kind], in_wide=False),
    _Column("model", lambda job: job.task.spec.model or "-", in_narrow=False),
    _Column(
        "model",
        lambda job: (job.task.spec.model or "-").removeprefix("tiny-lm-"),
        in_wide=False,
    ),
    _Column("data", lambda job: ", ".join(job.task.spec.data) or "-", width_max=12),
    _Column("from→at", _route),
    _Column("start", lambda job: clock_text(None if job.last is None else job.last.started_s)),
    _Column("wait", lambda job: hours_text(job.wait_s), is_number=True),
    _Column("run", lambda job: hours_text(job.run_s), is_number=True),
    _Column(
        "GB",
        lambda job: f"{job.totals.spent.transfer_bytes / BYTES_PER_GB:.1f}",
        is_number=True,
    ),
    _Column("cost $", lambda job: _cost(job, job.totals.spent), is_number=True),
    _Column(
        "$ at origin",
        lambda job: _cost(job, job.totals.at_origin),
        is_number=True,
        in_narrow=False,
    ),
    _Column("CO2 g", lambda job: f"{job.totals.spent.carbon_gco2:.0f}", is_number=True),
    _Column(
        "g at origin",
        lambda job: f"{job.totals.at_origin.carbon_gco2:.0f}",
        is_number=True,
        in_narrow=False,
    ),
    _Column("in time", _in_time),
)
