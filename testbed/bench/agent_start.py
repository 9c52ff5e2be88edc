"""Memory of an agent and its time to serving, beside the least process that could be one.

The limit is `testbed.bench.bare_agent`: gRPC and ONNX Runtime and nothing of ours. Both are started
in turns, each alone. Time runs from the start of the process to its health check answering SERVING;
memory is read then. A first round, in which modules may be compiled, is not counted. Run as
`python -m testbed.bench.agent_start`.
"""

import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import onnx

from testbed.bench import BenchRow
from testbed.bench.measured_process import Serving, agent, peer

ROUNDS_COUNT: Final = 9
MEMORY_TARGET: Final = 1.3
TIME_TARGET: Final = 2.0
_SMAPS_LINE: Final = re.compile(r"^(Rss|Pss):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Start:
    """One start of one process.

    Attributes:
        serving_s: From its start to SERVING.
        rss_bytes: Resident memory then.
        pss_bytes: The same, shared pages by share.
    """

    serving_s: float
    rss_bytes: int
    pss_bytes: int


def measure() -> tuple[BenchRow, ...]:
    """Return rows for resident memory, proportional memory and time to serving."""
    ours, limits = [], []
    for _ in range(1 + ROUNDS_COUNT):
        with TemporaryDirectory(prefix="gcos-bench-") as scratch:
            ours.append(_agent_start(Path(scratch)))
        with TemporaryDirectory(prefix="gcos-bench-") as scratch:
            limits.append(_bare_start(Path(scratch)))
    del ours[0], limits[0]
    return (
        _row(
            "agent, resident memory (RSS)",
            [start.rss_bytes / 1e6 for start in ours],
            [start.rss_bytes / 1e6 for start in limits],
            target=MEMORY_TARGET,
            unit="MB",
        ),
        _row(
            "agent, proportional memory (PSS)",
            [start.pss_bytes / 1e6 for start in ours],
            [start.pss_bytes / 1e6 for start in limits],
            target=MEMORY_TARGET,
            unit="MB",
        ),
        _row(
            "agent, time to serving",
            [start.serving_s * 1e3 for start in ours],
            [start.serving_s * 1e3 for start in limits],
            target=TIME_TARGET,
            unit="ms",
        ),
    )


def _row(
    name: str, ours: Sequence[float], limits: Sequence[float], *, target: float, unit: str
) -> BenchRow:
    return BenchRow(
        name=name,
        ours=median(ours),
        limit=median(limits),
        ratio=median(mine / limit for mine, limit in zip(ours, limits, strict=True)),
        target=target,
        unit=unit,
        beside="bare grpc.aio + onnxruntime",
        note=f"median of {ROUNDS_COUNT} interleaved rounds",
        is_cost=True,
    )


def _agent_start(scratch: Path) -> Start:
    with agent(scratch) as serving:
        return _start_of(serving)


def _bare_start(scratch: Path) -> Start:
    model = scratch / "model.onnx"
    _write_model(model)
    with peer("testbed.bench.bare_agent", str(model), scratch=scratch) as serving:
        return _start_of(serving)


def _start_of(serving: Serving) -> Start:
    return Start(serving.serving_s, *_memory_bytes(serving.process.pid))


def _memory_bytes(pid: int) -> tuple[int, int]:
    """Return resident and proportional memory of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = {name: int(kilobytes) * 1024 for name, kilobytes in _SMAPS_LINE.findall(text)}
    return found["Rss"], found["Pss"]


def _write_model(path: Path) -> None:
    """Write a graph of one node: what counts is that the runtime is loaded and has run."""
    shape = [None, 4]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "one node",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.ir_version = 8  # read by every onnxruntime that is allowed
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for row in measure():
        sys.stdout.write(f"{row}\n")
