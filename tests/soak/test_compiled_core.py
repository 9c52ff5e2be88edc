"""The compiled core against the simulator over whole weeks: every policy, every scenario."""

from datetime import UTC, datetime

import pytest

from policies.catalogue import POLICIES
from testbed.instances import draw
from testbed.scenarios import load_scenario, scenario_names
from testbed.world import load_world
from tests.testbed.fast.test_same_as_simulator import check_same

pytestmark = pytest.mark.soak

WEEK_S = datetime(2023, 7, 3, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", scenario_names())
def test_a_whole_week_is_the_same(name: str, policy: str) -> None:
    check_same(draw(load_scenario(name), load_world(None), week_start_s=WEEK_S, seed=1), policy)
