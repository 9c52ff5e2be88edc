"""One log event for each RPC, and a count of it where somebody wants that."""

from types import TracebackType
from typing import Any, Final, cast

import grpc

from gcos.clock import Clock
from gcos.logs import LEVELS, Log
from gcos.rpc.call_counts import CallCounts
from gcos.rpc.interception import Context, GuardInterceptor

_NAMES: Final[dict[object, str]] = {
    key: code.name for code in grpc.StatusCode for key in (code, code.value[0])
}
#: Codes that say that something is wrong here, rather than with the call.
_FAULTS: Final = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})


class CallLogInterceptor(GuardInterceptor):
    """Logs `rpc` when a call ends: method, code, duration_s, peer.

    At debug level where all went well, at warning where the fault is here, at info otherwise.
    """

    def __init__(self, log: Log, clock: Clock, counts: CallCounts | None = None) -> None:
        super().__init__(lambda method, context: _CallLogGuard(method, context, log, clock, counts))


class _CallLogGuard:
    __slots__ = ("_clock", "_context", "_counts", "_log", "_method", "_peer", "_started_s")

    def __init__(
        self, method: str, context: Context, log: Log, clock: Clock, counts: CallCounts | None
    ) -> None:
        self._method = method
        self._context = context
        self._log = log
        self._clock = clock
        self._started_s = clock.protocol_s()
        # Asked for now: once the caller has left, grpc answers with nothing.
        self._peer = context.peer()
        self._counts = counts
        if counts is not None:
            counts.started(method)

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        _exc_type: type[BaseException] | None,
        exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        code = _NAMES.get(cast(Any, self._context.code()) or 0, "UNKNOWN")
        if exc is not None and code == "OK":
            code = "CANCELLED"
        if self._counts is not None:
            duration_s = self._clock.protocol_s() - self._started_s
            self._counts.ended(self._method, code, duration_s)
        level = LEVELS["debug" if code == "OK" else "warning" if code in _FAULTS else "info"]
        if not self._log.is_enabled_for(level):
            return
        self._log.log(
            level,
            "rpc",
            method=self._method,
            code=code,
            duration_s=round(self._clock.protocol_s() - self._started_s, 6),
            peer=self._peer,
        )
