"""How fast artifacts move between agents, beside raw sockets in the same run.

Each limit and each figure of ours is measured in turns, in processes of their own:

- *unverified*: what two calls over one channel bring and throw away, beside `sendfile` into one
  socket and `recv_into` out of it;
- *verified and stored*: a whole fetch, fsync and publication included, beside the composed limit
  1 / (1/raw + 1/hash + 1/write): what one thread reaches that receives over a raw socket, takes
  SHA-256 once and writes with one fsync, one after the other. A pipeline over free cores may exceed
  it; ours also takes a digest of each chunk and has two processes on the same cores. Its note tells
  what a bare gRPC stream reaches that is hashed once and written, with nothing else of ours;
- *far*: a whole fetch over the relay of `testbed.relay`, 1 Gbit/s with 80 ms of round trip, beside
  raw sockets over an equal relay with as many connections, all kept; and beside the link's rate;
- *several*: the same from two holders at once, each over a relay of its own of 250 Mbit/s, beside
  the sum of their links;
- *memory*: by how much either agent grows at most while it moves an artifact of 2 GB.

Run as `python -m testbed.bench.transfer [DIRECTORY [PART...]]`; parts are near, far, several and
memory.
"""

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

from gcos.artifacts import CHUNK_BYTES, ArtifactKind
from gcos.ids import SiteId
from gcos.system import SystemClock
from site_agent.peer_source import LONG_CONNECTION_COUNT
from testbed import relay
from testbed.bench import BenchRow
from testbed.bench.peak_memory import peak_bytes, reset_peak_bytes
from testbed.bench.transfer_peer import open_store
from testbed.timekeeping import run_fine

NEAR_BYTES: Final = 512 << 20
NEAR_ROUNDS: Final = 5
FAR_BYTES: Final = 1 << 30
FAR_ROUNDS: Final = 3
FAR_BYTES_PER_S: Final = 125e6
FAR_DELAY_S: Final = 0.04
WARM_BYTES: Final = 64 << 20
SEVERAL_BYTES: Final = 512 << 20
SEVERAL_BYTES_PER_S: Final = 31.25e6
LARGE_BYTES: Final = 2_000_000_000
MEMORY_LIMIT_BYTES: Final = 64e6

_PEER: Final = "testbed.bench.transfer_peer"
_BLOCK_BYTES: Final = 16 << 20
_FILE: Final = "weights.bin"

_now_s = SystemClock().protocol_s


@dataclass(frozen=True, slots=True)
class _Stored:
    """An artifact of one file in the sender's store."""

    artifact_id: str
    file: Path
    size_bytes: int


def measure(directory: Path | None = None) -> Iterator[BenchRow]:
    """Yield the rows; `directory` is on the disk to measure."""
    yield from _near(directory)
    yield from _far(directory)
    yield from _several(directory)
    yield from _memory(directory)


# ---- over loopback ----------------------------------------------------------------------------


def _near(directory: Path | None) -> Iterator[BenchRow]:
    raws: list[float] = []
    thrown: list[float] = []
    stored: list[float] = []
    bares: list[float] = []
    hashes: list[float] = []
    writes: list[float] = []
    with _Bench(directory) as bench:
        artifact = bench.store(NEAR_BYTES)
        agent = bench.start("serve", bench.far).address
        sender = bench.start("send", artifact.file).address
        puller = bench.start("pull", bench.scratch)
        bare_address = bench.start("stream", artifact.file).address
        asked = {"address": agent, "artifact_id": artifact.artifact_id, "size_bytes": NEAR_BYTES}
        bench.supply_memory(2 * NEAR_BYTES)

        def raw() -> float:
            took: float = puller.ask("raw", address=sender, size_bytes=NEAR_BYTES, connections=1)
            return took

        def unverified() -> float:
            took: float = puller.ask("unverified", path=_FILE, **asked)
            return took

        def bare() -> float:
            took: float = puller.ask("bare", address=bare_address, size_bytes=NEAR_BYTES)
            return took

        def fetched() -> float:
            took: float = puller.ask("fetch", **asked)["seconds"]
            return took

        for number in range(NEAR_ROUNDS + 1):
            for rates, seconds in (
                (raws, raw),
                (thrown, unverified),
                (hashes, lambda: _hash_s(artifact.file)),
                (writes, lambda: _write_s(bench.scratch / "written", artifact.file)),
                (bares, bare),
                (stored, fetched),
            ):
                rate = NEAR_BYTES / seconds() / 1e6
                if number:  # the first round warms connections, heaps and the page cache
                    rates.append(rate)
    yield _row(
        "artifact over loopback, unverified",
        thrown,
        raws,
        target=0.45,
        beside="sendfile and recv_into",
        note=f"median of {NEAR_ROUNDS} interleaved rounds",
    )
    limits = [
        1 / (1 / raw + 1 / hashed + 1 / written)
        for raw, hashed, written in zip(raws, hashes, writes, strict=True)
    ]
    yield _row(
        "artifact over loopback, verified and stored",
        stored,
        limits,
        target=0.8,
        beside="raw, hash and write composed",
        note=(
            f"raw {median(raws):,.0f}, sha256 {median(hashes):,.0f} and write with "
            f"fsync {median(writes):,.0f} MB/s, of which a bare gRPC stream, hashed and written, "
            f"reaches {_ratio(bares, limits):.2f}; medians of {NEAR_ROUNDS} interleaved rounds"
        ),
    )


def _hash_s(file: Path) -> float:
    """Return seconds that SHA-256 takes, chunk by chunk, reading not counted."""
    took_s, digest = 0.0, hashlib.sha256()
    with file.open("rb", buffering=0) as source:
        while chunk := source.read(CHUNK_BYTES):
            began_s = _now_s()
            digest.update(chunk)
            took_s += _now_s() - began_s
    return took_s


def _write_s(path: Path, source: Path) -> float:
    """Return seconds that a new file takes, written in chunks and fsynced once."""
    with source.open("rb", buffering=0) as file:
        chunk = file.read(CHUNK_BYTES)
    size_bytes = source.stat().st_size
    began_s = _now_s()
    with path.open("wb", buffering=0) as file:
        for _ in range(size_bytes // CHUNK_BYTES):
            file.write(chunk)
        os.fsync(file.fileno())
    took_s = _now_s() - began_s
    path.unlink()
    return took_s


# ---- over the emulated link --------------------------------------------------------------------


def _far(directory: Path | None) -> Iterator[BenchRow]:
    reading = run_fine(relay.check(rate_bytes_per_s=FAR_BYTES_PER_S, delay_s=FAR_DELAY_S))
    ours: list[float] = []
    raws: list[float] = []
    with _Bench(directory) as bench:
        artifact, warm = bench.store(FAR_BYTES), bench.store(WARM_BYTES)
        agent = bench.relayed(bench.start("serve", bench.far).address)
        sender = bench.relayed(bench.start("send", artifact.file).address)
        puller = bench.start("pull", bench.scratch)

        def raw(size_bytes: int) -> float:
            took: float = puller.ask(
                "raw", address=sender, size_bytes=size_bytes, connections=LONG_CONNECTION_COUNT
            )
            return took

        def fetched(what: _Stored) -> float:
            took: float = puller.ask(
                "fetch", address=agent, artifact_id=what.artifact_id, size_bytes=what.size_bytes
            )["seconds"]
            return took

        raw(WARM_BYTES)
        fetched(warm)
        for _ in range(FAR_ROUNDS):
            raws.append(FAR_BYTES / raw(FAR_BYTES) / 1e6)
            ours.append(FAR_BYTES / fetched(artifact) / 1e6)
    note = (
        f"{FAR_BYTES >> 30} GiB verified and stored over {LONG_CONNECTION_COUNT} warm connections "
        f"through testbed.relay (measured {reading.rtt_s * 1e3:.1f} ms, "
        f"{reading.bytes_per_s * 8 / 1e6:,.0f} Mbit/s); median of {FAR_ROUNDS} interleaved rounds"
    )
    yield _row("artifact over 80 ms", ours, raws, target=0.95, beside="raw sockets", note=note)
    link = [FAR_BYTES_PER_S / 1e6] * FAR_ROUNDS
    yield _row("artifact over 80 ms", ours, link, target=0.9, beside="rate of the link", note=note)


def _several(directory: Path | None) -> Iterator[BenchRow]:
    with _Bench(directory) as bench:
        artifact, warm = bench.store(SEVERAL_BYTES), bench.store(WARM_BYTES)
        holders = [
            bench.relayed(bench.start("serve", bench.far).address, SEVERAL_BYTES_PER_S)
            for _ in range(2)
        ]
        puller = bench.start("pull", bench.scratch)

        def fetched(what: _Stored) -> float:
            took: float = puller.ask(
                "fetch",
                address=holders[0],
                beside=holders[1:],
                artifact_id=what.artifact_id,
                size_bytes=what.size_bytes,
            )["seconds"]
            return took

        fetched(warm)
        rates = [SEVERAL_BYTES / fetched(artifact) / 1e6 for _ in range(FAR_ROUNDS)]
    yield _row(
        "artifact from two holders",
        rates,
        [2 * SEVERAL_BYTES_PER_S / 1e6] * FAR_ROUNDS,
        target=0.9,
        beside="both links",
        note=(
            f"{SEVERAL_BYTES >> 20} MiB verified and stored, each holder behind testbed.relay with "
            f"80 ms and {SEVERAL_BYTES_PER_S * 8 / 1e6:,.0f} Mbit/s; median of {FAR_ROUNDS} rounds"
        ),
    )


# ---- memory -----------------------------------------------------------------------------------


def _memory(directory: Path | None) -> Iterator[BenchRow]:
    with _Bench(directory) as bench:
        artifact, small = bench.store(LARGE_BYTES), bench.store(CHUNK_BYTES)
        agent = bench.start("serve", bench.far)
        puller = bench.start("pull", bench.scratch)

        def fetched(what: _Stored) -> float:
            grown: float = puller.ask(
                "fetch",
                address=agent.address,
                artifact_id=what.artifact_id,
                size_bytes=what.size_bytes,
            )["grown_bytes"]
            return grown

        fetched(small)  # the code that it takes is in memory from here on
        before_bytes = reset_peak_bytes(agent.pid)
        pulled = fetched(artifact)
        served = peak_bytes(agent.pid) - before_bytes
    for name, grown in (("fetches", pulled), ("serves", served)):
        yield BenchRow(
            name=f"memory of an agent that {name} 2 GB",
            ours=grown / 1e6,
            limit=MEMORY_LIMIT_BYTES / 1e6,
            ratio=grown / MEMORY_LIMIT_BYTES,
            target=1.0,
            unit="MB",
            beside="the allowance",
            note="growth of peak resident memory (VmHWM) over that of an idle agent, one run",
            is_cost=True,
        )


# ---- what all need -----------------------------------------------------------------------------


class _Process:
    """A child that answers a line with a line."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.pid = self._child.pid
        #: What it said first.
        self.address = self._line()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Have it do something and return what it answers."""
        assert self._child.stdin is not None, "it was given a pipe"
        self._child.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._child.stdin.flush()
        return json.loads(self._line())

    def stop(self) -> None:
        """End it."""
        self._child.terminate()
        self._child.communicate()

    def _line(self) -> str:
        assert self._child.stdout is not None, "it was given a pipe"
        line = self._child.stdout.readline().strip()
        if not line:
            raise ChildProcessError("a measured process has ended")
        return line


class _Bench(contextlib.ExitStack):
    """Processes and files of one measurement; none is left behind."""

    def __init__(self, directory: Path | None) -> None:
        super().__init__()
        self.scratch = Path(
            self.enter_context(TemporaryDirectory(prefix="gcos-bench-", dir=directory))
        )
        self.far = self.scratch / "far"
        self.far.mkdir()

    def start(self, role: str, path: Path) -> _Process:
        """Start a peer."""
        return self._started([_PEER, role, str(path)])

    def relayed(self, address: str, rate_bytes_per_s: float = FAR_BYTES_PER_S) -> str:
        """Return the address of a new relay to `address`."""
        rate, delay = str(rate_bytes_per_s), str(FAR_DELAY_S)
        return self._started(["testbed.relay", address, rate, delay]).address

    def supply_memory(self, size_bytes: int) -> None:
        """Leave free memory behind that new files of any round take, and that stays with us.

        A virtual machine may give free blocks of 2 MiB back to its host within seconds. Who touches
        them next waits for the host: a write then takes ten times as long, one round's limit or
        another's fetch. Blocks of 1 MiB between others that are in use are not given back, and the
        page cache takes them first for writes of 1 MiB.
        """
        block = secrets.token_bytes(CHUNK_BYTES)
        given = self.scratch / "given"
        with (
            (self.scratch / "held").open("wb", buffering=0) as held_file,
            given.open("wb", buffering=0) as given_file,
        ):
            for _ in range(size_bytes // CHUNK_BYTES):
                given_file.write(block)
                held_file.write(block)
            os.fsync(given_file.fileno())
            os.fsync(held_file.fileno())
        given.unlink()

    def store(self, size_bytes: int) -> _Stored:
        """Put an artifact of one file into the sender's store."""
        source = self.far / f"source-{size_bytes}"
        source.mkdir()
        _fill(source / _FILE, size_bytes)
        store = open_store(self.far, "far")
        artifact, _ = store.import_directory(
            source, f"m{size_bytes}", ArtifactKind.MODEL, SiteId("far"), now_s=0.0
        )
        (source / _FILE).unlink()
        entry = store.entry_of(artifact.artifact_id, _FILE)
        path = (store.path_of(artifact.artifact_id) / entry.path).resolve()
        return _Stored(artifact.artifact_id, path, size_bytes)

    def _started(self, arguments: Sequence[str]) -> _Process:
        process = _Process(arguments)
        self.callback(process.stop)
        return process


def _fill(path: Path, size_bytes: int) -> None:
    """Write a file without two equal chunks."""
    block = bytearray(secrets.token_bytes(_BLOCK_BYTES))
    with path.open("wb", buffering=0) as file:
        for number, offset in enumerate(range(0, size_bytes, _BLOCK_BYTES)):
            for at in range(0, _BLOCK_BYTES, CHUNK_BYTES):
                block[at : at + 4] = number.to_bytes(4, "big")
            file.write(memoryview(block)[: size_bytes - offset])


def _ratio(ours: Sequence[float], limits: Sequence[float]) -> float:
    return median(mine / limit for mine, limit in zip(ours, limits, strict=True))


def _row(
    name: str,
    ours: Sequence[float],
    limits: Sequence[float],
    *,
    target: float,
    beside: str,
    note: str,
) -> BenchRow:
    return BenchRow(
        name=name,
        ours=median(ours),
        limit=median(limits),
        ratio=_ratio(ours, limits),
        target=target,
        unit="MB/s",
        beside=beside,
        note=note,
    )


_PARTS: Final[dict[str, Callable[[Path | None], Iterator[BenchRow]]]] = {
    "near": _near,
    "far": _far,
    "several": _several,
    "memory": _memory,
}

if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for part in sys.argv[2:] or _PARTS:
        for row in _PARTS[part](where):
            sys.stdout.write(f"{row}\n")
            sys.stdout.flush()
