"""The files of an artifact that arrives, written and hashed in order."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.errors import DigestMismatchError
from gcos.ids import ArtifactId, SiteId
from site_agent.artifact_store import ArtifactStore
from site_agent.chunk_board import Arrived, ChunkId
from site_agent.digest_notes import chunk_count
from site_agent.partial_file import PartialFile
from site_agent.threads import in_thread


class FileWrongError(Exception):
    """A whole file does not hash to its digest."""


class Assembly:
    """How far a partial copy is.

    Attributes:
        file_index: The file of the manifest that is being written; those before are finished.
        contributors: Whose chunks may be in that file.
    """

    def __init__(
        self, store: ArtifactStore, artifact_id: ArtifactId, files: tuple[FileEntry, ...]
    ) -> None:
        self.file_index = 0
        self.contributors: frozenset[SiteId] = frozenset()
        self._store = store
        self._artifact_id = artifact_id
        self._files = files
        self._finished_bytes = 0
        #: By file and number of the chunk: digests of chunks that came right.
        self._digests: dict[int, dict[int, bytes]] = {}
        #: Of the file that is being written, and of later ones that were looked at.
        self._partials: dict[int, PartialFile] = {}
        #: One thread, so that what is handed to it while it writes comes in order after that.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        #: The disk took less than it was given: what comes after that must not be written.
        self._has_gap = False

    @property
    def is_complete(self) -> bool:
        """Every file is finished."""
        return self.file_index == len(self._files)

    @property
    def offset_bytes(self) -> int:
        """How much of the file that is being written is here."""
        partial = self._partials.get(self.file_index)
        return 0 if partial is None else partial.received_bytes

    @property
    def kept_bytes(self) -> int:
        """Bytes of all files that are here."""
        return self._finished_bytes + self.offset_bytes

    def note(self, chunk: ChunkId, digest: bytes) -> None:
        """Remember the digest of a chunk that is as it should be."""
        number = chunk.offset_bytes // CHUNK_BYTES
        self._digests.setdefault(chunk.file_index, {})[number] = digest

    def chunk_digests(self) -> list[bytes] | None:
        """Return the digests of all chunks, file after file; None where some are not known."""
        found: list[bytes] = []
        for index, entry in enumerate(self._files):
            known = self._digests.get(index, {})
            if 0 < entry.size_bytes <= CHUNK_BYTES:
                known = {0: bytes.fromhex(entry.sha256)}
            if len(known) != chunk_count(entry):
                return None
            found += [known[number] for number in range(len(known))]
        return found

    async def write(self, chunks: Sequence[Arrived]) -> None:
        """Write and hash the next chunks of the file, after those of calls that still run.

        Raises:
            CacheFullError: The disk is full.
        """
        partial = self._partial(self.file_index)
        self.contributors |= {chunk.source for chunk in chunks}
        await self._in_writer(functools.partial(self._append, partial, chunks))

    async def settle(self) -> None:
        """Finish the files that are whole, and those that are empty.

        Raises:
            FileWrongError: A file does not hash to its digest; `restart` begins it anew.
            CacheFullError: The disk is full.
        """
        while not self.is_complete:
            partial = self._partial(self.file_index)
            if partial.received_bytes < partial.entry.size_bytes:
                return
            try:
                await self._in_writer(partial.finish)
            except DigestMismatchError as exc:
                raise FileWrongError(exc.message) from exc
            del self._partials[self.file_index]
            self.contributors = frozenset()
            self._finished_bytes += partial.entry.size_bytes
            self.file_index += 1

    async def restart(self) -> None:
        """Throw away what came of the file that is being written."""
        await self._in_writer(self._partial(self.file_index).restart)
        self._digests.pop(self.file_index, None)
        self.contributors = frozenset()

    def close(self) -> None:
        """Close what is open."""
        for partial in self._partials.values():
            partial.close()
        self._writer.shutdown()

    def look(self) -> None:
        """Begin the file that is to be written next; `offset_bytes` is then what is here of it.

        Digests of what is not written are forgotten: whose they were, may have lied.
        """
        if self.is_complete:
            return
        self._partial(self.file_index)
        for index in [index for index in self._digests if index > self.file_index]:
            del self._digests[index]
        known = self._digests.get(self.file_index, {})
        for number in [number for number in known if number * CHUNK_BYTES >= self.offset_bytes]:
            del known[number]

    def is_here(self, file_index: int) -> bool:
        """Tell whether this disk has had the content of a later file all along."""
        partial = self._partial(file_index)
        if partial.received_bytes == partial.entry.size_bytes:
            return True
        del self._partials[file_index]  # opened when its turn comes
        return False

    def _append(self, partial: PartialFile, chunks: Sequence[Arrived]) -> None:
        if self._has_gap:
            return
        self._has_gap = True
        for chunk in chunks:
            # Whatever has the buffer of bytes can be written and hashed.
            partial.append(cast(bytes, chunk.data))
        self._has_gap = False

    async def _in_writer(self, call: Callable[[], None]) -> None:
        await in_thread(call, executor=self._writer)

    def _partial(self, file_index: int) -> PartialFile:
        if file_index not in self._partials:
            entry = self._files[file_index]
            self._partials[file_index] = self._store.partial_file(self._artifact_id, entry)
        return self._partials[file_index]
