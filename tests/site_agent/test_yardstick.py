from dataclasses import replace

import numpy as np
import pytest

from gcos.accounting import Charge
from gcos.contract_net import Fetch, Holder, Report
from gcos.ids import ArtifactId, Fence, RunId, SiteId, TaskId
from gcos.signals import HOUR_S, Provenance, Signal, SiteSignals, StepSeries
from gcos.sites import Pool, Site
from gcos.task_record import Task
from gcos.tasks import GpuRequest, Reason, RunState, TaskSpec, TaskState
from site_agent.yardstick import charge_at_origin

PROVENANCE = Provenance("test", "NO", None, None, 0.0, is_estimated=False)
SIGNALS = SiteSignals(
    carbon=Signal(StepSeries(0.0, HOUR_S, np.array([100.0, 300.0])), PROVENANCE, "gCO2/kWh"),
    price=Signal(StepSeries(0.0, HOUR_S, np.array([0.1, 0.2])), PROVENANCE, "USD/kWh"),
)
SMALL = Pool("T4", gpu_count=1, speed_ratio=1, active_kw=0.1, idle_kw=0, usd_per_gpu_h=0.5)
LARGE = Pool("H100", gpu_count=8, speed_ratio=1, active_kw=1.0, idle_kw=0, usd_per_gpu_h=3.0)
SITE = Site(
    site_id=SiteId("oslo"),
    incarnation="i",
    address="oslo:1",
    zone="NO",
    pue=1.5,
    pools=(SMALL, LARGE),
    model_cache_bytes=0,
    data_cache_bytes=0,
)
FETCH = Fetch(
    artifact_id=ArtifactId("sha256:" + "a" * 64),
    name="m",
    size_bytes=1_000,
    source=Holder(SiteId("paris"), "FR", "paris:1"),
    duration_s=60.0,
    cost_usd=0.25,
    carbon_gco2=7.0,
)
TASK = Task(
    task_id=TaskId("oslo-1"),
    origin=SiteId("oslo"),
    spec=TaskSpec("t", command=("true",), gpu=GpuRequest("any", 2)),
    submitted_s=0.5 * HOUR_S,
    state=TaskState.RUNNING,
    reason=Reason.EXECUTING,
    message="",
    needs=(),
    fence=Fence(1, 1),
    origin_fetches=(FETCH,),
)
REPORT = Report(
    run_id=RunId("oslo-1.1.1"),
    task_id=TASK.task_id,
    fence=TASK.fence,
    site_id=SiteId("paris"),
    state=RunState.SUCCEEDED,
    reason=Reason.EXITED_ZERO,
    message="",
    exit_code=0,
    pool_type="A100",
    accepted_s=9 * HOUR_S,
    staged_s=9 * HOUR_S,
    started_s=9 * HOUR_S,
    ended_s=10 * HOUR_S,
    charge=Charge(energy_usd=1.23, penalty_usd=0.0),
    fetches=(),
    evictions=(),
    is_energy_measured=False,
    log_tail="",
)


def yardstick(task: Task = TASK, *, site: Site = SITE, signals: SiteSignals = SIGNALS) -> Charge:
    return charge_at_origin(task, REPORT, site=site, signals=signals, byte_ratio=1000.0)


def test_the_measured_run_time_is_charged_at_the_origin_from_the_submission() -> None:
    """One hour from half past, 2 GPUs x 1 kW x PUE 1.5 = 3 kW, across the step of both signals."""
    charge = yardstick()
    assert charge.energy_kwh == pytest.approx(3.0)
    assert charge.energy_usd == pytest.approx(3.0 * (0.5 * 0.1 + 0.5 * 0.2))
    assert charge.compute_gco2 == pytest.approx(3.0 * (0.5 * 100 + 0.5 * 300))
    assert charge.gpu_usd == pytest.approx(2 * 3.0)


def test_what_the_origin_lacked_is_fetched_from_the_cheapest_holder() -> None:
    charge = yardstick()
    assert (charge.transfer_usd, charge.network_gco2) == (0.25, 7.0)
    assert charge.transfer_bytes == 1_000_000
    assert yardstick(replace(TASK, origin_fetches=())).transfer_usd == 0.0


def test_the_first_pool_that_fits_is_taken() -> None:
    one = replace(TASK, spec=replace(TASK.spec, gpu=GpuRequest("any", 1)))
    assert yardstick(one).gpu_usd == pytest.approx(0.5)
    typed = replace(TASK, spec=replace(TASK.spec, gpu=GpuRequest("H100", 1)))
    assert yardstick(typed).gpu_usd == pytest.approx(3.0)


def test_the_yardstick_knows_no_penalty_however_late_the_task() -> None:
    late = replace(TASK, spec=replace(TASK.spec, deadline_s=0.0))
    assert yardstick(late) == yardstick()


def test_without_a_carbon_signal_no_carbon_of_the_run_is_counted() -> None:
    charge = yardstick(signals=replace(SIGNALS, carbon=None))
    assert charge.compute_gco2 == 0.0
    assert charge.energy_usd > 0


def test_an_origin_without_gpus_saves_nothing() -> None:
    assert yardstick(site=replace(SITE, pools=())) == REPORT.charge
