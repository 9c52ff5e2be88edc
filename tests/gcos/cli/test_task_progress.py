"""How far tasks have come."""

from dataclasses import replace

from gcos.cli import task_progress
from gcos.cli.task_progress import FetchRates, forecast, progress
from gcos.durations import RunTime
from gcos.task_record import Task
from gcos.tasks import Reason, TaskState
from testbed import samples
from testbed.samples import CAL, DE, NOW_S, PREDICTION

QUEUED = samples.task_named("1")
RUNNING = replace(samples.running(QUEUED), predictions=(PREDICTION,))  # p50 1 h, p90 1.5 h


def fetching(fetched_bytes: int) -> Task:
    return replace(
        RUNNING,
        state=TaskState.STAGING,
        reason=Reason.FETCHING,
        started_s=None,
        fetched_bytes=fetched_bytes,
        fetch_bytes=3_000_000_000,
    )


def test_a_run_is_shown_against_its_prediction_and_what_remains() -> None:
    task = replace(RUNNING, started_s=NOW_S - 1800.0)
    run = forecast(task, now_s=NOW_S)
    assert run is not None
    assert run.remaining == PREDICTION.run_time.remaining_after(1800.0)
    assert progress(task, now_s=NOW_S) == "███░░░ 30 of 60-88 min, 30-58 left"


def test_a_run_that_has_just_begun_is_told_in_the_unit_of_its_prediction() -> None:
    task = replace(RUNNING, started_s=NOW_S - 0.4)
    assert progress(task, now_s=NOW_S) == "░░░░░░ 0 of 60-88 min, 60-88 left"


def test_what_remains_does_not_run_out_before_the_run_does() -> None:
    task = replace(RUNNING, started_s=NOW_S - 4 * 3600.0)
    run = forecast(task, now_s=NOW_S)
    assert run is not None
    assert run.remaining.p50_s > 0
    assert run.done_ratio < 1
    assert "(over)" in progress(task, now_s=NOW_S)
    assert task_progress.overrun(task, now_s=NOW_S) == (
        "it has run for 4 h, predicted were 60-88 min (p50-p90)"
    )
    assert task_progress.overrun(RUNNING, now_s=NOW_S) == ""
    assert task_progress.overrun(QUEUED, now_s=NOW_S) == ""


def test_without_a_prediction_a_run_shows_its_time() -> None:
    assert forecast(replace(RUNNING, predictions=()), now_s=NOW_S) is None
    assert progress(replace(RUNNING, predictions=()), now_s=NOW_S) == "for 60 s"


def test_the_prediction_is_that_of_the_pool_that_was_awarded() -> None:
    other = replace(PREDICTION, pool_type="A100", run_time=RunTime.lognormal(60.0, 0.1))
    assert task_progress.run_time_of(replace(RUNNING, predictions=(other, PREDICTION))) == (
        PREDICTION.run_time
    )
    assert task_progress.run_time_of(replace(RUNNING, predictions=(other,))) is None
    assert task_progress.run_time_of(replace(QUEUED, predictions=(PREDICTION,))) is None


def test_a_fetch_shows_bytes_and_rate() -> None:
    rates = FetchRates()
    for second, megabytes in enumerate((0, 100, 200)):
        rates.observe(fetching(megabytes * 1_000_000), protocol_s=second)
    rate = rates.bytes_per_s(QUEUED.task_id)
    assert rate == 100e6
    shown = progress(fetching(1_500_000_000), now_s=NOW_S, rate_bytes_per_s=rate)
    assert shown == "███░░░ 1.5 GB of 3 GB, 100 MB/s"
    assert progress(fetching(0), now_s=NOW_S) == "░░░░░░ 0 B of 3 GB"


def test_a_rate_needs_two_changes_and_starts_anew_with_another_attempt() -> None:
    rates = FetchRates()
    rates.observe(fetching(5), protocol_s=0)
    rates.observe(fetching(5), protocol_s=1)
    assert rates.bytes_per_s(QUEUED.task_id) is None
    rates.observe(fetching(25), protocol_s=2)
    assert rates.bytes_per_s(QUEUED.task_id) == 10.0
    rates.observe(fetching(0), protocol_s=3)
    assert rates.bytes_per_s(QUEUED.task_id) is None
    rates.observe(RUNNING, protocol_s=4)
    assert rates.bytes_per_s(QUEUED.task_id) is None


def test_a_rate_forgets_what_is_long_ago() -> None:
    rates = FetchRates()
    for second, fetched_bytes in enumerate((0, 1000, 1010, 1020, 1030, 1040)):
        rates.observe(fetching(fetched_bytes), protocol_s=second)
    assert rates.bytes_per_s(QUEUED.task_id) == 10.0


def test_a_stage_without_a_share_is_told_in_words() -> None:
    waiting = replace(
        QUEUED, state=TaskState.WAITING, reason=Reason.GREENER_START, bid=samples.bid_of(CAL)
    )
    assert progress(QUEUED, now_s=NOW_S) == "SUBMITTED, for 5 min"
    assert progress(waiting, now_s=NOW_S) == "GREENER_START, starts in 10 min"
    assert progress(samples.ended(QUEUED), now_s=NOW_S) == "exit code 0"


def test_a_run_far_over_its_prediction_is_not_told_as_part_of_nothing() -> None:
    quick = replace(PREDICTION, run_time=RunTime.lognormal(1.0, 0.5))
    task = replace(RUNNING, predictions=(quick,), started_s=NOW_S - 414.0)
    assert " 6.9 min of 1-1.9 s (over), " in progress(task, now_s=NOW_S)


def test_the_end_of_a_task_that_is_overdue_is_counted_from_now() -> None:
    bid = samples.bid_of(DE)
    waiting = replace(QUEUED, state=TaskState.STAGING, reason=Reason.QUEUED_AT_SITE, bid=bid)
    soon_s = bid.start_s - 5.0
    assert task_progress.end_of(waiting, now_s=soon_s) == (bid.p50_finish_s, bid.p90_finish_s)
    late_s = bid.start_s + 3600.0
    assert task_progress.overdue_s(waiting, now_s=late_s) == 3600.0
    assert task_progress.end_of(waiting, now_s=late_s) == (
        bid.p50_finish_s + 3600.0,
        bid.p90_finish_s + 3600.0,
    )
    assert task_progress.overdue_s(RUNNING, now_s=late_s) == 0.0


def test_a_narrow_terminal_has_no_room_for_names() -> None:
    wide = task_progress.watched([QUEUED], now_s=NOW_S, width=120, rates_bytes_per_s={})
    narrow = task_progress.watched([QUEUED], now_s=NOW_S, width=80, rates_bytes_per_s={})
    assert wide.columns == ("ID", "NAME", "STATE", "SITE", "PROGRESS")
    assert narrow.columns == ("ID", "STATE", "SITE", "PROGRESS")
    assert wide.rows[0][:4] == (QUEUED.task_id, "job 1", "QUEUED", "-")


def test_a_long_name_is_cut() -> None:
    assert task_progress.shortened("x" * 200) == "x" * 31 + "…"
    assert task_progress.shortened("x" * 32) == "x" * 32


def test_a_change_tells_where_a_task_is_and_what_it_does() -> None:
    assert task_progress.change(fetching(1_000_000_000)) == (
        "de-0000000000001  STAGING  FETCHING  at de  1 GB of 3 GB"
    )
    assert task_progress.change(RUNNING) == (
        "de-0000000000001  RUNNING  EXECUTING  at de  predicted 60-88 min (p50-p90)"
    )
