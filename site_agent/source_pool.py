"""The holders of one download: who delivers, who stands by, who failed, and what came from whom."""

from collections import deque
from collections.abc import Iterable
from typing import Final

from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import (
    ArtifactNotFoundError,
    DigestMismatchError,
    GcosError,
    NotFoundError,
    PeerUnreachableError,
)
from gcos.ids import SiteId
from gcos.logs import Log
from site_agent.fetch_part import FetchPart
from site_agent.peer_source import PeerSource, SourceError

ATTEMPT_COUNT_MAX: Final = 16
"""Failures of one download over all its sources; one that delivered nothing is not asked twice.

Those of sources that fell silent do not count: how long they are asked again, time limits."""

WRONG_COUNT_MAX: Final = 8
"""A source with so many wrong chunks is given up."""


class SourcePool:
    """Sources of one download.

    Attributes:
        active: Who delivers now.
        wanted_count: How many should.
        distrusted: Whose digests of chunks proved wrong.
        last: Who delivered the latest chunk that was right.
    """

    def __init__(self, need: ArtifactNeed, log: Log) -> None:
        self.active: dict[SiteId, PeerSource] = {}
        self.wanted_count = 1
        self.distrusted: set[SiteId] = set()
        self.last: Holder | None = None
        self._need = need
        self._log = log
        #: Who stands by, the next one first.
        self._standby: deque[PeerSource] = deque()
        #: Who was ever named, so that nobody is added twice.
        self._named: set[SiteId] = set()
        #: Who delivered and then fell silent, and how; they may come back.
        self._silent: list[tuple[PeerSource, SourceError]] = []
        self._failures: list[SourceError] = []
        self._wrong_counts: dict[SiteId, int] = {}
        self._parts: dict[SiteId, FetchPart] = {}
        #: What had come from a source when it became active.
        self._before_bytes: dict[SiteId, int] = {}

    @property
    def parts(self) -> tuple[FetchPart, ...]:
        """What came from whom, in the order in which sources first delivered."""
        return tuple(self._parts.values())

    @property
    def received_bytes(self) -> int:
        """What came from all of them, discarded bytes included."""
        return sum(part.bytes_moved for part in self._parts.values())

    @property
    def live(self) -> tuple[PeerSource, ...]:
        """Who delivers or may yet."""
        return (*self.active.values(), *self._standby)

    @property
    def has_standby(self) -> bool:
        """Somebody could be asked who is not."""
        return bool(self._standby)

    def is_new(self, site_id: SiteId) -> bool:
        """Tell whether a site was never named, and remember it."""
        is_new = site_id not in self._named
        self._named.add(site_id)
        return is_new

    def add(self, source: PeerSource) -> None:
        """Let a source stand by."""
        self._standby.append(source)

    def activate(self) -> PeerSource:
        """Return the next source, which delivers now.

        Raises:
            GcosError: There is none, or too many have failed: why no source delivered.
        """
        if not self._standby or len(self._failures) >= ATTEMPT_COUNT_MAX:
            raise self.undelivered()
        source = self._standby.popleft()
        self.active[source.site_id] = source
        self._before_bytes[source.site_id] = self._received_bytes(source.site_id)
        return source

    def rest(self) -> None:
        """Let the active ones stand by before the others, in their order."""
        self._standby.extendleft(reversed(self.active.values()))
        self.active.clear()

    def fail(self, source: PeerSource, error: SourceError) -> None:
        """Give a source up, or put it behind the others where it may do better later."""
        self._log.warning(
            "source_failed",
            artifact=self._need.name,
            source=source.site_id,
            reason=error.error.reason,
            error=str(error.error),
        )
        was_active = self.active.pop(source.site_id, None) is not None
        if source in self._standby:
            self._standby.remove(source)
        before_bytes = self._before_bytes.get(source.site_id, 0)
        has_delivered = self._received_bytes(source.site_id) > before_bytes
        if was_active and error.is_transient and has_delivered:
            self._failures.append(error)
            self._standby.append(source)
        elif error.is_silence and self._received_bytes(source.site_id):
            self._silent.append((source, error))
        else:
            self._failures.append(error)

    @property
    def can_recall(self) -> bool:
        """Somebody fell silent who may be asked again."""
        return bool(self._silent) and len(self._failures) < ATTEMPT_COUNT_MAX

    def recall(self) -> None:
        """Let those stand by again that fell silent."""
        self._standby.extend(source for source, _ in self._silent)
        self._silent.clear()

    def fail_all(self, site_ids: Iterable[SiteId], why: str) -> None:
        """Give up those of some sites that are live: their bytes or their digests are wrong."""
        wanted = frozenset(site_ids)
        for source in self.live:
            if source.site_id in wanted:
                self.fail(source, SourceError(source.holder, DigestMismatchError(why)))

    def received(self, source: PeerSource, size_bytes: int) -> None:
        """Count bytes that came, right or wrong."""
        bytes_moved = self._received_bytes(source.site_id) + size_bytes
        self._parts[source.site_id] = FetchPart(source.holder, bytes_moved=bytes_moved)

    def count_wrong(self, source: PeerSource) -> None:
        """Count a chunk that came wrong."""
        self._wrong_counts[source.site_id] = self._wrong_counts.get(source.site_id, 0) + 1

    def check(self, source: PeerSource) -> None:
        """Go on with a source.

        Raises:
            SourceError: Too many of its chunks came wrong.
        """
        count = self._wrong_counts.get(source.site_id, 0)
        if count >= WRONG_COUNT_MAX:
            raise SourceError(source.holder, DigestMismatchError(f"{count} chunks came wrong"))

    def undelivered(self) -> GcosError:
        """Return why no source delivered; of one sort where all failed alike."""
        failures = [*self._failures, *(failure for _, failure in self._silent)]
        message = f"no holder delivered {self._need.name}: " + "; ".join(map(str, failures))
        errors = [failure.error for failure in failures]
        if all(isinstance(error, NotFoundError) for error in errors):
            return ArtifactNotFoundError(message, hint="its holders have evicted it")
        if all(isinstance(error, DigestMismatchError) for error in errors):
            return DigestMismatchError(message, hint="add it again where the original is")
        return PeerUnreachableError(message, hint="try again when a holder can be reached")

    def _received_bytes(self, site_id: SiteId) -> int:
        part = self._parts.get(site_id)
        return part.bytes_moved if part else 0
