"""What to evict: byte miss ratio and refetch cost of each evictor on real request sequences.

The sequence is that of a production diffusion service (Lin et al., SoCC 2025: base models and
adapters of 51,146 requests, `genai_requests.parquet`), replayed through `site_agent.cache.Cache`.
The trace names no sizes and no prices, so they are drawn by a hash of the name: a base model is 2.1
or 6.9 GB (the two generations in use then), an adapter lognormal around 0.15 GB, and the egress
price of its source one of five list prices. `belady` evicts what is used again last; with sizes and
prices that differ it is a yardstick rather than a bound.
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcos.artifacts import Artifact, ArtifactKind
from gcos.ids import ArtifactId, RunId
from policies.evictors import EVICTORS, Belady
from policies.interface import Evictor
from site_agent.cache import Cache
from site_agent.demand import Demand

CAPACITY_RATIOS = (0.02, 0.05, 0.1, 0.2, 0.4)
#: Requests in a second: those rows of the trace that have a time come at this rate.
_EGRESS_USD_PER_GB = (0.02, 0.05, 0.087, 0.11, 0.147)
_RUN = RunId("replay")


@dataclass(frozen=True, slots=True)
class Use:
    """One use of one artifact."""

    at_s: float
    artifact: Artifact
    refetch_usd: float


class Future:
    """When each artifact is used next, as a replay goes on."""

    def __init__(self, uses: Sequence[Use]) -> None:
        self._next: dict[ArtifactId, list[float]] = {}
        for use in reversed(uses):
            self._next.setdefault(use.artifact.artifact_id, []).append(use.at_s)

    def used(self, use: Use) -> None:
        """Step past a use."""
        self._next[use.artifact.artifact_id].pop()

    def next_use_s(self, artifact_id: ArtifactId) -> float:
        """Return the instant of the next use; infinite where there is none."""
        coming = self._next[artifact_id]
        return coming[-1] if coming else math.inf


def uses_of(trace: Path) -> list[Use]:
    """Return the uses of base models and adapters in order."""
    import pyarrow.parquet as pq  # noqa: PLC0415  heavy, and needed here alone

    table = pq.read_table(trace, columns=["seq", "time", "base_model", "loras"])
    rows = sorted(
        zip(*(table[name].to_pylist() for name in ("seq", "base_model", "loras")), strict=True)
    )
    times = sorted(t.timestamp() for t in table["time"].to_pylist() if t is not None)
    pause_s = (times[-1] - times[0]) / max(1, len(times) - 1)
    return [
        Use(index * pause_s, *_drawn(name, is_base=is_base))
        for index, (_, base, loras) in enumerate(rows)
        for name, is_base in _names(base, loras)
    ]


def _names(base: str | None, loras: str | None) -> Iterator[tuple[str, bool]]:
    if base:
        yield f"base-{base}", True
    for lora in (loras or "").split():
        yield f"lora-{lora}", False


def _drawn(name: str, *, is_base: bool) -> tuple[Artifact, float]:
    digest = hashlib.sha256(name.encode()).digest()
    first, second, third = (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4, 8))
    if is_base:
        size_gb = 2.1 if first < 0.5 else 6.9
    else:
        normal = math.sqrt(-2 * math.log(max(first, 1e-9))) * math.cos(2 * math.pi * second)
        size_gb = min(max(0.15 * math.exp(0.8 * normal), 0.01), 1.5)
    price = _EGRESS_USD_PER_GB[int(third * len(_EGRESS_USD_PER_GB))]
    artifact = Artifact(
        ArtifactId("sha256:" + digest.hex()), ArtifactKind.MODEL, name, round(size_gb * 1e9)
    )
    return artifact, price * size_gb


def replay(uses: Sequence[Use], capacity_bytes: int, eviction: str) -> tuple[float, float]:
    """Return the byte miss ratio and the refetch cost, $, of a replay from an empty cache."""
    demand = Demand()
    future = Future(uses)
    is_clairvoyant = eviction == Belady.name
    evictor: Evictor = Belady(future.next_use_s) if is_clairvoyant else EVICTORS[eviction]()
    cache = Cache(ArtifactKind.MODEL, capacity_bytes, evictor, demand)
    missed_bytes = moved_usd = asked_bytes = 0.0
    for use in uses:
        known = use.artifact.artifact_id
        asked_bytes += use.artifact.size_bytes
        if cache.find(known) is None:
            missed_bytes += use.artifact.size_bytes
            moved_usd += use.refetch_usd
            cache.reserve(use.artifact, now_s=use.at_s)
            cache.insert(known)
            cache.price(known, use.refetch_usd)
        demand.note(known, now_s=use.at_s)
        cache.hit(known, _RUN, now_s=use.at_s)
        future.used(use)
    return missed_bytes / asked_bytes, moved_usd


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", type=Path, help="genai_requests.parquet")
    parser.add_argument("--limit", type=int, default=None, help="requests, from the first")
    options = parser.parse_args(arguments)
    uses = uses_of(options.trace)[: options.limit]
    footprint = sum({use.artifact.artifact_id: use.artifact.size_bytes for use in uses}.values())
    out = sys.stdout
    out.write(f"{len(uses)} uses, {footprint / 1e9:.0f} GB in all\n\n")
    out.write(
        "| cache, of all bytes | evictor | byte miss ratio | refetch cost, $ |\n|---|---|---|---|\n"
    )
    for ratio in CAPACITY_RATIOS:
        for name in (*EVICTORS, Belady.name):
            missed, usd = replay(uses, round(ratio * footprint), name)
            out.write(f"| {ratio:.0%} | {name} | {missed:.4f} | {usd:.1f} |\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
