"""Memory of an agent and its time to serving, beside the least process that could be one.

The limit is `testbed.bench.bare_agent`: gRPC and ONNX Runtime and nothing of ours. Both are started
in turns, each alone. Time runs from the start of the process to its health check answering SERVING;
memory is read then. Run as `python -m testbed.bench.agent_start`.
"""

import os
import re
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import grpc
import onnx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gcos.errors import UnavailableError
from gcos.rpc.security import write_token
from gcos.system import SystemClock, sleep_blocking
from testbed import local_processes
from testbed.bench import BenchRow
from testbed.local_processes import LocalProcess

ROUNDS_COUNT: Final = 9
MEMORY_TARGET: Final = 1.3
TIME_TARGET: Final = 2.0
_START_S_MAX: Final = 30.0
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.002
_CALL_S: Final = 5.0
_SMAPS_LINE: Final = re.compile(r"^(Rss|Pss):\s+(\d+) kB$", re.MULTILINE)

_now_s = SystemClock().protocol_s


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
    for _ in range(ROUNDS_COUNT):
        with TemporaryDirectory(prefix="gcos-bench-") as scratch:
            ours.append(_agent_start(Path(scratch)))
        with TemporaryDirectory(prefix="gcos-bench-") as scratch:
            limits.append(_bare_start(Path(scratch)))
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
        note=f"beside bare grpc.aio + onnxruntime, median of {ROUNDS_COUNT} interleaved rounds",
        is_cost=True,
    )


def _agent_start(scratch: Path) -> Start:
    token_file = scratch / "token"
    write_token(token_file)
    address = _free_address()
    config = scratch / "agent.toml"
    settings = {
        "site": "on",
        "data_dir": str(scratch / "data"),
        "address": address,
        "token_file": str(token_file),
    }
    config.write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()))
    return _start(["-P", "-m", "site_agent", "--config", str(config)], address, scratch)


def _bare_start(scratch: Path) -> Start:
    model = scratch / "model.onnx"
    _write_model(model)
    address = _free_address()
    return _start(["-P", "-m", "testbed.bench.bare_agent", address, str(model)], address, scratch)


def _start(arguments: Sequence[str], address: str, scratch: Path) -> Start:
    began_s = _now_s()
    process = local_processes.start(
        "measured process",
        [sys.executable, *arguments],
        address=address,
        environ=_environ(),
        directory=scratch,
        log=scratch / "log",
    )
    try:
        _await_serving(process, until_s=began_s + _START_S_MAX)
        serving_s = _now_s() - began_s
        rss_bytes, pss_bytes = _memory_bytes(process.pid)
    finally:
        local_processes.stop([process], grace_s=_STOP_S, tell=lambda _: None)
    return Start(serving_s, rss_bytes, pss_bytes)


def _await_serving(process: LocalProcess, *, until_s: float) -> None:
    """Return once the process answers SERVING.

    Raises:
        UnavailableError: It ended, or took too long.
    """
    host, _, port = process.address.rpartition(":")
    while _now_s() < until_s and process.is_alive:
        # A channel that is refused waits before it dials again, so the socket is asked first.
        with socket.socket() as probe:
            is_listening = probe.connect_ex((host, int(port))) == 0
        if is_listening and _is_serving(process.address):
            return
        sleep_blocking(_LOOK_S)
    tail = " ".join(local_processes.log_tail(process, line_count=5))
    raise UnavailableError(f"a measured process did not serve: {tail}")


def _is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _memory_bytes(pid: int) -> tuple[int, int]:
    """Return resident and proportional memory of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    found = {name: int(kilobytes) * 1024 for name, kilobytes in _SMAPS_LINE.findall(text)}
    return found["Rss"], found["Pss"]


def _environ() -> Mapping[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("GCOS_")}


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


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
