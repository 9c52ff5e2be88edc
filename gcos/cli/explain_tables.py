"""How a task came to be where it is, as tables. Pure."""

import math

from gcos.cli import task_tables
from gcos.cli.output import Table
from gcos.cli.quantities import (
    NOTHING,
    clock,
    counted,
    duration,
    gigabytes,
    instant,
    significant,
)
from gcos.cli.task_progress import DUE_S, end_of, overdue_s, overrun, start_of
from gcos.client_records import Explanation
from gcos.contract_net import Bid, Report
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import TaskState

#: A start that is nearer than this is told as no wait at all, world seconds.
AT_ONCE_S = 1.0


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
                _what(event),
            )
            for event in told.events
        ),
        optional=("REASON", ">ATTEMPT"),
    )


def auctions(told: Explanation) -> list[TaskEvent]:
    """Return the announcements that were answered, the first one first."""
    return [event for event in told.events if event.kind == "auction_closed"]


def heading(auction: TaskEvent, *, number: int, count: int, now_s: float) -> str:
    """Return what stands above the tables of an announcement."""
    which = "the announcement" if count == 1 else f"announcement {number} of {count}"
    return f"{which}, {instant(auction.at_s, now_s)}, brought:"


def offers(auction: TaskEvent) -> Table:
    """Return the offers of an announcement, best first; starts as they lay ahead of it."""
    chosen_usd = max(
        (bid.offer_usd for bid in auction.bids if bid.site_id == auction.site_id), default=math.inf
    )
    is_learned = any(bid.residual_usd for bid in auction.bids)
    rows = [
        (
            bid.site_id,
            significant(bid.offer_usd),
            *((f"{bid.residual_usd:+.3g}",) if is_learned else ()),
            _start(bid, auction.at_s),
            duration(bid.p50_finish_s - bid.start_s),
            _fetches(bid),
            significant(bid.charge.carbon_gco2) if bid.is_carbon_known else "unknown",
            _why(bid, auction, chosen_usd),
        )
        for bid in auction.bids
    ]
    learned = (">LEARNED $",) if is_learned else ()
    return Table(
        ("SITE", ">OFFER $", *learned, "START", ">RUN p50", "FETCH", ">CO2 g", "WHY"),
        tuple(rows),
        optional=(">RUN p50", "START"),
    )


def _why(bid: Bid, auction: TaskEvent, chosen_usd: float) -> str:
    if bid.site_id == auction.site_id:
        return "chosen"
    return "dearer" if bid.offer_usd >= chosen_usd else "ranked lower"


def without_learning(auction: TaskEvent) -> str | None:
    """Return what the offers alone would have chosen, where learning chose otherwise."""
    chosen = next((bid for bid in auction.bids if bid.site_id == auction.site_id), None)
    if chosen is None or not any(bid.residual_usd for bid in auction.bids):
        return None
    least = min(auction.bids, key=lambda bid: (bid.offer_usd, bid.site_id))
    if least.site_id == chosen.site_id:
        return None
    saved = significant(chosen.offer_usd - least.offer_usd)
    return f"without what was learned: {least.site_id}, {saved} $ cheaper by its offer"


def _start(bid: Bid, announced_s: float) -> str:
    """Return when an offer would start, as it was when the task was announced."""
    if not bid.is_deferred and bid.start_s - announced_s < AT_ONCE_S:
        return "at once"
    return f"{clock(bid.start_s)}, {duration(max(bid.start_s - announced_s, 0.0))} later"


def moved(told: Explanation) -> Table | None:
    """Return what was fetched and evicted for the attempts; None where nothing was."""
    rows = []
    for report in [event.report for event in told.events if event.report is not None]:
        rows += _moved_for(report)
    if not rows:
        return None
    return Table(("ATTEMPT", "MOVED", ">GB", "FROM", "TO", ">COST $", ">CO2 g"), tuple(rows))


def copies(told: Explanation, *, now_s: float) -> Table | None:
    """Return what had brought copies of a task's artifacts or taken them away; None: nothing."""
    found = sorted(
        ((event.at_s, log.site_id, event) for log in told.copies for event in log.events),
        key=lambda each: each[:2],
    )
    if not found:
        return None
    is_learned = any(event.without_learning for _, _, event in found)
    rows = [
        (
            instant(at_s, now_s),
            event.name,
            site_id,
            event.kind.replace("_", " "),
            event.why or NOTHING,
            *((event.without_learning or NOTHING,) if is_learned else ()),
        )
        for at_s, site_id, event in found
    ]
    learned = ("WITHOUT LEARNING",) if is_learned else ()
    return Table(("WHEN", "ARTIFACT", "SITE", "DECISION", "WHY", *learned), tuple(rows))


def lost_tail(told: Explanation, *, now_s: float) -> list[str]:
    """Return what the last run that was lost last wrote; nothing where none was."""
    for event in reversed(told.events):
        if event.tail is not None:
            heard = event.tail
            heading = f"attempt {event.attempt} was {task_tables.heading_of(heard, now_s=now_s)}"
            return [heading, *task_tables.last_lines(heard.tail.text)]
    return []


def verdict(task: Task, *, now_s: float) -> str:
    """Return in one sentence where the task stands, why, and what comes next."""
    state = task.state
    why = f": {task.message}" if task.message else ""
    if state is TaskState.WAITING and task.bid is not None:
        told = f"{task.task_id} waits ({task.reason.value}) for site {task.bid.site_id}"
        return told + _times(task, now_s)
    if state is TaskState.QUEUED:
        return f"{task.task_id} is queued ({task.reason.value}){why}; it is announced again soon"
    where = "" if task.site_id is None else f" at site {task.site_id}"
    if state.is_terminal:
        return f"{task.task_id} {state.value} ({task.reason.value}){where}{why}"
    return f"{task.task_id} is {state.value} ({task.reason.value}){where}{why}{_times(task, now_s)}"


def _times(task: Task, now_s: float) -> str:
    """Return when a task started or is to start, and when it is expected to end."""
    start_s, ends = start_of(task), end_of(task, now_s=now_s)
    words = ""
    if start_s is not None and task.started_s is not None:
        words += f"; started {instant(start_s, now_s)}"
    elif start_s is not None and 0 <= now_s - start_s < DUE_S:
        words += "; expected to start now"
    elif start_s is not None:
        # A start that has passed is told as it is: the site queues it, or fetches for longer.
        words += f"; {'expected' if start_s > now_s else 'was expected'} to start"
        words += f" {instant(start_s, now_s)}"
    if ends is not None:
        words += "; if it starts now," if overdue_s(task, now_s=now_s) else ";"
        words += f" expected to end {instant(ends[0], now_s)} (p50),"
        words += f" {instant(ends[1], now_s)} (p90)"
    if longer := overrun(task, now_s=now_s):
        words += f"; {longer}"
    return words


def _what(event: TaskEvent) -> str:
    if event.report is not None:
        return f"{event.report.state.value}: {event.report.message}"
    if event.kind != "auction_closed":
        return event.message
    best = event.site_id or "none"
    return (
        f"{counted(len(event.bids), 'offer')}, {counted(len(event.refusals), 'refusal')}; "
        f"best: {best}"
    )


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
