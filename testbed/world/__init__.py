"""Carbon, price, network, catalogues and job logs of a world, from files or the shipped tables.

`load_world` opens a directory; `testbed/world/README.md` states the tables it may hold.
"""

from testbed.world.refusals import BadTableError, GapError, NotCoveredError
from testbed.world.world import (
    Hourly,
    LoggedJob,
    Place,
    RefusedWeek,
    Weeks,
    World,
    WorldDataSet,
    WorldLink,
    WorldModel,
    load_world,
)

__all__ = [
    "BadTableError",
    "GapError",
    "Hourly",
    "LoggedJob",
    "NotCoveredError",
    "Place",
    "RefusedWeek",
    "Weeks",
    "World",
    "WorldDataSet",
    "WorldLink",
    "WorldModel",
    "load_world",
]
