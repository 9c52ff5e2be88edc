"""An agent bids by its task actor while that works, and as the rule does otherwise."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structlog
from structlog.testing import LogCapture

from gcos.ids import SiteId, TaskId
from policies.baselines.joint import JointBidder
from policies.features import FEATURE_COUNT
from policies.interface import Option, Seen, SiteView
from policies.maccs.actor import Actor, ActorError, Rows
from policies.maccs.fallback import FallbackReason
from policies.maccs.task_actor import PART, load_task_actor
from policies.maccs.task_bidder import TAU
from site_agent.actors import Actors
from site_agent.task_bids import TaskBids
from testbed.samples import CHARGE, NOW_S

OPTION = Option(
    pool_type="H100",
    start_s=NOW_S,
    is_earliest=True,
    offer_usd=2.0,
    charge=CHARGE,
    p50_finish_s=NOW_S + 60,
    p90_finish_s=NOW_S + 90,
    late_probability=0.0,
    p90_cost_usd=3.0,
    p90_carbon_gco2=4.0,
)
ROW = np.zeros((1, FEATURE_COUNT), np.float32)
VIEW = SiteView(SiteId("de"), TaskId("de-1"), True, 0.0, 0, NOW_S, Seen(5.0, features=ROW))


def load_half(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Rows], Rows]) -> None:
    """Have agents load an actor of weight 0.5 in place of the shipped one."""
    shipped = load_task_actor()
    assert isinstance(shipped, Actor)
    card = replace(shipped.card, residual_scale=0.5)
    monkeypatch.setattr("site_agent.actors.load_actor", lambda *_: Actor(card, "task/0", ask))


def agent(directory: Path | None = None) -> tuple[TaskBids, Actors, LogCapture]:
    lines = LogCapture()
    log = structlog.wrap_logger(None, processors=[lines])
    actors = Actors((PART,), directory, log)
    return TaskBids(JointBidder(), actors), actors, lines


def test_it_bids_as_the_rule_does_until_the_actor_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load_half(monkeypatch, lambda rows: np.ones(len(rows)))
    bidder, actors, _ = agent()
    assert (bidder.actor, bidder.needs_features) == (JointBidder.actor, False)
    assert bidder.choose([OPTION], VIEW).score_ratio == 0.0
    actors.load()
    assert (bidder.actor, bidder.needs_features) == ("joint+task/0", True)
    choice = bidder.choose([OPTION], VIEW)
    assert choice.residual_usd == -0.5 * TAU * 5.0
    assert choice.score_ratio * TAU * 5.0 == pytest.approx(2.0 + choice.residual_usd)
    (status,) = actors.statuses()
    assert (status.part, status.call_count, status.fallback_reason) == (PART, 1, "")


def test_an_actor_without_weight_is_loaded_and_not_asked() -> None:
    bidder, actors, _ = agent()
    actors.load()
    shipped = actors.actor(PART)
    assert shipped is not None
    assert shipped.card.residual_scale == 0.0, "else look for another one here"
    assert (bidder.actor, bidder.needs_features) == (JointBidder.actor, False)
    assert bidder.choose([OPTION], VIEW) == JointBidder().choose([OPTION], VIEW)
    (status,) = actors.statuses()
    assert (status.version, status.call_count) == (shipped.version, 0)


def test_without_a_file_it_stays_with_the_rule(tmp_path: Path) -> None:
    bidder, actors, _ = agent(tmp_path)
    actors.load()
    assert bidder.actor == JointBidder.actor
    assert bidder.choose([OPTION], VIEW).score_ratio == 0.0
    assert actors.statuses()[0].fallback_reason == FallbackReason.MISSING.value


def test_an_actor_that_fails_is_told_and_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0

    def fail(rows: Rows) -> Rows:
        nonlocal calls
        calls += 1
        raise ActorError("boom")

    load_half(monkeypatch, fail)
    bidder, actors, lines = agent()
    actors.load()
    for _ in range(2):
        assert bidder.choose([OPTION], VIEW).score_ratio == 0.0
    assert (calls, bidder.actor) == (1, JointBidder.actor)
    assert actors.statuses()[0].fallback_reason == FallbackReason.RUNTIME.value
    assert [line["event"] for line in lines.entries] == ["actor_fallback"]
