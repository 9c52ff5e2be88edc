"""One artifact from its sources into its partial copy, whatever the sources do.

The manifest comes first and must hash to the artifact's id: from then on nobody can name other
files, sizes or digests. Sources then claim ranges of chunks, several at once (`chunk_board`,
`pull`); each chunk is verified when it comes (`chunk_digests`), and in order they are written and
hashed as the whole file (`assembly`), whose digest has the last word.

    a chunk came wrong              it alone comes again, from another source
    a source failed                 others bring what it was to bring; a standby takes its place
    all that delivered fell silent  they are asked again for a while, for what is missing
    a chunk came wrong from all     the list of digests is another holder's from now on
    the file hashes wrong           whoever gave the list lied: the file anew, without that source
"""

from collections.abc import Callable, Iterable
from typing import Final

from gcos.artifacts import Manifest
from gcos.clock import Clock
from gcos.contract_net import ArtifactNeed, Holder
from gcos.errors import InvalidRequestError
from gcos.ids import SiteId
from gcos.logs import Log
from gcos.rpc.channels import Channels
from site_agent.artifact_store import ArtifactStore
from site_agent.assembly import Assembly, FileWrongError
from site_agent.chunk_digests import ChunkDigests
from site_agent.fetch_part import FetchPart
from site_agent.link_gate import Bell, Passage
from site_agent.peer_source import PeerSource, SourceError
from site_agent.pull import ListWrongError, Pull
from site_agent.source_pool import SourcePool

PATIENCE_S: Final = 60.0
"""Protocol seconds without a byte for which holders that fell silent are asked again.

A network that is parted comes back, as a rule, sooner than another site has fetched all of it."""

_PAUSE_S_MIN: Final = 1.0
_PAUSE_S_MAX: Final = 8.0


class Download:
    """The state of one download; `run` performs it, under a reservation that was cleared.

    Attributes:
        manifest: What the artifact consists of, once a source has told.
        custodian: The site whose copy is protected, as that source says.
        chunk_digests: Of each chunk, file after file; None where some are not known.
    """

    def __init__(
        self,
        need: ArtifactNeed,
        *,
        store: ArtifactStore,
        channels: Channels,
        passage: Passage,
        clock: Clock,
        log: Log,
        idle_s: float,
        on_progress: Callable[[int], None],
    ) -> None:
        self.manifest: Manifest | None = None
        self.custodian: SiteId | None = None
        self.chunk_digests: list[bytes] | None = None
        self._need = need
        self._store = store
        self._channels = channels
        self._passage = passage
        self._clock = clock
        self._idle_s = idle_s
        #: Told the bytes that are here; they fall where a file starts anew.
        self._on_progress = on_progress
        self._pool = SourcePool(need, log)
        self._bell = Bell()
        #: Since when nothing has come, and how much had come then; None: bytes come.
        self._silent_since_s: float | None = None
        self._silent_bytes = 0
        self._pause_s = _PAUSE_S_MIN

    @property
    def parts(self) -> tuple[FetchPart, ...]:
        """What came from whom, in the order in which sources first delivered."""
        return self._pool.parts

    def offer(self, holders: Iterable[Holder], *, at_once: int = 1) -> None:
        """Add sources that are not named yet, also while the download runs.

        Args:
            holders: The first to ask first.
            at_once: How many sources should deliver together; the others stand by.
        """
        for holder in holders:
            if self._pool.is_new(holder.site_id):
                self._pool.add(
                    PeerSource(
                        holder,
                        self._need,
                        channels=self._channels,
                        clock=self._clock,
                        idle_s=self._idle_s,
                    )
                )
        self._pool.wanted_count = max(self._pool.wanted_count, at_once)
        self._bell.ring()

    async def run(self) -> Holder:
        """Ask sources until every file is here; return the one that delivered last.

        Raises:
            InvalidRequestError: The need differs from the artifact's manifest.
            CacheFullError: The disk is full.
            ArtifactNotFoundError: No source has it any more.
            DigestMismatchError: Every source's copy is wrong.
            PeerUnreachableError: Otherwise, no source delivered it.
        """
        await self._passage.turn()
        self.manifest = await self._find_manifest()
        files = self.manifest.files
        assembly = Assembly(self._store, self._need.artifact_id, files)
        try:
            while not assembly.is_complete:
                digests = ChunkDigests(
                    files, givers=lambda: self._pool.live, distrusted=self._pool.distrusted
                )
                await self._pull(assembly, digests)
        finally:
            assembly.close()
        self.chunk_digests = assembly.chunk_digests()
        assert self._pool.last is not None, "an artifact holds at least one byte"
        return self._pool.last

    async def _find_manifest(self) -> Manifest:
        need = self._need
        while True:
            source = self._pool.activate()
            try:
                answer = await source.manifest()
            except SourceError as exc:
                self._pool.fail(source, exc)
                continue
            manifest = answer.manifest
            if manifest.size_bytes != need.size_bytes or manifest.kind is not need.kind:
                # The digest fits, so no other holder can say otherwise: the need is wrong.
                raise InvalidRequestError(
                    f"{need.name} is {manifest.size_bytes} bytes of {manifest.kind.value}, "
                    f"but the need says {need.size_bytes} of {need.kind.value}",
                    field="needs.size_bytes",
                )
            self.custodian = answer.artifact.custodian
            self._pool.rest()
            return manifest

    async def _pull(self, assembly: Assembly, digests: ChunkDigests) -> None:
        """Bring what is missing until it is here, or until somebody is found to have lied."""
        assert self.manifest is not None, "pulled before its manifest"
        pool = self._pool
        pull = Pull(
            self.manifest.files,
            assembly,
            pool,
            digests=digests,
            passage=self._passage,
            clock=self._clock,
            bell=self._bell,
            has_patience=self._has_patience,
            on_progress=lambda: self._on_progress(assembly.kept_bytes),
        )
        try:
            await pull.run()
        except ListWrongError as exc:
            givers = digests.told_by(exc.chunk.file_index)
            others = {source.site_id for source in pool.live} - givers - pool.distrusted
            pool.distrusted |= givers
            if not givers or not others:
                pool.fail_all([source.site_id for source in pool.live], str(exc))
                raise pool.undelivered() from exc
        except FileWrongError as exc:
            liars = digests.told_by(assembly.file_index)
            if not liars and len(assembly.contributors) == 1:
                liars = assembly.contributors
            # Where nobody stands out, the file comes from one source, which can be blamed then.
            pool.wanted_count = 1
            pool.distrusted |= liars
            pool.fail_all(liars, str(exc))
            await assembly.restart()
            self._on_progress(assembly.kept_bytes)
            if not pool.live:
                raise pool.undelivered() from exc
        finally:
            pool.rest()

    async def _has_patience(self) -> bool:
        """Wait for holders that fell silent, each time longer; return False in the end."""
        pool = self._pool
        now_s = self._clock.protocol_s()
        if self._silent_since_s is None or pool.received_bytes > self._silent_bytes:
            self._silent_since_s, self._silent_bytes = now_s, pool.received_bytes
            self._pause_s = _PAUSE_S_MIN
        until_s = now_s + self._pause_s
        if not pool.can_recall or until_s > self._silent_since_s + PATIENCE_S:
            return False
        # The bell rings for other reasons, too; one that matters is a source that was just offered.
        while not pool.live and (rest_s := until_s - self._clock.protocol_s()) > 0:
            await self._bell.wait(rest_s)
        pool.recall()
        self._pause_s = min(2 * self._pause_s, _PAUSE_S_MAX)
        return True
