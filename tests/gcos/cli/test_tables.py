"""Tables of records, without a cluster."""

import csv
import io
from dataclasses import replace

import pytest

from broker import registry
from gcos.accounting import CostScope
from gcos.artifacts import ArtifactKind, CacheMark, CacheUsage
from gcos.cli import cache_tables, ledger_table, plan_table, refusal_table, site_tables, task_tables
from gcos.cli.ledger_csv import entries_csv, groups_csv
from gcos.cli.output import Table, layout
from gcos.cli.site_tables import SILENT_AFTER_S
from gcos.client_records import Scales, SiteCache, SiteListing
from gcos.durations import PredictionSource
from gcos.ids import SiteId, TaskId
from gcos.known_sites import KnownSite
from gcos.ledger_totals import SAVINGS_DEFINITION, LedgerKey, groups
from gcos.next_steps import next_step
from gcos.task_record import Task
from gcos.tasks import Reason, RunState, TaskState
from testbed import samples
from testbed.fakes import FakeAgent
from testbed.samples import CAL, DE, NOW_S


def facts(task: Task) -> dict[str, str]:
    rows = task_tables.details(task, now_s=NOW_S).rows
    return {row[0]: row[1] for row in rows}


def test_a_plan_shows_each_offer_with_what_it_costs_and_why() -> None:
    table = plan_table.offers(samples.plan_of_two(), now_s=NOW_S, has_deadline=True)
    assert table.columns == (
        *("SITE", "GPU", ">START", "UTC", ">RUN p50/p90", "FETCH", ">COST $", ">CO2 g"),
        *(">DEADLINE ok %", "CHOSEN", "REASON"),
    )
    assert table.rows == (
        (
            *("de", "H100", "in 10 min", "11-23 14:15Z", "1 / 1.5 h", "3.00 GB from cal"),
            *("1.20", "2460", "96", "yes", "lowest offer, 1.70 $"),
        ),
        (
            *("cal", "H100", "in 2 h", "11-23 16:05Z", "1 / 1.5 h", "-", "1.20", "unknown"),
            *("96", ""),
            "0.250 $ dearer; a later start is greener or cheaper; evicts 1; no carbon signal",
        ),
    )


def test_an_offer_for_the_moment_of_the_question_starts_now() -> None:
    table = plan_table.offers(samples.plan_of_two(), now_s=NOW_S + 602.0, has_deadline=False)
    assert cell(table, ">START") == "now"


def test_without_a_deadline_there_is_no_chance_to_meet_it() -> None:
    table = plan_table.offers(samples.plan_of_two(), now_s=NOW_S, has_deadline=False)
    assert {row[8] for row in table.rows} == {"-"}


def test_a_dearer_choice_is_called_preferred() -> None:
    plan = replace(samples.plan_of_two(), chosen_site_id=samples.CAL)
    table = plan_table.offers(plan, now_s=NOW_S, has_deadline=True)
    assert table.rows[1][9:] == (
        "yes",
        "preferred; a later start is greener or cheaper; evicts 1; no carbon signal",
    )


def test_refused_sites_have_a_closed_reason() -> None:
    table = refusal_table.refusals(samples.plan_of_two().refusals)
    assert table.rows == (("in", "GPU_TYPE_UNKNOWN", "no H100 here"),)


def test_each_reason_among_refusals_has_its_next_step_once() -> None:
    (refusal,) = samples.plan_of_two().refusals
    other = replace(refusal, reason=Reason.IMAGE_UNSUPPORTED, hint="remove the image")
    assert refusal_table.next_steps([refusal, other, refusal]) == [
        f"next step, GPU_TYPE_UNKNOWN: {next_step(Reason.GPU_TYPE_UNKNOWN)}",
        "next step, IMAGE_UNSUPPORTED: remove the image",
    ]


def test_a_task_that_did_not_end_well_has_a_next_step() -> None:
    task = samples.ended(samples.task_named("1"), exit_code=3)
    assert refusal_table.step_after(task) == f"read what it wrote: gcos logs {task.task_id}"
    rejected = replace(task, state=TaskState.REJECTED, reason=Reason.OVER_COST_LIMIT)
    assert refusal_table.step_after(rejected) == next_step(Reason.OVER_COST_LIMIT)
    assert refusal_table.step_after(samples.ended(task)) is None
    assert refusal_table.step_after(samples.running(task)) is None


def test_a_refusal_is_whole_at_80_columns() -> None:
    (refusal,) = samples.plan_of_two().refusals
    message = "its store has no secret a-rather-long-name, another-long-name, a-third (mode 0600)"
    long = replace(refusal, site_id=SiteId("a-site-with-a-name"), message=message)
    placed = layout(refusal_table.refusals([long]), 80)
    assert placed.left_out == ()
    assert placed.widths is not None
    assert sum(placed.widths) + 4 <= 80


def test_the_cost_of_a_plan_follows_its_scope() -> None:
    plan = samples.plan_of_two()
    terms = replace(plan.terms, scope=CostScope.WITH_GPU_HOURS)
    table = plan_table.offers(replace(plan, terms=terms), now_s=NOW_S, has_deadline=True)
    assert table.rows[0][6] == "17.2"
    assert "GPU hours" in plan_table.footnotes(replace(plan, terms=terms))[0]


def test_footnotes_say_how_to_read_a_plan() -> None:
    notes = plan_table.footnotes(samples.plan_of_two())
    assert "operator" in notes[0]
    assert "0.200 $/kg" in notes[1]
    assert "no predictor answers: run times are reckoned" in notes[2]
    assert len(notes) == 3


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (PredictionSource.PREDICTOR, ["guess for H100"]),
        (PredictionSource.SNAPSHOT, ["as it last told them", "guess for H100"]),
        (PredictionSource.PRIOR, ["no predictor answers: run times are reckoned"]),
    ],
)
def test_a_plan_says_where_its_run_times_come_from(
    source: PredictionSource, words: list[str]
) -> None:
    plan = samples.plan_of_two()
    cold = tuple(replace(each, source=source, is_cold=True) for each in plan.predictions)
    notes = plan_table.footnotes(replace(plan, predictions=cold))[2:]
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))


def test_a_scaled_world_is_always_said_to_be_one() -> None:
    assert plan_table.scale_notes(Scales()) == []
    assert plan_table.scale_notes(Scales(60.0, 1000.0)) == [
        "scaled: world time runs 60 x as fast as the clock",
        "scaled: a stored byte stands for 1000 bytes of the world",
    ]


def test_the_queue_tells_waiting_from_running() -> None:
    waiting = samples.task_named("1")
    table = task_tables.queue(
        [waiting, samples.running(waiting), samples.ended(waiting)], now_s=NOW_S
    )
    assert table.rows[0] == (
        *("de-0000000000001", "job 1", "QUEUED", "SUBMITTED", "-", "11-23 14:00Z, 5 min ago"),
        *("wait 5 min", "-", "11-23 16:05Z, in 2 h"),
    )
    assert [row[4] for row in table.rows] == ["-", "de", "de"]
    assert [row[6] for row in table.rows] == ["wait 5 min", "run 60 s", "run 50 s"]


def test_the_queue_tells_when_what_has_not_started_is_to_start() -> None:
    queued = samples.task_named("1")
    offered = replace(queued, bid=samples.bid_of(CAL))
    tasks = [
        replace(offered, state=TaskState.WAITING, reason=Reason.GREENER_START),
        replace(queued, state=TaskState.WAITING, reason=Reason.NOT_BEFORE, wake_s=NOW_S + 7200),
        replace(offered, state=TaskState.STAGING, reason=Reason.QUEUED_AT_SITE),
        queued,
        samples.running(queued),
        samples.ended(queued),
    ]
    table = task_tables.queue(tasks, now_s=NOW_S)
    starts = [cell(table, "STARTS", row) for row in range(len(tasks))]
    assert starts == ["in 10 min", "in 2 h", "in 10 min", "-", "-", "-"]
    late = task_tables.queue(tasks[:1], now_s=NOW_S + 660)
    assert cell(late, "STARTS") == "due 60 s ago"


def test_what_never_ran_is_not_said_to_have_run() -> None:
    task = samples.ended(samples.task_named("1"))
    assert task.report is not None
    task = replace(
        task,
        state=TaskState.FAILED,
        started_s=NOW_S - 60,
        report=replace(task.report, started_s=None, state=RunState.FAILED),
    )
    table = task_tables.queue([task], now_s=NOW_S)
    assert cell(table, "WAIT/RUN").startswith("wait ")
    assert "started" not in facts(task)


def test_details_show_only_what_there_is() -> None:
    queued = facts(samples.task_named("1"))
    assert "started" not in queued
    assert "exit code" not in queued
    assert queued["deadline"] == "11-23 16:05Z, in 2 h"
    running = samples.running(samples.task_named("1"))
    running = replace(running, fetched_bytes=1_500_000, fetch_bytes=3_000_000)
    shown = facts(running)
    assert shown["fetched"] == "1.5 MB of 3 MB"
    assert shown["started"] == "11-23 14:04Z, 60 s ago"
    assert "overrun" not in shown
    due = replace(running, state=TaskState.STAGING, started_s=None)
    due = replace(due, bid=replace(samples.bid_of(DE), start_s=NOW_S - 600.0))
    assert facts(due)["expected start"].endswith("10 min ago (overdue)")
    assert facts(due)["expected end"].endswith(", if it starts now")
    assert shown["expected end"] == ("11-23 15:15Z, in 70 min (p50); 11-23 15:45Z, in 1.7 h (p90)")


def test_details_of_an_ended_task_show_what_it_cost() -> None:
    task = samples.ended(samples.task_named("1"), exit_code=3)
    shown = facts(task)
    assert shown["exit code"] == "3"
    assert shown["cost"] == "1.20 $ as operator; GPU hours 16.0 $ apart"
    assert shown["carbon"] == "2460 g"
    assert "modelled" in shown["energy"]
    assert "offer of" not in shown
    assert task_tables.log_tail(task) == ["epoch 1", "epoch 2"]
    assert task_tables.log_tail(samples.task_named("1")) == []


def test_sites_show_free_gpus_and_signals() -> None:
    agent = FakeAgent(address="127.0.0.1:7")
    closed = replace(agent.digest, is_draining=True, carbon_gco2_per_kwh=None)
    listing = SiteListing(
        (KnownSite(agent.site, agent.digest, 1.0), KnownSite(agent.site, closed, 6.0)), True
    )
    rows = site_tables.sites(listing).rows
    assert rows[0] == (
        *("de", "DE", "5/8 H100", "210", "0.0800", "3", "0", "open", "1 s ago", "127.0.0.1:7"),
    )
    assert (rows[1][3], rows[1][7], rows[1][8]) == ("-", "draining", "6 s ago")


def test_a_silent_site_shows_no_figures_of_before() -> None:
    agent = FakeAgent(address="127.0.0.1:7")
    known = KnownSite(agent.site, agent.digest, SILENT_AFTER_S + 39.0)
    (row,) = site_tables.sites(SiteListing((known,), True)).rows
    assert row == (
        *("de", "DE", "-/8 H100", "-", "-", "-", "-", "silent 45 s", "45 s ago", "127.0.0.1:7"),
    )


def test_without_a_broker_nobody_knows_who_is_silent() -> None:
    agent = FakeAgent(address="127.0.0.1:7")
    known = KnownSite(agent.site, agent.digest, SILENT_AFTER_S + 39.0)
    (row,) = site_tables.sites(SiteListing((known,), is_fresh=False)).rows
    assert row[2:8] == ("-/8 H100", "-", "-", "-", "-", "not known")
    assert site_tables.standing(known, is_away=True, is_fresh=False) == "no answer"


def test_a_site_is_silent_once_the_broker_would_have_dropped_it() -> None:
    assert SILENT_AFTER_S == registry.LEASE_S


def test_caches_show_entries_and_how_full_they_are() -> None:
    usage = CacheUsage(
        ArtifactKind.MODEL,
        capacity_bytes=2_000_000_000,
        occupied_bytes=1_500_000_000,
        reserved_bytes=0,
    )
    empty = replace(usage, kind=ArtifactKind.DATA, capacity_bytes=0, occupied_bytes=0)
    held = samples.cache_entry()
    mark = CacheMark(held.artifact.artifact_id, why="fetched")
    cache = SiteCache(DE, (usage, empty), (held,), (mark,))
    assert cache_tables.entries([cache], now_s=NOW_S).rows == (
        (
            *("de", "model", "org/tiny-lm", "1.5 GB", "whole", "1", "7"),
            *("11-23 13:05Z, 60 min ago", "de", "-", "fetched", "sha256:abababababab"),
        ),
    )
    assert cache_tables.usages([cache]).rows == (
        ("de", "model", "1.5 GB", "0 B", "2 GB", "75"),
        ("de", "data", "0 B", "0 B", "0 B", "-"),
    )


def test_the_ledger_has_a_row_for_each_attempt() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    assert ledger_table.entries([entry], now_s=NOW_S).rows == (
        (
            *("de-1", "tune", "cal", "2 x H100", "SUCCEEDED", "11-23 13:35Z, 30 min ago"),
            *("60 min", "1.20", "2460", "-"),
        ),
    )


def cell(table: Table, heading: str, row: int = 0) -> str:
    return table.rows[row][table.columns.index(heading)]


def test_sums_of_the_ledger_show_cost_and_carbon_by_item() -> None:
    sums = groups([samples.ledger_entry(TaskId("de-1"))], LedgerKey.PROJECT)
    costs = ledger_table.costs(sums, LedgerKey.PROJECT)
    assert costs.columns[0] == "PROJECT ($)"
    assert costs.rows == (("default", "0.960", "0.240", "0", "0", "1.20", "2.40", "50 %", "16.0"),)
    carbon = ledger_table.carbon(sums, LedgerKey.PROJECT)
    assert carbon.rows == (
        ("default", "2400", "60.0", "2460", "4920", "50 %", "-", "1", "2.00", "12.0"),
    )


def test_a_failed_attempt_counts_as_spent() -> None:
    failed = samples.ledger_entry(TaskId("de-2"), state=RunState.FAILED)
    assert cell(ledger_table.costs(groups([failed], None), None), ">SAVED") == "-"
    both = groups([samples.ledger_entry(TaskId("de-1")), failed, failed], None)
    assert cell(ledger_table.costs(both, None), ">SAVED") == "-50 %"
    assert cell(ledger_table.carbon(both, None), ">SAVED") == "-50 %"


@pytest.mark.parametrize(
    ("spent", "told"), [(11.0, "-1000 %"), (11.01, "< -1000 %"), (1e300, "< -1000 %")]
)
def test_a_yardstick_of_nearly_nothing_tells_no_multiple(spent: float, told: str) -> None:
    assert ledger_table.saved(spent, 1.0) == told


def test_the_notes_define_savings_scope_and_carbon_price_and_count_what_is_not_known() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    notes = ledger_table.notes(groups([entry, replace(entry, is_carbon_known=False)], None))
    assert notes == [
        f"ORIGIN, SAVED: {SAVINGS_DEFINITION}",
        "cost (operator): electricity, egress, penalty and storage; GPUs are owned",
        (
            "carbon price: 0.200 $/kg; cost + carbon price x carbon: 2.89 $, 5.78 $ at the origin, "
            "saved 50 %"
        ),
        "GPU $: the price of the GPU hours; no part of COST (operator)",
        (
            "carbon is unknown for 1 of 2 attempts (a signal was missing or stale); they are left "
            "out of CO2, spent and at the origin"
        ),
        "energy is modelled from the power of the pool for 2 of 2 attempts",
    ]


def test_costs_of_different_scopes_are_not_added_up() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    sums = groups([entry, replace(entry, scope=CostScope.WITH_GPU_HOURS)], None)
    costs = ledger_table.costs(sums, None)
    assert [cell(costs, ">COST", row) for row in range(2)] == ["1.20", "17.2"]
    assert [cell(costs, "SCOPE", row) for row in range(2)] == ["operator", "with-gpu-hours"]
    assert len([note for note in ledger_table.notes(sums) if "scope " in note]) == 2
    assert [note.partition(":")[0] for note in ledger_table.notes(sums)[1:3]] == [
        "cost (operator)",
        "cost (with-gpu-hours)",
    ]


def test_what_was_decided_under_different_carbon_prices_is_told_apart() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    mixed = [entry, replace(entry, carbon_price_usd_per_kg=2.0)]
    sums = groups(mixed, LedgerKey.SITE)
    for table in (
        ledger_table.entries(mixed, now_s=NOW_S),
        ledger_table.costs(sums, LedgerKey.SITE),
        ledger_table.carbon(sums, LedgerKey.SITE),
    ):
        assert [cell(table, ">$/kg", row) for row in range(2)] == ["0.200", "2.00"]
        assert "SCOPE" not in table.columns
        assert ">$/kg" not in table.optional
    assert ledger_table.notes(sums)[2:4] == [
        (
            "carbon price: 0.200 $/kg; cost + carbon price x carbon: 1.69 $, 3.38 $ at the origin, "
            "saved 50 %"
        ),
        (
            "carbon price: 2.00 $/kg; cost + carbon price x carbon: 6.12 $, 12.2 $ at the origin, "
            "saved 50 %"
        ),
    ]


def test_csv_has_units_in_the_names_of_its_columns() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    (row,) = csv.DictReader(io.StringIO(entries_csv([replace(entry, name='a "b", c')])))
    assert row["name"] == 'a "b", c'
    assert row["site"] == "cal"
    assert row["ended"] == "2026-11-23T13:35:00Z"
    assert row["deadline"] == ""
    assert float(row["energy_kwh"]) == 12.0
    assert float(row["gpu_h"]) == 2.0
    assert float(row["cost_usd"]) == 1.2
    assert float(row["at_origin_compute_gco2"]) == 4800.0
    assert row["fetched_model_bytes"] == "3000000000"
    assert (row["is_energy_measured"], row["is_carbon_known"]) == ("false", "true")


def test_csv_of_sums_is_named_after_the_key() -> None:
    sums = groups([samples.ledger_entry(TaskId("de-1"))], LedgerKey.SITE)
    (row,) = csv.DictReader(io.StringIO(groups_csv(sums, LedgerKey.SITE)))
    assert (row["site"], row["attempt_count"], row["cost_scope"]) == ("cal", "1", "operator")
    assert float(row["carbon_gco2"]) == 2460.0
    assert float(row["transfer_usd"]) == 0.24
