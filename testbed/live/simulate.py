"""A live run in the place of a simulated one, for `gcos evaluate --on live|testbed`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcos.errors import InvalidRequestError
from testbed.interruption import interruptible
from testbed.live.books import result_of
from testbed.live.checks import LiveOptions, check_live, check_policy
from testbed.live.run import run_live
from testbed.sim.instance import Instance
from testbed.sim.result import RunResult


@dataclass(frozen=True, slots=True)
class LiveSimulate:
    """Runs an instance on real agents and sums it up as the simulator does.

    Attributes:
        options: How it is run.
        tell: Gets a line for each step.
    """

    options: LiveOptions
    tell: Callable[[str], None]

    def __call__(
        self, instance: Instance, *, policy: str, cache_mode: str, log: Path | None
    ) -> RunResult:
        """Return what it came to: see `testbed.sim.result.Simulate`.

        Raises:
            InvalidRequestError: Something of it is for the simulator alone.
            GcosError: The cluster did not come up, or a task did not succeed.
        """
        check_live(instance, self.options, policy=policy, cache_mode=cache_mode)
        if log is not None:
            raise InvalidRequestError(
                "only simulated runs are exported", field="export", hint="--on sim"
            )
        with interruptible():
            run = run_live(instance, self.options, policy=policy, tell=self.tell)
        if run.is_void:
            self.tell(
                f"{policy}: {run.late_share:.1%} of deliveries were late; its times say nothing "
                "about distance"
            )
        return result_of(instance, run, policy=policy, core=self.options.name)


def refuse_with_live(
    *,
    policies: Sequence[str],
    core: str,
    job_count: int,
    has_export: bool,
    is_paper: bool,
    modes: Sequence[str],
    has_precision: bool,
) -> None:
    """Refuse options of `gcos evaluate` that only simulations have.

    Raises:
        InvalidRequestError: One is given.
    """
    for name in policies:
        check_policy(name, field="policies")
    problems = (
        (core != "auto", "core", "no simulator runs, so --core names none", "leave it out"),
        (job_count > 1, "jobs", "one cluster at a time: --jobs is 1", "leave it out"),
        (has_export, "export", "--export is for simulated runs", "use --on sim"),
        (has_precision, "precision", "--precision is for simulated runs", "use --on sim"),
        (is_paper, "scenario", "--scenario paper is simulated", "use --on sim"),
        (tuple(modes) != ("dual",), "cache_mode", "--cache-mode is dual at agents", "use --on sim"),
    )
    for is_given, field, message, hint in problems:
        if is_given:
            raise InvalidRequestError(message, field=field, hint=hint)
