"""The compiled core against the simulator over whole weeks. `make soak`.

Every policy on the default scenario, and on every other one the four that go furthest apart: a
rule whose offers are only planned as far as they can win, one that migrates and announces again,
one that plans copies, and one whose copies are learned. A week over the live cores takes a minute
or two, all of them two hours of one core.
"""

from datetime import UTC, datetime

import pytest

from policies.catalogue import POLICIES
from testbed.instances import draw
from testbed.scenarios import load_scenario, scenario_names
from testbed.sim.instance import Faults
from testbed.world import load_world
from tests.testbed.fast.test_same_as_simulator import check_same

pytestmark = pytest.mark.soak

WEEK_S = datetime(2023, 7, 3, tzinfo=UTC).timestamp()


ON_DEFAULT = [
    ("default", name)
    for name, policy in POLICIES.items()
    if policy.dispatcher is None and not policy.is_central
]
ELSEWHERE = [
    (name, policy)
    for name in scenario_names()
    if name != "default" and load_scenario(name).faults == Faults()
    for policy in ("carbon-greedy", "rule", "plan", "maccs")
]


@pytest.mark.parametrize(("name", "policy"), ON_DEFAULT + ELSEWHERE)
def test_a_whole_week_is_the_same(name: str, policy: str) -> None:
    check_same(draw(load_scenario(name), load_world(None), week_start_s=WEEK_S, seed=1), policy)
