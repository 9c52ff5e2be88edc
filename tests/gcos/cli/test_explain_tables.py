"""Where a task stands and how it came there, in words."""

from dataclasses import replace

import pytest

from gcos.cli import explain_tables, task_tables
from gcos.cli.task_progress import end_of, start_of
from gcos.client_records import Explanation, Scales, SiteCopyLog
from gcos.contract_net import Refusal
from gcos.copy_events import standing
from gcos.ids import ArtifactId
from gcos.task_events import TaskEvent
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState
from testbed import samples
from testbed.samples import CAL, DE, NOW_S, PREDICTION

QUEUED = samples.task_named("1")
OFFERED = replace(QUEUED, bid=samples.bid_of(DE), message="")
END = "expected to end 11-23 15:15Z, in 70 min (p50), 11-23 15:45Z, in 1.7 h (p90)"


def auction_won_by_learning() -> TaskEvent:
    learned = replace(samples.bid_of(CAL), residual_usd=-0.5)
    plain = replace(samples.bid_of(DE), offer_usd=1.5, residual_usd=0.1)
    return TaskEvent(NOW_S, "auction_closed", "", site_id=CAL, bids=(learned, plain))


def test_an_auction_tells_what_was_learned_and_what_would_have_been_chosen_without() -> None:
    table = explain_tables.offers(auction_won_by_learning())
    at = table.columns.index(">LEARNED $")
    assert [row[at] for row in table.rows] == ["-0.5", "+0.1"]
    assert [row[-1] for row in table.rows] == ["chosen", "ranked lower"]
    note = explain_tables.without_learning(auction_won_by_learning())
    assert note == "without what was learned: de, 0.200 $ cheaper by its offer"


def test_an_auction_without_learning_speaks_of_none() -> None:
    bids = (samples.bid_of(CAL), samples.bid_of(DE))
    auction = TaskEvent(NOW_S, "auction_closed", "", site_id=CAL, bids=bids)
    assert ">LEARNED $" not in explain_tables.offers(auction).columns
    assert explain_tables.without_learning(auction) is None


def test_copies_tell_what_had_brought_them_and_what_would_have_been_done_without() -> None:
    brought = replace(samples.copy_event(), kind="copy_arrived", at_s=NOW_S - 60.0, why="saves 2 $")
    learned = replace(brought, without_learning="not brought")
    evicted = replace(brought, kind="evicted", at_s=NOW_S - 90.0, why="makes room")
    logs = (SiteCopyLog(CAL, (learned,)), SiteCopyLog(DE, (evicted,)))
    table = explain_tables.copies(Explanation(QUEUED, (), Scales(), copies=logs), now_s=NOW_S)
    assert table is not None
    assert table.columns == ("WHEN", "ARTIFACT", "SITE", "DECISION", "WHY", "WITHOUT LEARNING")
    assert [row[1:] for row in table.rows] == [
        (brought.name, "de", "evicted", "makes room", "-"),
        (brought.name, "cal", "copy arrived", "saves 2 $", "not brought"),
    ]
    plain = Explanation(QUEUED, (), Scales(), copies=(SiteCopyLog(CAL, (brought,)),))
    shown = explain_tables.copies(plain, now_s=NOW_S)
    assert shown is not None
    assert "WITHOUT LEARNING" not in shown.columns
    assert explain_tables.copies(Explanation(QUEUED, (), Scales()), now_s=NOW_S) is None


def test_what_stood_is_the_latest_that_brought_or_took_each_artifact_away() -> None:
    model = samples.copy_event()
    data = replace(model, artifact_id=ArtifactId("sha256:" + "d" * 64), kind="fetched")
    events = (
        model,
        data,
        replace(model, kind="copy_arrived"),
        replace(data, kind="custody_taken", why="says nothing of whether it is there"),
        replace(data, artifact_id=ArtifactId("sha256:" + "e" * 64), why="of another task"),
        replace(model, kind="evicted", at_s=NOW_S + 1.0, why="too late"),
    )
    wanted = {model.artifact_id, data.artifact_id}
    found = standing(events, wanted, until_s=NOW_S)
    assert [(each.artifact_id, each.kind) for each in found] == [
        (data.artifact_id, "fetched"),
        (model.artifact_id, "copy_arrived"),
    ]


def told(task: Task) -> str:
    return explain_tables.verdict(task, now_s=NOW_S)


def test_a_running_task_tells_since_when_and_until_when() -> None:
    task = replace(samples.running(QUEUED), predictions=(PREDICTION,), message="")
    assert told(task) == (
        f"{task.task_id} is RUNNING (EXECUTING) at site de; started 11-23 14:04Z, 60 s ago; "
        "expected to end 11-23 15:04Z, in 59 min (p50), 11-23 15:32Z, in 87 min (p90)"
    )


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (TaskState.AWARDING, Reason.AWARD_SENT),
        (TaskState.LEASED, Reason.QUEUED_AT_SITE),
        (TaskState.STAGING, Reason.QUEUED_AT_SITE),
        (TaskState.STAGING, Reason.FETCHING),
    ],
)
def test_what_has_not_started_tells_when_it_is_expected_to(
    state: TaskState, reason: Reason
) -> None:
    task = replace(OFFERED, state=state, reason=reason)
    assert told(task) == (
        f"{task.task_id} is {state.value} ({reason.value}) at site de; "
        f"expected to start 11-23 14:15Z, in 10 min; {END}"
    )


def test_a_start_that_has_passed_is_told_as_one() -> None:
    task = replace(OFFERED, state=TaskState.STAGING, reason=Reason.QUEUED_AT_SITE)
    words = explain_tables.verdict(task, now_s=NOW_S + 660.0)
    assert "; was expected to start 11-23 14:15Z, 60 s ago; " in words


def test_what_is_due_starts_now_rather_than_a_moment_ago() -> None:
    task = replace(OFFERED, state=TaskState.STAGING, reason=Reason.QUEUED_AT_SITE)
    assert "; expected to start now; " in explain_tables.verdict(task, now_s=NOW_S + 601.5)
    assert task_tables.queue([task], now_s=NOW_S + 601.5).rows[0][-2] == "now"


def test_what_waits_tells_for_which_site_and_start() -> None:
    task = replace(OFFERED, state=TaskState.WAITING, reason=Reason.GREENER_START)
    assert told(task) == (
        f"{task.task_id} waits (GREENER_START) for site de; "
        f"expected to start 11-23 14:15Z, in 10 min; {END}"
    )


def test_what_has_ended_tells_where_and_how() -> None:
    task = samples.ended(QUEUED, exit_code=3)
    assert told(task) == f"{task.task_id} FAILED (EXIT_CODE) at site de: exit code 3"


def test_what_is_still_negotiated_has_neither_start_nor_end() -> None:
    again = replace(OFFERED, state=TaskState.QUEUED)
    assert (start_of(again), end_of(again, now_s=NOW_S)) == (None, None)
    assert "announced again soon" in told(again)


def test_what_never_ran_has_no_start() -> None:
    task = samples.ended(QUEUED)
    assert task.report is not None
    never = replace(task, started_s=NOW_S - 60.0, report=replace(task.report, started_s=None))
    assert start_of(task) is not None
    assert start_of(never) is None


def test_offers_and_refusals_are_counted_in_plain_words() -> None:
    refusal = Refusal(CAL, Reason.GPU_TYPE_UNKNOWN, "has A100, not H100")
    auction = TaskEvent(
        *(NOW_S, "auction_closed", "1 offers; best: de"),
        site_id=DE,
        bids=(samples.bid_of(DE),),
        refusals=(refusal, refusal),
    )
    ended = samples.ended(QUEUED)
    end = TaskEvent(NOW_S, "run_ended", "SUCCEEDED at de: exit code 0", report=ended.report)
    table = explain_tables.events(
        Explanation(ended, events=(auction, end), scales=Scales()), now_s=NOW_S
    )
    assert [row[-1] for row in table.rows] == [
        "1 offer, 2 refusals; best: de",
        "SUCCEEDED: exit code 0",
    ]
    assert len(explain_tables.offers(auction).rows) == 1


def test_starts_of_offers_are_told_from_the_announcement_on() -> None:
    soon = replace(samples.bid_of(DE), start_s=NOW_S + 0.4)
    waits = replace(samples.bid_of(CAL), start_s=NOW_S + 7200.0, is_deferred=True)
    auction = TaskEvent(NOW_S, "auction_closed", "", site_id=DE, bids=(soon, waits))
    table = explain_tables.offers(auction)
    starts = [row[table.columns.index("START")] for row in table.rows]
    assert starts == ["at once", "11-23 16:05Z, 2 h later"]


def test_a_run_over_its_prediction_says_so() -> None:
    task = replace(samples.running(QUEUED), predictions=(PREDICTION,), started_s=NOW_S - 4 * 3600.0)
    assert told(task).endswith("; it has run for 4 h, predicted were 60-88 min (p50-p90)")


def test_a_silent_holder_stands_in_the_verdict() -> None:
    task = replace(
        samples.running(QUEUED), reason=Reason.AWAITING_HOLDER, message="de was not heard for 22 s"
    )
    assert f"{task.task_id} is RUNNING (AWAITING_HOLDER) at site de: de was not heard" in told(task)
