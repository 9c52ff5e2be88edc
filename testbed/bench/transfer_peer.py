"""The processes that `testbed.bench.transfer` measures, one role each.

    serve DIRECTORY        an agent's artifact service over the store in DIRECTORY
    send FILE              raw sockets: sends what is asked for with sendfile
    stream FILE            a bare gRPC server: sends the file as messages of 1 MiB
    pull DIRECTORY         does what standard input says, a line of JSON each, and answers so

The first line that a process writes tells its address, or that it is ready. Each ends when its
standard input does.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from gcos.artifacts import CHUNK_BYTES, ArtifactKind
from gcos.contract_net import ArtifactNeed, Holder
from gcos.ids import ArtifactId, RunId, SiteId
from gcos.logs import configure, get_logger
from gcos.rpc.channels import Channels
from gcos.rpc.memory import pin_malloc_thresholds
from gcos.rpc.server import serving
from gcos.system import SystemClock
from site_agent.artifact_store import ArtifactStore
from site_agent.peer_source import CALLS_PER_CONNECTION, PeerSource
from site_agent.serving import ArtifactServicer
from site_agent.transfer import ArtifactPlane
from testbed.bench.peak_memory import peak_bytes, reset_peak_bytes

TOKEN: Final = "a-token-for-benchmarks-on-loopback"  # noqa: S105  guards nothing
_RANGE_BYTES: Final = 8 * CHUNK_BYTES
_IDLE_S: Final = 30.0

_now_s = SystemClock().protocol_s


def open_store(directory: Path, site: str) -> ArtifactStore:
    """Open a store without limits that matter here."""
    return ArtifactStore.open(
        directory / "cache",
        site_id=SiteId(site),
        model_capacity_bytes=1 << 40,
        data_capacity_bytes=1 << 40,
        allowed_roots=[directory],
    )


# ---- serve ------------------------------------------------------------------------------------


async def _serve(directory: Path) -> None:
    store = open_store(directory, "far")
    async with serving(
        "127.0.0.1:0",
        register=[ArtifactServicer(store).add_to],
        service_names=[],
        token=TOKEN,
        log=get_logger(),
    ) as running:
        _say(running.address)
        await asyncio.to_thread(sys.stdin.read)


# ---- send -------------------------------------------------------------------------------------


def _send(file: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, file.open("rb") as source, contextlib.suppress(OSError):
            while asked := connection.recv(16, socket.MSG_WAITALL):
                offset, size = int.from_bytes(asked[:8], "big"), int.from_bytes(asked[8:], "big")
                connection.sendfile(source, offset, size)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    host, port = listener.getsockname()
    _say(f"{host}:{port}")
    sys.stdin.read()


# ---- stream -----------------------------------------------------------------------------------


async def _stream(file: Path) -> None:
    async def read(_request: bytes, context: Any) -> None:
        with file.open("rb", buffering=0) as source:
            while chunk := source.read(CHUNK_BYTES):
                await context.write(chunk)

    server = grpc.aio.server()
    handler: Any = grpc.unary_stream_rpc_method_handler(read)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("bare", {"Read": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    _say(f"127.0.0.1:{port}")
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


# ---- pull -------------------------------------------------------------------------------------


class Puller:
    """Does one thing after the other and says how long each took."""

    def __init__(self, directory: Path, channels: Channels) -> None:
        self._directory = directory
        self._channels = channels
        self._sockets: dict[tuple[str, int], list[socket.socket]] = {}

    def raw(self, address: str, size_bytes: int, connections: int) -> float:
        """Receive over raw sockets, kept ones, a share each; return seconds."""
        key = address, connections
        if key not in self._sockets:
            host, _, port = address.rpartition(":")
            self._sockets[key] = [
                socket.create_connection((host, int(port))) for _ in range(connections)
            ]
        share = size_bytes // connections
        began_s = _now_s()
        threads = [
            threading.Thread(target=_receive, args=(each, number * share, share))
            for number, each in enumerate(self._sockets[key])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return _now_s() - began_s

    async def unverified(self, address: str, artifact_id: str, path: str, size_bytes: int) -> float:
        """Receive over gRPC as a download does, and throw it away; return seconds."""
        source = PeerSource(
            Holder(SiteId("far"), zone="X", address=address),
            _need(artifact_id, size_bytes),
            channels=self._channels,
            clock=SystemClock(),
            idle_s=_IDLE_S,
        )
        offsets = iter(range(0, size_bytes, _RANGE_BYTES))

        async def work() -> None:
            for offset in offsets:
                length = min(_RANGE_BYTES, size_bytes - offset)
                async with source.reading(path, offset, length, connection=0) as reading:
                    for _ in range(-(-length // CHUNK_BYTES)):
                        await reading.chunk()
                    await reading.end()

        began_s = _now_s()
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLS_PER_CONNECTION):
                group.create_task(work())
        return _now_s() - began_s

    async def bare(self, address: str, size_bytes: int) -> float:
        """Receive over bare gRPC, take SHA-256 once and write with one fsync; return seconds.

        A thread hashes and writes one chunk while the next one comes.
        """
        path = self._directory / "bare"
        digest = hashlib.sha256()
        began_s = _now_s()
        with path.open("xb", buffering=0) as file:

            def keep(chunk: bytes) -> None:
                digest.update(chunk)
                file.write(chunk)

            options = [("grpc.max_receive_message_length", 2 * CHUNK_BYTES)]
            async with grpc.aio.insecure_channel(address, options) as channel:
                read: Any = channel.unary_stream("/bare/Read")
                call = read(b"")
                loop = asyncio.get_running_loop()
                keeping = loop.run_in_executor(None, keep, b"")
                while (chunk := await call.read()) is not grpc.aio.EOF:
                    await keeping
                    keeping = loop.run_in_executor(None, keep, chunk)
                    size_bytes -= len(chunk)
                await keeping
            os.fsync(file.fileno())
        took_s = _now_s() - began_s
        assert size_bytes == 0, "another file"
        path.unlink()
        return took_s

    async def fetch(
        self, address: str, artifact_id: str, size_bytes: int, beside: Sequence[str] = ()
    ) -> dict[str, float]:
        """Bring an artifact into a new store, as an agent does; then remove it.

        Args:
            address: A holder.
            artifact_id: What.
            size_bytes: Its size.
            beside: Further holders, asked at the same time.

        Returns:
            Seconds, and by how many bytes resident memory grew at most.
        """
        store = open_store(self._directory / "near", "near")
        before_bytes = reset_peak_bytes(os.getpid())
        began_s = _now_s()
        async with ArtifactPlane(store, self._channels, SystemClock(), get_logger()) as plane:
            await plane.fetch(
                _need(artifact_id, size_bytes),
                Holder(SiteId("far"), zone="X", address=address),
                run_id=RunId("near-1.1.1"),
                on_progress=lambda _bytes: None,
                beside=[
                    Holder(SiteId(f"far{number}"), zone="X", address=each)
                    for number, each in enumerate(beside)
                ],
            )
        took_s = _now_s() - began_s
        grown_bytes = peak_bytes(os.getpid()) - before_bytes
        await asyncio.to_thread(shutil.rmtree, self._directory / "near")
        return {"seconds": took_s, "grown_bytes": grown_bytes}

    def close(self) -> None:
        """Close what is open."""
        for sockets in self._sockets.values():
            for each in sockets:
                each.close()


def _receive(connection: socket.socket, offset: int, size_bytes: int) -> None:
    connection.sendall(offset.to_bytes(8, "big") + size_bytes.to_bytes(8, "big"))
    buffer = bytearray(CHUNK_BYTES)
    while size_bytes:
        count = connection.recv_into(buffer, min(len(buffer), size_bytes))
        if not count:
            raise ConnectionError("the sender went away")
        size_bytes -= count


def _need(artifact_id: str, size_bytes: int) -> ArtifactNeed:
    return ArtifactNeed(
        ArtifactId(artifact_id), ArtifactKind.MODEL, name="measured", size_bytes=size_bytes
    )


async def _pull(directory: Path) -> None:
    async with Channels(TOKEN) as channels:
        puller = Puller(directory, channels)
        _say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked: dict[str, Any] = json.loads(line)
            name = asked.pop("do")
            if name == "raw":
                answer: Any = await asyncio.to_thread(functools.partial(puller.raw, **asked))
            else:
                bring: Callable[..., Any] = getattr(puller, name)
                answer = await bring(**asked)
            _say(json.dumps(answer))
        puller.close()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(role: str, path: str) -> None:
    """Play a role until standard input ends."""
    pin_malloc_thresholds()
    configure(role, "warning")
    if role == "serve":
        asyncio.run(_serve(Path(path)))
    elif role == "send":
        _send(Path(path))
    elif role == "stream":
        asyncio.run(_stream(Path(path)))
    else:
        asyncio.run(_pull(Path(path)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
