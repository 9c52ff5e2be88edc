"""`file://`: a directory or file of the agent's machine, below a root that it may read."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

from gcos.artifacts import ArtifactKind
from gcos.errors import InvalidRequestError, NotFoundError
from site_agent.source_directory import SourceDirectory, open_source
from site_agent.sources.reference import DirectoryReference
from site_agent.sources.source import FILE_BYTES_MAX, Listing, SourceFile


class LocalDirectorySource:
    """A directory of plain files, or one file of it; reads every byte to list it."""

    def __init__(self, reference: DirectoryReference, allowed_roots: Sequence[Path]) -> None:
        self._reference = reference
        self._stack = ExitStack()
        self._only = ""
        path = Path(reference.path)
        if path.is_file():
            path, self._only = path.parent, path.name
        try:
            self._directory: SourceDirectory = self._stack.enter_context(
                open_source(path, allowed_roots)
            )
        except InvalidRequestError as exc:
            raise InvalidRequestError(exc.message, field="reference", hint=exc.hint) from exc

    def resolve(self) -> Listing:
        """Return the files with their digests; see `Source.resolve`."""
        # The kind matters for messages alone; capacities are checked by who asks.
        manifest = self._directory.manifest(ArtifactKind.DATA, size_bytes_max=FILE_BYTES_MAX)
        files = tuple(
            SourceFile(
                entry.path, size_bytes=entry.size_bytes, address=entry.path, sha256=entry.sha256
            )
            for entry in manifest.files
            if self._only in {"", entry.path}
        )
        if not files:
            raise NotFoundError(f"{self._reference.text} is not there", hint="check its spelling")
        return Listing(files, "")

    def read(self, file: SourceFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield a file; see `Source.read`."""
        skip_bytes = offset_bytes
        for chunk in self._directory.chunks(file.address):
            if skip_bytes >= len(chunk):
                skip_bytes -= len(chunk)
                continue
            yield chunk[skip_bytes:]
            skip_bytes = 0

    def close(self) -> None:
        """Close the directory."""
        self._stack.close()
