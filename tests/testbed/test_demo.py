import io
import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from gcos.accounting import Charge, CostScope
from gcos.client_records import HourlySignal, Scales, SiteSignalsReading
from gcos.contract_net import Bid, Report
from gcos.durations import Prediction, PredictionSource, RunTime
from gcos.ids import Fence, RunId, SiteId, TaskId
from gcos.ledger import LedgerEntry
from gcos.signals import Provenance
from gcos.spec import parse_document
from gcos.task_record import Task
from gcos.tasks import Reason, RunState, TaskSpec, TaskState, Work, WorkKind
from testbed import demo_jobs
from testbed.demo_report import DemoReport, JobResult, headline, json_document
from testbed.demo_view import DemoView
from testbed.workloads.grammar import GRAMMARS
from testbed.workloads.weights import SHAPES

EXAMPLES = Path(__file__).parents[2] / "examples"
NOON_S = datetime.fromisoformat("2026-06-01T12:00:00+00:00").timestamp()

SPENT = Charge(
    energy_kwh=0.5,
    energy_usd=0.05,
    transfer_usd=0.01,
    compute_gco2=90.0,
    network_gco2=10.0,
    transfer_bytes=2_000_000_000,
)
AT_ORIGIN = Charge(energy_kwh=0.5, energy_usd=0.10, compute_gco2=400.0)


def spec(**changes):
    work = Work(WorkKind.BATCH_INFERENCE, token_count=5)
    base = TaskSpec("07", ("true",), model="tiny-lm-1500k", data=("support-tickets",), work=work)
    return replace(base, **changes)


def task(number=7, *, state=TaskState.SUCCEEDED, deadline_s=None, predicted_s=1200.0):
    bid = Bid(
        site_id=SiteId("cal"),
        task_id=TaskId(f"de-{number}"),
        offer_usd=0.1,
        score_ratio=0.0,
        actor="joint/1",
        pool_type="H100",
        start_s=NOON_S + 7200,
        is_deferred=True,
        p50_finish_s=NOON_S,
        p90_finish_s=NOON_S,
        late_probability=0.0,
        charge=SPENT,
        p90_cost_usd=1.0,
        p90_carbon_gco2=1.0,
        is_carbon_known=True,
        fetches=(),
        evictions=(),
        valid_until_s=NOON_S,
    )
    report = Report(
        run_id=RunId(f"de-{number}.1.1"),
        task_id=TaskId(f"de-{number}"),
        fence=Fence(1, 1),
        site_id=SiteId("cal"),
        state=RunState.SUCCEEDED,
        reason=Reason.EXITED_ZERO,
        message="",
        exit_code=0,
        pool_type="H100",
        accepted_s=NOON_S,
        staged_s=NOON_S,
        started_s=NOON_S + 600,
        ended_s=NOON_S + 3000,
        charge=SPENT,
        fetches=(),
        evictions=(),
        is_energy_measured=False,
        log_tail="",
    )
    return Task(
        task_id=TaskId(f"de-{number}"),
        origin=SiteId("de"),
        spec=spec(name=f"{number:02d}", deadline_s=deadline_s),
        submitted_s=NOON_S,
        state=state,
        reason=Reason.EXITED_ZERO,
        message="the reason",
        needs=(),
        fence=Fence(1, 1),
        predictions=(
            Prediction("A100", RunTime.lognormal(9e5, 0.1), source=PredictionSource.PRIOR),
            Prediction("H100", RunTime.lognormal(predicted_s, 0.1), source=PredictionSource.PRIOR),
        ),
        bid=bid,
        started_s=NOON_S + 600,
        ended_s=NOON_S + 3000 if state.is_terminal else None,
        report=report if state is TaskState.SUCCEEDED else None,
    )


def entry(number=7, *, deadline_s=None, charge=SPENT, at_origin=AT_ORIGIN, ended_s=NOON_S + 3000):
    return LedgerEntry(
        run_id=RunId(f"de-{number}.1.1"),
        task_id=TaskId(f"de-{number}"),
        name=f"{number:02d}",
        project="demo",
        kind=WorkKind.BATCH_INFERENCE,
        model="tiny-lm-1500k",
        data=("support-tickets",),
        origin=SiteId("de"),
        site_id=SiteId("cal"),
        pool_type="H100",
        gpu_count=1,
        state=RunState.SUCCEEDED,
        submitted_s=NOON_S,
        started_s=ended_s - 2400,
        ended_s=ended_s,
        deadline_s=deadline_s,
        charge=charge,
        at_origin=at_origin,
        scope=CostScope.OPERATOR,
        carbon_price_usd_per_kg=0.2,
        is_energy_measured=False,
        is_carbon_known=True,
        fetched={},
    )


def job(number=7, **changes):
    return JobResult(f"{number:02d}", task(number, **changes), (entry(number),))


def report(*jobs):
    return DemoReport(jobs, Scales(600.0, 100.0), token_ratio=1000, wall_s=50.4)


def rendered(renderable, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()


# ------------------------------------------------------------------------------- the jobs


def test_each_job_is_a_task_that_agents_take():
    for each in demo_jobs.demo_jobs():
        document = json.dumps(each.document()).encode()
        parsed = parse_document(document, submitted_s=NOON_S)
        assert parsed.name == each.name
        assert parsed.work.token_count == each.token_count * demo_jobs.TOKEN_RATIO
        assert (parsed.deadline_s is None) == (each.deadline_h is None)


def test_jobs_are_named_by_their_order_and_use_artifacts_that_are_made():
    jobs = demo_jobs.demo_jobs()
    assert [each.name for each in jobs] == [f"{n:02d}" for n in range(1, len(jobs) + 1)]
    assert [each.submit_s for each in jobs] == sorted(each.submit_s for each in jobs)
    assert set(demo_jobs.MODEL_HOMES) == {shape.name for shape in SHAPES}
    assert set(demo_jobs.DATA_HOMES) == {grammar.name for grammar in GRAMMARS}
    assert {each.model for each in jobs} == set(demo_jobs.MODEL_HOMES)
    assert {each.data for each in jobs} == set(demo_jobs.DATA_HOMES)
    homes = {*demo_jobs.MODEL_HOMES.values(), *demo_jobs.DATA_HOMES.values()}
    assert homes == {each.origin for each in jobs} == set(demo_jobs.SITE_IDS)


def test_all_jobs_together_fit_a_minute_and_a_half_of_two_cores():
    assert sum(each.core_s for each in demo_jobs.demo_jobs()) <= 2 * 45


@pytest.mark.parametrize("kind", WorkKind)
def test_each_kind_of_work_has_an_example_of_its_name(kind):
    path = EXAMPLES / f"{kind.value.lower().replace('_', '-')}.yaml"
    assert parse_document(path.read_bytes(), submitted_s=NOON_S).work.kind is kind


# ------------------------------------------------------------------------------- the report


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_fits_the_terminal_and_cuts_no_figure(width):
    late = JobResult("08", task(8, deadline_s=NOON_S + 2400), (entry(8, deadline_s=NOON_S + 2400),))
    text = rendered(report(job(), late), width)
    assert max(len(line) for line in text.splitlines()) <= width
    row = next(line for line in text.splitlines() if line.startswith("07"))
    for figure in ("1500k", "de→cal", "12:10", "0:10", "0:40", "2.0", "0.060", "100"):
        assert figure in row
    assert "late 0:10" in text
    assert "0 of 1 met; 1 had none" in text


def test_the_wide_report_shows_the_origin_beside_each_job():
    row = next(line for line in rendered(report(job()), 120).splitlines() if line.startswith("07"))
    assert "0.100" in row
    assert "400" in row


def test_the_headline_names_the_scope_and_says_more_where_it_is_more():
    assert headline(report(job())).startswith(
        "75 % less carbon and 40 % less cost (scope operator)"
    )
    dearer = JobResult("01", task(), (entry(charge=AT_ORIGIN, at_origin=SPENT),))
    assert headline(report(dearer)).startswith("300 % more carbon and 67 % more cost")


def test_the_report_says_what_is_modelled_and_how_the_world_is_scaled():
    text = " ".join(rendered(report(job()), 80).split())
    assert "Energy is modelled, not measured" in text
    assert "1 s on the wall is 10 min of world time, 1 stored byte stands for 100" in text
    assert "1 token processed for 1,000" in text


def test_all_attempts_of_a_job_are_charged():
    twice = JobResult("07", task(), (entry(at_origin=Charge()), entry()))
    assert twice.totals.spent == SPENT + SPENT
    assert twice.totals.at_origin == AT_ORIGIN


def test_a_job_that_never_ran_is_a_failure_and_counts_as_late():
    never = JobResult("09", task(9, state=TaskState.REJECTED, deadline_s=NOON_S + 1), ())
    found = report(job(), never)
    assert not found.is_success
    assert never.is_late is True
    text = rendered(found, 80)
    assert "de→-" in text
    assert "rejected" in text
    assert json_document(found)["jobs"][1]["site"] is None


def test_the_predictors_error_compares_the_first_runs_to_end_with_the_last():
    jobs = [
        JobResult(
            f"{n:02d}",
            task(n, predicted_s=2400.0 * (4 if n < 5 else 0.5)),
            (entry(n, ended_s=NOON_S + 3000 + n),),
        )
        for n in range(10)
    ]
    first, last = report(*reversed(jobs)).learning()
    assert first == pytest.approx(4)
    assert last == pytest.approx(2)
    assert report(*jobs[:9]).learning() is None


def test_the_predictors_error_is_told_by_what_was_known_at_the_submission():
    jobs = [
        JobResult(
            f"{n:02d}",
            replace(
                task(n, predicted_s=2400.0 * (1 + n % 4)), submitted_s=NOON_S + (3002.5 if n else 0)
            ),
            (entry(n, ended_s=NOON_S + 3000 + n),),
        )
        for n in range(5)
    ]
    assert report(*jobs).learning_by_known() == [
        ("none", 1, pytest.approx(1)),
        ("1 to 4", 4, pytest.approx(2.5)),
    ]


def test_the_json_has_the_tables_figures():
    document = json.loads(json.dumps(json_document(report(job()))))
    assert document["jobs"][0]["spent"]["cost_usd"] == pytest.approx(0.06)
    assert document["totals"]["spent"]["carbon_gco2"] == 100.0
    assert document["totals"]["at_origin"]["joint_usd"] == pytest.approx(0.10 + 0.2 * 0.4)
    assert document["scales"] == {"speed_ratio": 600.0, "byte_ratio": 100.0, "token_ratio": 1000}


# ------------------------------------------------------------------------------- the view


def reading():
    provenance = Provenance("test", "DE", None, None, 0.0, is_estimated=True)

    def hourly(*values, unit):
        return HourlySignal(NOON_S, values, unit=unit, provenance=provenance)

    return SiteSignalsReading(
        SiteId("cal"),
        zone="US-CAL-CISO",
        now_s=NOON_S,
        carbon=hourly(100.0, 200.0, unit="gCO2/kWh"),
        price=hourly(0.1, 0.2, unit="USD/kWh"),
    )


def test_off_a_terminal_each_change_is_one_line_in_the_order_of_time():
    console = Console(file=io.StringIO(), width=100, highlight=False)
    view = DemoView(console, job_count=3)
    with view.shown():
        waiting = task(1, state=TaskState.WAITING)
        running = task(2, state=TaskState.RUNNING)
        done = task(3)
        for _ in range(2):
            view.update([done, waiting, running], [reading()], now_s=NOON_S + 6000)
    assert console.file.getvalue().splitlines() == [
        "12:10  job 02 starts   de → cal  inference tiny-lm-1500k on support-tickets",
        "12:50  job 03 done     de → cal  after 0:40 h",
        "13:40  job 01 waits    de → cal  until 14:00: inference tiny-lm-1500k on support-tickets",
    ]


def test_on_a_terminal_the_signals_of_the_present_hour_are_shown():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    view = DemoView(console, job_count=3)
    with view.shown():
        view.update(
            [task(2, state=TaskState.RUNNING), task(1, state=TaskState.WAITING)],
            [reading()],
            now_s=NOON_S + 3700,
        )
    text = console.file.getvalue()
    assert "13:01 UTC   2 of 3 jobs submitted, 0 ended, 1 wait for a greener start" in text
    row = next(line for line in text.splitlines() if line.startswith("cal"))
    assert row.split() == ["cal", "200", "0.200", "02", "tiny-lm-1500k", "01"]
