"""Errors across the wire: `GcosError` to gRPC status at the server, and back at the caller.

The status carries code and message; the trailing metadata carry the closed reason, the field at
fault and the hint, percent-encoded, as metadata are ASCII:

    GcosError  ── StatusInterceptor ──▶  code, details, gcos-reason, gcos-field, gcos-hint
    GcosError  ◀── translated() ───────  (the class is found by reason, else by code)
"""

import asyncio
import contextlib
import urllib.parse
from collections.abc import Iterator
from types import TracebackType
from typing import Final

import grpc
import grpc.aio

from gcos import errors
from gcos.errors import GcosError
from gcos.exception_groups import sole_error
from gcos.logs import Log
from gcos.rpc.interception import Context, GuardInterceptor
from gcos.v1 import site_pb2

REASON_KEY: Final = "gcos-reason"
FIELD_KEY: Final = "gcos-field"
HINT_KEY: Final = "gcos-hint"

#: A message quotes what a caller sent; HTTP/2 headers are limited to 8 KiB in all by default.
DETAILS_CHARS_MAX: Final = 1000
_ASCII: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

_CODES: Final = {code.name: code for code in grpc.StatusCode}
_CLASSES_BY_REASON: Final[dict[str, type[GcosError]]] = {
    value.reason: value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, GcosError)
}
_CLASSES_BY_CODE: Final[dict[grpc.StatusCode, type[GcosError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongStateError,
    grpc.StatusCode.ABORTED: errors.NegotiationError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ExhaustedError,
    grpc.StatusCode.DATA_LOSS: errors.DigestMismatchError,
    grpc.StatusCode.UNAVAILABLE: errors.PeerUnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.PeerUnreachableError,
    # A server that stops cancels what is left of its calls after the grace period.
    grpc.StatusCode.CANCELLED: errors.PeerUnreachableError,
}


class StatusInterceptor(GuardInterceptor):
    """Answers each error of a servicer with its status.

    A `GcosError`, alone or in a group of one, becomes its code, message, reason, field and hint.
    Any other error becomes INTERNAL and is logged with its traceback; its details are not sent.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(lambda method, context: _StatusGuard(method, context, log))


class _StatusGuard:
    __slots__ = ("_context", "_log", "_method")

    def __init__(self, method: str, context: Context, log: Log) -> None:
        self._method = method
        self._context = context
        self._log = log

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        _exc_type: type[BaseException] | None,
        exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            return
        error = sole_error(exc)
        if isinstance(error, GcosError):
            await self._abort(error)
        if isinstance(error, grpc.aio.InternalError):
            # Writing to a call that its caller has left; sometimes that is told by CancelledError
            # and sometimes by this (LIMITS, traps).
            raise asyncio.CancelledError from error
        # An aborted call has its status already.
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            self._log.error("rpc_failed", method=self._method, exc_info=error)
            await self._abort(GcosError("internal error", hint="see the log of the peer"))

    async def _abort(self, error: GcosError) -> None:
        metadata = [(REASON_KEY, error.reason)]
        if error.field:
            metadata.append((FIELD_KEY, _quoted(error.field)))
        if error.hint:
            metadata.append((HINT_KEY, _quoted(error.hint)))
        details = error.message[:DETAILS_CHARS_MAX].encode(errors="replace").decode()
        try:
            await self._context.abort(_CODES[error.code], details, tuple(metadata))
        except grpc.aio.InternalError as exc:
            raise asyncio.CancelledError from exc


@contextlib.contextmanager
def translated(peer: str = "the peer") -> Iterator[None]:
    """Turn a failed call in the block into the `GcosError` that the server raised.

    Args:
        peer: Whom the block calls, for the message of a call that got no answer.

    Raises:
        PeerUnreachableError: The peer did not answer, or not in time.
        GcosError: What the peer answered; a subclass by its reason, else by its code.
    """
    try:
        yield
    except grpc.aio.AioRpcError as exc:
        raise _error_of(exc, peer) from exc


def _error_of(exc: grpc.aio.AioRpcError, peer: str) -> GcosError:
    answer = {
        key: urllib.parse.unquote(value)
        for key, value in (exc.trailing_metadata() or ())
        if isinstance(value, str)
    }
    message = exc.details() or ""
    reason = answer.get(REASON_KEY, "")
    if reason in _CLASSES_BY_REASON:
        hint, field = answer.get(HINT_KEY, ""), answer.get(FIELD_KEY, "")
        return _error_named(reason, message, field=field, hint=hint)
    if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
        return GcosError(
            f"{peer} does not know this call", hint="update it, or check that the address is right"
        )
    cls = _CLASSES_BY_CODE.get(exc.code(), GcosError)
    if cls is errors.PeerUnreachableError:
        return cls(f"{peer} does not answer", hint="check that it runs and can be reached")
    return cls(message or f"{peer} answered {exc.code().name}")


def problem_of(error: GcosError) -> site_pb2.Problem:
    """Return an error as a message, for an answer that has no status of its own."""
    return site_pb2.Problem(
        code=error.code,
        reason=error.reason,
        message=error.message[:DETAILS_CHARS_MAX].encode(errors="replace").decode(),
        field=error.field,
        hint=error.hint,
    )


def error_of(problem: site_pb2.Problem) -> GcosError:
    """Return the error that `problem_of` was given; of its code's class where we lack its own."""
    if problem.reason in _CLASSES_BY_REASON:
        return _error_named(problem.reason, problem.message, field=problem.field, hint=problem.hint)
    code = _CODES.get(problem.code, grpc.StatusCode.UNKNOWN)
    return _CLASSES_BY_CODE.get(code, GcosError)(problem.message, hint=problem.hint)


def _error_named(reason: str, message: str, *, field: str, hint: str) -> GcosError:
    error = _CLASSES_BY_REASON[reason](message, hint=hint)
    # Set afterwards, as a constructor may put the field in front of the message again.
    error.field = field
    return error


def _quoted(text: str) -> str:
    return urllib.parse.quote(text[:DETAILS_CHARS_MAX], safe=_ASCII, errors="replace")
