"""`gcos/SiteScheduling-v0`: one agent sends each task to a site (Gymnasium).

A step is one auction. The observation holds the offers of all sites, the action is the site that
wins. The reward is minus the J that was charged until the next auction, over `scale_usd`, so that
undiscounted returns are exactly minus the J of the run. What a task costs is charged later than it
is placed: `info["charges"]` names tasks and amounts, and `info["task_id"]` the task to be placed,
for learners that credit each decision with the charged J of its own task.

    observation  {"observation": (sites, 24) float32 in +-6, `policies.features.FEATURES`;
                  "action_mask": (sites,) int8, 1 where a site bids}
    action       index of a site, sorted by id; one that does not bid counts as no wish, and the
                 lowest J wins
    reward       -(charged J until the next auction) / scale_usd
    terminated   every task has ended
    truncated    after `decision_count_max` auctions
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from gcos.errors import InvalidRequestError
from policies.catalogue import policy_named
from policies.features import CLAMP, FEATURE_COUNT
from testbed.environment.decisions import Decisions, SimulatedDecisions
from testbed.environment.episode import Episode
from testbed.environment.worlds import Draw, scenario_draw
from testbed.sim.instance import Instance

Observation = dict[str, NDArray[Any]]
Engine = Callable[[Instance], Decisions]
"""Begins a run of an instance that stops at each decision."""


def simulated(policy: str = "joint") -> Engine:
    """Return what begins runs in the event-driven simulator, with the offers of `policy`.

    Raises:
        InvalidRequestError: There is no such policy.
    """
    chosen = policy_named(policy)
    return lambda instance: SimulatedDecisions(instance, chosen)


class SiteScheduling(gym.Env[Observation, np.int64]):
    """Sends each task to a site.

    Args:
        draw: Draws the world of each episode; its sites are always the same.
        engine: Begins a run in it; None: the simulator, with the offers of `joint`.
        scale_usd: Reward of -1 in dollars of J.
        decision_count_max: Auctions after which an episode is cut off; None: never.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium declares it of the instance

    def __init__(
        self,
        draw: Draw,
        *,
        engine: Engine | None = None,
        scale_usd: float = 1.0,
        decision_count_max: int | None = None,
    ) -> None:
        check_settings(scale_usd, decision_count_max)
        self._draw = draw
        self._engine = engine or simulated()
        self._scale_usd = scale_usd
        self._decision_count_max = decision_count_max
        self._episode: Episode | None = None
        # Only sites matter here; the episode's own draws begin with `reset`.
        self.site_ids = tuple(site.site_id for site in draw(np.random.default_rng(0)).sites)
        count = len(self.site_ids)
        self.action_space = spaces.Discrete(count)
        parts: dict[str, spaces.Space[Any]] = {
            "observation": spaces.Box(-CLAMP, CLAMP, (count, FEATURE_COUNT), np.float32),
            "action_mask": spaces.Box(0, 1, (count,), np.int8),
        }
        self.observation_space = cast("spaces.Space[Observation]", spaces.Dict(parts))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in a newly drawn world."""
        super().reset(seed=seed)
        del options
        self._episode = Episode(self._engine(self._draw(self.np_random)))
        assert self._episode.decisions.site_ids == self.site_ids, "the sites have changed"
        return self._observation(), self._told()

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Let a site win the auction, and go on to the next one."""
        episode = self._running
        if not self.action_space.contains(action):
            raise InvalidRequestError(
                f"{action!r} is no action", field="action", hint=f"0 to {len(self.site_ids) - 1}"
            )
        episode.decide({self.site_ids[int(action)]: 1.0})
        is_cut = episode.decision_count == self._decision_count_max
        is_over = episode.decision is None
        reward = -episode.joint_usd / self._scale_usd
        return self._observation(), reward, is_over, is_cut and not is_over, self._told()

    @property
    def _running(self) -> Episode:
        if self._episode is None or self._episode.decision is None:
            raise gym.error.ResetNeeded("no auction waits: call reset()")
        return self._episode

    def _observation(self) -> Observation:
        assert self._episode is not None, "reset begins it"
        return {"observation": self._episode.features, "action_mask": self._episode.mask}

    def _told(self) -> dict[str, Any]:
        episode = self._episode
        assert episode is not None, "reset begins it"
        decision = episode.decision
        return {
            "task_id": "" if decision is None else decision.task_id,
            "offers_usd": episode.offers_usd,
            "charges": episode.charges,
            "action_mask": episode.mask,
        }


def check_settings(scale_usd: float, decision_count_max: int | None) -> None:
    """Let settings pass that make sense.

    Raises:
        InvalidRequestError: One does not.
    """
    if not 0 < scale_usd < float("inf"):
        raise InvalidRequestError(f"{scale_usd} is no scale above 0", field="scale_usd")
    if decision_count_max is not None and decision_count_max < 1:
        raise InvalidRequestError(
            f"{decision_count_max} decisions are no episode", field="decision_count_max"
        )


def site_scheduling(
    *,
    scenario: str = "default",
    data: str | None = None,
    weeks: Sequence[str] | None = None,
    policy: str = "joint",
    scale_usd: float = 1.0,
    decision_count_max: int | None = None,
) -> SiteScheduling:
    """Return the environment of a scenario; what `gymnasium.make` calls.

    Args:
        scenario: A shipped name or a file.
        data: Directory of the world (`gcos data import`); None: the shipped typical days.
        weeks: Mondays such as 2021-01-04; None: all of 2021 and 2022.
        policy: Makes the offers.
        scale_usd: Reward of -1 in dollars of J.
        decision_count_max: Auctions after which an episode is cut off; None: never.

    Raises:
        GcosError: One of them is refused; the message says which and why.
    """
    return SiteScheduling(
        scenario_draw(scenario, data=None if data is None else Path(data), weeks=weeks),
        engine=simulated(policy),
        scale_usd=scale_usd,
        decision_count_max=decision_count_max,
    )
