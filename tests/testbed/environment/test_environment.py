"""Both faces of the environment pass the libraries' checks, and rewards are what was charged."""

from collections.abc import Mapping

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test, parallel_seed_test

from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from policies.catalogue import policy_named
from policies.features import CLAMP, FEATURE_COUNT, FEATURES
from testbed.environment import SiteBidding, SiteScheduling, scenario_draw
from testbed.environment.decisions import Booked, Candidate, Decision, SimulatedDecisions
from testbed.sim.instance import Instance
from testbed.sim.run import simulate
from testbed.sim.samples import Sample, instance_of

INSTANCE = instance_of(Sample(task_count=25))


def sample_draw(random: np.random.Generator) -> Instance:
    """Worlds of a few tasks that differ with the generator."""
    return instance_of(Sample(seed=int(random.integers(1000)), task_count=12))


def only(instance: Instance):
    return lambda _random: instance


def joint_usd(instance: Instance, policy: str = "joint") -> float:
    charge = simulate(instance, policy=policy).whole.charge
    return charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)


def test_gymnasium_finds_nothing_wrong() -> None:
    check_env(SiteScheduling(sample_draw), skip_render_check=True)  # it draws nothing


def test_the_registered_one_is_checked_too() -> None:
    env = gymnasium.make(
        "testbed.environment:gcos/SiteScheduling-v0",
        scenario="sites-5",
        weeks=("2021-01-04",),
        decision_count_max=20,
    )
    check_env(env.unwrapped)
    env.reset(seed=1)
    ends = [env.step(env.action_space.sample())[2:4] for _ in range(20)]
    assert ends == [(False, False)] * 19 + [(False, True)]


def test_pettingzoo_finds_nothing_wrong() -> None:
    parallel_api_test(SiteBidding(sample_draw), num_cycles=100)


def test_pettingzoo_finds_the_same_episode_under_the_same_seed() -> None:
    parallel_seed_test(lambda: SiteBidding(sample_draw), num_cycles=50)


def test_a_seed_decides_the_world() -> None:
    first, again, other = (SiteScheduling(sample_draw) for _ in range(3))
    one, two, three = (
        env.reset(seed=seed)[0]["observation"] for env, seed in ((first, 5), (again, 5), (other, 6))
    )
    assert (one == two).all()
    assert not (one == three).all()


def test_the_lowest_offer_everywhere_is_joint() -> None:
    """The seam changes nothing: an agent that takes the lowest J makes the run of `joint`."""
    env = SiteScheduling(only(INSTANCE))
    _, told = env.reset()
    total, is_over, charges = 0.0, False, {}
    while not is_over:
        _, reward, is_over, is_cut, told = env.step(np.int64(np.argmin(told["offers_usd"])))
        assert not is_cut
        total += reward
        for task_id, usd in told["charges"]:
            charges[task_id] = charges.get(task_id, 0.0) + usd
    assert -total == pytest.approx(joint_usd(INSTANCE), rel=1e-9)
    assert set(charges) == {task.task_id for task in INSTANCE.tasks}


def test_an_ordinary_run_is_that_of_a_simulation_whose_auctions_are_settled_at_once() -> None:
    decisions = SimulatedDecisions(INSTANCE, policy_named("joint"))
    while decisions.advance() is not None:
        decisions.decide({})
    ordinary = simulate(INSTANCE, policy="joint")
    assert decisions.trace_hash == ordinary.trace_hash


def test_bad_choices_cost_more() -> None:
    env = SiteScheduling(only(INSTANCE), scale_usd=10.0)
    _, told = env.reset()
    total, is_over = 0.0, False
    while not is_over:
        offers = np.where(told["action_mask"] == 1, told["offers_usd"], -np.inf)
        _, reward, is_over, _, told = env.step(np.int64(np.argmax(offers)))
        total += reward
    assert -10.0 * total > 1.5 * joint_usd(INSTANCE)


def test_the_highest_bid_wins_and_sites_rewards_sum_to_the_single_agents() -> None:
    env, alone = SiteBidding(only(INSTANCE)), SiteScheduling(only(INSTANCE))
    env.reset()
    alone.reset()
    chosen = env.possible_agents[1]
    bids = {agent: np.float32([agent == chosen]) for agent in env.possible_agents}
    while env.agents:
        _, rewards, *_ = env.step(bids)
        _, reward, *_ = alone.step(np.int64(1))
        assert sum(rewards.values()) == pytest.approx(reward, abs=1e-12)


def test_features_are_clamped_and_blank_where_nobody_bids() -> None:
    env = SiteScheduling(only(instance_of(Sample(task_count=40, site_count=4, tasks_per_h=30.0))))
    seen, told = env.reset()
    rows, is_over = [], False
    while not is_over:
        assert seen["observation"].shape == (4, FEATURE_COUNT)
        assert (seen["observation"][seen["action_mask"] == 0] == 0).all()
        rows += list(seen["observation"][seen["action_mask"] == 1])
        seen, _, is_over, _, told = env.step(np.int64(np.argmin(told["offers_usd"])))
    table = np.array(rows)
    assert np.abs(table).max() <= CLAMP
    constant = [name for name, column in zip(FEATURES, table.T, strict=True) if np.ptp(column) == 0]
    # The scope leaves GPU hours out, and a sample's predictions are all equally sure.
    assert constant == ["gpu_ratio", "spread_ratio"]


class TwoAuctions:
    """An engine of another kind: two auctions, in each of which the winner pays a dollar."""

    def __init__(self, instance: Instance) -> None:
        self.site_ids = tuple(site.site_id for site in instance.sites)
        self.scores: list[Mapping[SiteId, float]] = []

    def advance(self) -> Decision | None:
        if len(self.scores) == 2:
            return None
        blank = np.zeros(FEATURE_COUNT, dtype=np.float32)
        offers = tuple(Candidate(key, 1.0, blank) for key in self.site_ids[:2])
        return Decision(f"t{len(self.scores)}", 0.0, 1.0, offers)

    def decide(self, scores: Mapping[SiteId, float]) -> None:
        self.scores.append(scores)

    def take_booked(self) -> list[Booked]:
        if not self.scores:
            return []
        winner = max(self.scores[-1], key=lambda key: self.scores[-1][key])
        return [Booked(winner, f"t{len(self.scores) - 1}", 1.0)]


def test_another_engine_may_stand_behind_it() -> None:
    env = SiteScheduling(sample_draw, engine=TwoAuctions, scale_usd=2.0)
    seen, told = env.reset(seed=1)
    assert seen["action_mask"].tolist() == [1, 1, 0]
    assert told["task_id"] == "t0"
    assert env.step(np.int64(1))[1:4] == (-0.5, False, False)
    *_, is_over, _, told = env.step(np.int64(0))
    assert is_over
    assert told["charges"] == (("t1", 1.0),)


def test_impossible_settings_and_steps_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="scale"):
        SiteScheduling(sample_draw, scale_usd=0.0)
    with pytest.raises(InvalidRequestError, match="no episode"):
        SiteBidding(sample_draw, decision_count_max=0)
    with pytest.raises(InvalidRequestError, match="is no week"):
        scenario_draw("default", weeks=("2021-01-05",))
    with pytest.raises(InvalidRequestError, match="reset"):
        SiteBidding(sample_draw).step({})
    env = SiteScheduling(sample_draw)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.int64(0))
    env.reset(seed=1)
    with pytest.raises(InvalidRequestError, match="is no action"):
        env.step(np.int64(99))
