"""How a task came to be where it is, as tables. Pure."""

from gcos.cli.output import Table
from gcos.cli.quantities import NOTHING, duration, gigabytes, instant, significant
from gcos.client_records import Explanation
from gcos.contract_net import Bid, Report
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import TaskState


def events(told: Explanation, *, now_s: float) -> Table:
    """Return one row for each event."""
    return Table(
        ("WHEN", "EVENT", "SITE", ">ATTEMPT", "REASON", "WHAT"),
        tuple(
            (
                instant(event.at_s, now_s),
                event.kind,
                event.site_id or NOTHING,
                str(event.attempt) if event.attempt else NOTHING,
                NOTHING if event.reason is None else event.reason.value,
                event.message,
            )
            for event in told.events
        ),
        optional=("REASON", ">ATTEMPT"),
    )


def last_auction(told: Explanation) -> TaskEvent | None:
    """Return the latest announcement that was answered; None before."""
    auctions = [event for event in told.events if event.kind == "auction_closed"]
    return auctions[-1] if auctions else None


def offers(auction: TaskEvent, *, now_s: float) -> Table:
    """Return the offers of an announcement, best first, then the refusals."""
    rows: list[tuple[str, ...]] = [
        (
            bid.site_id,
            significant(bid.offer_usd),
            instant(bid.start_s, now_s),
            duration(bid.p50_finish_s - bid.start_s),
            _fetches(bid),
            significant(bid.charge.carbon_gco2) if bid.is_carbon_known else "unknown",
            "chosen" if bid.site_id == auction.site_id else "dearer",
        )
        for bid in auction.bids
    ]
    rows += [
        (refusal.site_id, *[NOTHING] * 5, f"{refusal.reason.value}: {refusal.message}")
        for refusal in auction.refusals
    ]
    return Table(
        ("SITE", ">OFFER $", "START", ">RUN p50", "FETCH", ">CO2 g", "WHY"),
        tuple(rows),
        optional=(">RUN p50", "START"),
    )


def moved(told: Explanation) -> Table | None:
    """Return what was fetched and evicted for the attempts; None where nothing was."""
    rows = []
    for report in [event.report for event in told.events if event.report is not None]:
        rows += _moved_for(report)
    if not rows:
        return None
    return Table(("ATTEMPT", "MOVED", ">GB", "FROM", "TO", ">COST $", ">CO2 g"), tuple(rows))


def verdict(task: Task, *, now_s: float) -> str:
    """Return in one sentence where the task stands, why, and what comes next."""
    state = task.state
    why = f": {task.message}" if task.message else ""
    if state is TaskState.WAITING and task.bid is not None:
        return (
            f"{task.task_id} waits ({task.reason.value}) and is expected to start at"
            f" {task.bid.site_id} {instant(task.bid.start_s, now_s)}"
        )
    if state is TaskState.QUEUED:
        return f"{task.task_id} is queued ({task.reason.value}){why}; it is announced again soon"
    if state.is_terminal:
        return f"{task.task_id} {state.value} ({task.reason.value}){why}"
    return f"{task.task_id} is {state.value} ({task.reason.value}) at {task.site_id}{why}"


def _fetches(bid: Bid) -> str:
    if not bid.fetches:
        return NOTHING
    total = sum(fetch.size_bytes for fetch in bid.fetches)
    sources = dict.fromkeys(fetch.source.site_id for fetch in bid.fetches)
    return f"{gigabytes(total)} GB from {', '.join(sources)}"


def _moved_for(report: Report) -> list[tuple[str, ...]]:
    attempt = str(report.fence.attempt)
    rows: list[tuple[str, ...]] = [
        (
            attempt,
            fetch.name,
            gigabytes(fetch.size_bytes),
            fetch.source.site_id,
            report.site_id,
            significant(fetch.cost_usd),
            significant(fetch.carbon_gco2),
        )
        for fetch in report.fetches
    ]
    rows += [
        (attempt, f"evicted {each[:19]}", NOTHING, report.site_id, NOTHING, NOTHING, NOTHING)
        for each in report.evictions
    ]
    return rows
