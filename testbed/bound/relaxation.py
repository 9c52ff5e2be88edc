"""The least J that any schedule of an instance can have. Pure."""

from testbed.bound.ascent import STEP_COUNT, ascend
from testbed.bound.pricing import Fetches
from testbed.bound.problem import problem_of
from testbed.sim.cache_modes import CacheMode
from testbed.sim.instance import Instance


def lower_bound_usd(
    instance: Instance, mode: CacheMode = CacheMode.DUAL, *, step_count: int = STEP_COUNT
) -> float:
    """Return a bound on J of the whole run, warm-up and drain included, $.

    No schedule, and so no policy, has a lower one, however much it knows (README.md). J of the
    measured window alone has no such bound but a weak one: whoever fetches in the warm-up, where
    nothing is measured, pays nothing.

    Args:
        instance: The drawn problem.
        mode: Which caches there are; only what fits none of them costs more.
        step_count: How long better multipliers are looked for; the bound holds after any number.
    """
    problem = problem_of(instance, mode)
    return ascend(problem, Fetches(problem), step_count=step_count).bound_usd
