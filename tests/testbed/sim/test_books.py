"""What a run is charged: to the second, and in whatever order things end."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.accounting import BYTES_PER_GB, LatePenalty
from gcos.artifacts import ArtifactKind
from gcos.signals import HOUR_S, StepSeries
from policies.catalogue import POLICIES
from testbed.sim.books import Books
from testbed.sim.instance import Instance
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from testbed.sim.simulation import Simulation

NOBODY = LatePenalty(0.0, 0.0, 0.0)


def one_task(instance: Instance, *, arrival_h: float, work_h: float, gpu_count: int) -> Instance:
    task = replace(
        instance.tasks[0],
        arrival_s=START_S + arrival_h * HOUR_S,
        work_s=work_h * HOUR_S,
        predicted_work_s=work_h * HOUR_S,
        gpu_count=gpu_count,
        deadline_s=START_S + 1000 * HOUR_S,
        late_penalty=NOBODY,
    )
    return replace(instance, tasks=(task,))


def stepped(hour: int, before: float, after: float) -> StepSeries:
    values = np.full(200, after)
    values[:hour] = before
    return StepSeries(START_S, HOUR_S, values)


def test_a_step_of_the_price_is_charged_to_the_second() -> None:
    """From 05:30 to 07:15 on two GPUs; 0.10 $/kWh until 07:00, then -0.40 $/kWh."""
    instance = one_task(
        instance_of(Sample(site_count=1, task_count=1)), arrival_h=5.5, work_h=1.75, gpu_count=2
    )
    here = site_id(0)
    instance = replace(
        instance,
        price={here: stepped(7, 0.10, -0.40)},
        carbon={here: stepped(6, 200.0, 700.0)},
    )
    run = Simulation(instance, POLICIES["local"])
    run.run()
    charge = run.books.totals(run.books.whole).charge
    power_kw = 2 * 1.0 * 1.1
    assert charge.energy_usd == pytest.approx(power_kw * (1.5 * 0.10 - 0.25 * 0.40), rel=1e-9)
    assert charge.compute_gco2 == pytest.approx(power_kw * (0.5 * 200 + 1.25 * 700), rel=1e-9)
    assert charge.energy_kwh == pytest.approx(power_kw * 1.75, rel=1e-9)
    assert charge.gpu_usd == pytest.approx(2 * 1.75 * 3.0, rel=1e-9)


def test_a_transfer_is_charged_by_the_means_over_its_time() -> None:
    """20 GB from 03:30 to 04:30 at 5.56 MB/s, carbon 100 then 300 here, and 500 there."""
    drawn = instance_of(Sample(site_count=2, task_count=1, storage_usd_per_gb_h=0.001))
    here, there = site_id(0), site_id(1)
    task = drawn.tasks[0]
    sizes = {task.model: 0.0, task.data: 20.0}
    homes = {task.model: here, task.data: there}
    upstreams = tuple(
        replace(
            each,
            artifact=replace(
                each.artifact, size_bytes=round(sizes[each.artifact.artifact_id] * 1e9) or 1
            ),
            home=homes[each.artifact.artifact_id],
        )
        for each in drawn.upstreams
        if each.artifact.artifact_id in sizes
    )
    instance = one_task(drawn, arrival_h=3.5, work_h=1.0, gpu_count=1)
    link = replace(instance.links[there, here], rtt_s=0.0, bytes_per_s=20e9 / HOUR_S)
    instance = replace(
        instance,
        tasks=(replace(instance.tasks[0], origin=here),),
        upstreams=upstreams,
        links=dict.fromkeys(instance.links, link),
        carbon={here: stepped(4, 100.0, 300.0), there: StepSeries.constant(500.0)},
    )
    run = Simulation(instance, POLICIES["local"])
    run.run()
    charge = run.books.totals(run.books.whole).charge
    assert charge.transfer_usd == pytest.approx(20 * 0.02)
    assert charge.network_gco2 == pytest.approx(20 * 0.0065 * (200.0 + 500.0) / 2)
    assert charge.transfer_bytes == 20 * BYTES_PER_GB
    # From the first byte to the end of the last run: 03:30 to 05:30.
    assert charge.storage_usd == pytest.approx(20 * 2.0 * 0.001)


def test_what_ends_late_pays_and_is_counted() -> None:
    instance = one_task(
        instance_of(Sample(site_count=1, task_count=1)), arrival_h=1.0, work_h=2.0, gpu_count=1
    )
    task = replace(
        instance.tasks[0],
        deadline_s=START_S + 2.0 * HOUR_S,
        late_penalty=LatePenalty(3.0, 5.0, cap_h=4.0),
    )
    run = Simulation(replace(instance, tasks=(task,)), POLICIES["local"])
    run.run()
    totals = run.books.totals(run.books.whole)
    assert totals.charge.penalty_usd == pytest.approx(3.0 + 5.0 * 1.0)
    assert (totals.miss_count, totals.task_count) == (1, 1)


@given(order=st.permutations(range(30)))
@settings(max_examples=20, deadline=None)
def test_the_order_in_which_things_end_never_changes_a_total(order: list[int]) -> None:
    instance = instance_of(Sample())
    one, other = Books(instance), Books(instance)
    for books, indices in ((one, range(30)), (other, order)):
        for i in indices:
            enter(books, instance, i)
        books.close()
    for name in ("whole", "measured"):
        mine, theirs = one.totals(getattr(one, name)), other.totals(getattr(other, name))
        assert replace(theirs, wait_mean_s=0.0) == replace(mine, wait_mean_s=0.0)
        assert theirs.wait_mean_s == pytest.approx(mine.wait_mean_s, rel=1e-12)


def enter(books: Books, instance: Instance, index: int) -> None:
    """Enter what befell one task: a transfer, perhaps a failed attempt, and a run."""
    task = instance.tasks[index]
    site = instance.sites[index % len(instance.sites)]
    source = instance.sites[(index + 1) % len(instance.sites)].site_id
    upstream = next(u for u in instance.upstreams if u.artifact.artifact_id == task.data)
    begin_s = task.arrival_s
    books.transfer(
        upstream.artifact,
        source,
        site.site_id,
        start_s=begin_s,
        end_s=begin_s + 100.0 * (index + 1),
        task_id=task.task_id,
        is_stored=False,
    )
    books.lookup(task, ArtifactKind.DATA, is_hit=index % 2 == 0)
    if index % 3 == 0:
        books.abort(task, site, site.pools[0], start_s=begin_s, end_s=begin_s + 60.0)
    start_s = begin_s + 1000.0
    books.run(task, site, site.pools[0], start_s=start_s, end_s=start_s + task.work_s)


def test_only_what_arrives_or_starts_in_the_window_is_measured() -> None:
    instance = instance_of(Sample())
    begin_s, end_s = instance.measured_s
    inside = [begin_s <= task.arrival_s < end_s for task in instance.tasks]
    books = Books(instance)
    for i in range(len(instance.tasks)):
        enter(books, instance, i)
    books.close()
    whole, measured = books.totals(books.whole), books.totals(books.measured)
    assert 0 < sum(inside) < len(inside)
    assert (whole.task_count, measured.task_count) == (len(inside), sum(inside))
    alone = Books(instance)
    for i, is_inside in enumerate(inside):
        if is_inside:
            enter(alone, instance, i)
    alone.close()
    assert alone.totals(alone.whole).charge == measured.charge


@pytest.mark.parametrize(("evicted_h", "stored_h"), [(3.0, 3.0), (9.0, 5.0)])
def test_storage_ends_with_the_eviction_or_the_last_run(evicted_h: float, stored_h: float) -> None:
    """A copy that comes at the begin, and the last run ends after five hours."""
    instance = instance_of(Sample(storage_usd_per_gb_h=0.01))
    task = replace(instance.tasks[0], arrival_s=START_S, late_penalty=NOBODY)
    upstream, site = instance.upstreams[0], instance.sites[0]
    source = next(each.site_id for each in instance.sites if each is not site)
    books = Books(instance)
    books.transfer(
        upstream.artifact,
        source,
        site.site_id,
        start_s=START_S,
        end_s=START_S + 60.0,
        task_id=None,
        is_stored=True,
    )
    for at_h, kind in sorted([(evicted_h, "evict"), (5.0, "run")]):
        at_s = START_S + at_h * HOUR_S
        if kind == "run":
            books.run(task, site, site.pools[0], start_s=START_S + HOUR_S, end_s=at_s)
        else:
            books.evict(site.site_id, upstream.artifact, now_s=at_s)
    books.close()
    size_gb = upstream.artifact.size_bytes / BYTES_PER_GB
    found_usd = books.totals(books.whole).charge.storage_usd
    assert found_usd == pytest.approx(0.01 * size_gb * stored_h)


def test_every_line_of_the_log_is_in_the_hash() -> None:
    instance = instance_of(Sample())
    log = io.StringIO()
    written, silent, fewer = Books(instance, log), Books(instance), Books(instance)
    for i in range(5):
        enter(written, instance, i)
        enter(silent, instance, i)
        if i:
            enter(fewer, instance, i)
    assert written.trace_hash == silent.trace_hash != fewer.trace_hash
    kinds = [json.loads(line)["e"] for line in log.getvalue().splitlines()]
    assert kinds.count("run") == 5
    assert set(kinds) == {"transfer", "run", "abort"}


def test_idle_power_is_that_of_all_gpus_less_the_busy_ones() -> None:
    """Eight GPUs from 00:00 until the run ends at 03:00; two of them busy for an hour."""
    instance = one_task(
        instance_of(Sample(site_count=1, task_count=1)), arrival_h=2.0, work_h=1.0, gpu_count=2
    )
    here = site_id(0)
    instance = replace(instance, price={here: StepSeries.constant(0.2)})
    run = Simulation(instance, POLICIES["local"])
    run.run()
    idle = run.books.totals(run.books.whole).idle
    assert idle.energy_kwh == pytest.approx((8 * 3 - 2 * 1) * 0.2 * 1.1)
    assert idle.energy_usd == pytest.approx(0.2 * idle.energy_kwh)
