"""One negotiation between real agents over emulated links, beside its delays and fdatasync.

Two agents, a broker and a predictor talk through the relays of `gcos testbed up`. The limit, two
round trips and two fdatasync, is measured in each round, as `testbed.wan.negotiation` does, and so
is the floor: gRPC and the journal with nothing of ours. The target allows 3 ms more than the limit
at the median. Run as `python -m testbed.bench.negotiation [RTT_MS [ROUNDS]]`; 10 rounds at 20 ms
take half a minute.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from gcos.client import Client
from testbed import local_cluster
from testbed.bench import BenchRow
from testbed.interruption import interruptible
from testbed.local_state import ClusterOptions
from testbed.wan import cluster
from testbed.wan.cluster import Testbed
from testbed.wan.negotiation import NegotiationReading, negotiate
from testbed.wan.records import BROKER, PREDICTOR, WanLink

RTT_S: Final = 0.08
ROUND_COUNT: Final = 25
#: First messages open connections, and a journal has settled once its log is written over: growing
#: it takes the file system longer. SQLite begins anew after 1,000 pages, some 20 a task.
_WARM_UP_COUNT: Final = 80
_WAIT_S: Final = 120.0
ALLOWED_S: Final = 0.003
_BYTES_PER_S: Final = 100e6
_ORIGIN: Final = "de"
_WINNER: Final = "sg"


def measure(rtt_s: float = RTT_S, count: int = ROUND_COUNT) -> BenchRow:
    """Return the row of `count` negotiations at a round-trip time."""
    found = asyncio.run(_measured(rtt_s, count))
    allowed_s = found.limit_s + ALLOWED_S
    return BenchRow(
        name=f"negotiation, announcement to accepted award, RTT {rtt_s * 1e3:g} ms",
        ours=found.p50_s * 1e6,
        limit=allowed_s * 1e6,
        ratio=(found.limit_s + found.over_s) / allowed_s,
        target=1.0,
        unit="us",
        beside="2 RTT + 2 fdatasync + 3 ms",
        note=(
            f"2 x {found.rtt_s * 1e3:.2f} ms RTT as measured + "
            f"2 x {found.fdatasync_s * 1e3:.2f} ms fdatasync + 3 ms; over the first two by "
            f"{found.over_s * 1e3:.2f} ms, the floor by {found.floor_over_s * 1e3:.2f} ms (two "
            f"bare questions over gRPC {found.calls_over_s * 1e3:.2f} ms, two commits "
            f"{found.commits_over_s * 1e3:.2f} ms); from acknowledgement to lease by "
            f"{found.outside_over_s * 1e3:.2f} ms over theirs; median of {found.count} rounds"
        ),
        is_cost=True,
    )


async def _measured(rtt_s: float, count: int) -> NegotiationReading:
    with TemporaryDirectory(prefix="gcos-bench-") as scratch:
        options = ClusterOptions(
            Path(scratch) / "bed", site_ids=(_ORIGIN, _WINNER), speed=60.0, gpu_count=2
        )
        try:
            await asyncio.to_thread(cluster.up, options, _links(rtt_s), tell=lambda _: None)
            bed = cluster.open_testbed(options.directory)
            await _settle(bed)
            return await negotiate(bed, _ORIGIN, _WINNER, count=count)
        finally:
            await asyncio.to_thread(
                local_cluster.down, options.directory, keep=False, tell=lambda _: None
            )


async def _settle(bed: Testbed) -> None:
    """Run tasks until both journals are written over."""
    token_file = Path(bed.config.token_file)
    document = {
        "apiVersion": "gcos/v1",
        "kind": "Task",
        "name": "warm-up",
        "run": ["true"],
        "placement": {"allow": [_WINNER]},
    }
    async with Client.connect(bed.process(_ORIGIN).address, token_file, environ={}) as client:
        taken = [await client.submit(json.dumps(document)) for _ in range(_WARM_UP_COUNT)]
        for each in taken:
            await client.wait(each.task.task_id, timeout_s=_WAIT_S)


def _links(rtt_s: float) -> Sequence[WanLink]:
    places = (_ORIGIN, _WINNER, BROKER, PREDICTOR)
    return [
        WanLink(
            src,
            dst,
            src_zone="",
            dst_zone="",
            rtt_s=rtt_s,
            asked_bytes_per_s=_BYTES_PER_S,
            bytes_per_s=_BYTES_PER_S,
        )
        for src, dst in permutations(places, 2)
        if {src, dst} != {BROKER, PREDICTOR}
    ]


if __name__ == "__main__":
    asked_s = float(sys.argv[1]) / 1e3 if len(sys.argv) > 1 else RTT_S
    asked_count = int(sys.argv[2]) if len(sys.argv) > 2 else ROUND_COUNT
    with interruptible():
        row = measure(asked_s, asked_count)
    sys.stdout.write(f"{row}\n")
