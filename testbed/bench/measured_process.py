"""Processes of their own that are measured: started, waited for until they serve, stopped.

A process serves once its health check answers SERVING. What belongs to it lies in a directory that
its caller made; addresses are on loopback.
"""

import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gcos.errors import UnavailableError
from gcos.rpc.security import write_token
from gcos.system import SystemClock, sleep_blocking
from testbed import local_processes
from testbed.local_processes import LocalProcess

_START_S_MAX: Final = 30.0
_STOP_S: Final = 10.0
_LOOK_S: Final = 0.002
_CALL_S: Final = 5.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")

_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class Serving:
    """A process that answers.

    Attributes:
        process: The process.
        serving_s: From its start to SERVING.
        token: What callers must show; empty: nothing.
    """

    process: LocalProcess
    serving_s: float
    token: str = ""

    @property
    def address(self) -> str:
        """`host:port` that it serves at."""
        return self.process.address

    def cpu_s(self) -> float:
        """Return the CPU seconds of all its threads so far, user and system, by clock ticks."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()  # from the third on, proc(5)
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@contextmanager
def agent(scratch: Path) -> Iterator[Serving]:
    """Run an agent of site `on` without broker or predictor."""
    token_file = scratch / "token"
    token = write_token(token_file)
    address = _free_address()
    config = scratch / "agent.toml"
    settings = {
        "site": "on",
        "data_dir": str(scratch / "data"),
        "address": address,
        "token_file": str(token_file),
    }
    config.write_text("".join(f'{key} = "{value}"\n' for key, value in settings.items()))
    with _serving(["site_agent", "--config", str(config)], address, scratch, token) as serving:
        yield serving


@contextmanager
def peer(module: str, *arguments: str, scratch: Path) -> Iterator[Serving]:
    """Run `python -m MODULE HOST:PORT ARGUMENTS`."""
    address = _free_address()
    with _serving([module, address, *arguments], address, scratch) as serving:
        yield serving


@contextmanager
def _serving(
    module: Sequence[str], address: str, scratch: Path, token: str = ""
) -> Iterator[Serving]:
    began_s = _now_s()
    process = local_processes.start(
        "measured process",
        [sys.executable, "-P", "-m", *module],
        address=address,
        environ=_environ(),
        directory=scratch,
        log=scratch / "log",
    )
    try:
        _await_serving(process, until_s=began_s + _START_S_MAX)
        yield Serving(process, _now_s() - began_s, token)
    finally:
        local_processes.stop([process], grace_s=_STOP_S, tell=lambda _: None)


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


def _environ() -> Mapping[str, str]:
    """Return ours without what configures agents, or keeps modules from being compiled but once."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GCOS_") and name != "PYTHONDONTWRITEBYTECODE"
    }


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
