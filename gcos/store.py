"""Durable state of a process: tables of records and append-only logs.

`MemoryStore` and `SqliteStore` behave alike and pass one test suite. The SQLite store has one
writer: commits that arrive while the disk is busy wait together and are written in one transaction,
one statement for each kind of write, so that 64 waiters share the price of one fsync and of a few
hops to the writer's thread. Reads have a connection and a thread of their own and see every
acknowledged commit.
"""

import asyncio
import enum
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import aiosqlite

from gcos.errors import (
    ExhaustedError,
    GcosError,
    InvalidRequestError,
    TooLargeError,
    UnavailableError,
    WrongStateError,
)

SCHEMA_VERSION = 1

NAME_LENGTH_MAX = 1024
"""Characters of the name of a table or log, and of a key."""

VALUE_BYTES_MAX = 16 * 1024 * 1024

WAITING_WRITES_COUNT_MAX = 8192
"""Writes that may wait for the disk; a commit that finds no room among them is refused."""

WAITING_BYTES_MAX = 64 * 1024 * 1024

LOG_PAGE_COUNT_MAX = 10_000
"""Rows that one reading of a log returns."""

TRIM_COUNT_MAX = 2_000
"""Rows deleted in one transaction, so that a long trim lets commits through."""

BUSY_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Put:
    """Sets one record of a table."""

    table: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Removes one record of a table; removing an absent one changes nothing."""

    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Append:
    """Adds one row to the end of a log."""

    log: str
    key: str
    value: bytes


Write = Put | Delete | Append


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One row of a log."""

    #: Counts the rows of its log from 1 without gaps; trimming does not renumber.
    sequence: int
    key: str
    value: bytes


class Store(Protocol):
    """Where a process keeps what must outlive it."""

    async def commit(self, writes: Sequence[Write]) -> None:
        """Apply `writes` in their order, all or none, and return once they are durable.

        A cancelled commit is still written: its writes were decided, only nobody waits any more.

        Raises:
            InvalidRequestError: A name is not valid Unicode or too long.
            TooLargeError: The writes are larger than any commit may be.
            ExhaustedError: Too much waits already, or the disk is full.
            UnavailableError: The store is closed or its disk does not answer.
        """

    async def load(self, table: str) -> dict[str, bytes]:
        """Return all records of `table`, sorted by key."""

    async def read_log(
        self, log: str, key: str | None = None, *, after: int = 0, limit: int = LOG_PAGE_COUNT_MAX
    ) -> list[LogEntry]:
        """Return the oldest `limit` rows of `log` whose sequence exceeds `after`.

        Args:
            log: Name of the log; one never written to is empty.
            key: Only the rows of this key; None for all.
            after: The last sequence already read; 0 begins at the start.
            limit: At most `LOG_PAGE_COUNT_MAX`.

        Raises:
            InvalidRequestError: `after` or `limit` is out of range.
        """

    async def trim_log(self, log: str, *, keep: int) -> None:
        """Delete all rows of `log` but the newest `keep`, at least 1 so that numbering goes on."""

    async def close(self) -> None:
        """Write what waits, then refuse everything. Closing again changes nothing."""


class MemoryStore:
    """A store for tests and simulation; it lasts as long as its process."""

    def __init__(self) -> None:
        self._tables: dict[str, dict[str, bytes]] = {}
        self._logs: dict[str, list[LogEntry]] = {}
        self._is_closed = False

    async def commit(self, writes: Sequence[Write]) -> None:
        """See `Store.commit`."""
        self._check_open()
        _check_writes(writes)
        for write in writes:
            match write:
                case Put(table, key, value):
                    self._tables.setdefault(table, {})[key] = value
                case Delete(table, key):
                    self._tables.get(table, {}).pop(key, None)
                case Append(log, key, value):
                    entries = self._logs.setdefault(log, [])
                    head = entries[-1].sequence if entries else 0
                    entries.append(LogEntry(head + 1, key=key, value=value))

    async def load(self, table: str) -> dict[str, bytes]:
        """See `Store.load`."""
        self._check_open()
        return dict(sorted(self._tables.get(table, {}).items()))

    async def read_log(
        self, log: str, key: str | None = None, *, after: int = 0, limit: int = LOG_PAGE_COUNT_MAX
    ) -> list[LogEntry]:
        """See `Store.read_log`."""
        self._check_open()
        _check_page(after=after, limit=limit)
        found = (
            entry
            for entry in self._logs.get(log, [])
            if entry.sequence > after and key in (None, entry.key)
        )
        return [entry for entry, _ in zip(found, range(limit), strict=False)]

    async def trim_log(self, log: str, *, keep: int) -> None:
        """See `Store.trim_log`."""
        assert keep >= 1, "the newest row carries the numbering"
        self._check_open()
        if log in self._logs:
            del self._logs[log][:-keep]

    async def close(self) -> None:
        """See `Store.close`."""
        self._is_closed = True

    def _check_open(self) -> None:
        if self._is_closed:
            raise _closed_error("the store")


class Durability(enum.Enum):
    """What an acknowledged commit survives. The values are those of `PRAGMA synchronous`."""

    #: Loss of power: one fsync for each batch. For whatever was promised to someone.
    FULL = "FULL"
    #: Death of the process; loss of power may take the last commits. For books that can be rebuilt.
    NORMAL = "NORMAL"


#: A statement and the rows to run it for.
_Statement = tuple[str, list[tuple[str | bytes, ...]]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A commit on its way to the disk."""

    writes: Sequence[Write]
    done: asyncio.Future[None]


class SqliteStore:
    """A store in one SQLite file; `open` is the only way to one.

    The file belongs to one process; `gcos.locks.lock_directory` sees to that.
    """

    def __init__(self, path: Path, writer: "_Connection", reader: aiosqlite.Connection) -> None:
        self._path = path
        self._writer = writer
        #: Held during a transaction of the writer's connection, which has only one at a time.
        self._writer_lock = asyncio.Lock()
        self._reader = reader
        self._waiting: list[_Waiting] = []
        self._waiting_count = 0
        self._waiting_bytes = 0
        self._has_news = asyncio.Event()
        self._is_closing = False
        self._has_closed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path, *, durability: Durability = Durability.FULL
    ) -> AsyncIterator["SqliteStore"]:
        """Open the store at `path`, made where it is missing, and close it on leaving.

        Raises:
            WrongStateError: A newer version wrote the file, or it is another program's.
            UnavailableError: The file cannot be opened.
            GcosError: The file is damaged or no database.
        """
        writer = await _Connection.open(path, partial(_prepare_writer, path, durability))
        try:
            reader = await _Connection.open(path, _prepare_reader)
        except BaseException:
            await writer.close()
            raise
        store = cls(path, writer, reader)
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(store._write_batches(), name="store writer")
            try:
                yield store
            except Exception as exc:
                failure = exc
            finally:
                await store.close()
        # Raised inside, the group would hand the caller's own error back as an ExceptionGroup.
        if failure is not None:
            raise failure

    async def commit(self, writes: Sequence[Write]) -> None:
        """See `Store.commit`."""
        self._check_open()
        size_bytes = _check_writes(writes)
        if not writes:
            return
        if (
            self._waiting_count + len(writes) > WAITING_WRITES_COUNT_MAX
            or self._waiting_bytes + size_bytes > WAITING_BYTES_MAX
        ):
            raise ExhaustedError(
                f"{self._waiting_count} writes already wait for the disk of {self._path}",
                hint="slow down; the disk is slower than what is asked of it",
            )
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(tuple(writes), done))
        self._waiting_count += len(writes)
        self._waiting_bytes += size_bytes
        self._has_news.set()
        await done

    async def load(self, table: str) -> dict[str, bytes]:
        """See `Store.load`."""
        query = "SELECT key, value FROM records WHERE table_name = ? ORDER BY key"
        rows = await self._fetch(query, (table,))
        return {row[0]: row[1] for row in rows}

    async def read_log(
        self, log: str, key: str | None = None, *, after: int = 0, limit: int = LOG_PAGE_COUNT_MAX
    ) -> list[LogEntry]:
        """See `Store.read_log`."""
        _check_page(after=after, limit=limit)
        query = "SELECT sequence, key, value FROM log_rows WHERE log = ? AND sequence > ?"
        arguments: tuple[str | int, ...] = (log, after)
        if key is not None:
            query += " AND key = ?"
            arguments += (key,)
        rows = await self._fetch(f"{query} ORDER BY sequence LIMIT ?", (*arguments, limit))
        return [LogEntry(sequence, key=row_key, value=value) for sequence, row_key, value in rows]

    async def trim_log(self, log: str, *, keep: int) -> None:
        """See `Store.trim_log`."""
        assert keep >= 1, "the newest row carries the numbering"
        while await self._trim_page(log, keep=keep) == TRIM_COUNT_MAX:
            pass

    async def close(self) -> None:
        """See `Store.close`."""
        self._is_closing = True
        self._has_news.set()
        await self._has_closed.wait()

    async def _fetch(self, query: str, arguments: tuple[str | int, ...]) -> Iterable[sqlite3.Row]:
        self._check_open()
        try:
            return await self._reader.execute_fetchall(query, arguments)
        except sqlite3.Error as exc:
            raise storage_error(self._path, exc) from exc

    async def _trim_page(self, log: str, *, keep: int) -> int:
        """Delete up to `TRIM_COUNT_MAX` of the oldest rows and return how many."""
        async with self._writer_lock:
            self._check_open()
            try:
                # One statement is a transaction of its own, which no cancellation can leave open.
                cursor = await self._writer.execute(_TRIM, (log, log, keep, log, TRIM_COUNT_MAX))
            except sqlite3.Error as exc:
                raise storage_error(self._path, exc) from exc
        return cursor.rowcount

    def _check_open(self) -> None:
        if self._is_closing:
            raise _closed_error(f"the store {self._path}")

    async def _write_batches(self) -> None:
        """Write whatever waits, batch after batch, until the store closes."""
        try:
            while not self._is_closing or self._waiting:
                await self._has_news.wait()
                self._has_news.clear()
                while self._waiting:
                    await self._write_batch()
        finally:
            self._is_closing = True
            self._settle(self._waiting, lambda: _closed_error(f"the store {self._path}"))
            try:
                await self._reader.close()
            finally:
                try:
                    await self._writer.close()
                finally:
                    self._has_closed.set()

    async def _write_batch(self) -> None:
        async with self._writer_lock:
            batch, self._waiting = self._waiting, []
            self._waiting_count = self._waiting_bytes = 0
            writes = [write for waiting in batch for write in waiting.writes]
            try:
                # No timeout: nobody can take back what the disk has begun. A lock held by another
                # process ends at BUSY_TIMEOUT_S.
                await self._writer.write(_statements(writes))
            except sqlite3.Error as exc:
                cause = exc
                self._settle(batch, lambda: storage_error(self._path, cause))
            except BaseException:
                # The store stops. What the writer's thread had begun, it still ends.
                self._settle(batch, lambda: _closed_error(f"the store {self._path}"))
                raise
            else:
                self._settle(batch, lambda: None)

    @staticmethod
    def _settle(batch: Sequence[_Waiting], error: Callable[[], GcosError | None]) -> None:
        """Wake the waiters of `batch`, each with an error of its own, except the cancelled."""
        for waiting in batch:
            if not waiting.done.done():
                exc = error()
                if exc is None:
                    waiting.done.set_result(None)
                else:
                    waiting.done.set_exception(exc)


class _Connection(aiosqlite.Connection):
    """A connection whose thread is waited for, however its use ends.

    aiosqlite stops the thread without waiting where connecting fails or a closing is cancelled. An
    event loop that closes meanwhile would make the thread die of its answer to it.
    """

    _stopped: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, path: Path, prepare: Callable[[aiosqlite.Connection], Awaitable[None]]
    ) -> "_Connection":
        """Connect to the file at `path` and let `prepare` set the connection up."""
        # No isolation level: the module would otherwise open transactions of its own.
        connect = partial(sqlite3.connect, path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        connection = cls(connect, iter_chunk_size=1)
        try:
            await connection
            await prepare(connection)
        except BaseException as exc:
            await connection.close()
            if isinstance(exc, sqlite3.Error):
                raise storage_error(path, exc) from exc
            raise
        return connection

    async def write(self, statements: Sequence[_Statement]) -> None:
        """Run statements, each for its rows, in one transaction.

        On the thread as a whole: each way to it and back costs as much as a row of its own, and
        half a millisecond where the cores are busy.
        """
        await self._execute(_write_all, self._conn, statements)  # type: ignore[no-untyped-call]

    def stop(self) -> asyncio.Future[None] | None:
        """Disconnect and end the thread after the statements under way, once."""
        if self._stopped is None:
            self._stopped = super().stop()
        return self._stopped

    async def close(self) -> None:
        """Wait until the thread is done; a cancelled call waits too, then is cancelled."""
        stopped = self.stop()
        assert stopped is not None, "an event loop runs"
        cancelled: asyncio.CancelledError | None = None
        while not stopped.done():
            try:
                await asyncio.shield(stopped)
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            raise cancelled


# Log rows have no index by key: it would touch a page of its own for nearly every row of a batch,
# which made a batch of 64 rows 2 to 3 times as dear. A reading by key walks the log instead, on the
# reader's thread: 28 ms for 100,000 rows.
_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT
    """,
    """
    CREATE TABLE IF NOT EXISTS records (
        table_name TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (table_name, key)
    ) STRICT
    """,
    """
    CREATE TABLE IF NOT EXISTS log_rows (
        log TEXT NOT NULL, sequence INTEGER NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (log, sequence)
    ) STRICT
    """,
)


# As a scalar subquery the numbering costs 0.5 us a row; an INSERT ... SELECT costs 2.3 us.
_APPEND = """
    INSERT INTO log_rows VALUES (
        ?, (SELECT coalesce(max(sequence), 0) + 1 FROM log_rows WHERE log = ?), ?, ?
    )
"""

_PUT = "INSERT INTO records VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value"

_DELETE = "DELETE FROM records WHERE table_name = ? AND key = ?"

_TRIM = """
    DELETE FROM log_rows WHERE log = ? AND sequence <= min(
        (SELECT max(sequence) FROM log_rows WHERE log = ?) - ?,
        (SELECT min(sequence) FROM log_rows WHERE log = ?) + ? - 1
    )
"""


async def _prepare_writer(
    path: Path, durability: Durability, connection: aiosqlite.Connection
) -> None:
    await _check_schema(path, connection)
    [[mode]] = await connection.execute_fetchall("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise WrongStateError(
            f"the file system of {path} does not support write-ahead logging",
            hint="put the data directory on a local file system",
        )
    await connection.execute(f"PRAGMA synchronous = {durability.value}")
    async with _transaction(connection):
        for statement in _SCHEMA:
            await connection.execute(statement)
        await connection.execute(
            "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,)
        )


async def _check_schema(path: Path, connection: aiosqlite.Connection) -> None:
    """Refuse a file that is not ours to write, before anything in it changes."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table'"
    names = [name for [name] in await connection.execute_fetchall(query)]
    if not names:
        return
    if "meta" not in names or "log_rows" not in names:
        raise WrongStateError(
            f"{path} is a database of another program", hint="choose another data directory"
        )
    query = "SELECT value FROM meta WHERE name = 'schema_version'"
    version = max([value for [value] in await connection.execute_fetchall(query)], default=0)
    if version > SCHEMA_VERSION:
        raise WrongStateError(
            f"{path} has schema version {version}, this program knows {SCHEMA_VERSION}",
            hint="run the newer version of GCOS that wrote it",
        )


async def _prepare_reader(connection: aiosqlite.Connection) -> None:
    await connection.execute("PRAGMA query_only = ON")


def _write_all(connection: sqlite3.Connection, statements: Sequence[_Statement]) -> None:
    """Run statements in one transaction; leave nothing behind on an error, a failed end included.

    On the connection's thread, where nothing can cancel it half way.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        for statement, rows in statements:
            connection.executemany(statement, rows)
        connection.commit()
    except BaseException:
        # Where no transaction is open, as after a full disk, it changes nothing.
        with suppress(sqlite3.Error):
            connection.rollback()
        raise


@asynccontextmanager
async def _transaction(connection: aiosqlite.Connection) -> AsyncIterator[None]:
    """Commit on leaving; leave nothing behind on an error, that of the commit included."""
    try:
        await connection.execute("BEGIN IMMEDIATE")
        yield
        await connection.commit()
    except BaseException:
        # A cancelled await stops no statement, it still runs on the connection's thread. The
        # rollback is queued behind it before it waits itself, so that a second cancellation cannot
        # prevent it. Where no transaction is open, as after a full disk, it changes nothing.
        with suppress(sqlite3.Error):
            await connection.rollback()
        raise


def _statements(writes: Sequence[Write]) -> list[_Statement]:
    """Return statements, each with the rows to run it for, that do what `writes` do in order.

    Logs and tables do not touch each other, and of the writes to one record the last one counts.
    """
    appends: list[tuple[str | bytes, ...]] = []
    records: dict[tuple[str, str], bytes | None] = {}
    for write in writes:
        match write:
            case Put(table, key, value):
                records[table, key] = value
            case Delete(table, key):
                records[table, key] = None
            case Append(log, key, value):
                # Numbered by the database: a memory of ours would be wrong after a rollback.
                appends.append((log, log, key, value))
    puts: list[tuple[str | bytes, ...]] = [
        (table, key, value) for (table, key), value in records.items() if value is not None
    ]
    deletes: list[tuple[str | bytes, ...]] = [
        record for record, value in records.items() if value is None
    ]
    return [
        (statement, rows)
        for statement, rows in ((_APPEND, appends), (_PUT, puts), (_DELETE, deletes))
        if rows
    ]


def storage_error(path: Path, error: sqlite3.Error) -> GcosError:
    """Return the error of our tree that says what befell the database at `path`."""
    # Extended codes keep the primary code in their low byte.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return ExhaustedError(f"the disk of {path} is full", hint="free some space on it")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return GcosError(
            f"{path} is damaged or no database: {error}",
            hint="restore it from a copy, or move it away to start empty",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return UnavailableError(
            f"another process holds {path}", hint="let one process at a time use it"
        )
    return UnavailableError(
        f"{path} cannot be used: {error}", hint="check that its directory exists and is writable"
    )


def _closed_error(what: str) -> UnavailableError:
    return UnavailableError(f"{what} is closed", hint="the process is shutting down")


def _check_page(*, after: int, limit: int) -> None:
    if not 0 <= after < 2**63:
        raise InvalidRequestError(f"{after} is no place in a log", field="after")
    if not 1 <= limit <= LOG_PAGE_COUNT_MAX:
        raise InvalidRequestError(
            f"a reading has 1 to {LOG_PAGE_COUNT_MAX} rows, not {limit}", field="limit"
        )


def _check_writes(writes: Sequence[Write]) -> int:
    """Return the bytes of `writes`; refuse what SQLite would, which would harm a whole batch."""
    size_bytes = 0
    for write in writes:
        match write:
            case Put(name, key, value) | Append(name, key, value):
                assert isinstance(value, bytes), "values are bytes"
                if len(value) > VALUE_BYTES_MAX:
                    raise TooLargeError(
                        f"{name}, {key}: a value has at most {VALUE_BYTES_MAX} bytes"
                    )
                size_bytes += _check_name(name) + _check_name(key) + len(value)
            case Delete(name, key):
                size_bytes += _check_name(name) + _check_name(key)
    if len(writes) > WAITING_WRITES_COUNT_MAX or size_bytes > WAITING_BYTES_MAX:
        raise TooLargeError(
            f"a commit has at most {WAITING_WRITES_COUNT_MAX} writes and {WAITING_BYTES_MAX} bytes"
        )
    return size_bytes


def _check_name(name: str) -> int:
    """Return the bytes of the name of a table or log, or of a key."""
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidRequestError(
            f"a stored name has at most {NAME_LENGTH_MAX} characters, not {len(name)}"
        )
    if name.isascii():
        return len(name)
    try:
        return len(name.encode())
    except UnicodeEncodeError as exc:
        raise InvalidRequestError(f"{name!r} is not valid Unicode") from exc
