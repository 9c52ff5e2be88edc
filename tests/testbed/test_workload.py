"""The generator: what is drawn, and what stays when a line of the scenario changes."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gcos.accounting import S_PER_H
from gcos.errors import InvalidRequestError
from gcos.seeds import stream
from testbed.instances import draw, replay
from testbed.run_signals import DRAIN_H
from testbed.scenarios import load_scenario
from testbed.sim.instance import ChurnKind, Instance, SimTask
from testbed.workload import clipped_lognormal_mean
from testbed.world import LoggedJob, load_world

WEEK_S = 1_704_672_000.0  # Monday, 2024-01-08, 00:00 UTC
START_S = WEEK_S - 24 * S_PER_H


@cache
def drawn(name: str = "default", seed: int = 1) -> Instance:
    return draw(load_scenario(name), load_world(None), week_start_s=WEEK_S, seed=seed)


def from_file(directory: Path, text: str, seed: int = 1) -> Instance:
    path = directory / "mine.toml"
    path.write_text(f'base = "default"\n{text}\n')
    return draw(load_scenario(str(path)), load_world(None), week_start_s=WEEK_S, seed=seed)


def bytes_by_id(instance: Instance) -> dict[str, int]:
    return {each.artifact.artifact_id: each.artifact.size_bytes for each in instance.upstreams}


def homes(instance: Instance) -> dict[str, str]:
    return {each.artifact.name: each.home for each in instance.upstreams}


def measured(instance: Instance) -> list[SimTask]:
    begin_s, end_s = instance.measured_s
    return [task for task in instance.tasks if begin_s <= task.arrival_s < end_s]


def gpu_h(task: SimTask) -> float:
    return task.gpu_count * task.predicted_work_s / S_PER_H


def test_the_same_seed_gives_the_same_instance_and_another_another() -> None:
    again = draw(load_scenario("default"), load_world(None), week_start_s=WEEK_S, seed=1)
    assert again.tasks == drawn().tasks
    assert again.upstreams == drawn().upstreams
    assert drawn(seed=2).tasks != drawn().tasks


@pytest.mark.parametrize("told", ["point", "none"])
def test_what_policies_are_told_changes_nothing_but_that(told: str, tmp_path: Path) -> None:
    found = from_file(tmp_path, f'[workload]\nprediction = "{told}"')
    assert {task.sigma for task in found.tasks} == {0.0}
    medians_s = [task.predicted_work_s for task in drawn().tasks]
    expected_s = medians_s if told == "point" else [float(np.median(medians_s))] * len(medians_s)
    assert [task.predicted_work_s for task in found.tasks] == pytest.approx(expected_s)
    same = [
        replace(task, sigma=mine.sigma, predicted_work_s=mine.predicted_work_s)
        for task, mine in zip(drawn().tasks, found.tasks, strict=True)
    ]
    assert tuple(same) == found.tasks, "truth, deadlines and penalties"


def test_the_run_begins_a_day_before_its_week_and_signals_outlast_it() -> None:
    found = drawn()
    assert (found.start_s, found.measured_s) == (START_S, (WEEK_S, WEEK_S + 168 * S_PER_H))
    for series in (*found.price.values(), *found.carbon.values()):
        assert series.start_s == START_S
        assert series.end_s == WEEK_S + (168 + DRAIN_H) * S_PER_H


def test_tasks_are_sorted_numbered_and_inside_the_run() -> None:
    tasks = drawn().tasks
    assert [task.task_id for task in tasks] == sorted(task.task_id for task in tasks)
    arrivals = [task.arrival_s for task in tasks]
    assert arrivals == sorted(arrivals)
    assert arrivals[0] >= START_S
    assert arrivals[-1] < WEEK_S + 168 * S_PER_H


@pytest.mark.parametrize("name", ["default", "load-low", "load-high", "sites-5", "clean-zone"])
def test_the_load_is_what_the_scenario_asks_for_on_average(name: str) -> None:
    scenario = load_scenario(name)
    capacity = sum(site.gpus * scenario.hardware[site.hardware].speed for site in scenario.site)
    loads = [
        sum(map(gpu_h, measured(drawn(name, seed)))) / (capacity * scenario.measure_h)
        for seed in range(1, 9)
    ]
    # Eight weeks of thousands of tasks: a standard error of about 1.5 % of the load.
    assert np.mean(loads) == pytest.approx(scenario.workload.load, rel=0.06)


def test_classes_come_in_their_shares_and_work_is_clipped() -> None:
    tasks = drawn().tasks
    counts = Counter(task.job_class for task in tasks)
    for name, each in load_scenario("default").workload.classes.items():
        assert counts[name] / len(tasks) == pytest.approx(each.share, abs=0.02)
        work_h = [t.predicted_work_s / S_PER_H for t in tasks if t.job_class == name]
        assert np.median(work_h) == pytest.approx(each.median_h, rel=0.08)
        assert 0.05 <= min(work_h) <= max(work_h) <= 24.0


def test_true_work_scatters_around_the_prediction_without_bias_of_its_logarithm() -> None:
    noise = np.log([task.work_s / task.predicted_work_s for task in drawn().tasks])
    assert noise.mean() == pytest.approx(0.0, abs=0.015)
    assert noise.std() == pytest.approx(0.3, abs=0.015)
    assert {task.sigma for task in drawn().tasks} == {0.3}


def test_gpus_are_enough_for_the_model_and_tuning_asks_for_more() -> None:
    found = drawn()
    size = bytes_by_id(found)
    for task in found.tasks:
        needed = 70e9 * task.gpu_count >= 1.15 * size[task.model] or task.gpu_count == 8
        assert needed
        assert task.gpu_count in {1, 2, 4, 8}
    small = [t for t in found.tasks if size[t.model] < 60e9]
    assert {t.gpu_count for t in small if t.job_class != "tuning"} == {1}
    tuning = Counter(t.gpu_count for t in small if t.job_class == "tuning")
    assert set(tuning) == {1, 2, 4}
    assert min(tuning.values()) > 0.28 * tuning.total()


def test_data_sets_fit_their_class_and_the_catalogue_is_that_of_the_file() -> None:
    found = drawn()
    size = bytes_by_id(found)
    largest_gb = {"short": 50, "batch": 300, "tuning": 1000}
    assert all(size[task.data] <= largest_gb[task.job_class] * 1e9 for task in found.tasks)
    names = sorted(each.artifact.name for each in found.upstreams)
    assert len(names) == 84
    assert {"model-4.7gb", "model-810gb", "data-1", "data-60"} <= set(names)


def test_deadlines_and_penalties_follow_from_the_prediction_alone() -> None:
    slack_h = {"short": (0.3, 1.2), "batch": (2.0, 12.0), "tuning": (6.0, 36.0)}
    for task in drawn().tasks:
        # The median speed of the eight sites is (0.5 + 1.0) / 2.
        run_s = 1.3 * task.predicted_work_s / 0.75
        slack = (task.deadline_s - task.arrival_s - run_s) / S_PER_H
        low, high = slack_h[task.job_class]
        assert low - 1e-6 <= slack <= high + 1e-6
        assert task.late_penalty.fixed_usd == pytest.approx(0.5 + 0.5 * gpu_h(task))
        assert task.late_penalty.per_h_usd == pytest.approx(0.25 * gpu_h(task))
        assert task.late_penalty.cap_h == 4.0


def test_half_of_the_tasks_are_submitted_beside_their_data_at_least() -> None:
    found = drawn()
    home = {each.artifact.artifact_id: each.home for each in found.upstreams}
    share = np.mean([task.origin == home[task.data] for task in found.tasks])
    assert 0.52 < share < 0.72


def test_people_work_by_day_where_they_are() -> None:
    """Local noon to four is 13 times as busy as midnight to four, in each origin's own time."""
    ahead_h = {"cal": -8, "de": 1, "jp": 9, "sg": 8}
    for site_id, hours in ahead_h.items():
        local_h = [
            (task.arrival_s / S_PER_H + hours) % 24
            for task in drawn().tasks
            if task.origin == site_id
        ]
        by_day = sum(12 <= hour < 16 for hour in local_h)
        by_night = sum(0 <= hour < 4 for hour in local_h)
        assert by_day > 4 * by_night


def test_popular_pairs_are_asked_for_more_often() -> None:
    def share_of_ten(name: str) -> float:
        tasks = drawn(name).tasks
        counts = Counter((task.model, task.data) for task in tasks)
        return sum(count for _, count in counts.most_common(10)) / len(tasks)

    assert share_of_ten("zipf-flat") < share_of_ten("default") < share_of_ten("zipf-steep")


def test_a_higher_load_keeps_all_tasks_of_a_lower_one() -> None:
    def content(task: SimTask) -> tuple[object, ...]:
        return (task.arrival_s, task.model, task.data, task.work_s, task.deadline_s, task.origin)

    low, high = (set(map(content, drawn(name).tasks)) for name in ("load-low", "load-high"))
    assert low < high


@pytest.mark.parametrize(
    "name", ["cache-tenth", "egress-dear", "network-stress", "gpu-hours", "cache-quarter"]
)
def test_a_variant_of_the_world_leaves_the_workload_alone(name: str) -> None:
    assert drawn(name).tasks == drawn().tasks
    assert drawn(name).upstreams == drawn().upstreams


def test_another_slack_changes_deadlines_alone() -> None:
    for half, whole in zip(drawn("slack-half").tasks, drawn().tasks, strict=True):
        run_s = 1.3 * whole.predicted_work_s / 0.75
        assert half.arrival_s == whole.arrival_s
        slack = whole.deadline_s - whole.arrival_s - run_s
        assert half.deadline_s - half.arrival_s - run_s == pytest.approx(slack / 2, abs=1e-3)


def test_wilder_run_times_change_the_truth_alone() -> None:
    for wild, tame in zip(drawn("runtime-wild").tasks, drawn().tasks, strict=True):
        assert (wild.predicted_work_s, wild.deadline_s) == (tame.predicted_work_s, tame.deadline_s)
        spread = np.log(tame.work_s / tame.predicted_work_s)
        assert np.log(wild.work_s / wild.predicted_work_s) == pytest.approx(3 * spread, abs=1e-9)


def test_a_site_more_takes_some_homes_and_moves_no_other() -> None:
    before, after = homes(drawn()), homes(drawn("sites-14"))
    new = {"nsw", "gb", "za", "in", "de2", "cal2"}
    assert all(after[name] == home or after[name] in new for name, home in before.items())
    assert set(before.values()) == {"cal", "tex", "pjm", "de", "sg", "jp", "br", "on"}


def test_links_have_the_rates_and_prices_of_the_scenario() -> None:
    links = drawn("sites-14").links
    assert links["cal", "tex"].bytes_per_s == 4e9 / 8
    assert links["cal", "de"].bytes_per_s == 2e9 / 8
    assert (links["de", "de2"].egress_usd_per_gb, links["de", "de2"].bytes_per_s) == (0.02, 5e8)
    assert drawn("network-stress").links["cal", "de"].bytes_per_s == 2e9 / 8 / 4
    dear, plain = drawn("egress-dear").links, drawn().links
    assert dear["cal", "de"].egress_usd_per_gb == pytest.approx(
        3 * plain["cal", "de"].egress_usd_per_gb
    )


def test_prices_have_the_adder_and_synthetic_carbon_is_told() -> None:
    world = load_world(None)
    found = drawn("clean-zone-synthetic")
    bare = world.price("DE", START_S, 24).values
    np.testing.assert_allclose(found.price["de"].values[:24], bare + 0.03)
    assert found.carbon["on"].at(WEEK_S) == 30.0
    assert any("synthetic carbon at on" in note for note in found.notes)


def test_a_site_that_leaves_gets_no_tasks_and_the_others_get_them() -> None:
    found = drawn("churn")
    assert [(each.kind, each.site_id) for each in found.churn] == [
        (ChurnKind.LEAVE, "de"),
        (ChurnKind.JOIN, "de"),
        (ChurnKind.JOIN, "gb"),
    ]
    leave, join, _ = found.churn
    assert join.keeps_caches
    origins = [t.origin for t in found.tasks if leave.at_s <= t.arrival_s < join.at_s]
    assert "de" not in origins
    plain = {task.task_id: task for task in drawn().tasks}
    assert all(
        task.origin == plain[task.task_id].origin or plain[task.task_id].origin == "de"
        for task in found.tasks
    )
    assert "gb" in [site.site_id for site in found.sites]


def test_no_load_means_no_tasks(tmp_path: Path) -> None:
    assert from_file(tmp_path, "[workload]\nload = 0.0").tasks == ()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no data set"):
        from_file(tmp_path, "[workload.short]\ndata_gb_max = 0.01")
    with pytest.raises(InvalidRequestError, match="tasks are more than"):
        from_file(tmp_path, "[workload]\nload = 1e6")
    with pytest.raises(InvalidRequestError, match="UTC hour"):
        draw(load_scenario("default"), load_world(None), week_start_s=WEEK_S + 1, seed=1)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 3.0])
def test_the_mean_of_a_clipped_lognormal_is_that_of_a_sample(sigma: float) -> None:
    normal = stream(1, "test").standard_normal(200_000)
    sample = np.clip(0.7 * np.exp(sigma * normal), 0.05, 24.0)
    found = clipped_lognormal_mean(0.7, sigma, (0.05, 24.0))
    assert found == pytest.approx(sample.mean(), rel=0.01)


def job(number: int, **known: object) -> LoggedJob:
    fields: dict[str, object] = {"submit_s": 60.0 * number, "duration_s": 1800.0, "gpus": 2}
    return LoggedJob(log="test", job_id=str(number), **{**fields, **known})  # type: ignore[arg-type]


def replayed(*jobs: LoggedJob) -> Instance:
    return replay(load_scenario("default"), load_world(None), jobs, week_start_s=WEEK_S, seed=1)


def test_a_log_is_replayed_with_what_it_knows() -> None:
    model, data = load_world(None).models()[3], load_world(None).data_sets()[2]
    known = job(1, model=model.name, data_set=data.name, origin_zone="SG", deadline_s=9e3)
    found = replayed(job(0), known)
    first, second = found.tasks
    assert (second.arrival_s, second.work_s, second.gpu_count) == (START_S + 60, 1800.0, 2)
    assert (second.origin, second.deadline_s) == ("sg", START_S + 9e3)
    names = {each.artifact.artifact_id: each.artifact.name for each in found.upstreams}
    sizes = bytes_by_id(found)
    assert (names[second.model], sizes[second.model]) == (model.name, model.size_bytes)
    assert (names[second.data], sizes[second.data]) == (data.name, data.size_bytes)
    assert names[first.model].startswith("model-")
    assert first.deadline_s > first.arrival_s
    assert "models of 1 of them drawn" in found.notes


def test_the_prediction_of_a_replayed_job_is_not_its_truth() -> None:
    found = replayed(*(job(number) for number in range(400)))
    noise = np.log([task.work_s / task.predicted_work_s for task in found.tasks])
    assert noise.std() == pytest.approx(0.3, abs=0.03)


def test_jobs_that_no_site_can_run_are_left_out_and_told() -> None:
    found = replayed(job(0), job(1, gpus=512), job(2, duration_s=0.0), job(10**6))
    assert len(found.tasks) == 1
    assert any(note.startswith("2 jobs of test are left out") for note in found.notes)
    with pytest.raises(InvalidRequestError, match="no job"):
        replayed(job(0, gpus=512))
    with pytest.raises(InvalidRequestError, match="whose size no catalogue states"):
        replayed(job(0, model="unheard-of"))
