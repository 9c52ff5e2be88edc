"""When are there runs enough? When differences are known well, or at a number of runs. Pure.

Runs go on by their standard error alone, never by what they favour: who looks again and again at
the sign of a difference finds one where there is none. By the error the mean stays what it is where
differences are symmetric, and intervals come to hold what they say as runs grow many (Chow and
Robbins, On the asymptotic theory of fixed-width sequential confidence intervals for the mean,
1965). Few first runs, or skewed ones, end too early now and then, where the error happens to look
small.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gcos.cli.quantities import counted, significant
from gcos.errors import InvalidRequestError
from testbed.evaluate import SEED_COUNT_MAX
from testbed.evaluation import Evaluation

#: Runs of each policy at most, unless told otherwise (DESIGN section 7, Protocol).
SEEDS_MAX: Final = 96
#: Runs are multiplied by it each time: a few looks lead to many runs.
GROWTH: Final = 2

_ERRORS: Final = "standard errors of the differences in J"


@dataclass(frozen=True, slots=True)
class Precision:
    """How well differences shall be known.

    Attributes:
        percent: Standard error, at most, of the relative difference in J of any policy.
        seeds_max: Runs of each policy at most.
    """

    percent: float
    seeds_max: int

    def next_count(self, count: int, error_percent: float | None) -> int:
        """Return how many runs of each policy there shall be; `count` itself: no more.

        Args:
            count: Runs of each policy that were made, >= 1.
            error_percent: Standard error that they leave; None: they cannot tell.
        """
        assert count >= 1, "the first runs are not asked for here"
        if error_percent is not None and error_percent <= self.percent:
            return count
        return max(count, min(GROWTH * count, self.seeds_max))

    def told(self, count: int, error_percent: float | None) -> str:
        """Return what `count` runs of each policy came to."""
        runs = f"{counted(count, 'run')} of each policy"
        wanted = f"(--precision {self.percent:g})"
        if error_percent is not None and error_percent <= self.percent:
            return (
                f"{runs} were enough: {_ERRORS} are at most {significant(error_percent)} % {wanted}"
            )
        most = ", the most that --seeds-max allows," if count >= self.seeds_max else ""
        size = "unknown" if error_percent is None else f"of up to {significant(error_percent)} %"
        return f"{runs}{most} leave {_ERRORS} {size} {wanted}"

    def check_weeks(self, weeks_s: Sequence[float]) -> None:
        """Let weeks pass from which a standard error can come.

        Raises:
            InvalidRequestError: It is one week.
        """
        if len(weeks_s) < 2:
            raise InvalidRequestError(
                "one week gives no standard error, as it says nothing of other weeks",
                field="precision",
                hint="name more weeks, or leave --precision out",
            )


def precision_of(
    percent: float | None, seeds_max: int | None, *, seed_count: int, compared_count: int
) -> Precision | None:
    """Return the precision that options ask for; None: as many runs as `seed_count` says.

    Args:
        percent: Standard error at most; None: whatever it is.
        seeds_max: Runs of each policy at most; None: `SEEDS_MAX`.
        seed_count: Runs of each policy to begin with.
        compared_count: Summaries: policies, each with each kind of caches.

    Raises:
        InvalidRequestError: They ask for something else.
    """
    if percent is None:
        if seeds_max is not None:
            raise InvalidRequestError(
                "--seeds-max is of --precision: without it, --seeds says how many runs there are",
                field="seeds_max",
                hint="add --precision 0.5, or leave it out",
            )
        return None
    if not (math.isfinite(percent) and percent > 0):
        raise InvalidRequestError(
            f"a standard error of {percent:g} % cannot be had",
            field="precision",
            hint="such as --precision 0.5",
        )
    if compared_count < 2:
        raise InvalidRequestError(
            "one policy has no difference whose standard error could be known",
            field="precision",
            hint="name another one with --policies, or leave --precision out",
        )
    most = SEEDS_MAX if seeds_max is None else seeds_max
    if not seed_count <= most <= SEED_COUNT_MAX:
        raise InvalidRequestError(
            f"at most {counted(most, 'run')} of each policy: from the {seed_count} of --seeds to "
            f"{SEED_COUNT_MAX} can be had",
            field="seeds_max",
            hint=f"raise --seeds-max, or lower --seeds: such as --seeds 12 --seeds-max {SEEDS_MAX}",
        )
    if most < 2:
        raise InvalidRequestError(
            "one run of each policy gives no standard error",
            field="seeds_max",
            hint="such as --seeds-max 96, or leave --precision out",
        )
    return Precision(percent, most)


def largest_error_percent(found: Sequence[Evaluation]) -> float | None:
    """Return the largest standard error of a policy's relative difference in J, per cent.

    None where one of them is unknown: all runs are of one week, or the baseline has no J to be
    relative to.
    """
    relatives = [
        versus.relative_percent
        for each in found
        for policy in each.policies
        if (versus := policy.joint_vs_baseline) is not None
    ]
    errors = [None if each is None else each.standard_error for each in relatives]
    known = [each for each in errors if each is not None]
    return max(known) if known and len(known) == len(errors) else None
