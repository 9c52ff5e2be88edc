"""What clients are told beside tasks, bids and ledger entries. Pure records.

Field for field as the messages of `tasks.proto` and `operator.proto`; `gcos.rpc.wire` converts.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from gcos.artifacts import Artifact, CacheEntry, CacheMark, CacheUsage
from gcos.contract_net import Bid, Change, Refusal, Terms
from gcos.copy_events import CopyEvent
from gcos.durations import Prediction
from gcos.ids import RunId, SiteId
from gcos.known_sites import KnownSite
from gcos.ledger import LedgerEntry
from gcos.signals import Provenance
from gcos.task_events import TaskEvent
from gcos.task_record import Task

ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Submission:
    """A task as it was taken.

    Attributes:
        task: The task.
        durability: What the acknowledgement means: `local`, this agent's disk, or `replicated`.
        is_repeat: The request id was known, and this is the earlier task.
    """

    task: Task
    durability: str
    is_repeat: bool


@dataclass(frozen=True, slots=True)
class Scales:
    """How a demo or testbed scales the world.

    Attributes:
        speed_ratio: World seconds per wall second.
        byte_ratio: World bytes that one stored byte stands for.
    """

    speed_ratio: float = 1.0
    byte_ratio: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Who would run a task.

    Attributes:
        bids: Offers, best first.
        refusals: Sites that do not offer, or whose offers break a limit.
        chosen_site_id: Who would win; None where nobody would.
        predictions: Run time by pool type.
        terms: How offers were compared.
        scales: How the world is scaled there.
        changes: What would change the answer.
    """

    bids: tuple[Bid, ...]
    refusals: tuple[Refusal, ...]
    chosen_site_id: SiteId | None
    predictions: tuple[Prediction, ...]
    terms: Terms
    scales: Scales
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of the output of an attempt.

    Attributes:
        run_id: The attempt.
        offset_bytes: Where the piece begins in its output.
        data: The bytes.
        heard_s: World instant at which the site was last heard of the attempt, whose last lines
            these are: it does not give the output now. None: read from the output itself.
        site_id: Where the attempt ran; None where the output itself was read.
        is_silent: The site does not answer; False: it keeps the output no longer.
    """

    run_id: RunId
    offset_bytes: int
    data: bytes
    heard_s: float | None = None
    site_id: SiteId | None = None
    is_silent: bool = False


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A task after it was cancelled; `is_cancelled` is False where it had ended before."""

    task: Task
    is_cancelled: bool


@dataclass(frozen=True, slots=True)
class SiteListing:
    """The sites of the cluster.

    Attributes:
        sites: Sorted by id.
        is_fresh: False: the broker is away and this is what the agent last heard.
    """

    sites: tuple[KnownSite, ...]
    is_fresh: bool


@dataclass(frozen=True, slots=True)
class Arrival:
    """An artifact on its way from an upstream.

    Attributes:
        reference: Where it is pulled from.
        name: What it will be called.
        received_bytes: Here so far.
        size_bytes: All of it; 0 until the source has told.
        note: What it waits for; empty while bytes come.
    """

    reference: str
    name: str
    received_bytes: int
    size_bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class SiteCache:
    """What the two caches of a site hold.

    Attributes:
        site_id: The site.
        usages: How full each cache is.
        entries: What they hold, sorted by kind and name.
        marks: Of the entries that have any.
        arrivals: What is on its way from upstreams.
    """

    site_id: SiteId
    usages: tuple[CacheUsage, ...]
    entries: tuple[CacheEntry, ...]
    marks: tuple[CacheMark, ...] = ()
    arrivals: tuple[Arrival, ...] = ()


@dataclass(frozen=True, slots=True)
class SiteCopyLog:
    """What a site decided about copies.

    Attributes:
        site_id: The site.
        events: The decisions, oldest first.
    """

    site_id: SiteId
    events: tuple[CopyEvent, ...]


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is.

    Attributes:
        received_bytes: Here so far.
        size_bytes: All of it; 0 until the source has told.
        note: What it waits for, or what it was interrupted by; empty while bytes come.
        artifact: The artifact, once it is here; then this is the last one.
        is_new: False: the same content under the same name was there before.
        revision: State of the upstream, such as a commit; empty where it has none.
    """

    received_bytes: int
    size_bytes: int
    note: str = ""
    artifact: Artifact | None = None
    is_new: bool = False
    revision: str = ""


@dataclass(frozen=True, slots=True)
class PinnedArtifact:
    """An artifact that is kept, or let go; `is_changed` is False where it was so before."""

    artifact: Artifact
    is_changed: bool


@dataclass(frozen=True, slots=True)
class VerifiedArtifact:
    """What reading an artifact again found.

    Attributes:
        artifact: The artifact.
        bad_bytes: Bytes that are not what they should be.
        bad_paths: Files that they are in.
        repaired_bytes: Bytes that were wrong and have been mended.
        repair_problem: Why what is wrong could not be mended; empty where nobody tried.
    """

    artifact: Artifact
    bad_bytes: int
    bad_paths: tuple[str, ...]
    repaired_bytes: int = 0
    repair_problem: str = ""


@dataclass(frozen=True, slots=True)
class KeptArtifact:
    """An artifact that was not removed, and why."""

    artifact: Artifact
    why: str


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed from the caches of a site, or would be.

    Attributes:
        site_id: The site.
        removed: In this order.
        kept: What matched and stays.
        occupied_bytes: Held by the caches after it.
    """

    site_id: SiteId
    removed: tuple[Artifact, ...]
    kept: tuple[KeptArtifact, ...]
    occupied_bytes: int


@dataclass(frozen=True, slots=True)
class RemovedArtifact:
    """An artifact that was removed, or would be, with all of its names."""

    artifact: Artifact
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AddedArtifact:
    """An artifact that was added; `is_new` is False where the site had it under this name."""

    artifact: Artifact
    is_new: bool


@dataclass(frozen=True, slots=True)
class HourlySignal:
    """A signal by the hour.

    Attributes:
        start_s: World instant at which the first value begins to hold.
        values: One for each hour, in `unit`.
        unit: `gCO2/kWh` or `USD/kWh`.
        provenance: Who says so.
    """

    start_s: float
    values: tuple[float, ...]
    unit: str
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class SiteSignalsReading:
    """What a site knows of its electricity, now and for the coming hours.

    Attributes:
        site_id: The site.
        zone: Its electricity zone.
        now_s: World instant of the answer.
        carbon: Carbon intensity; None where missing or stale.
        price: Price of electricity.
    """

    site_id: SiteId
    zone: str
    now_s: float
    carbon: HourlySignal | None
    price: HourlySignal


@dataclass(frozen=True, slots=True)
class SiteLedger:
    """Ledger entries of tasks that one site owns, oldest first."""

    entries: tuple[LedgerEntry, ...]
    scales: Scales


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A site that was asked and did not answer.

    Attributes:
        site_id: Which site.
        address: Where it was asked.
        message: What went wrong.
    """

    site_id: SiteId
    address: str
    message: str


@dataclass(frozen=True, slots=True)
class Gathered(Generic[ItemT]):
    """Answers of many sites, and the sites without an answer, sorted by id."""

    items: tuple[ItemT, ...]
    unreachable: tuple[Unreachable, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterLedger:
    """Ledger entries of many sites.

    Attributes:
        entries: Oldest first.
        scales: How the world is scaled there.
        unreachable: Sites whose entries are missing.
    """

    entries: tuple[LedgerEntry, ...]
    scales: Scales
    unreachable: tuple[Unreachable, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskHistory:
    """What the origin of a task tells of it.

    Attributes:
        task: The task now.
        events: What happened, oldest first.
        scales: How time and bytes are scaled there.
    """

    task: Task
    events: tuple[TaskEvent, ...]
    scales: Scales


@dataclass(frozen=True, slots=True)
class Explanation:
    """A task as it is and how it came to be so.

    Attributes:
        task: The task now.
        events: What happened, oldest first.
        scales: How time and bytes are scaled there.
        copies: Of each site whose offer was compared last, what it had decided before that about
            the artifacts that the task needs: the latest decision for each.
        unreachable: Sites that offered, and did not tell that.
    """

    task: Task
    events: tuple[TaskEvent, ...]
    scales: Scales
    copies: tuple[SiteCopyLog, ...] = ()
    unreachable: tuple[Unreachable, ...] = ()


@dataclass(frozen=True, slots=True)
class ExplainedSubmission:
    """A task that was handed in, and how it came to be where it is.

    Attributes:
        submission: What the agent answered, with the task as it was last seen.
        explanation: What happened to it.
    """

    submission: Submission
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class Results:
    """What a run left behind and where it lies now.

    Attributes:
        directory: Where the files are.
        sizes: Size in bytes by relative path.
    """

    directory: str
    sizes: dict[str, int]
