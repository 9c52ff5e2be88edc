"""What an operator does to the caches of a site: pin, verify, prune, remove.

Whatever is pinned, used by a run, read by a peer or in this site's custody stays (I5); what stays
is told with the reason and the next step.
"""

import functools
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import Artifact, CacheEntry, parse_reference
from gcos.clock import Clock
from gcos.errors import (
    ArtifactNotFoundError,
    InvalidRequestError,
    WrongStateError,
)
from gcos.ids import ArtifactId, SiteId, is_artifact_id
from gcos.logs import Log
from site_agent.artifact_store import ArtifactStore
from site_agent.cache_marks import OPERATOR, CacheMarks
from site_agent.copy_log import CopyNotes, Unnoted
from site_agent.threads import in_thread, interruptible
from site_agent.verification import Examination


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an artifact stays.

    Attributes:
        why: One sentence.
        hint: The next step of who wants it gone.
    """

    why: str
    hint: str


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a pruning removes.

    Attributes:
        removed: In this order.
        kept: What matches and stays.
        occupied_bytes: What the caches hold after it.
    """

    removed: tuple[Artifact, ...]
    kept: tuple[tuple[Artifact, Reason], ...]
    occupied_bytes: int


class CacheUpkeep:
    """The operator's verbs over one store. Its pins hold from the moment this is made."""

    def __init__(
        self,
        store: ArtifactStore,
        marks: CacheMarks,
        clock: Clock,
        log: Log,
        notes: CopyNotes | None = None,
    ) -> None:
        self._notes = notes or Unnoted()
        self._store = store
        self._marks = marks
        self._clock = clock
        self._log = log
        for artifact_id in marks.pinned():
            if store.cache.is_known(artifact_id):
                store.cache.pin(artifact_id, OPERATOR)

    def find(self, text: str) -> Artifact:
        """Return the artifact that `text` names: a name, `name@sha256:...` or `sha256:...`.

        Raises:
            InvalidRequestError: It is no name, or several contents have it.
            ArtifactNotFoundError: It is not here.
        """
        if is_artifact_id(text):
            matching = [each for each in self._held() if each.artifact_id == text]
        else:
            reference = parse_reference(text, field="name")
            matching = [
                each
                for each in self._held()
                if each.name == reference.name and reference.artifact_id in {None, each.artifact_id}
            ]
        ids = list(dict.fromkeys(each.artifact_id for each in matching))
        if not ids:
            raise ArtifactNotFoundError(
                f"{text[:120]!r} is not in the caches of {self._store.site_id}",
                hint=f"see what is: gcos cache ls --site {self._store.site_id}",
            )
        if len(ids) > 1:
            raise InvalidRequestError(
                f"{len(ids)} artifacts are called {text[:120]!r}",
                field="name",
                hint=f"say which: {text[:120]}@{ids[0]}",
            )
        return matching[0]

    def set_pin(self, text: str, is_pinned: bool) -> tuple[Artifact, bool]:
        """Keep an artifact, or let it go; `Puller.save_marks` makes that durable.

        Returns:
            The artifact, and whether anything changed.

        Raises:
            InvalidRequestError: It is no name, or several contents have it.
            ArtifactNotFoundError: It is not here.
        """
        artifact = self.find(text)
        artifact_id = artifact.artifact_id
        is_changed = self._marks.of(artifact_id).is_pinned != is_pinned
        if is_pinned:
            self._store.cache.pin(artifact_id, OPERATOR)
        else:
            self._store.cache.unpin(artifact_id, OPERATOR)
        self._marks.set_pin(artifact_id, is_pinned)
        return artifact, is_changed

    async def verify(self, text: str) -> AsyncGenerator[tuple[Artifact, Examination], None]:
        """Read every byte of one artifact again, or of all where `text` is empty.

        Raises:
            InvalidRequestError: It is no name, or several contents have it.
            ArtifactNotFoundError: It is not here.
        """
        found = [self.find(text)] if text else list(self._held())
        for artifact in {each.artifact_id: each for each in reversed(found)}.values():
            artifact_id = artifact.artifact_id
            if not self._store.cache.is_known(artifact_id):
                continue  # evicted while others were read
            is_cached = self._entry(artifact_id) is not None
            if is_cached:
                self._store.cache.open_reader(artifact_id)
            try:
                yield (
                    artifact,
                    await interruptible(functools.partial(self._store.examine, artifact_id)),
                )
            finally:
                if is_cached:
                    self._store.cache.close_reader(artifact_id)

    def prune_plan(self, *, to_bytes: int | None, unused_for_s: float) -> PrunePlan:
        """Return what `prune` would remove; changes nothing.

        Args:
            to_bytes: Stop when both caches together hold no more; None: all that matches.
            unused_for_s: Only what nobody has used for so long, world seconds.
        """
        entries = [
            entry
            for entry in self._store.cache.entries()
            if self._clock.world_s() - entry.last_used_s >= unused_for_s
        ]
        usages = self._store.cache.usages()
        return prune_plan(
            entries,
            {each.artifact.artifact_id: why for each in entries if (why := self._why_kept(each))},
            occupied_bytes=sum(usage.occupied_bytes for usage in usages),
            to_bytes=to_bytes,
        )

    async def prune(self, plan: PrunePlan) -> PrunePlan:
        """Remove what a plan names; return what became of it."""
        removed: list[Artifact] = []
        kept = list(plan.kept)
        for artifact in plan.removed:
            try:
                await self._drop(artifact)
            except WrongStateError:  # somebody reads it now, which no entry tells
                kept.append((artifact, _READ))
            except ArtifactNotFoundError:
                continue  # evicted meanwhile
            else:
                removed.append(artifact)
        usages = self._store.cache.usages()
        occupied_bytes = sum(usage.occupied_bytes for usage in usages)
        return PrunePlan(tuple(removed), tuple(kept), occupied_bytes)

    def removable(self, text: str, *, gives_up_custody: bool) -> tuple[Artifact, tuple[str, ...]]:
        """Return the artifact that `text` names and all of its names, if it may be removed.

        Raises:
            InvalidRequestError: It is no name, or several contents have it.
            ArtifactNotFoundError: It is not here.
            WrongStateError: It must stay; the message says why, the hint what to do.
        """
        artifact = self.find(text)
        entry = self._entry(artifact.artifact_id)
        if entry is None:
            raise WrongStateError(
                f"{artifact.name} lies in another program's store, which is only read here",
                hint="remove it with that program",
            )
        reason = self._why_kept(entry, gives_up_custody=gives_up_custody)
        if reason is not None:
            raise WrongStateError(f"{artifact.name} stays: {reason.why}", hint=reason.hint)
        same = [each for each in self._held() if each.artifact_id == artifact.artifact_id]
        return artifact, tuple(each.name for each in same)

    async def remove(self, artifact: Artifact) -> None:
        """Remove an artifact that is `removable`.

        Raises:
            ArtifactNotFoundError: It went meanwhile.
            WrongStateError: Somebody uses it by now.
        """
        try:
            await self._discard(artifact, self._store.give_up(artifact.artifact_id))
        except WrongStateError as exc:
            raise WrongStateError(f"{artifact.name} stays: {_READ.why}", hint=_READ.hint) from exc

    def _held(self) -> tuple[Artifact, ...]:
        return self._store.cache.kept()

    def _entry(self, artifact_id: ArtifactId) -> CacheEntry | None:
        entries = self._store.cache.entries()
        return next((each for each in entries if each.artifact.artifact_id == artifact_id), None)

    def _why_kept(self, entry: CacheEntry, *, gives_up_custody: bool = False) -> Reason | None:
        is_pinned = self._marks.of(entry.artifact.artifact_id).is_pinned
        return why_kept(
            entry,
            self._store.site_id,
            is_pinned=is_pinned,
            gives_up_custody=gives_up_custody,
        )

    async def _drop(self, artifact: Artifact) -> None:
        await self._discard(artifact, self._store.drop(artifact.artifact_id))

    async def _discard(self, artifact: Artifact, trash: Path) -> None:
        self._log.info(
            "artifact_removed",
            artifact=artifact.name,
            artifact_id=artifact.artifact_id,
            size_bytes=artifact.size_bytes,
        )
        self._notes.note("removed", artifact.artifact_id, artifact.name, "removed by the operator")
        await in_thread(functools.partial(self._store.discard, artifact.artifact_id, trash))


_READ = Reason("a peer or a verification reads it now", "try again in a moment")


def why_kept(
    entry: CacheEntry, site_id: SiteId, *, is_pinned: bool, gives_up_custody: bool
) -> Reason | None:
    """Return why an artifact may not be removed; None where it may.

    Args:
        entry: Under one of its names.
        site_id: This site.
        is_pinned: The operator keeps it.
        gives_up_custody: That this site is its custodian is no reason.
    """
    artifact = entry.artifact
    run_count = entry.pin_count - is_pinned
    if is_pinned:
        return Reason(
            "it is pinned", f"let it go first: gcos cache unpin {artifact.name} --site {site_id}"
        )
    if run_count > 0:
        runs = "1 run needs it" if run_count == 1 else f"{run_count} runs need it"
        return Reason(runs, "wait until they end: gcos queue")
    if artifact.custodian == site_id and not gives_up_custody:
        return Reason(
            "this site is its custodian, so its bytes may be nowhere else",
            f"if they may be lost for good: gcos cache rm {artifact.name} --site {site_id} "
            "--give-up-custody",
        )
    return None


def prune_plan(
    entries: Sequence[CacheEntry],
    kept: dict[ArtifactId, Reason],
    *,
    occupied_bytes: int,
    to_bytes: int | None,
) -> PrunePlan:
    """Return what to remove, what was used longest ago first, until enough is gone.

    Args:
        entries: What matches; an artifact may be there under several names.
        kept: What stays, and why.
        occupied_bytes: What the caches hold now.
        to_bytes: Enough is gone when they hold no more than this; None: when all is.
    """
    distinct = {each.artifact.artifact_id: each for each in reversed(entries)}
    ordered = sorted(
        distinct.values(), key=lambda each: (each.last_used_s, each.artifact.artifact_id)
    )
    removed: list[Artifact] = []
    staying: list[tuple[Artifact, Reason]] = []
    for entry in ordered:
        if to_bytes is not None and occupied_bytes <= to_bytes:
            break
        artifact = entry.artifact
        if (reason := kept.get(artifact.artifact_id)) is not None:
            staying.append((artifact, reason))
            continue
        removed.append(artifact)
        occupied_bytes -= artifact.size_bytes
    return PrunePlan(tuple(removed), tuple(staying), occupied_bytes)
