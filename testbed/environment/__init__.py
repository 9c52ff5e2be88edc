"""Environments for training: `gcos/SiteScheduling-v0` (Gymnasium), `SiteBidding` (PettingZoo).

Importing this package registers the former; `gymnasium.make("testbed.environment:gcos/Site...-v0")`
imports it, too. Both need the `research` extra.
"""

from gymnasium.envs.registration import register

from testbed.environment.site_bidding import SiteBidding
from testbed.environment.site_scheduling import SiteScheduling, site_scheduling
from testbed.environment.worlds import scenario_draw

__all__ = ["SiteBidding", "SiteScheduling", "scenario_draw", "site_scheduling"]

register(
    "gcos/SiteScheduling-v0", entry_point="testbed.environment.site_scheduling:site_scheduling"
)
