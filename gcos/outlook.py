"""What sites tell each other once an hour, to plan copies from the same facts. Pure records.

Field for field as in `proto/gcos/v1/site.proto`; `gcos.rpc.wire` converts. No queue travels: of a
site's plan only hourly totals do, and of its tasks only what they asked for.
"""

from dataclasses import dataclass

from gcos.artifacts import ArtifactKind
from gcos.ids import ArtifactId, SiteId, TaskId


@dataclass(frozen=True, slots=True)
class ExpectedRun:
    """What running a task on a pool of a type comes to, whatever the site.

    Attributes:
        pool_type: GPU type.
        run_h: Mean predicted run time, world hours.
        late_usd: Expected late penalty of a start at its submission.
    """

    pool_type: str
    run_h: float
    late_usd: float


@dataclass(frozen=True, slots=True)
class Submission:
    """A task as it was submitted, of which the like is expected again.

    Attributes:
        task_id: The task.
        arrival_s: World instant of its submission.
        gpu_count: GPUs that it asked for.
        model_id: Its model; None: none.
        data_id: Its largest data set; None: none.
        fixed_penalty_usd: Fixed part of its late penalty.
        runs: By pool type.
    """

    task_id: TaskId
    arrival_s: float
    gpu_count: int
    model_id: ArtifactId | None
    data_id: ArtifactId | None
    fixed_penalty_usd: float
    runs: tuple[ExpectedRun, ...]


@dataclass(frozen=True, slots=True)
class OutlookArtifact:
    """An artifact that an outlook speaks of.

    Attributes:
        artifact_id: Its content.
        kind: Which cache it belongs to.
        name: What people call it.
        size_bytes: Its size on disk.
    """

    artifact_id: ArtifactId
    kind: ArtifactKind
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class OutlookCopy:
    """A copy at a site, or one on its way there.

    Attributes:
        artifact_id: Of what.
        is_complete: It can be fetched from here.
        is_evictable: It may go: complete, and nothing protects it.
        use_count: Expected uses: decayed ones here and a tenth of those elsewhere.
    """

    artifact_id: ArtifactId
    is_complete: bool
    is_evictable: bool
    use_count: float


@dataclass(frozen=True, slots=True)
class OutlookRoom:
    """The cache of one kind.

    Attributes:
        kind: Of what it holds.
        capacity_bytes: Its size.
        free_bytes: Bytes that nobody holds and nobody was promised.
        stay_ratio: Share of the plan's horizon that a new copy is expected to stay.
    """

    kind: ArtifactKind
    capacity_bytes: int
    free_bytes: int
    stay_ratio: float


@dataclass(frozen=True, slots=True)
class OutlookPool:
    """A pool and the load that is planned for it.

    Attributes:
        type: GPU type.
        gpu_count: GPUs.
        active_kw: Power of a busy GPU, PUE included.
        usd_per_gpu_h: Price of a GPU hour; 0 where GPU hours are no cost.
        planned_count: GPUs taken in each coming hour by what runs, waits or is held.
    """

    type: str
    gpu_count: int
    active_kw: float
    usd_per_gpu_h: float
    planned_count: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one site tells of the coming hours and of the demand that it remembers.

    Attributes:
        site_id: Who tells.
        zone: Its electricity zone.
        address: `host:port` of its agent.
        at_s: World instant of the beat, on a whole hour; all hours count from it.
        carbon_gco2_per_kwh: Intensity now; 0 where unknown.
        rate_usd_per_kwh: Price + lambda x carbon in each coming hour, as forecast; the last holds.
        remembered_h: How far back its memory of submissions reaches.
        submission_count: Submissions in that memory; `submissions` may be fewer of them.
        pools: Its pools; none where it takes no work.
        rooms: Its caches, one a kind.
        copies: What it holds.
        artifacts: Each artifact that copies or submissions name, once.
        submissions: What was submitted to it, in order of arrival.
    """

    site_id: SiteId
    zone: str
    address: str
    at_s: float
    carbon_gco2_per_kwh: float
    rate_usd_per_kwh: tuple[float, ...]
    remembered_h: float
    submission_count: int
    pools: tuple[OutlookPool, ...]
    rooms: tuple[OutlookRoom, ...]
    copies: tuple[OutlookCopy, ...]
    artifacts: tuple[OutlookArtifact, ...]
    submissions: tuple[Submission, ...]
