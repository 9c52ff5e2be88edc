"""Every site an agent that bids a score for each task (PettingZoo, parallel).

A step is one auction: all sites act at once, and the origin gives the task to the highest score
among those that bid. A site's reward is minus the J that is charged at it until the next auction,
over `scale_usd`; the sum over sites is the reward of `gcos/SiteScheduling-v0`.

    observation  (25,) float32 in +-6: the 24 of `policies.features.FEATURES` of the site's own
                 offer, then 1 where it bids and 0, with zeros before it, where it does not
    action       (1,) float32 in +-10: the score; equal ones go by J
    infos        `is_bidding`, `task_id`, and `charges`: tasks and J charged at this site
"""

from typing import Any, ClassVar, Final

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from policies.features import CLAMP, FEATURE_COUNT
from testbed.environment.episode import Episode
from testbed.environment.site_scheduling import Engine, check_settings, simulated
from testbed.environment.worlds import Draw

SCORE_MAX: Final = 10.0

Row = NDArray[np.float32]
Steps = tuple[
    dict[str, Row], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]
]


class SiteBidding(ParallelEnv[str, Row, Row]):  # type: ignore[misc] # it comes untyped
    """Lets every site bid a score.

    Args:
        draw: Draws the world of each episode; its sites are always the same.
        engine: Begins a run in it; None: the simulator, with the offers of `joint`.
        scale_usd: Reward of -1 in dollars of J.
        decision_count_max: Auctions after which an episode is cut off; None: never.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "gcos_site_bidding_v0", "render_modes": []}

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
        self._random, _ = seeding.np_random()
        sites = draw(np.random.default_rng(0)).sites
        self.possible_agents = [str(site.site_id) for site in sites]
        self.agents: list[str] = []
        self.observation_spaces = {
            agent: spaces.Box(-CLAMP, CLAMP, (FEATURE_COUNT + 1,), np.float32)
            for agent in self.possible_agents
        }
        self.action_spaces = {
            agent: spaces.Box(-SCORE_MAX, SCORE_MAX, (1,), np.float32)
            for agent in self.possible_agents
        }

    def observation_space(self, agent: str) -> spaces.Space[Row]:
        """Return what a site sees."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[Row]:
        """Return what a site may bid."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Row], dict[str, dict[str, Any]]]:
        """Begin an episode in a newly drawn world."""
        del options
        if seed is not None:
            self._random, _ = seeding.np_random(seed)
        self.agents = list(self.possible_agents)
        self._episode = Episode(self._engine(self._draw(self._random)))
        return self._observations(self._episode), self._told(self._episode)

    def step(self, actions: dict[str, Row]) -> Steps:
        """Let the highest score win the auction, and go on to the next one."""
        episode, agents = self._episode, list(self.agents)
        if episode is None or not agents:
            raise InvalidRequestError(
                "no auction waits", field="step", hint="call reset() to begin an episode"
            )
        episode.decide({SiteId(agent): float(action[0]) for agent, action in actions.items()})
        is_over = episode.decision is None
        is_cut = episode.decision_count == self._decision_count_max and not is_over
        if is_over or is_cut:
            self.agents = []
        rewards = {
            agent: -episode.site_joint_usd(SiteId(agent)) / self._scale_usd for agent in agents
        }
        return (
            self._observations(episode),
            rewards,
            dict.fromkeys(agents, is_over),
            dict.fromkeys(agents, is_cut),
            self._told(episode),
        )

    def render(self) -> None:
        """Draw nothing: `gcos report` shows runs."""

    def close(self) -> None:
        """Let go of the episode."""
        self._episode = None

    def _observations(self, episode: Episode) -> dict[str, Row]:
        rows = np.hstack([episode.features, episode.mask[:, np.newaxis].astype(np.float32)])
        return dict(zip(self.possible_agents, rows, strict=True))

    def _told(self, episode: Episode) -> dict[str, dict[str, Any]]:
        task_id = "" if episode.decision is None else episode.decision.task_id
        return {
            agent: {
                "is_bidding": bool(is_bidding),
                "task_id": task_id,
                "charges": episode.site_charges(SiteId(agent)),
            }
            for agent, is_bidding in zip(self.possible_agents, episode.mask, strict=True)
        }
