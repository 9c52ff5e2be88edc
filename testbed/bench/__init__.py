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
    #: For costs, where less is better: the target is the highest ratio allowed, not the lowest.
    is_cost: bool = False

    @property
    def is_met(self) -> bool:
        """Tell whether the ratio reaches its target."""
        return self.ratio <= self.target if self.is_cost else self.ratio >= self.target

    def __str__(self) -> str:
        relation = "<=" if self.is_cost else ">="
        verdict = "met" if self.is_met else "MISSED"
        return (
            f"{self.name}: {self.ours:,.0f} {self.unit}, limit {self.limit:,.0f} {self.unit}, "
            f"ratio {self.ratio:.2f} (target {relation} {self.target:g}, {verdict}); {self.note}"
        )
