"""What every source can do, and how its failures are told.

Sources are blocking: listing and reading happen in threads of a pull, never on the event loop.
"""

import importlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any, Protocol

from gcos.artifacts import FILE_COUNT_MAX, checked_path
from gcos.errors import (
    DigestMismatchError,
    GcosError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    WrongStateError,
)

CHUNK_BYTES = 1 << 18
"""Bytes handed on at once."""

FILE_BYTES_MAX = 1 << 50
"""A larger claim is nonsense."""


class TransientError(Exception):
    """A source failed in a way that may pass.

    Attributes:
        retry_after_s: How long the source asks to be left alone; None where it says nothing.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownHostError(TransientError):
    """No address is known of a host: its name is wrong, or the network is away.

    Attributes:
        host: The name.
    """

    def __init__(self, message: str, *, host: str) -> None:
        super().__init__(message)
        self.host = host


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file as its source lists it.

    Attributes:
        path: Relative POSIX path inside the artifact; checked.
        size_bytes: Length.
        address: How the source finds it: a URL or a path of its own.
        sha256: Hex digest where the source states it.
        git_sha1: Git's blob id where the source states that alone.
        etag: Changes with the content; empty where the source has none.
        content: The bytes themselves where the listing brought them.
    """

    path: str
    size_bytes: int
    address: str
    sha256: str | None = None
    git_sha1: str | None = None
    etag: str = ""
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a reference stands for just now.

    Attributes:
        files: Sorted by path.
        revision: Names this state of the upstream, such as a commit; empty where it has none.
    """

    files: tuple[SourceFile, ...]
    revision: str

    @property
    def size_bytes(self) -> int:
        """Sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)


class Source(Protocol):
    """An upstream, opened for one reference."""

    def resolve(self) -> Listing:
        """Return what there is. Blocking.

        Raises:
            GcosError: It is not there, not allowed, or cannot be an artifact.
            TransientError: The source did not answer; it may later.
        """
        ...

    def read(self, file: SourceFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield a file's bytes from an offset to its end, or to where the source fails. Blocking.

        Raises:
            GcosError: It is not there any more, or not allowed.
            DigestMismatchError: It is another file by now.
            TransientError: The source failed; it may go on later, from where it stopped.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def checked_listing(listing: Listing, *, size_bytes_max: int, what: str) -> Listing:
    """Return a listing that can become an artifact, its files sorted by path.

    Raises:
        InvalidRequestError: A path leaves the artifact or is there twice, or there are no bytes.
        TooLargeError: There are too many files or bytes.
    """
    if len(listing.files) > FILE_COUNT_MAX:
        raise TooLargeError(f"{what} has more than {FILE_COUNT_MAX} files")
    for file in listing.files:
        checked_path(file.path, field="reference")
        if not 0 <= file.size_bytes <= FILE_BYTES_MAX:
            raise InvalidRequestError(
                f"{what} claims {file.size_bytes} bytes for {file.path[:80]!r}", field="reference"
            )
    files = tuple(sorted(listing.files, key=lambda file: file.path))
    if len({file.path for file in files}) < len(files):
        raise InvalidRequestError(f"{what} names a path twice", field="reference")
    checked = Listing(files, listing.revision)
    if checked.size_bytes == 0:
        raise InvalidRequestError(
            f"{what} holds no bytes", field="reference", hint="name what lies there"
        )
    if checked.size_bytes > size_bytes_max:
        raise TooLargeError(
            f"{what} has {checked.size_bytes} bytes, the cache at most {size_bytes_max}",
            hint="name a subset of it, raise the cache's capacity, or pull it to a larger site",
        )
    return checked


def status_error(
    status: int, headers: Mapping[str, str], what: str, *, hint: str = ""
) -> GcosError | TransientError:
    """Return what an HTTP status other than success means.

    Args:
        status: The status.
        headers: Of the answer; keys in lower case.
        what: What was asked for, as a person wrote it.
        hint: What to do about 401 and 403.
    """
    if status in {408, 425, 429} or status >= 500:
        wait_s = retry_after_s(headers)
        return TransientError(f"{what}: HTTP status {status}", retry_after_s=wait_s)
    if status in {401, 403}:
        return WrongStateError(
            f"{what} is not open to this site: HTTP status {status}",
            hint=hint or "give the agent's process credentials for it, and restart it",
        )
    if status in {404, 410}:
        return NotFoundError(
            f"{what} is not there: HTTP status {status}", hint="check its spelling"
        )
    if status in {412, 416}:
        return DigestMismatchError(f"{what} changed: HTTP status {status}", hint="pull it again")
    return WrongStateError(
        f"{what} cannot be read: HTTP status {status}", hint="open the address in a browser"
    )


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return how long a server asks to be left alone (RFC 9110, section 10.2.3), seconds.

    The date of the answer stands for the present, so that clocks need not agree. The hub says it
    in a header `RateLimit: "api";r=0;t=55` (IETF draft ratelimit-headers).
    """
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        until, now = (parsedate_to_datetime(each) for each in (text, headers.get("date", "")))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):
        pass
    for part in headers.get("ratelimit", "").replace(",", ";").split(";"):
        key, _, value = part.strip().partition("=")
        if key == "t" and value.isdecimal():
            return float(value)
    return None


def library(name: str, extra: str) -> Any:
    """Return an optional library, imported now.

    Raises:
        WrongStateError: It is not installed.
    """
    try:
        module: ModuleType = importlib.import_module(name)
    except ImportError as exc:
        raise WrongStateError(
            f"this site cannot read such references: {name} is not installed",
            hint=f"install gcos[{extra}] for the agent and restart it",
        ) from exc
    return module
