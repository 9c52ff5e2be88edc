"""Durable commits per second of 64 waiters, beside what disk and SQLite allow.

Two limits bind a group commit: 64 waiters cannot be faster than 64 rows for each fdatasync, nor
much faster than SQLite writes single rows without waiting for the disk. The lower of both, measured
in turns with ours, is the limit. Run as `python -m testbed.bench.journal [DIRECTORY]`; a directory
on tmpfs has no fdatasync to speak of, and then SQLite is the limit.
"""

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from gcos.store import Append, Durability, SqliteStore
from gcos.system import SystemClock
from testbed.bench import BenchRow

WAITERS_COUNT = 64
ROUNDS_COUNT = 7
ROUND_S = 0.4
ROW_BYTES = 200
BLOCK_BYTES = 4096

_now_s = SystemClock().protocol_s


def measure(directory: Path | None = None) -> BenchRow:
    """Return the row of the journal; `directory` is on the disk to measure."""
    fdatasyncs: list[float] = []
    singles: list[float] = []
    journals: list[float] = []
    for _ in range(ROUNDS_COUNT):
        for rates, rate in (
            (fdatasyncs, _fdatasync_rate),
            (singles, _single_row_rate),
            (journals, _journal_rate),
        ):
            with TemporaryDirectory(dir=directory) as scratch:
                rates.append(rate(Path(scratch)))
    limits = [
        min(WAITERS_COUNT * fdatasync, single)
        for fdatasync, single in zip(fdatasyncs, singles, strict=True)
    ]
    return BenchRow(
        name=f"journal alone, {WAITERS_COUNT} waiters, FULL",
        ours=median(journals),
        limit=median(limits),
        ratio=median(ours / limit for ours, limit in zip(journals, limits, strict=True)),
        target=0.6,
        unit="rows/s",
        beside="lower of 64 fdatasync and NORMAL rows",
        note=(
            f"fdatasync {median(fdatasyncs):,.0f}/s, NORMAL single rows {median(singles):,.0f}/s, "
            f"median of {ROUNDS_COUNT} interleaved rounds"
        ),
    )


def _rate(operation: Callable[[], object]) -> float:
    """Return how often per second `operation` runs, over one round."""
    count, started_s = 0, _now_s()
    while (elapsed_s := _now_s() - started_s) < ROUND_S:
        operation()
        count += 1
    return count / elapsed_s


def _fdatasync_rate(directory: Path) -> float:
    """Return fdatasyncs per second of a block overwritten in place, as a settled WAL is."""
    with (directory / "block").open("w+b", buffering=0) as file:
        descriptor = file.fileno()
        os.pwrite(descriptor, bytes(BLOCK_BYTES), 0)
        os.fsync(descriptor)

        def overwrite() -> None:
            os.pwrite(descriptor, bytes(BLOCK_BYTES), 0)
            os.fdatasync(descriptor)

        return _rate(overwrite)


def _single_row_rate(directory: Path) -> float:
    """Return rows per second of bare SQLite, one to a transaction, not waiting for the disk."""
    connection = sqlite3.connect(directory / "single.db", isolation_level=None)
    with closing(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE rows (sequence INTEGER PRIMARY KEY, value BLOB)")
        value = bytes(ROW_BYTES)
        return _rate(lambda: connection.execute("INSERT INTO rows (value) VALUES (?)", (value,)))


def _journal_rate(directory: Path) -> float:
    return asyncio.run(journal_rate(directory / "journal.db"))


async def journal_rate(path: Path) -> float:
    """Return acknowledged rows per second of our store, from waiters that commit one each."""
    count = 0

    async def commit_in_turn(key: str) -> None:
        nonlocal count
        while _now_s() - started_s < ROUND_S:
            await store.commit([Append("journal", key=key, value=bytes(ROW_BYTES))])
            count += 1

    async with SqliteStore.open(path, durability=Durability.FULL) as store:
        started_s = _now_s()
        async with asyncio.TaskGroup() as group:
            for waiter in range(WAITERS_COUNT):
                group.create_task(commit_in_turn(f"task-{waiter}"))
        return count / (_now_s() - started_s)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    sys.stdout.write(f"{measure(where)}\n")
