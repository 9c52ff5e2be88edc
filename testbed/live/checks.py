"""What of an instance real agents on one machine can run. Pure."""

from dataclasses import dataclass
from typing import Final

from gcos.artifacts import ArtifactKind
from gcos.errors import InvalidRequestError
from gcos.tables import default_sites
from policies.catalogue import POLICIES, policy_named
from testbed.local_state import BYTE_RATIO_MAX, SPEED_MAX
from testbed.sim.instance import Faults, Instance

SPEED: Final = 60.0
BYTE_RATIO: Final = 1e5
#: Real processes on one machine: a job takes two of them and some 0.3 s of a core; and a site lists
#: no more tasks at once.
TASK_COUNT_MAX: Final = 1_000
#: Wall hours that a run may last by its plan.
WALL_H_MAX: Final = 2.0


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How an instance is run live.

    Attributes:
        has_links: Messages and artifacts take emulated links between the regions.
        speed: World seconds per wall second.
        byte_ratio: World bytes that each stored byte stands for.
    """

    has_links: bool
    speed: float = SPEED
    byte_ratio: float = BYTE_RATIO

    @property
    def name(self) -> str:
        """As people type it."""
        return "testbed" if self.has_links else "live"


def check_live(instance: Instance, options: LiveOptions, *, policy: str, cache_mode: str) -> None:
    """Let pass what agents on this machine can run.

    Raises:
        InvalidRequestError: Something is for the simulator alone; the message says what.
    """
    check_policy(policy, field="policies")
    if not 0 < options.speed <= SPEED_MAX:
        raise InvalidRequestError(
            f"--speed is above 0 and at most {SPEED_MAX:g}",
            field="speed",
            hint=f"such as {SPEED:g}",
        )
    if not 1 <= options.byte_ratio <= BYTE_RATIO_MAX:
        raise InvalidRequestError(
            f"--byte-ratio is from 1 to {BYTE_RATIO_MAX:g}",
            field="byte_ratio",
            hint=f"such as {BYTE_RATIO:g}",
        )
    if cache_mode != "dual":
        raise _only_simulated(f"cache mode {cache_mode}", "cache_mode", "dual is what agents have")
    if instance.churn:
        raise _only_simulated("sites that go and come", "scenario", "choose one without events")
    if instance.faults != Faults():
        raise _only_simulated("faults by chance", "scenario", "gcos testbed experiment has its own")
    _check_sites(instance)
    _check_size(instance, options)


def check_policy(name: str, *, field: str) -> None:
    """Let pass a policy that agents can run.

    Raises:
        InvalidRequestError: There is none of that name, or it sees all sites or the future.
    """
    if not policy_named(name, field=field).is_live:
        able = ", ".join(each.name for each in POLICIES.values() if each.is_live)
        raise InvalidRequestError(
            f"{name} sees all sites at once, or the future: no agent can run it",
            field=field,
            hint=f"agents run {able}",
        )


def _check_sites(instance: Instance) -> None:
    known = default_sites()
    for site in instance.sites:
        if site.site_id not in known or known[site.site_id].zone != site.zone:
            raise InvalidRequestError(
                f"site {site.site_id} in {site.zone} is not in the shipped table of sites",
                field="scenario",
                hint=f"agents run as {', '.join(known)}; leave others out with keep_sites",
            )
    capacity = {
        ArtifactKind.MODEL: max(site.model_cache_bytes for site in instance.sites),
        ArtifactKind.DATA: max(site.data_cache_bytes for site in instance.sites),
    }
    used = {key for task in instance.tasks for key in (task.model, task.data)}
    for upstream in instance.upstreams:
        artifact = upstream.artifact
        if artifact.artifact_id in used and artifact.size_bytes > capacity[artifact.kind]:
            raise _only_simulated(
                f"streaming {artifact.name}, which is larger than every cache,",
                "scenario",
                "use larger caches: --set caches.model_gb=... or caches.data_gb=...",
            )


def _check_size(instance: Instance, options: LiveOptions) -> None:
    if not instance.tasks:
        raise InvalidRequestError("there is no task to run", field="scenario")
    if len(instance.tasks) > TASK_COUNT_MAX:
        raise InvalidRequestError(
            f"{len(instance.tasks)} tasks are more than {TASK_COUNT_MAX} on one machine",
            field="scenario",
            hint="shorten it: --set warmup_h=0 --set measure_h=4, and --set workload.load=0.1",
        )
    wall_h = (instance.warmup_s + instance.measure_s) / options.speed / 3600
    if wall_h > WALL_H_MAX:
        raise InvalidRequestError(
            f"at {options.speed:g} world seconds a second the run would take {wall_h:.1f} h",
            field="speed",
            hint="shorten it (--set measure_h=4), or raise --speed",
        )


def _only_simulated(what: str, field: str, hint: str) -> InvalidRequestError:
    return InvalidRequestError(f"{what} can be simulated only", field=field, hint=hint)
