"""What a live run came to, by the books of the simulator: the same charges, the same window. Pure.

The cores' own reports are not asked what anything cost. What was moved for a run counts over the
time from its acceptance until all was there. Of copies that were pulled ahead of need the ledger
knows the charge alone, so their storage is not counted.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId, SiteId
from testbed.live.records import LiveRun, LiveTask
from testbed.sim.books import Books, Tell
from testbed.sim.instance import Instance, SimTask
from testbed.sim.result import RunResult

#: What comes first of what happens at one instant.
_EVICTION, _TRANSFER, _RUN = range(3)
_Event = tuple[float, int, Callable[[], None]]
CACHE_MODE: Final = "dual"


def booked(instance: Instance, run: LiveRun, *, tell: Tell | None = None) -> Books:
    """Return books in which everything that happened in a live run is entered."""
    books = Books(instance, tell=tell)
    tasks = {task.task_id: task for task in instance.tasks}
    artifacts = {each.artifact.name: each.artifact for each in instance.upstreams}
    events: list[_Event] = []
    stored: set[tuple[SiteId, ArtifactId]] = set()
    for done in run.tasks:
        events += _events(books, instance, tasks[done.task_id], done, artifacts, stored)
    for _at_s, _order, enter in sorted(events, key=lambda event: event[:2]):
        enter()
    begin_s, end_s = instance.measured_s
    for copy in run.copies:
        books.whole.charges.add(copy.charge)
        if begin_s <= copy.ended_s < end_s:
            books.measured.charges.add(copy.charge)
        if tell is not None:
            tell(instance.sites[0].site_id, None, copy.charge)
    books.close()
    return books


def result_of(instance: Instance, run: LiveRun, *, policy: str, core: str) -> RunResult:
    """Return a live run in the form of a simulated one.

    Args:
        instance: What was run.
        run: What came of it.
        policy: Under which policy.
        core: What ran it: `live` or `testbed`.
    """
    books = booked(instance, run)
    return RunResult(
        policy=policy,
        cache_mode=CACHE_MODE,
        whole=books.totals(books.whole),
        measured=books.totals(books.measured),
        event_count=len(run.decisions),
        wall_s=run.wall_s,
        trace_hash=books.trace_hash,
        core=core,
    )


def _events(
    books: Books,
    instance: Instance,
    task: SimTask,
    done: LiveTask,
    artifacts: dict[str, Artifact],
    stored: set[tuple[SiteId, ArtifactId]],
) -> list[_Event]:
    site = next(each for each in instance.sites if each.site_id == done.site_id)

    def evict(name: str) -> None:
        artifact = artifacts[name]
        if (site.site_id, artifact.artifact_id) in stored:
            stored.discard((site.site_id, artifact.artifact_id))
            books.evict(site.site_id, artifact, now_s=done.accepted_s)

    def transfer(name: str, source: SiteId) -> None:
        artifact = artifacts[name]
        stored.add((site.site_id, artifact.artifact_id))
        books.transfer(
            artifact,
            source,
            site.site_id,
            start_s=done.accepted_s,
            end_s=max(done.staged_s, done.accepted_s),
            task_id=task.task_id,
            is_stored=True,
        )

    def run() -> None:
        fetched = {fetch.artifact for fetch in done.fetches}
        for name, kind in _needs(task, artifacts):
            books.lookup(task, kind, is_hit=name not in fetched)
        books.run(task, site, site.pools[0], start_s=done.started_s, end_s=done.ended_s)

    return [
        *((done.accepted_s, _EVICTION, partial(evict, name)) for name in done.evictions),
        *(
            (done.accepted_s, _TRANSFER, partial(transfer, fetch.artifact, fetch.source))
            for fetch in done.fetches
            if fetch.artifact in artifacts
        ),
        (done.ended_s, _RUN, run),
    ]


def _needs(task: SimTask, artifacts: dict[str, Artifact]) -> list[tuple[str, ArtifactKind]]:
    by_id = {artifact.artifact_id: artifact for artifact in artifacts.values()}
    return [(by_id[key].name, by_id[key].kind) for key in (task.model, task.data)]
