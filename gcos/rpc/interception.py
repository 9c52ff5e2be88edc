"""Runs a guard around the body of every RPC, whatever its arity.

A guard is an async context manager made for one call. It surrounds decoding of the request, the
servicer's method and, for a stream, everything up to its last message. Servicers are asynchronous;
a synchronous handler is a programmer's error.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio

from gcos.errors import InvalidRequestError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Guard: TypeAlias = Callable[[str, Context], AbstractAsyncContextManager[None]]
"""From the method's full name and the call's context."""

_Body: TypeAlias = Callable[[Any, Context], Any]


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Puts `guard` around every call of a server."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        # A server hands out the same handler for each call of a method, so there is one entry for
        # each method and a call costs one lookup.
        self._guarded: dict[tuple[str, Handler], Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """Return the method's handler with the guard around it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            # An unknown method: grpc answers UNIMPLEMENTED itself.
            return handler  # type: ignore[return-value]
        key = (handler_call_details.method, handler)
        guarded = self._guarded.get(key)
        if guarded is None:
            guarded = guarded_handler(handler, handler_call_details.method, self._guard)
            self._guarded[key] = guarded
        return guarded


def guarded_handler(handler: Handler, method: str, guard: Guard) -> Handler:
    """Return `handler` with `guard` around each call."""
    body: Any = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if inspect.isasyncgenfunction(body):
        body = _writing(body)
    # grpc itself answers UNKNOWN where a deserialiser fails, before any interceptor could know.
    # So a single request arrives here as bytes and is decoded under the guard; requests of a
    # stream are decoded when the body reads them, which is under the guard already.
    decode = _decoder(handler.request_deserializer)
    decode_request = None if handler.request_streaming else decode

    async def call(request: Any, context: Context) -> Any:
        async with guard(method, context):
            return await body(decode_request(request) if decode_request else request, context)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(
        call,
        request_deserializer=decode if handler.request_streaming else None,
        response_serializer=handler.response_serializer,
    )


def _decoder(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def decode(data: bytes) -> Any:
        if deserialize is None:
            return data
        try:
            return deserialize(data)
        except Exception as exc:
            raise InvalidRequestError(
                "the request is no valid message",
                hint="text must be UTF-8; or the caller speaks another version of the protocol",
            ) from exc

    return decode


def _writing(body: _Body) -> _Body:
    """Return an async generator as a coroutine function that writes what it yields.

    grpc leaves a generator whose reader is gone to the garbage collector, so that its cleanup runs
    late, outside the call, and crashes the process if it asks the freed call anything. Here the
    failed write ends it at once.
    """

    async def write_all(request: Any, context: Context) -> None:
        async with aclosing(body(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all
