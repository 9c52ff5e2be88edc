"""`https://`: one file of a web server."""

from collections.abc import Generator

import httpx2

from gcos.errors import WrongStateError
from site_agent.sources.allowed import AllowList
from site_agent.sources.guarded_http import body_of, guarded_client, told
from site_agent.sources.reference import WebReference
from site_agent.sources.source import Listing, SourceFile, status_error

_NO_HEAD = frozenset({400, 403, 405, 501})
"""What servers and signed addresses answer that know GET alone."""


class WebSource:
    """One file, read with ranges."""

    def __init__(self, reference: WebReference, allowed: AllowList) -> None:
        allowed.check_url(reference.url)
        self._reference = reference
        self._client = guarded_client(allowed)

    def resolve(self) -> Listing:
        """Return the one file; see `Source.resolve`."""
        reference = self._reference
        headers = self._headers()
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise WrongStateError(
                f"{reference.shown} does not say how long it is",
                hint="fetch it yourself and add it: gcos cache add",
            )
        etag = headers.get("etag", "")
        file = SourceFile(
            reference.path,
            size_bytes=int(length),
            address=reference.url,
            sha256=reference.sha256,
            etag=etag,
        )
        revision = etag.strip('"') or headers.get("last-modified", "")
        # What is shown leaves the query out, so it does not tell two such references apart.
        return Listing((file,), "" if reference.has_query else revision)

    def read(self, file: SourceFile, offset_bytes: int) -> Generator[bytes, None, None]:
        """Yield the file; see `Source.read`."""
        return body_of(self._client, file, offset_bytes, {})

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def _headers(self) -> httpx2.Headers:
        reference = self._reference
        with told(reference.shown):
            response = self._client.head(reference.url)
            if response.status_code in _NO_HEAD:
                # The headers of a GET are the same; its body is not read.
                with self._client.stream("GET", reference.url) as response:
                    pass
        if response.status_code != 200:
            raise status_error(response.status_code, response.headers, reference.shown)
        return response.headers
