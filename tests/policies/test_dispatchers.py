"""Batches: the objective by hand, and that both dispatchers reach its optimum on small ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos.accounting import LatePenalty
from gcos.durations import RunTime
from gcos.ids import ArtifactId, SiteId, TaskId
from gcos.seeds import stream
from policies.baselines.genetic import GeneticDispatcher
from policies.baselines.milp import MilpDispatcher
from policies.batch import SLOT_S, Horizon, batch_of
from policies.interface import BatchTask, Dispatcher, FreeGpus, Offer

NOW_S = 1e9
HORIZON = Horizon()
A, B = SiteId("a"), SiteId("b")
MODEL = ArtifactId("sha256:model")


def offer(site: SiteId, usd: float, *, hours: float = 1.0, fetch: float | None = None) -> Offer:
    return Offer(
        site,
        offer_usd=usd,
        start_s=NOW_S,
        run_time=RunTime.lognormal(hours * 3600, 0.1),
        fetch_usd={} if fetch is None else {MODEL: fetch},
    )


def task(name: str, *offers: Offer, gpus: int = 1, due_h: float | None = None) -> BatchTask:
    return BatchTask(
        TaskId(name),
        gpu_count=gpus,
        deadline_s=None if due_h is None else NOW_S + due_h * 3600,
        late_penalty=LatePenalty(5.0, 1.0, 4.0),
        offers=offers,
    )


def free(a: int = 8, b: int = 8) -> dict[SiteId, FreeGpus]:
    return {A: FreeGpus([NOW_S], [a]), B: FreeGpus([NOW_S], [b])}


def dispatchers() -> list[Dispatcher]:
    return [MilpDispatcher(HORIZON), GeneticDispatcher(stream(1, "test"), horizon=HORIZON)]


@pytest.mark.parametrize("dispatcher", dispatchers(), ids=lambda each: each.name)
def test_tasks_share_a_fetch_that_none_would_pay_alone(dispatcher: Dispatcher) -> None:
    batch = [task(str(i), offer(A, 3.0), offer(B, 1.0 + 4.0, fetch=4.0)) for i in range(3)]
    assert list(dispatcher.assign(batch, free(), now_s=NOW_S)) == [1, 1, 1]
    assert list(dispatcher.assign(batch[:1], free(), now_s=NOW_S)) == [0]


@pytest.mark.parametrize("dispatcher", dispatchers(), ids=lambda each: each.name)
def test_a_batch_spreads_where_one_site_has_no_room(dispatcher: Dispatcher) -> None:
    batch = [task(str(i), offer(A, 1.0), offer(B, 1.2), gpus=4, due_h=1.5) for i in range(4)]
    chosen = list(dispatcher.assign(batch, free(a=8, b=8), now_s=NOW_S))
    assert sorted(chosen) == [0, 0, 1, 1]


@pytest.mark.parametrize("dispatcher", dispatchers(), ids=lambda each: each.name)
def test_a_batch_waits_where_room_comes_in_time(dispatcher: Dispatcher) -> None:
    """The second of two may start later at the cheap site without being late."""
    batch = [task(str(i), offer(A, 1.0), offer(B, 9.0), gpus=8, due_h=9.0) for i in range(2)]
    assert list(dispatcher.assign(batch, free(a=8, b=8), now_s=NOW_S)) == [0, 0]


def test_free_gpus_are_means_over_slots() -> None:
    profile = FreeGpus([NOW_S, NOW_S + SLOT_S / 2, NOW_S + 2 * SLOT_S], [2, 4, 8])
    batch = batch_of([task("1", offer(A, 1.0))], {A: profile}, HORIZON, now_s=NOW_S)
    assert batch.free[:4] == pytest.approx([3.0, 4.0, 8.0, 8.0])


def test_a_later_start_costs_what_it_makes_late() -> None:
    batch = batch_of([task("1", offer(A, 1.0), due_h=1.3)], {A: free()[A]}, HORIZON, now_s=NOW_S)
    assert np.all(np.diff(batch.usd) >= 0)
    assert batch.usd[0] == pytest.approx(1.0)
    # Two hours later it is late by 1.7 h, all but surely.
    assert batch.usd[-1] - batch.usd[0] == pytest.approx(5.0 + 1.7, rel=0.05)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[BatchTask], dict[SiteId, FreeGpus]]:
    tenths = st.integers(1, 40).map(lambda n: n / 10)
    tasks = []
    for i in range(draw(st.integers(1, 3))):
        fetch = draw(st.one_of(st.none(), tenths))
        here = offer(A, draw(tenths) + (fetch or 0.0), hours=draw(tenths), fetch=fetch)
        there = offer(B, draw(tenths), hours=draw(tenths))
        due = draw(st.one_of(st.none(), tenths))
        tasks.append(task(str(i), here, there, gpus=draw(st.sampled_from((1, 2, 4))), due_h=due))
    return tasks, free(a=draw(st.integers(0, 4)), b=draw(st.integers(0, 4)))


@settings(max_examples=25, deadline=None)
@given(batches())
def test_the_programme_finds_the_best_of_all_plans(
    drawn: tuple[list[BatchTask], dict[SiteId, FreeGpus]],
) -> None:
    tasks, gpus = drawn
    batch = batch_of(tasks, gpus, HORIZON, now_s=NOW_S)
    bounds = zip(batch.first[:-1], batch.first[1:], strict=True)
    plans = np.array(list(itertools.product(*(range(low, high) for low, high in bounds))))
    usd = batch.joint_usd(plans)
    # The dispatcher returns offers; a plan with the best starts of these offers is as good.
    for dispatcher, slack in zip(dispatchers(), (1e-3, 0.05), strict=True):
        chosen = np.array(dispatcher.assign(tasks, gpus, now_s=NOW_S))
        same = (batch.offer[plans] == chosen).all(axis=1)
        assert usd[same].min() <= usd.min() + slack * (1 + abs(usd.min())), dispatcher.name


def test_the_objective_is_what_it_says() -> None:
    batch = batch_of(
        [task(str(i), offer(A, 3.0, fetch=2.0), gpus=2) for i in range(2)],
        {A: FreeGpus([NOW_S], [3])},
        HORIZON,
        now_s=NOW_S,
    )
    both_at_once = np.array([[batch.first[0], batch.first[1]]])
    # Runs 1 each, one fetch of 2, one GPU too many in each of the four slots of an hour.
    expected = 1.0 + 1.0 + 2.0 + 4 * HORIZON.overcommit_usd
    assert batch.joint_usd(both_at_once) == pytest.approx([expected])
