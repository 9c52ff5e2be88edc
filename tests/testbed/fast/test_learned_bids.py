"""The learned bidder: the compiled core sees and places as agents' cores do."""

import io
from dataclasses import replace

import numpy as np
import pytest

from gcos.accounting import CostScope
from gcos.signals import HOUR_S
from policies.catalogue import POLICIES
from policies.features import FEATURE_COUNT
from policies.maccs.task_bidder import TAU, ResidualBidder
from policies.maccs.task_network import NO_NETWORK, TaskNetwork, drawn_network
from testbed.environment.decisions import SimulatedDecisions
from testbed.fast.learning import LearnedBids, Told
from testbed.fast.run import FastPolicy, FastWorld, fast_policy, run_fast
from testbed.sim.instance import Churn, ChurnKind, ForecastNoise, Instance
from testbed.sim.samples import START_S, Sample, instance_of, site_id
from testbed.sim.simulation import Simulation

BUSY = Sample(task_count=120, tasks_per_h=30.0, forecast=ForecastNoise(0.1))
TINY = replace(BUSY, seed=1, model_cache_gb=15.0, data_cache_gb=21.0)
CHURNED = replace(
    BUSY,
    churn=(
        Churn(START_S + 1.2 * 3600, ChurnKind.LEAVE, site_id(0)),
        Churn(START_S + 3.0 * 3600, ChurnKind.JOIN, site_id(0)),
    ),
)
NETWORK = drawn_network(np.random.default_rng(3), hidden=(32, 16), is_zero=False)
#: Of the ablation `central`.
ALL = drawn_network(np.random.default_rng(3), hidden=(32, 16), sees_all=True, is_zero=False)


def logged(instance: Instance, policy: FastPolicy) -> str:
    log = io.StringIO()
    run_fast(FastWorld(instance), policy, log=log)
    return log.getvalue()


def told_by(instance: Instance, learned: LearnedBids) -> Told:
    told: list[Told] = []
    run_fast(FastWorld(instance), FastPolicy("joint", bids=learned), tell=told.append)
    return told[0]


def simulated(instance: Instance, name: str, network: TaskNetwork, scale: float) -> str:
    log = io.StringIO()
    policy = replace(
        POLICIES[name], bidder=lambda: ResidualBidder(network, scale=scale, version="task/0")
    )
    Simulation(instance, policy, log=log).run()
    return log.getvalue()


@pytest.mark.parametrize(
    "sample",
    [
        *(replace(BUSY, site_count=count) for count in (5, 8, 20)),
        TINY,
        CHURNED,
    ],
    ids=["5 sites", "8 sites", "20 sites", "tiny caches", "churn"],
)
def test_both_cores_place_alike(sample: Sample) -> None:
    instance = instance_of(sample)
    rule = fast_policy("rule")
    compiled = logged(instance, replace(rule, bids=LearnedBids(NETWORK, 1.0)))
    assert compiled == simulated(instance, "rule", NETWORK, 1.0)
    assert compiled != logged(instance, rule), "what was learned changes nothing here"


def test_both_cores_place_alike_where_gpu_hours_count() -> None:
    instance = replace(instance_of(BUSY), scope=CostScope.WITH_GPU_HOURS)
    compiled = logged(instance, replace(fast_policy("rule"), bids=LearnedBids(NETWORK, 0.5)))
    assert compiled == simulated(instance, "rule", NETWORK, 0.5)


@pytest.mark.parametrize(
    "sample", [replace(BUSY, site_count=8), TINY, CHURNED], ids=["8 sites", "tiny caches", "churn"]
)
def test_the_compiled_core_ranks_all_candidates_together(sample: Sample) -> None:
    """As an arbiter of the live cores' auctions does who asks the network about all of them."""
    instance = instance_of(sample)
    policy = replace(fast_policy("rule"), bids=LearnedBids(ALL))
    compiled = run_fast(FastWorld(instance), policy, is_hashed=True)
    decisions = SimulatedDecisions(instance, POLICIES["rule"])
    while (decision := decisions.advance()) is not None:
        f = ALL(np.stack([each.features for each in decision.candidates]))
        unit_usd = TAU * decision.reference_usd
        decisions.decide(
            {
                each.site_id: float(of_each) - each.offer_usd / unit_usd
                for each, of_each in zip(decision.candidates, f, strict=True)
            }
        )
    assert compiled.trace_hash == decisions.trace_hash
    alone = replace(ALL, weight_all=np.zeros((16, 0)))
    blind = run_fast(FastWorld(instance), replace(policy, bids=LearnedBids(alone)), is_hashed=True)
    assert blind.trace_hash != compiled.trace_hash, "the others change nothing here"


@pytest.mark.parametrize("site_count", [5, 8, 20])
def test_before_training_it_is_the_rule(site_count: int) -> None:
    instance = instance_of(replace(BUSY, site_count=site_count))
    still = drawn_network(np.random.default_rng(3), hidden=(8, 4))
    rule = fast_policy("rule")
    learned = logged(instance, replace(rule, bids=LearnedBids(still)))
    assert learned == logged(instance, rule)
    assert logged(instance, replace(rule, bids=LearnedBids(NETWORK, 0.0))) == learned
    assert simulated(instance, "rule", still, 1.0) == learned
    together = drawn_network(np.random.default_rng(3), hidden=(8, 4), sees_all=True)
    assert logged(instance, replace(rule, bids=LearnedBids(together))) == learned


@pytest.mark.parametrize("scope", list(CostScope))
def test_both_cores_see_the_same_features(scope: CostScope) -> None:
    """Those of an environment, decision by decision, and the same offers."""
    instance = replace(instance_of(replace(BUSY, task_count=60)), scope=scope)
    told = told_by(instance, LearnedBids(NO_NETWORK, scale=0.0))
    decisions = SimulatedDecisions(instance, POLICIES["joint"])
    sites = list(decisions.site_ids)
    count = 0
    while (decision := decisions.advance()) is not None:
        auction, offers = told.auctions[count], told.offers[count]
        assert auction["at_s"] == decision.now_s
        bidding = [sites.index(each.site_id) for each in decision.candidates]
        assert bidding == np.flatnonzero(np.isfinite(offers)).tolist()
        for site, each in zip(bidding, decision.candidates, strict=True):
            assert told.features[count, site] == pytest.approx(each.features, abs=1e-6)
            reference_usd = float(auction["reference_usd"])
            assert offers[site] * TAU * reference_usd == pytest.approx(each.offer_usd)
        decisions.decide({})
        count += 1
    assert count == len(told.auctions) > 0


def test_an_exploring_run_tells_how_likely_its_choices_were() -> None:
    instance = instance_of(BUSY)
    learned = LearnedBids(NETWORK, temperature=0.5, seed=7)
    told = told_by(instance, learned)
    assert told.features.shape == (len(told.auctions), 3, FEATURE_COUNT)
    scores = NETWORK(told.features.reshape(-1, FEATURE_COUNT)).reshape(told.offers.shape)
    logits = (scores - told.offers) / 0.5
    logits -= logits.max(axis=1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    chosen = logprobs[np.arange(len(logprobs)), told.auctions["site"]]
    assert told.auctions["logprob"] == pytest.approx(chosen, abs=1e-9)
    # Draws follow these probabilities: the mean surprise is their entropy.
    entropy = -(np.exp(logprobs) * logprobs).sum(axis=1)
    assert -chosen.mean() == pytest.approx(
        entropy.mean(), abs=4 * chosen.std() / len(chosen) ** 0.5
    )


def test_draws_are_those_of_their_seed() -> None:
    instance = instance_of(BUSY)
    same = [told_by(instance, LearnedBids(NETWORK, temperature=0.5, seed=7)) for _ in range(2)]
    assert same[0].auctions.tobytes() == same[1].auctions.tobytes()
    other = told_by(instance, LearnedBids(NETWORK, temperature=0.5, seed=8))
    assert other.auctions["site"].tolist() != same[0].auctions["site"].tolist()


def test_each_task_knows_its_own_cost() -> None:
    """All of them, with copies and storage, make up J."""
    instance = instance_of(BUSY)
    told: list[Told] = []
    policy = FastPolicy("joint", bids=LearnedBids(NETWORK))
    result = run_fast(FastWorld(instance), policy, tell=told.append)
    charge = replace(result.whole.charge, storage_usd=0.0)
    joint_usd = charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
    assert told[0].tasks["joint_usd"].sum() == pytest.approx(joint_usd)
    tasks = told[0].tasks
    assert (tasks["staged_s"] <= tasks["began_s"]).all()
    work_s = tasks["ended_s"] - tasks["began_s"]
    assert (work_s > 0).all()
    assert (tasks["ended_s"] < instance.start_s + 1000 * HOUR_S).all()
