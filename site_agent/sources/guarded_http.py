"""HTTP that connects only to what the allow-list has checked.

Every request of a client made here, a redirect's included, passes the same gate: scheme, host and
port are checked, the host is resolved once, and the connection goes to an address that was checked.
TLS still verifies the host's name. Proxies of the environment are not used, since behind a proxy no
address can be checked.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager

import httpcore2
import httpx2
from httpcore2 import SOCKET_OPTION, NetworkBackend, NetworkStream, SyncBackend

from gcos.errors import DigestMismatchError, GcosError, WrongStateError
from site_agent.sources.allowed import AllowList, blame
from site_agent.sources.source import CHUNK_BYTES, SourceFile, TransientError, status_error

CONNECT_S = 10.0
IDLE_S = 20.0
"""A server is gone that sends nothing for so long."""

REDIRECT_COUNT_MAX = 5
DOCUMENT_BYTES_MAX = 4 << 20
"""A list or manifest that a server answers with."""

_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+)")


class _CheckedBackend(NetworkBackend):
    """Connects to checked addresses, whatever the name leads to a moment later."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed
        self._system = SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> NetworkStream:
        addresses = self._allowed.addresses(host.strip("[]"), port)
        for address in addresses[:-1]:
            try:
                return self._system.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return self._system.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


class _CheckedTransport(httpx2.HTTPTransport):
    """Checks every request before it is sent, redirects included."""

    def __init__(self, allowed: AllowList) -> None:
        super().__init__()
        self._allowed = allowed
        self._pool = httpcore2.ConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            max_connections=16,
            keepalive_expiry=5.0,
            network_backend=_CheckedBackend(allowed),
        )

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        port = url.port or (80 if url.scheme == "http" else 443)
        self._allowed.check_hop(url.scheme, url.host, port)
        return super().handle_request(request)


def guarded_client(allowed: AllowList) -> httpx2.Client:
    """Return a client that reaches what the allow-list allows; threads may share it.

    Credentials are dropped where a redirect leads to another host (httpx does so).
    """
    return httpx2.Client(
        transport=_CheckedTransport(allowed),
        follow_redirects=True,
        max_redirects=REDIRECT_COUNT_MAX,
        timeout=httpx2.Timeout(IDLE_S, connect=CONNECT_S),
        trust_env=False,
        headers={"User-Agent": "gcos", "Accept-Encoding": "identity"},
    )


@contextmanager
def told(what: str) -> Iterator[None]:
    """Translate failures of HTTP: those of ours come out again, others may pass.

    Raises:
        GcosError: A hop was not allowed, or redirects go round in circles.
        TransientError: The server did not answer, or not to the end.
    """
    try:
        yield
    except (GcosError, TransientError):
        raise
    except httpx2.TooManyRedirects as exc:
        raise WrongStateError(
            f"{what} redirects more than {REDIRECT_COUNT_MAX} times",
            hint="open the address in a browser",
        ) from exc
    except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
        if (ours := blame(exc)) is not None:
            raise ours from exc
        raise TransientError(f"{what}: {type(exc).__name__}: {exc}") from exc


def document(
    client: httpx2.Client,
    url: str,
    headers: Mapping[str, str],
    *,
    what: str,
    hint: str = "",
) -> bytes:
    """Return the body of a small answer.

    Raises:
        GcosError: It is not there, not allowed, or longer than a list ever is.
        TransientError: The server did not answer; it may later.
    """
    with told(what), client.stream("GET", url, headers=dict(headers)) as response:
        if response.status_code != 200:
            raise status_error(response.status_code, response.headers, what, hint=hint)
        body = bytearray()
        for chunk in response.iter_raw(CHUNK_BYTES):
            body += chunk
            if len(body) > DOCUMENT_BYTES_MAX:
                raise WrongStateError(f"{what} answers with more than {DOCUMENT_BYTES_MAX} bytes")
        return bytes(body)


def body_of(
    client: httpx2.Client,
    file: SourceFile,
    offset_bytes: int,
    headers: Mapping[str, str],
    *,
    hint: str = "",
) -> Generator[bytes, None, None]:
    """Yield a file's bytes from an offset on; a server without ranges is read from its start.

    Raises:
        GcosError: It is not there any more, or not allowed.
        DigestMismatchError: It has another length by now.
        TransientError: The server failed; it may go on later.
    """
    asked = dict(headers)
    if offset_bytes:
        asked["Range"] = f"bytes={offset_bytes}-"
        if file.etag and not file.etag.startswith("W/"):
            # Another file by now is answered from its start, instead of with a part of it.
            asked["If-Range"] = file.etag
    with told(file.path), client.stream("GET", file.address, headers=asked) as response:
        if response.status_code not in {200, 206}:
            raise status_error(response.status_code, response.headers, file.path, hint=hint)
        skip_bytes = _skipped(response, file, offset_bytes)
        # As they come: chunks of a fixed size would be lost in part where the server breaks off.
        for chunk in response.iter_raw():
            if skip_bytes >= len(chunk):
                skip_bytes -= len(chunk)
                continue
            yield chunk[skip_bytes:]
            skip_bytes = 0


def _skipped(response: httpx2.Response, file: SourceFile, offset_bytes: int) -> int:
    """Return how many bytes of the answer are known already.

    Raises:
        DigestMismatchError: The file has another length by now.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise WrongStateError(f"{file.path!r} comes in an encoding that was not asked for")
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        is_part = match is not None and int(match["first"]) == offset_bytes
        if match is None or not is_part or int(match["total"]) != file.size_bytes:
            raise _changed(file)
        return 0
    length = response.headers.get("content-length")
    etag = response.headers.get("etag", "")
    is_other = bool(file.etag and etag and etag != file.etag)
    if is_other or (length is not None and length != str(file.size_bytes)):
        raise _changed(file)
    return offset_bytes


def _changed(file: SourceFile) -> DigestMismatchError:
    return DigestMismatchError(
        f"{file.path!r} is another file than was listed", hint="pull it again"
    )
