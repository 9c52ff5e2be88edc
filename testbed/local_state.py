"""What a local cluster is to be, what it is, and how its world time goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gcos import codec
from gcos.clock import WorldScale
from gcos.errors import GcosError, InvalidRequestError, WrongStateError
from gcos.tables import default_sites
from testbed.local_directory import STATE_NAME, write_whole
from testbed.local_processes import LocalProcess

SITES_DEFAULT: Final = ("on", "de", "cal", "in")
SPEED_DEFAULT: Final = 60.0
BYTE_RATIO_DEFAULT: Final = 1.0

SPEED_MAX: Final = 1e5
BYTE_RATIO_MAX: Final = 1e6
GPU_COUNT_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a local cluster is to be.

    Attributes:
        directory: Where everything of it lies.
        site_ids: Sites of the shipped table.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        world_start_s: World instant of the start; None: go on with what was kept, else the present.
        gpu_count: GPUs of each site; None: as in the shipped table.
        agent_settings: Further settings of every agent, as in `site_agent.config.AgentConfig`.
    """

    directory: Path
    site_ids: tuple[str, ...]
    speed: float = 1.0
    byte_ratio: float = 1.0
    world_start_s: float | None = None
    gpu_count: int | None = None
    agent_settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What is kept beside the cluster, and survives it with `gcos down --keep`.

    Attributes:
        processes: Its processes; none once it was stopped.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        wall_anchor_s: A wall instant ...
        world_anchor_s: ... and the world instant that it stands for.
        stopped_s: World instant at which it was stopped; None: it was not.
        gpu_count: GPUs of each site; None: as in the shipped table.
        site_ids: Its sites, of which processes may be missing where it was left half started.
    """

    processes: tuple[LocalProcess, ...]
    speed: float
    byte_ratio: float
    wall_anchor_s: float
    world_anchor_s: float
    stopped_s: float | None = None
    gpu_count: int | None = None
    site_ids: tuple[str, ...] = ()

    @property
    def scale(self) -> WorldScale:
        """The map from wall time to world time."""
        return WorldScale(self.speed, self.wall_anchor_s, self.world_anchor_s)

    @property
    def alive(self) -> list[LocalProcess]:
        """Processes that still execute."""
        return [process for process in self.processes if process.is_alive]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody asks of a cluster that may stand already; None: whatever it has.

    Attributes:
        site_ids: Its sites, in any order.
        speed: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
        gpu_count: GPUs of each site.
    """

    site_ids: tuple[str, ...] | None = None
    speed: float | None = None
    byte_ratio: float | None = None
    gpu_count: int | None = None

    def options(
        self, directory: Path, kept: ClusterState | None, *, world_start_s: float | None = None
    ) -> ClusterOptions:
        """Return what is to be started: what is asked for, else what was kept, else the usual."""
        was = kept or ClusterState(
            processes=(),
            speed=SPEED_DEFAULT,
            byte_ratio=BYTE_RATIO_DEFAULT,
            wall_anchor_s=0.0,
            world_anchor_s=0.0,
        )
        site_ids = was.site_ids or SITES_DEFAULT
        return ClusterOptions(
            directory,
            site_ids=site_ids if self.site_ids is None else self.site_ids,
            speed=was.speed if self.speed is None else self.speed,
            byte_ratio=was.byte_ratio if self.byte_ratio is None else self.byte_ratio,
            world_start_s=world_start_s,
            gpu_count=was.gpu_count if self.gpu_count is None else self.gpu_count,
        )

    def are_met_by(self, state: ClusterState) -> bool:
        """Tell whether a cluster with `state` is what is asked for."""
        return (
            (self.site_ids is None or sorted(self.site_ids) == sorted(state.site_ids))
            and self.speed in {None, state.speed}
            and self.byte_ratio in {None, state.byte_ratio}
            and self.gpu_count in {None, state.gpu_count}
        )


def read_state(directory: Path) -> ClusterState | None:
    """Return what is kept in `directory`; None where no cluster ever was.

    Raises:
        WrongStateError: What is kept there is damaged.
    """
    path = directory / STATE_NAME
    try:
        return codec.decode(ClusterState, path.read_bytes())
    except FileNotFoundError:
        return None
    except GcosError as exc:
        raise WrongStateError(
            f"{path} is damaged: {exc.message}",
            hint="end its processes by hand, if there are any, and start another with --dir",
        ) from exc


def write_state(directory: Path, state: ClusterState) -> None:
    """Keep `state` in `directory`."""
    write_whole(directory / STATE_NAME, codec.encode(state))


def check(options: ClusterOptions) -> None:
    """Refuse options that cannot be.

    Raises:
        InvalidRequestError: An unknown or repeated site, or a number out of range.
    """
    known = default_sites()
    unknown = [site for site in options.site_ids if site not in known]
    if unknown or not options.site_ids:
        raise InvalidRequestError(
            f"{', '.join(map(repr, unknown))} is not in the shipped table of sites"
            if unknown
            else "no site is named",
            field="sites",
            hint="sites are " + ", ".join(f"{site} ({known[site].name})" for site in known),
        )
    if len(set(options.site_ids)) < len(options.site_ids):
        raise InvalidRequestError("a site is named twice", field="sites")
    if not 0 < options.speed <= SPEED_MAX:
        raise InvalidRequestError(f"speed must be above 0 and at most {SPEED_MAX:g}", field="speed")
    if not 0 < options.byte_ratio <= BYTE_RATIO_MAX:
        raise InvalidRequestError(
            f"the byte ratio must be above 0 and at most {BYTE_RATIO_MAX:g}", field="byte_ratio"
        )
    if options.gpu_count is not None and not 1 <= options.gpu_count <= GPU_COUNT_MAX:
        raise InvalidRequestError(f"a site has 1 to {GPU_COUNT_MAX} GPUs", field="gpus")


def next_state(
    options: ClusterOptions, kept: ClusterState | None, *, wall_s: float
) -> ClusterState:
    """Return the state of a cluster whose world goes on from now.

    Journals hold world instants, so the world never goes back behind what was kept. Without a
    clean stop it went on by itself, as the wall clock did.
    """
    reached_s: float | None = None
    if kept is not None:
        reached_s = kept.stopped_s if kept.stopped_s is not None else kept.scale.world_s(wall_s)
    if options.world_start_s is not None:
        if reached_s is not None and options.world_start_s < reached_s:
            raise InvalidRequestError(
                "the start of the world is earlier than what the cluster there has seen already",
                field="world_start",
                hint="leave it out to go on from there, or start another with --dir",
            )
        reached_s = options.world_start_s
    return ClusterState(
        processes=(),
        speed=options.speed,
        byte_ratio=options.byte_ratio,
        wall_anchor_s=wall_s,
        world_anchor_s=wall_s if reached_s is None else reached_s,
        gpu_count=options.gpu_count,
        site_ids=options.site_ids,
    )
