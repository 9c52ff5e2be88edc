"""Runs that explore with the task actor, and what each of their decisions came to.

A decision is an auction; its credit is what its task really cost, $ over the reference that its
candidates divide money by, less what the same task cost under the rule in the same world with the
same seed: common random numbers, so that what no choice could change falls out. Beside its own J a
task is charged for *displacement*: of the part of a late penalty that came of waiting for GPUs
each run that held some of that site meanwhile bears the share of the GPU seconds that it held.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gcos.accounting import S_PER_H
from policies.maccs.task_network import NO_NETWORK, TaskNetwork
from testbed.fast.layout import Records
from testbed.fast.learning import LearnedBids, Told
from testbed.fast.run import FastWorld, fast_policy, run_fast
from testbed.training.settings import Setting

Floats = NDArray[np.float64]

#: Worlds that a process keeps: about 20 MB each.
WORLD_COUNT_MAX: Final = 32
#: What is trained beside: its offers, its re-auctions and its copies.
BASE_POLICY: Final = "rule"


@dataclass(frozen=True, slots=True)
class RolloutOrder:
    """One run to make.

    Attributes:
        setting: The world.
        network: f.
        temperature: Of the softmax that choices are drawn from; 0: the best is chosen.
        seed: Of the draws.
    """

    setting: Setting
    network: TaskNetwork
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """What a run came to; d decisions, n sites.

    Attributes:
        features: (d, n, 24), float32; zeros where a site does not bid.
        offers: (d, n): J over TAU x reference; infinite where a site does not bid.
        site: (d,): who was chosen.
        logprob: (d,): of that choice.
        credit: (d,): realised cost less that under the rule, over the reference.
        joint_usd: J of the measured window.
        rule_usd: The same under the rule.
    """

    features: NDArray[np.float32]
    offers: Floats
    site: NDArray[np.int64]
    logprob: Floats
    credit: Floats
    joint_usd: float
    rule_usd: float


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A world, and the rule in it: cost of each task, and J of the measured window."""

    world: FastWorld
    cost_usd: Floats
    joint_usd: float


#: Worlds of this process, by the settings that they were drawn from.
_known: OrderedDict[str, _Known] = OrderedDict()


def _of(setting: Setting) -> _Known:
    key = repr(setting)
    if key not in _known:
        world = FastWorld(setting.instance())
        told, joint_usd = _run(world, LearnedBids(NO_NETWORK, scale=0.0))
        _known[key] = _Known(world, costs_usd(told.tasks), joint_usd)
        if len(_known) > WORLD_COUNT_MAX:
            _known.popitem(last=False)
    return _known[key]


def _run(world: FastWorld, learned: LearnedBids) -> tuple[Told, float]:
    told: list[Told] = []
    policy = replace(fast_policy(BASE_POLICY), bids=learned)
    result = run_fast(world, policy, tell=told.append)
    instance = world.instance
    usd = result.measured.charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
    return told[0], usd


def explored(order: RolloutOrder) -> Rollout:
    """Return what came of a run that explores."""
    rule = _of(order.setting)
    learned = LearnedBids(order.network, temperature=order.temperature, seed=order.seed)
    told, joint_usd = _run(rule.world, learned)
    task = told.auctions["task"]
    gain_usd = costs_usd(told.tasks) - rule.cost_usd
    return Rollout(
        features=told.features,
        offers=told.offers,
        site=told.auctions["site"].astype(np.int64),
        logprob=told.auctions["logprob"].copy(),
        credit=gain_usd[task] / told.auctions["reference_usd"],
        joint_usd=joint_usd,
        rule_usd=rule.joint_usd,
    )


def ratio_to_rule(order: RolloutOrder) -> float:
    """Return J of a run that takes the best score, over J under the rule, less 1."""
    rule = _of(order.setting)
    policy = replace(fast_policy(BASE_POLICY), bids=LearnedBids(order.network))
    instance = rule.world.instance
    charge = run_fast(rule.world, policy).measured.charge
    usd = charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
    return usd / rule.joint_usd - 1.0


def costs_usd(tasks: Records) -> Floats:
    """Return what each task cost, displacement included, (k,) $."""
    return np.asarray(tasks["joint_usd"] + displacement_usd(tasks))


def displacement_usd(tasks: Records) -> Floats:
    """Return the penalties of others that each task has a share in, (k,) $.

    Args:
        tasks: Of a run that has ended, by `testbed.fast.layout.TASK`.
    """
    wait_s = tasks["began_s"] - tasks["staged_s"]
    caused_usd = _penalty_usd(tasks, tasks["ended_s"]) - _penalty_usd(
        tasks, tasks["ended_s"] - wait_s
    )
    shares = np.zeros(len(tasks))
    by_site: Mapping[int, NDArray[np.int64]] = {
        int(site): np.flatnonzero(tasks["site"] == site) for site in np.unique(tasks["site"])
    }
    for late in np.flatnonzero(caused_usd > 0):
        there = by_site[int(tasks["site"][late])]
        begin_s, end_s = tasks["staged_s"][late], tasks["began_s"][late]
        overlap_s = np.minimum(tasks["ended_s"][there], end_s) - np.maximum(
            tasks["began_s"][there], begin_s
        )
        held = tasks["gpu_count"][there] * np.maximum(overlap_s, 0.0)
        if held.sum() > 0:
            shares[there] += caused_usd[late] * held / held.sum()
    return shares


def _penalty_usd(tasks: Records, ended_s: Floats) -> Floats:
    late_h = (ended_s - tasks["deadline_s"]) / S_PER_H
    usd = tasks["penalty_usd"] + tasks["penalty_usd_per_h"] * np.minimum(
        late_h, tasks["penalty_cap_h"]
    )
    return np.where(late_h > 0, usd, 0.0)
