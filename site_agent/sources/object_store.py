"""`s3://` and every other scheme that fsspec knows.

Whatever lies below a root of the allow-list may be read, with the credentials that the library
finds in the agent's environment. For S3 the hosts and addresses that are connected to are checked,
too; of other schemes the library alone knows what it connects to, so listing a root trusts it.
"""

import asyncio
import socket
from collections.abc import Generator, Mapping
from typing import Any

from gcos.errors import DigestMismatchError, GcosError, NotFoundError, WrongStateError
from site_agent.sources.allowed import AllowList, blame
from site_agent.sources.guarded_http import CONNECT_S, IDLE_S
from site_agent.sources.reference import ObjectReference
from site_agent.sources.source import Listing, SourceFile, TransientError, library

RANGE_BYTES = 8 << 20
"""Bytes asked for at once."""

S3_SCHEMES = frozenset({"s3", "s3a"})
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class ObjectSource:
    """The objects below one prefix, or one object."""

    def __init__(
        self, reference: ObjectReference, allowed: AllowList, environ: Mapping[str, str]
    ) -> None:
        allowed.check_root(reference.text)
        self._reference = reference
        self._fsspec = library("fsspec", "sources")
        options: dict[str, Any] = {}
        if reference.scheme in S3_SCHEMES:
            library("s3fs", "s3")
            options = _s3_options(allowed, environ)
        with _told(reference.text):
            self._files, self._root = self._fsspec.core.url_to_fs(reference.text, **options)

    def resolve(self) -> Listing:
        """Return the objects below the prefix; see `Source.resolve`."""
        with _told(self._reference.text):
            self._files.invalidate_cache()
            found = self._files.find(self._root, withdirs=False, detail=True)
        if not found:
            raise NotFoundError(
                f"{self._reference.text} holds no objects", hint="check bucket and prefix"
            )
        files = []
        for address, facts in found.items():
            path = address.removeprefix(self._root).lstrip("/") or address.rpartition("/")[2]
            size_bytes = facts.get("size")
            if not isinstance(size_bytes, int):
                raise WrongStateError(f"{address[:80]!r} does not say how long it is")
            files.append(
                SourceFile(path, size_bytes=size_bytes, address=address, etag=_etag(facts))
            )
        return Listing(tuple(files), "")

    def read(self, file: SourceFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield an object; see `Source.read`."""
        offset = offset_bytes
        while offset < file.size_bytes:
            end = min(offset + RANGE_BYTES, file.size_bytes)
            with _told(file.path):
                data = self._files.cat_file(file.address, start=offset, end=end)
            if not data:
                return
            yield data
            offset += len(data)
        with _told(file.path):
            self._files.invalidate_cache()
            facts = self._files.info(file.address)
        if facts.get("size") != file.size_bytes or _etag(facts) != file.etag:
            raise DigestMismatchError(
                f"{file.path!r} changed while it was read", hint="pull it again"
            )

    def close(self) -> None:
        """Leave connections to the library, which keeps them for the next reference."""


class _told:  # noqa: N801  reads as a word in `with`
    """Translates failures of fsspec and of the libraries below it."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, GcosError | TransientError):
            return
        if (ours := blame(error)) is not None:
            raise ours from error
        raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> GcosError | TransientError:
        what = self._what
        if isinstance(error, FileNotFoundError):
            return NotFoundError(f"{what} is not there", hint="check bucket and prefix")
        if isinstance(error, PermissionError) or "credentials" in str(error).lower():
            return WrongStateError(
                f"{what} is not open to this site",
                hint="give the agent's process credentials, such as AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, and restart it",
            )
        if isinstance(error, ImportError | ValueError | NotImplementedError):
            return WrongStateError(
                f"{what} cannot be read: {error}",
                hint="install the library of its scheme for the agent and restart it",
            )
        return TransientError(f"{what}: {type(error).__name__}: {error}")


def _etag(facts: Mapping[str, Any]) -> str:
    for key in ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified"):
        if facts.get(key):
            return str(facts[key])
    return ""


def _s3_options(allowed: AllowList, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what makes s3fs resolve names through the allow-list."""
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        allowed.check_url(endpoint)
        _check_literal(allowed, endpoint)
    abc = library("aiohttp.abc", "s3")

    class CheckedResolver(abc.AbstractResolver):  # type: ignore[misc, name-defined]
        """Resolves names for the S3 client, checked."""

        async def resolve(
            self, host: str, port: int = 0, family: int = socket.AF_UNSPEC
        ) -> list[dict[str, Any]]:
            """Return addresses that may be connected to."""
            scheme = "http" if (endpoint or "").startswith("http://") else "https"
            allowed.check_hop(scheme, host, port)
            addresses = await asyncio.to_thread(allowed.addresses, host, port)
            return [
                {
                    "hostname": host,
                    "host": address,
                    "port": port,
                    "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                    "proto": 0,
                    "flags": socket.AI_NUMERICHOST,
                }
                for address in addresses
                if family in {socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else family}
            ]

        async def close(self) -> None:
            """Hold nothing."""

    return {
        "endpoint_url": endpoint,
        # Else the library would ask the machine's metadata service, which is not on the list.
        "anon": not any(environ.get(name) for name in _CREDENTIALS),
        "key": environ.get("AWS_ACCESS_KEY_ID"),
        "secret": environ.get("AWS_SECRET_ACCESS_KEY"),
        "token": environ.get("AWS_SESSION_TOKEN"),
        "config_kwargs": {
            "connect_timeout": CONNECT_S,
            "read_timeout": IDLE_S,
            "retries": {"max_attempts": 1},
            "proxies": {},
            "connector_args": {"resolver": CheckedResolver(), "use_dns_cache": False},
        },
        "skip_instance_cache": True,
        "use_listings_cache": False,
    }


def _check_literal(allowed: AllowList, endpoint: str) -> None:
    """Check an endpoint that is an address itself, which no resolver is asked about."""
    host = endpoint.partition("://")[2].partition("/")[0]
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        allowed.check_address(name, name)
    except ValueError:
        return  # a name
