"""Who may call: a token file on loopback, and nothing off it.

`gcos submit` runs commands, so even on loopback a caller must show a token that only the owner of
the file can read. Plain text never leaves the machine: other addresses are refused.
"""

import hmac
import ipaddress
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from gcos.errors import InvalidRequestError, UnauthenticatedError
from gcos.rpc.interception import Context, Continuation, Handler
from gcos.system import token_text, unique_text

AUTHORIZATION_KEY: Final = "authorization"
HEALTH_PREFIX: Final = "/grpc.health.v1.Health/"
TOKEN_CHARS_MIN: Final = 16
TOKEN_FILE_BYTES_MAX: Final = 4096


def write_token(path: Path) -> str:
    """Write a fresh token into a new file of mode 0600 and return it.

    The file appears whole or not at all.

    Raises:
        InvalidRequestError: The file exists already, or cannot be written.
    """
    token = token_text()
    draft = path.with_name(f".{path.name}.{unique_text()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(token + "\n")
            # A link, unlike a rename, refuses to replace a file that came meanwhile.
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError as exc:
        raise InvalidRequestError(
            f"token file {path} exists already", field="token_file", hint="use it, or remove it"
        ) from exc
    except OSError as exc:
        raise InvalidRequestError(
            f"token file {path} cannot be written: {exc.strerror}", field="token_file"
        ) from exc
    return token


def read_token(path: Path) -> str:
    """Return the token in the file at `path`.

    Raises:
        InvalidRequestError: The file is missing, holds no token, or others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(TOKEN_FILE_BYTES_MAX + 1)
    except FileNotFoundError as exc:
        raise _token_error(f"token file {path} does not exist", "make one with `gcos up`") from exc
    except OSError as exc:
        raise _token_error(f"token file {path} cannot be read: {exc.strerror}", "") from exc
    if stat.S_IMODE(mode) & 0o077:
        raise _token_error(
            f"token file {path} can be used by others (mode {stat.S_IMODE(mode):04o})",
            f"run: chmod 600 {path}",
        )
    token = content.decode("ascii", errors="replace").strip()
    is_well_formed = token.isascii() and token.isprintable() and " " not in token
    if not is_well_formed or len(token) < TOKEN_CHARS_MIN or len(content) > TOKEN_FILE_BYTES_MAX:
        raise _token_error(
            f"token file {path} holds no token of {TOKEN_CHARS_MIN} characters or more",
            "remove it and make a new one",
        )
    return token


def is_same_secret(shown: str, expected: str) -> bool:
    """Compare two secrets in a time that does not tell where they differ."""
    return hmac.compare_digest(shown.encode(), expected.encode())


def _token_error(message: str, hint: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="token_file", hint=hint)


def require_loopback(address: str, *, field: str = "address") -> None:
    """Refuse to bind or dial `address`, `host:port`, unless it stays on this machine.

    Args:
        address: Where.
        field: What the error is to name.

    Raises:
        InvalidRequestError: It is no `host:port`, or the host is not loopback.
    """
    host, separator, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and int(port) <= 65535
    if not separator or not host or not is_port:
        raise InvalidRequestError(
            f"{address[:80]!r} is no address", field=field, hint="write host:port"
        )
    if not _is_loopback(host):
        raise InvalidRequestError(
            f"{address} is not a loopback address, and calls are not encrypted",
            field=field,
            hint="use 127.0.0.1, or an SSH or VPN tunnel that ends there",
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call pass only with the token; health checks pass without."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Return the method's handler, or one that refuses."""
        if not handler_call_details.method.startswith(HEALTH_PREFIX):
            shown = _authorization(handler_call_details.invocation_metadata)
            if shown is None or not hmac.compare_digest(shown, self._expected):
                return _REFUSING
        return await continuation(handler_call_details)  # type: ignore[return-value]


def _authorization(metadata: Sequence[tuple[str, str | bytes]]) -> bytes | None:
    for key, value in metadata:
        if key == AUTHORIZATION_KEY:
            return value if isinstance(value, bytes) else value.encode(errors="replace")
    return None


async def _refuse(_requests: object, _context: Context) -> None:
    raise UnauthenticatedError(
        "the call shows no valid token",
        hint="give the token file of this cluster, such as --token-file or GCOS_TOKEN_FILE",
    )


# A stream in both directions, whatever the method: so nothing of the request is read first.
_REFUSING: Final[Handler] = grpc.stream_stream_rpc_method_handler(_refuse)
