"""Parity without processes: a simulation stands for the live run, so both sides are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gcos.accounting import Charge
from gcos.contract_net import Report
from gcos.ids import SiteId
from gcos.tasks import RunState
from policies.catalogue import policy_named
from policies.interface import Choice
from site_agent.decisions import AwardDecision, Decision, RecordingBidder
from testbed.evaluate import Pair, RunOrder, instance_of, monday_s
from testbed.live.books import booked, result_of
from testbed.live.parity import parity, trajectory
from testbed.live.records import LiveCopy, LiveFetch, LiveRun, LiveTask
from testbed.live.replay import as_recorded
from testbed.scenarios import load_scenario
from testbed.sim.instance import Instance
from testbed.sim.simulation import OpenAuction, Simulation

SHORT = """
base = "default"
keep_sites = ["de", "cal", "pjm", "on"]
[workload]
short  = { share = 0.9, median_h = 0.15, sigma = 0.5, slack_h = [0.3, 1.2],  data_gb_max = 50 }
batch  = { share = 0.1, median_h = 0.3, sigma = 0.3, slack_h = [2.0, 12.0], data_gb_max = 300 }
tuning = { share = 0.0, median_h = 0.3, sigma = 0.3, slack_h = [6.0, 36.0], data_gb_max = 1000 }
"""


def short_instance(tmp_path: Path, *changes: str) -> Instance:
    path = tmp_path / "short.toml"
    path.write_text(SHORT)
    plan = load_scenario(str(path), ["warmup_h=0", "measure_h=1", "workload.load=0.15", *changes])
    pair = Pair(monday_s("2023-01-02"), 1)
    return instance_of(RunOrder(plan, None, pair, "joint", "dual", ""))


class Recorded(Simulation):
    """A simulation that leaves behind what a live run does."""

    def __init__(self, instance: Instance, policy_name: str) -> None:
        self.decisions: list[Decision] = []
        self.reports: dict[str, Report] = {}
        policy = policy_named(policy_name)
        recording = replace(
            policy,
            bidder=lambda: RecordingBidder(policy_name, policy.bidder(), self.decisions.append),
        )
        super().__init__(instance, recording, is_instant=False, arbiter=self._decide)

    def _decide(self, auction: OpenAuction) -> None:
        task_id = auction.announcement.task_id
        origin = self.places[auction.announcement.origin].origin
        spec, attempt = origin.tasks[task_id].spec, origin.tasks[task_id].fence.attempt + 1
        auction.settle(auction.auction)
        bid = origin.tasks[task_id].bid
        assert bid is not None
        award = AwardDecision(
            self.engine.now_s, task_id, attempt, spec, auction.auction, bid.site_id
        )
        self.decisions.append(Decision(award=award))

    def _send_report(self, place, to, report: Report) -> None:
        if report.state is RunState.SUCCEEDED:
            self.reports[report.task_id] = report
        super()._send_report(place, to, report)

    def live_run(self) -> LiveRun:
        names = {each.artifact.artifact_id: each.artifact.name for each in self.instance.upstreams}
        tasks = []
        for task in self.instance.tasks:
            report = self.reports[task.task_id]
            assert report.staged_s is not None
            assert report.started_s is not None
            awards = [
                each.award
                for each in self.decisions
                if each.award is not None and each.award.task_id == task.task_id
            ]
            tasks.append(
                LiveTask(
                    task.task_id,
                    task.task_id,
                    submitted_s=task.arrival_s,
                    site_id=report.site_id,
                    accepted_s=report.accepted_s,
                    staged_s=report.staged_s,
                    started_s=report.started_s,
                    ended_s=report.ended_s,
                    attempts=report.fence.attempt,
                    fetches=tuple(
                        LiveFetch(names[each.artifact_id], each.source.site_id, each.size_bytes)
                        for each in report.fetches
                    ),
                    evictions=tuple(names[each] for each in report.evictions),
                    predictions=awards[-1].auction.predictions,
                )
            )
        return LiveRun(tuple(tasks), (), tuple(self.decisions), wall_s=1.0)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[[str], tuple[Instance, LiveRun]]:
    def run(policy: str) -> tuple[Instance, LiveRun]:
        instance = short_instance(tmp_path, "signals.forecast_error=0")
        # Agents know of links what the shipped tables say.
        nothing = LiveRun(tuple(_unmoved(instance)), (), (), 0.0)
        instance = replace(as_recorded(instance, nothing), name=instance.name)
        simulation = Recorded(instance, policy)
        simulation.run()
        return instance, simulation.live_run()

    return run


def _unmoved(instance: Instance) -> list[LiveTask]:
    return [
        LiveTask(task.task_id, "", task.arrival_s, task.origin, 0, 0, 0, 0, 1, (), (), ())
        for task in instance.tasks
    ]


@pytest.mark.parametrize("policy", ["joint", "rule", "least-loaded"])
def test_a_run_that_is_replayed_with_its_own_times_goes_as_it_went(recorded, policy) -> None:
    instance, run = recorded(policy)
    found = parity(instance, run, policy=policy, on="live", speed=60.0)
    assert found.decisions.awards >= len(instance.tasks) > 30
    assert found.decisions.differences == ()
    assert found.trajectory.same_ratio >= 0.99, found.trajectory.differences
    assert found.is_success
    # Messages take a tenth of a second here and none in the simulator: hardly anything differs.
    assert found.closed_loop.live_joint_usd == pytest.approx(
        found.closed_loop.simulated_joint_usd, rel=0.05
    )
    interval = found.closed_loop.joint_usd.difference.interval
    assert interval is not None
    assert interval.low <= found.closed_loop.joint_usd.difference.mean <= interval.high


def test_books_of_a_live_run_charge_what_the_simulator_charges(recorded) -> None:
    instance, run = recorded("joint")
    simulation = Recorded(instance, "joint")
    simulation.run()
    ours, theirs = booked(instance, run), simulation.books
    live, simulated = ours.totals(ours.whole), theirs.totals(theirs.whole)
    for item in ("energy_usd", "gpu_usd", "transfer_usd", "penalty_usd", "compute_gco2"):
        assert getattr(live.charge, item) == pytest.approx(getattr(simulated.charge, item)), item
    assert live.task_count == simulated.task_count
    assert live.miss_count == simulated.miss_count
    assert live.models.hit_count + live.models.miss_count == len(instance.tasks)


def test_copies_ahead_of_need_are_charged(recorded) -> None:
    instance, run = recorded("joint")
    copy = LiveCopy(instance.start_s + 60.0, Charge(transfer_usd=7.0))
    without = result_of(instance, run, policy="joint", core="live")
    result = result_of(instance, replace(run, copies=(copy,)), policy="joint", core="live")
    assert result.core == "live"
    moved_usd = result.measured.charge.transfer_usd - without.measured.charge.transfer_usd
    assert moved_usd == pytest.approx(7.0)


def test_a_task_that_ran_elsewhere_is_told(recorded) -> None:
    instance, run = recorded("joint")
    first = run.tasks[0]
    other = next(s.site_id for s in instance.sites if s.site_id != first.site_id)
    moved = replace(run, tasks=(replace(first, site_id=SiteId(other)), *run.tasks[1:]))
    found = trajectory(instance, moved, "joint")
    assert found.same_ratio < 1.0
    assert any(each.startswith(f"{first.task_id}:") for each in found.differences)


def test_a_decision_that_came_out_otherwise_fails_parity(recorded) -> None:
    instance, run = recorded("joint")
    bid = next(each.bid for each in run.decisions if each.bid is not None)
    wrong = Decision(bid=replace(bid, choice=Choice(bid.choice.index, 9.0)))
    found = parity(
        instance,
        replace(run, decisions=(*run.decisions, wrong)),
        policy="joint",
        on="live",
        speed=60.0,
    )
    assert not found.is_success
    assert len(found.decisions.differences) == 1


def test_a_run_without_recordings_proves_nothing(recorded) -> None:
    instance, run = recorded("joint")
    found = parity(instance, replace(run, decisions=()), policy="joint", on="live", speed=60.0)
    assert not found.is_success
