"""Calls that a server took, counted as the libraries of other languages count them.

Go and Java made the names `grpc_server_*` common (`grpc-ecosystem/go-grpc-middleware`), so existing
dashboards show a server of ours as well. Counting is a lookup and a few additions for each call.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from google.protobuf import descriptor_pool

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Upper bounds of durations, seconds: those of the Go library.
BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LABELS: Final = ("grpc_type", "grpc_service", "grpc_method")


@dataclass(slots=True)
class _Method:
    """Calls of one method."""

    started_count: int = 0
    seconds: float = 0.0
    #: By code.
    handled: dict[str, int] = field(default_factory=dict)
    #: Ended calls by the bound that they stayed within; the last: within none.
    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))


class CallCounts:
    """Counts the calls of one server, by method."""

    def __init__(self) -> None:
        self._methods: dict[str, _Method] = {}

    def started(self, method: str) -> None:
        """Count the start of a call of `method`, `/package.Service/Method`."""
        self._methods.setdefault(method, _Method()).started_count += 1

    def ended(self, method: str, code: str, duration_s: float) -> None:
        """Count the end of a call that had started.

        Args:
            method: As it started.
            code: Name of the gRPC code, such as `NOT_FOUND`.
            duration_s: Protocol seconds.
        """
        called = self._methods[method]
        called.seconds += duration_s
        called.handled[code] = called.handled.get(code, 0) + 1
        called.counts[bisect_left(BOUNDS_S, duration_s)] += 1

    def families(self) -> "Iterator[Metric]":
        """Yield the metrics."""
        from prometheus_client.core import (  # noqa: PLC0415  only where metrics are served
            CounterMetricFamily,
            HistogramMetricFamily,
        )

        started = CounterMetricFamily(
            "grpc_server_started", "Calls that began at the server.", labels=_LABELS
        )
        handled = CounterMetricFamily(
            "grpc_server_handled",
            "Calls that ended at the server, in order or not, by code.",
            labels=(*_LABELS, "grpc_code"),
        )
        handling = HistogramMetricFamily(
            "grpc_server_handling_seconds",
            "Time from the begin of a call to its end at the server; of a stream, all of it.",
            labels=_LABELS,
        )
        for method, called in self._methods.items():
            labels = _labels(method)
            started.add_metric(labels, called.started_count)
            for code, count in called.handled.items():
                handled.add_metric([*labels, _code(code)], count)
            handling.add_metric(labels, _cumulative(called.counts), sum_value=called.seconds)
        yield from (started, handled, handling)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets


def _code(name: str) -> str:
    """Return a code as these metrics write it: `OK`, but `NotFound`."""
    return name if name == "OK" else "".join(part.capitalize() for part in name.split("_"))


def _labels(method: str) -> tuple[str, str, str]:
    """Return type, service and method."""
    service, _, name = method.removeprefix("/").partition("/")
    try:
        found = descriptor_pool.Default().FindMethodByName(f"{service}.{name}")
    except KeyError:
        return "unary", service, name  # none of ours: it is answered at once
    kinds = {
        (False, False): "unary",
        (True, False): "client_stream",
        (False, True): "server_stream",
        (True, True): "bidi_stream",
    }
    return kinds[found.client_streaming, found.server_streaming], service, name
