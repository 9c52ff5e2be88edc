"""The ship gate: whether what was learned is used, and with which weight. Pure.

DESIGN section 7: a learned part is kept, with a weight in {0, 0.5, 1}, only if over at least 24
validation weeks its paired mean is below zero with 95 % confidence, and no scenario family gets
worse by more than 1 %. Of the weights that pass, the one with the lowest mean is taken.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from policies.maccs.actor_card import FamilyResult, GateResult

#: Validation weeks that a verdict takes at least.
WEEK_COUNT_MIN: Final = 24
#: How much worse the mean of a family may be.
FAMILY_WORSE_MAX: Final = 0.01


def main_problem(result: FamilyResult) -> str | None:
    """Return why the main scenario refuses a weight; None: it does not.

    Args:
        result: J with what was learned over J without it, paired, with its 95 % interval.
    """
    if result.run_count < WEEK_COUNT_MIN:
        return f"{result.run_count} weeks say too little: {WEEK_COUNT_MIN} are asked for"
    if not result.mean_ratio < 0.0:
        return f"its mean is {result.mean_ratio:+.2%}, not below zero"
    if result.high_ratio is None or not result.high_ratio < 0.0:
        return f"its 95 % interval is not below zero: {result}"
    return None


def family_problem(families: Sequence[FamilyResult]) -> str | None:
    """Return which families refuse a weight; None: none does."""
    worse = [
        f"{each.scenario} ({each.mean_ratio:+.2%})"
        for each in families
        if not each.mean_ratio <= FAMILY_WORSE_MAX
    ]
    if worse:
        return f"worse by more than {FAMILY_WORSE_MAX:.0%} in {', '.join(worse)}"
    return None


def candidates(tried: Mapping[float, FamilyResult]) -> tuple[float, ...]:
    """Return the weights that the main scenario lets pass, best first.

    Args:
        tried: Result on the main scenario by weight above 0.
    """
    passing = [scale for scale, result in tried.items() if main_problem(result) is None]
    return tuple(sorted(passing, key=lambda scale: (tried[scale].mean_ratio, scale)))


def verdict(
    tried: Mapping[float, FamilyResult],
    families: Mapping[float, Sequence[FamilyResult]],
    *,
    weeks: str,
    first_seed: int,
) -> GateResult:
    """Return what the gate says.

    Args:
        tried: Result on the main scenario by weight above 0.
        families: Results of the scenario families, of each weight in `candidates(tried)` in turn
            until one has no problem; a weight without families has not been judged and fails.
        weeks: Span of the validation weeks.
        first_seed: Seeds count from here.
    """
    told = {f"{scale:g}": result for scale, result in tried.items()}
    why = "; ".join(
        f"at {scale:g}: {problem}"
        for scale, result in sorted(tried.items())
        if (problem := main_problem(result)) is not None
    )
    judged: tuple[FamilyResult, ...] = ()
    for scale in candidates(tried):
        judged = tuple(families.get(scale, ()))
        problem = family_problem(judged) if judged else "no scenario family was run"
        if problem is None:
            result = tried[scale]
            why = (
                f"at {scale:g} it is better ({result}), and no family is worse by more than"
                f" {FAMILY_WORSE_MAX:.0%}"
            )
            return GateResult(True, scale, why, weeks, first_seed, told, judged)
        why = "; ".join(part for part in (why, f"at {scale:g}: {problem}") if part)
    return GateResult(False, 0.0, why or "nothing was tried", weeks, first_seed, told, judged)
