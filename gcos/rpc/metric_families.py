"""Makes metric families; the library is imported with the first one, so only where they are served.

Names are `gcos_<thing>_<unit>[_total]`, in base units, as `promtool check metrics` wants them.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from gcos import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric

Labelled: TypeAlias = Iterable[tuple[Sequence[str], float]]
"""Values of labels, and the value."""


def build_info() -> "Metric":
    """Return the version of the process, as a gauge to join on."""
    return gauge(
        "gcos_build_info", "Version of GCOS; always 1.", ("version",), [((__version__,), 1)]
    )


def gauge(name: str, documentation: str, labels: Sequence[str], values: Labelled) -> "Metric":
    """Return a gauge."""
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415

    family = GaugeMetricFamily(name, documentation, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family


def counter(name: str, documentation: str, labels: Sequence[str], values: Labelled) -> "Metric":
    """Return a counter; the library adds `_total` to its name."""
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415

    family = CounterMetricFamily(name, documentation, labels=labels)
    for of, value in values:
        family.add_metric(of, value)
    return family
