"""Tables of records, without a cluster."""

from dataclasses import replace

from gcos.accounting import CostScope
from gcos.artifacts import ArtifactKind, CacheUsage
from gcos.cli import ledger_table, plan_table, site_tables, task_tables
from gcos.client_records import Scales, SiteCache, SiteListing
from gcos.ids import TaskId
from gcos.known_sites import KnownSite
from gcos.task_record import Task
from gcos.tasks import RunState
from testbed import samples
from testbed.fakes import FakeAgent
from testbed.samples import DE, NOW_S


def facts(task: Task) -> dict[str, str]:
    rows = task_tables.details(task, now_s=NOW_S).rows
    return {row[0]: row[1] for row in rows}


def test_a_plan_shows_each_offer_with_what_it_costs_and_why() -> None:
    table = plan_table.offers(samples.plan_of_two(), now_s=NOW_S, has_deadline=True)
    assert table.columns == (
        *("SITE", "GPU", "START", ">RUN p50/p90", "FETCH", ">COST $", ">CO2 g"),
        *(">DEADLINE ok %", "CHOSEN", "REASON"),
    )
    assert table.rows == (
        (
            *("de", "H100", "11-23 14:15Z, in 10 min", "60 min / 1.5 h", "3.00 GB from cal"),
            *("1.20", "2460", "96", "yes", "lowest offer, 1.70 $"),
        ),
        (
            *("cal", "H100", "11-23 16:05Z, in 2 h", "60 min / 1.5 h", "-", "1.20", "unknown"),
            *("96", ""),
            "offer 0.250 $ dearer; a later start is greener or cheaper; evicts 1; no carbon signal",
        ),
    )


def test_without_a_deadline_there_is_no_chance_to_meet_it() -> None:
    table = plan_table.offers(samples.plan_of_two(), now_s=NOW_S, has_deadline=False)
    assert {row[7] for row in table.rows} == {"-"}


def test_a_dearer_choice_is_called_preferred() -> None:
    plan = replace(samples.plan_of_two(), chosen_site_id=samples.CAL)
    table = plan_table.offers(plan, now_s=NOW_S, has_deadline=True)
    assert table.rows[1][8:] == (
        "yes",
        "preferred; a later start is greener or cheaper; evicts 1; no carbon signal",
    )


def test_refused_sites_have_a_closed_reason() -> None:
    table = plan_table.refusals(samples.plan_of_two())
    assert table.rows == (("in", "GPU_TYPE_UNKNOWN", "no H100 here"),)


def test_the_cost_of_a_plan_follows_its_scope() -> None:
    plan = samples.plan_of_two()
    terms = replace(plan.terms, scope=CostScope.WITH_GPU_HOURS)
    table = plan_table.offers(replace(plan, terms=terms), now_s=NOW_S, has_deadline=True)
    assert table.rows[0][5] == "17.2"
    assert "GPU hours" in plan_table.footnotes(replace(plan, terms=terms))[0]


def test_footnotes_say_how_to_read_a_plan() -> None:
    notes = plan_table.footnotes(samples.plan_of_two())
    assert "operator" in notes[0]
    assert "0.200 $/kg" in notes[1]
    assert "guess for H100" in notes[2]
    assert len(notes) == 3


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
        *("wait 5 min", "11-23 16:05Z, in 2 h"),
    )
    assert [row[4] for row in table.rows] == ["-", "de", "de"]
    assert [row[6] for row in table.rows] == ["wait 5 min", "run 60 s", "run 50 s"]


def test_details_show_only_what_there_is() -> None:
    queued = facts(samples.task_named("1"))
    assert "started" not in queued
    assert "exit code" not in queued
    assert queued["deadline"] == "11-23 16:05Z, in 2 h"
    running = samples.running(samples.task_named("1"))
    running = replace(running, fetched_bytes=1_500_000, fetch_bytes=3_000_000)
    shown = facts(running)
    assert shown["fetched"] == "1.5 MB of 3 MB"
    assert shown["end, p90"] == "11-23 15:45Z, in 1.7 h"


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


def test_a_change_tells_where_a_task_is_and_how_much_was_fetched() -> None:
    running = replace(samples.running(samples.task_named("1")), fetched_bytes=500, fetch_bytes=1000)
    assert task_tables.change(running) == (
        "de-0000000000001  RUNNING  EXECUTING  at de  500 B of 1 kB"
    )


def test_sites_show_free_gpus_and_signals() -> None:
    agent = FakeAgent(address="127.0.0.1:7")
    closed = replace(agent.digest, is_draining=True, carbon_gco2_per_kwh=None)
    listing = SiteListing(
        (KnownSite(agent.site, agent.digest, 1.0), KnownSite(agent.site, closed, 90.0)), True
    )
    rows = site_tables.sites(listing).rows
    assert rows[0] == (
        *("de", "DE", "5/8 H100", "210", "0.0800", "3", "0", "open", "1 s ago", "127.0.0.1:7"),
    )
    assert (rows[1][3], rows[1][7], rows[1][8]) == ("-", "draining", "1.5 min ago")


def test_caches_show_entries_and_how_full_they_are() -> None:
    usage = CacheUsage(
        ArtifactKind.MODEL,
        capacity_bytes=2_000_000_000,
        occupied_bytes=1_500_000_000,
        reserved_bytes=0,
    )
    empty = replace(usage, kind=ArtifactKind.DATA, capacity_bytes=0, occupied_bytes=0)
    cache = SiteCache(DE, (usage, empty), (samples.cache_entry(),))
    assert site_tables.cache_entries([cache], now_s=NOW_S).rows == (
        (
            *("de", "model", "org/tiny-lm", "1.5 GB", "1", "7", "11-23 13:05Z, 60 min ago"),
            *("de", "sha256:abababababab"),
        ),
    )
    assert site_tables.cache_usages([cache]).rows == (
        ("de", "model", "1.5 GB", "0 B", "2 GB", "75"),
        ("de", "data", "0 B", "0 B", "0 B", "-"),
    )


def test_the_ledger_tells_what_was_saved() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    assert ledger_table.entries([entry], now_s=NOW_S).rows == (
        (
            *("de-1", "tune", "cal", "2 x H100", "SUCCEEDED", "11-23 13:35Z, 30 min ago"),
            *("60 min", "1.20", "2460", "-"),
        ),
    )
    assert ledger_table.totals([entry]) == [
        "cost (operator): 1.20 $, 2.40 $ at the origin at once, 50 % less",
        "carbon: 2460 g, 4920 g at the origin at once, 50 % less",
        "attempts: 1; failed ones count as spent",
    ]


def test_a_failed_attempt_counts_as_spent() -> None:
    failed = samples.ledger_entry(TaskId("de-2"), state=RunState.FAILED)
    assert ledger_table.totals([failed])[0] == "cost (operator): 1.20 $, 0 $ at the origin at once"
    both = [samples.ledger_entry(TaskId("de-1")), failed, failed]
    assert "50 % more" in ledger_table.totals(both)[0]


def test_costs_of_different_scopes_are_not_added_up() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    lines = ledger_table.totals([entry, replace(entry, scope=CostScope.WITH_GPU_HOURS)])
    assert [line.partition(":")[0] for line in lines[:2]] == [
        "cost (operator)",
        "cost (with-gpu-hours)",
    ]
