"""What all sections of a page speak of, and the words that every caption needs. Pure."""

from dataclasses import dataclass

from gcos.cli.plan_table import SCOPES
from gcos.cli.quantities import counted
from testbed.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class Told:
    """What a page is about.

    Attributes:
        found: The evaluation in the middle of the page.
        others: All others.
        subject: Whose savings and losses are shown.
    """

    found: Evaluation
    others: tuple[Evaluation, ...]
    subject: str

    @property
    def scope(self) -> str:
        """The cost scope in words."""
        return f"cost scope {self.found.cost_scope.value}: {SCOPES[self.found.cost_scope]}"

    @property
    def sample(self) -> str:
        """Runs and weeks in words."""
        runs, weeks = len(self.found.seeds), len(self.found.weeks_start_s)
        return f"{counted(runs, 'paired run')} in {counted(weeks, 'week')}"

    @property
    def spread(self) -> str:
        """What stands behind a mean of paired differences."""
        if len(self.found.weeks_start_s) > 1:
            return "95 % interval, weeks resampled as blocks"
        if len(self.found.seeds) > 1:
            return "± standard deviation over runs; one week gives no interval"
        return "one run: no spread is known"
