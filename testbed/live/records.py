"""What a live run of an instance left behind: pure records."""

from dataclasses import dataclass

from gcos.accounting import Charge
from gcos.durations import Prediction
from gcos.ids import SiteId
from site_agent.decisions import Decision


@dataclass(frozen=True, slots=True)
class LiveFetch:
    """A transfer that a run waited for.

    Attributes:
        artifact: Name of the artifact.
        source: From which site.
        size_bytes: World bytes.
    """

    artifact: str
    source: SiteId
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LiveTask:
    """How a task went; instants are the world's.

    Attributes:
        task_id: Its name in the instance.
        live_id: Its id in the cluster.
        submitted_s: Its origin took it.
        site_id: Where the run that ended it was.
        accepted_s: That site accepted it.
        staged_s: All it needs was there.
        started_s: Its command began.
        ended_s: Its command ended.
        attempts: Awards that were made for it.
        fetches: What was moved for it.
        evictions: Names of what was evicted for it.
        predictions: Run times that the last announcement carried.
    """

    task_id: str
    live_id: str
    submitted_s: float
    site_id: SiteId
    accepted_s: float
    staged_s: float
    started_s: float
    ended_s: float
    attempts: int
    fetches: tuple[LiveFetch, ...]
    evictions: tuple[str, ...]
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True, slots=True)
class LiveCopy:
    """A copy that a site pulled ahead of need."""

    ended_s: float
    charge: Charge


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A live run.

    Attributes:
        tasks: All tasks, by their name in the instance.
        copies: Copies that were pulled ahead of need.
        decisions: Bids and awards of all agents, each with what it was made from.
        wall_s: How long it took.
        late_share: Share of deliveries over links that came late; 0 where there were no links.
        is_void: So many came late that distances were not as asked for.
    """

    tasks: tuple[LiveTask, ...]
    copies: tuple[LiveCopy, ...]
    decisions: tuple[Decision, ...]
    wall_s: float
    late_share: float = 0.0
    is_void: bool = False
