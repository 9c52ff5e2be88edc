"""The bound is below every schedule: all of a small world's, and what any policy attains."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.sparse import csr_array, vstack

from gcos.accounting import CostScope
from testbed.bound.ascent import ascend
from testbed.bound.pricing import Fetches, Multipliers, cheapest_starts, dual_value
from testbed.bound.problem import Problem, problem_of
from testbed.bound.relaxation import lower_bound_usd
from testbed.bound.trees import cheapest_trees
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Churn, ChurnKind
from testbed.sim.run import simulate
from testbed.sim.samples import START_S, Sample, instance_of, site_id

#: Everything that happens in the small worlds happens on this grid, so that the best schedule is on
#: it too: between its points J is linear in each start.
STEP_H = 0.5
HOURS = 6

halves = st.integers(1, 4).map(lambda n: n * STEP_H)
dollars = st.integers(0, 8).map(lambda n: n / 4)


@st.composite
def problems(draw: st.DrawFn, *, task_count: int = 3) -> Problem:
    def floats(values: st.SearchStrategy[float], *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return np.array(draw(st.lists(values, min_size=count, max_size=count))).reshape(shape)

    sites, artifacts = 2, 3
    arrival = floats(st.integers(0, 4).map(lambda n: n * STEP_H), task_count)
    arc = floats(dollars, sites, sites)
    return Problem(
        # Prices may be negative, as they are at times.
        rate=floats(st.integers(-2, 8).map(lambda n: n / 4), sites, HOURS),
        gpu_h=np.repeat(floats(st.sampled_from((2.0, 3.0)), sites)[:, None], HOURS, axis=1),
        speed=floats(st.sampled_from((0.5, 1.0)), sites),
        arrival_h=arrival,
        work_h=floats(halves, task_count),
        gpus=floats(st.sampled_from((1.0, 2.0)), task_count),
        due_h=arrival + floats(halves, task_count),
        late_usd=floats(dollars, task_count),
        late_usd_per_h=floats(dollars, task_count),
        late_cap_h=np.full(task_count, 1.0),
        needs=np.stack(
            [np.zeros(task_count, dtype=np.int64), 1 + floats(st.integers(0, 1), task_count)], 1
        ).astype(np.int64),
        home=floats(st.integers(0, sites - 1), artifacts).astype(np.int64),
        size_gb=np.ones(artifacts),
        is_model=np.array([True, False, False]),
        fits=floats(st.booleans(), artifacts, sites).astype(bool),
        arc_usd=arc,
        tree_usd=cheapest_trees(arc),
    )


def best_schedule_usd(problem: Problem) -> float:
    """Return the least J of all schedules: whole runs on whole GPUs, each from start to end.

    Caches never overflow and transfers take no time, so that every schedule that a checker lets
    pass costs as much or more.
    """
    task_count, site_count = len(problem.work_h), len(problem.speed)
    horizon = int((HOURS + 8) / STEP_H)
    ways = []
    for j in range(task_count):
        of_task = []
        for i in range(site_count):
            run = problem.work_h[j] / problem.speed[i]
            for k in range(int(problem.arrival_h[j] / STEP_H), int(HOURS / STEP_H) + 1):
                steps = np.arange(k, k + round(run / STEP_H))
                hours = np.minimum((steps * STEP_H).astype(int), HOURS - 1)
                usd = problem.gpus[j] * STEP_H * problem.rate[i, hours].sum()
                late = k * STEP_H + run - problem.due_h[j]
                if late > 0:
                    usd += problem.late_usd[j] + problem.late_usd_per_h[j] * min(
                        late, problem.late_cap_h[j]
                    )
                used = np.zeros(horizon)
                used[steps] = problem.gpus[j]
                of_task.append((usd, i, used))
        ways.append(of_task)
    fetch = np.array(
        [[fetch_usd(problem, tuple(p)) for p in itertools.product(range(site_count), repeat=3)]]
    ).reshape((site_count,) * 3)
    best = np.inf
    for a, b, c in itertools.product(*ways):
        usd = a[0] + b[0] + c[0] + fetch[a[1], b[1], c[1]]
        if usd < best and fits(problem, (a, b, c)):
            best = usd
    return float(best)


def fits(problem: Problem, chosen: tuple) -> bool:
    for i in range(len(problem.speed)):
        used = sum((used for _, site, used in chosen if site == i), np.zeros(1))
        if len(used) == 1:
            continue
        # Past the hours nobody counts: a relaxation of its own, which the bound shares.
        if np.any(used[: int(HOURS / STEP_H)] > problem.gpu_h[i, 0]):
            return False
    return True


def fetch_usd(problem: Problem, placed: tuple[int, ...]) -> float:
    """Return what fetches cost where each task runs at a site: two sites have one arc in."""
    total = 0.0
    bought = set()
    for j, i in enumerate(placed):
        for a in problem.needs[j]:
            if problem.home[a] == i or (a, i) in bought:
                continue
            total += problem.arc_usd[1 - i, i]
            if problem.fits[a, i]:
                bought.add((a, i))
    return total


@settings(max_examples=30, deadline=None)
@given(problems())
def test_no_schedule_of_a_small_world_is_below_the_bound(problem: Problem) -> None:
    best = best_schedule_usd(problem)
    bound = ascend(problem, Fetches(problem), step_count=100).bound_usd
    assert bound <= best + 1e-9


@settings(max_examples=25, deadline=None)
@given(problems(), st.data())
def test_the_dual_is_below_at_any_multipliers(problem: Problem, data: st.DataObject) -> None:
    """Wild multipliers, some of them refused, make a bad bound and never a wrong one."""
    seed = data.draw(st.integers(0, 1000))
    draws = np.random.default_rng(seed)
    multipliers = Multipliers(
        draws.normal(0.0, 1.0, problem.rate.shape),
        draws.normal(0.0, 1.0, (len(problem.work_h), 2, len(problem.speed))),
    )
    value, _ = dual_value(problem, Fetches(problem), multipliers)
    assert value <= best_schedule_usd(problem) + 1e-9


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 1000))
def test_the_cheapest_start_is_the_cheapest_of_a_fine_grid(problem: Problem, seed: int) -> None:
    price = np.random.default_rng(seed).uniform(0.0, 2.0, problem.rate.shape)
    found = cheapest_starts(problem, price)
    fine = np.arange(0.0, HOURS + 1.0, 1 / 16)
    for j, i in itertools.product(range(len(problem.work_h)), range(len(problem.speed))):
        starts = fine[fine >= problem.arrival_h[j]]
        usd = [start_usd(problem, price, j, i, start) for start in starts]
        assert found.usd[j, i] == pytest.approx(min(usd), abs=1e-9)
        at = start_usd(problem, price, j, i, found.start_h[j, i])
        assert found.usd[j, i] == pytest.approx(at, abs=1e-9)


def start_usd(problem: Problem, price: np.ndarray, j: int, i: int, start: float) -> float:
    end = start + problem.work_h[j] / problem.speed[i]
    rates = [*(problem.rate[i] + price[i]), *([problem.rate[i, -1]] * 20)]
    usd = problem.gpus[j] * sum(
        rate * max(0.0, min(end, h + 1) - max(start, h)) for h, rate in enumerate(rates)
    )
    late = end - problem.due_h[j]
    if late > 1e-9:
        usd += problem.late_usd[j] + problem.late_usd_per_h[j] * min(late, problem.late_cap_h[j])
    return usd


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_ascent_comes_near_the_optimum_of_the_linear_programme(seed: int) -> None:
    """HiGHS solves the same relaxation over starts on every quarter of an hour."""
    problem = problem_of(instance_of(Sample(seed=seed, task_count=25, tasks_per_h=8.0)))
    bound = ascend(problem, Fetches(problem), step_count=1500).bound_usd
    optimum = linear_programme_usd(problem)
    assert bound <= optimum * (1 + 1e-6)
    assert bound >= 0.985 * optimum


def linear_programme_usd(problem: Problem) -> float:
    """Return the optimum of the linear programme: ways of tasks, fetches of whole sets of sites."""
    n, s = len(problem.work_h), len(problem.speed)
    artifacts, hours = len(problem.home), problem.rate.shape[1]
    cost, rows, columns, values = [], [], [], []
    links = n * 2 * s
    capacity_row, set_row = links, links + s * hours

    def enter(row: int, column: int, value: float) -> None:
        rows.append(row)
        columns.append(column)
        values.append(value)

    task_of = []
    none = np.zeros_like(problem.rate)
    for j, i in itertools.product(range(n), range(s)):
        run = problem.work_h[j] / problem.speed[i]
        for start in np.arange(problem.arrival_h[j], problem.due_h[j] + 6.0, 0.25):
            column = len(cost)
            cost.append(start_usd(problem, none, j, i, start))
            task_of.append(j)
            for h in range(int(start), min(hours, int(start + run) + 1)):
                span = min(start + run, h + 1) - max(start, h)
                enter(capacity_row + i * hours + h, column, problem.gpus[j] * max(0.0, span))
            for k in range(2):
                if problem.home[problem.needs[j, k]] != i:
                    enter((j * 2 + k) * s + i, column, 1.0)
    for a in range(artifacts):
        for chosen in range(1, 1 << s):
            column = len(cost)
            cost.append(problem.size_gb[a] * problem.tree_usd[problem.home[a], chosen])
            task_of.append(-1)
            enter(set_row + a, column, 1.0)
            for j, k in zip(*np.nonzero(problem.needs == a), strict=True):
                for i in range(s):
                    if chosen >> i & 1:
                        enter((j * 2 + k) * s + i, column, -1.0)
    limits = np.concatenate((np.zeros(links), problem.gpu_h.ravel(), np.ones(artifacts)))
    table = csr_array((values, (rows, columns)), shape=(len(limits), len(cost)))
    owners = np.array(task_of)
    once = vstack([csr_array((owners == j).astype(float)[None, :]) for j in range(n)])
    found = linprog(cost, table, limits, once.tocsr(), np.ones(n), method="highs")
    assert found.status == 0
    return float(found.fun)


@pytest.mark.parametrize("mode", ["dual", "none", "coupled"])
@pytest.mark.parametrize(
    "sample",
    [
        Sample(seed=1),
        Sample(seed=2, model_cache_gb=10, data_cache_gb=30, task_count=60, tasks_per_h=12),
        Sample(seed=3, carbon_price_usd_per_kg=3.0, network_kwh_per_gb=0.06),
        Sample(
            seed=4,
            churn=(
                Churn(START_S + 7200, ChurnKind.LEAVE, site_id(0)),
                Churn(START_S + 20000, ChurnKind.JOIN, site_id(0)),
            ),
        ),
    ],
)
def test_no_policy_is_below_the_bound(sample: Sample, mode: str) -> None:
    instance = instance_of(sample)
    bound = lower_bound_usd(instance, CacheMode(mode), step_count=200)
    assert bound > 0
    for policy in ("joint", "joint-lookahead", "rule", "random", "locality"):
        charge = simulate(instance, policy=policy, cache_mode=mode).whole.charge
        found = charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
        assert bound <= found, policy


def test_more_sites_than_trees_are_known_for_have_a_bound_too() -> None:
    instance = instance_of(Sample(site_count=12, task_count=20))
    problem = problem_of(instance)
    assert problem.tree_usd is None
    few = dataclasses.replace(problem, tree_usd=None)
    bound = ascend(few, Fetches(few), step_count=100).bound_usd
    charge = simulate(instance, policy="joint").whole.charge
    joint_usd = charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
    assert 0.3 * joint_usd < bound <= joint_usd


def test_trees_pass_through_the_sites_that_are_cheap_to_reach() -> None:
    arcs = np.array([[0.0, 1.0, 9.0], [9.0, 0.0, 1.0], [9.0, 9.0, 0.0]])
    trees = cheapest_trees(arcs)
    assert trees is not None
    assert trees[0, 0b010] == 1.0
    assert trees[0, 0b100] == 2.0
    assert trees[0, 0b110] == 2.0
    assert trees[0, 0b001] == 0.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=12, max_size=12))
def test_trees_are_the_cheapest_of_all(prices: list[int]) -> None:
    arcs = np.zeros((4, 4))
    arcs[~np.eye(4, dtype=bool)] = prices
    trees = cheapest_trees(arcs)
    assert trees is not None
    for root, chosen in itertools.product(range(4), range(16)):
        assert trees[root, chosen] == pytest.approx(cheapest_by_all_parents(arcs, root, chosen))


def cheapest_by_all_parents(arcs: np.ndarray, root: int, chosen: int) -> float:
    others = [i for i in range(4) if i != root]
    best = np.inf
    for parents in itertools.product([None, *range(4)], repeat=3):
        parent = dict(zip(others, parents, strict=True))
        usd = sum(arcs[up, i] for i, up in parent.items() if up is not None and up != i)
        if all(reaches(parent, i, root) for i in others if chosen >> i & 1):
            best = min(best, usd)
    return best


def reaches(parent: dict, site: int, root: int) -> bool:
    for _ in range(4):
        if site == root:
            return True
        up = parent[site]
        if up is None or up == site:
            return False
        site = up
    return site == root


def test_gpu_hours_are_bounded_where_they_count() -> None:
    """They dwarf electricity, so that the bound is tight in relation."""
    instance = dataclasses.replace(instance_of(Sample()), scope=CostScope.WITH_GPU_HOURS)
    bound = lower_bound_usd(instance, step_count=200)
    charge = simulate(instance, policy="joint").whole.charge
    joint_usd = charge.joint_usd(instance.scope, instance.carbon_price_usd_per_kg)
    assert 0.7 * joint_usd < bound <= joint_usd
