"""Benchmarks of the hot paths, each beside a limit measured in the same run.

Absolute rates of a shared machine say little; the ratio of two interleaved measurements holds.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BenchRow:
    """What one benchmark found."""

    name: str
    #: Median of our rounds, in `unit`.
    ours: float
    #: Median of the limit's rounds, in `unit`.
    limit: float
    #: Median over the rounds of ours by limit, which is not the ratio of the two medians.
    ratio: float
    target: float
    unit: str
    note: str = ""
    #: What the limit is, in a few words.
    beside: str = "limit"
    #: For costs, where less is better: the target is the highest ratio allowed, not the lowest.
    is_cost: bool = False

    @property
    def is_met(self) -> bool:
        """Tell whether the ratio reaches its target."""
        return self.ratio <= self.target if self.is_cost else self.ratio >= self.target

    @property
    def verdict(self) -> str:
        """Tell the same in a word."""
        return "holds" if self.is_met else "MISSES"

    def __str__(self) -> str:
        relation = "<=" if self.is_cost else ">="
        return (
            f"{self.name}: {self.ours:,.0f} {self.unit}, {self.beside} {self.limit:,.0f} "
            f"{self.unit}, ratio {self.ratio:.2f} (target {relation} {self.target:g}, "
            f"{self.verdict}); {self.note}"
        )
