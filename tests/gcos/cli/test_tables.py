"""Tables of records, without a cluster."""

import csv
import io
from dataclasses import replace

from gcos.accounting import CostScope
from gcos.artifacts import ArtifactKind, CacheUsage
from gcos.cli import ledger_table, plan_table, site_tables, task_tables
from gcos.cli.ledger_csv import entries_csv, groups_csv
from gcos.cli.output import Table
from gcos.client_records import Scales, SiteCache, SiteListing
from gcos.ids import TaskId
from gcos.known_sites import KnownSite
from gcos.ledger_totals import SAVINGS_DEFINITION, LedgerKey, groups
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
        (
            "carbon is unknown for 1 of 2 attempts (a signal was missing or stale); they are left "
            "out of CO2, spent and at the origin"
        ),
        "energy is modelled from the power of the pool for 2 of 2 attempts",
    ]


def test_costs_of_different_scopes_are_not_added_up() -> None:
    entry = samples.ledger_entry(TaskId("de-1"))
    sums = groups([entry, replace(entry, scope=CostScope.WITH_GPU_HOURS)], None)
    assert [row[5] for row in ledger_table.costs(sums, None).rows] == ["1.20", "17.2"]
    assert [note.partition(":")[0] for note in ledger_table.notes(sums)[1:3]] == [
        "cost (operator)",
        "cost (with-gpu-hours)",
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
