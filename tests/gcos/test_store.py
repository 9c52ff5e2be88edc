import asyncio
import resource
import sqlite3
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcos import store as store_module
from gcos.errors import (
    ExhaustedError,
    GcosError,
    InvalidRequestError,
    TooLargeError,
    UnavailableError,
    WrongStateError,
)
from gcos.store import (
    LOG_PAGE_COUNT_MAX,
    NAME_LENGTH_MAX,
    SCHEMA_VERSION,
    TRIM_COUNT_MAX,
    VALUE_BYTES_MAX,
    WAITING_BYTES_MAX,
    WAITING_WRITES_COUNT_MAX,
    Append,
    Delete,
    Durability,
    LogEntry,
    MemoryStore,
    Put,
    SqliteStore,
    Store,
    Write,
    storage_error,
)


@asynccontextmanager
async def memory_store() -> AsyncIterator[Store]:
    yield MemoryStore()


def appended(count: int, *, log: str = "journal", key: str = "k") -> list[Append]:
    return [Append(log, key=key, value=b"%d" % number) for number in range(1, count + 1)]


async def sequences(store: Store, log: str = "journal") -> list[int]:
    return [entry.sequence for entry in await store.read_log(log)]


class StoreSuite(ABC):
    """What every store does; a subclass says how to open one."""

    @abstractmethod
    def opened(self, directory: Path) -> AbstractAsyncContextManager[Store]:
        """Return an empty store that closes on leaving."""

    async def test_a_table_is_loaded_in_the_order_of_its_keys(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            keys = ["b", "a", "é", "Z", "\U0001f600", "\uffff", "", "a\x00b"]
            await store.commit([Put("tasks", key=key, value=key.encode()) for key in keys])
            await store.commit([Put("other", key="x", value=b"")])
            assert list((await store.load("tasks")).items()) == [
                (key, key.encode()) for key in sorted(keys)
            ]
            assert await store.load("absent") == {}

    async def test_later_writes_of_a_commit_see_earlier_ones(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.commit([])
            await store.commit([Put("t", key="a", value=b"1"), Put("t", key="b", value=b"1")])
            await store.commit(
                [
                    Put("t", key="a", value=b"2"),
                    Delete("t", key="b"),
                    Put("t", key="c", value=b"1"),
                    Delete("t", key="c"),
                    Put("t", key="c", value=b"2"),
                    Delete("t", key="absent"),
                    Delete("absent", key="a"),
                ]
            )
            assert await store.load("t") == {"a": b"2", "c": b"2"}

    async def test_each_log_is_numbered_from_one_without_gaps(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.commit([Append("x", key="a", value=b"1"), Append("y", key="a", value=b"2")])
            await store.commit([Append("x", key="b", value=b"3"), Append("x", key="a", value=b"4")])
            first, second = LogEntry(1, key="a", value=b"1"), LogEntry(2, key="b", value=b"3")
            third = LogEntry(3, key="a", value=b"4")
            assert await store.read_log("x") == [first, second, third]
            assert await store.read_log("x", "a") == [first, third]
            assert await store.read_log("x", after=1) == [second, third]
            assert await store.read_log("x", after=1, limit=1) == [second]
            assert await store.read_log("x", "a", after=1, limit=1) == [third]
            assert await store.read_log("y") == [LogEntry(1, key="a", value=b"2")]
            assert await store.read_log("absent") == []

    async def test_trimming_keeps_the_newest_rows_and_the_numbering(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.commit([*appended(5), *appended(2, log="other")])
            await store.trim_log("journal", keep=9)
            assert await sequences(store) == [1, 2, 3, 4, 5]
            await store.trim_log("journal", keep=2)
            assert await sequences(store) == [4, 5]
            await store.trim_log("journal", keep=1)
            await store.trim_log("absent", keep=1)
            await store.commit(appended(2))
            assert await sequences(store) == [5, 6, 7]
            assert await sequences(store, "other") == [1, 2]

    async def test_a_long_log_is_trimmed_whole(self, tmp_path: Path) -> None:
        count = 2 * TRIM_COUNT_MAX + 3
        async with self.opened(tmp_path) as store:
            await store.commit(appended(count))
            await store.trim_log("journal", keep=3)
            assert await sequences(store) == [count - 2, count - 1, count]

    @pytest.mark.parametrize(
        ("bad", "error"),
        [
            (Put("t", key="\ud800", value=b""), InvalidRequestError),
            (Append("\ud800", key="a", value=b""), InvalidRequestError),
            (Delete("t", key="x" * (NAME_LENGTH_MAX + 1)), InvalidRequestError),
            (Put("t", key="a", value=bytes(VALUE_BYTES_MAX + 1)), TooLargeError),
        ],
    )
    async def test_an_invalid_write_spoils_its_own_commit_and_no_other(
        self, tmp_path: Path, bad: Write, error: type[GcosError]
    ) -> None:
        async with self.opened(tmp_path) as store:

            async def refused() -> None:
                with pytest.raises(error):
                    await store.commit([Put("t", key="lost", value=b""), bad])

            async with asyncio.TaskGroup() as group:
                group.create_task(store.commit([Put("t", key="before", value=b"")]))
                group.create_task(refused())
                group.create_task(store.commit([Put("t", key="later", value=b"")]))
            assert list(await store.load("t")) == ["before", "later"]

    async def test_a_commit_has_a_largest_size(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            with pytest.raises(TooLargeError):
                await store.commit(appended(WAITING_WRITES_COUNT_MAX + 1))
            big = Put("t", key="a", value=bytes(VALUE_BYTES_MAX))
            with pytest.raises(TooLargeError):
                await store.commit([big] * (WAITING_BYTES_MAX // VALUE_BYTES_MAX))

    @pytest.mark.parametrize(
        ("after", "limit"), [(-1, 1), (2**63, 1), (0, 0), (0, LOG_PAGE_COUNT_MAX + 1)]
    )
    async def test_a_page_out_of_range_is_refused(
        self, tmp_path: Path, after: int, limit: int
    ) -> None:
        async with self.opened(tmp_path) as store:
            with pytest.raises(InvalidRequestError):
                await store.read_log("journal", after=after, limit=limit)

    async def test_a_closed_store_refuses_everything(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.close()
            await store.close()
            for refused in (
                store.commit([Put("t", key="a", value=b"")]),
                store.load("t"),
                store.read_log("journal"),
                store.trim_log("journal", keep=1),
            ):
                with pytest.raises(UnavailableError, match="closed"):
                    await refused


class TestMemoryStore(StoreSuite):
    def opened(self, directory: Path) -> AbstractAsyncContextManager[Store]:
        return memory_store()


class TestSqliteStore(StoreSuite):
    durability: ClassVar[Durability] = Durability.FULL

    def opened(self, directory: Path) -> AbstractAsyncContextManager[Store]:
        return SqliteStore.open(directory / "store.db", durability=self.durability)


class TestSqliteStoreOfCacheBooks(TestSqliteStore):
    durability = Durability.NORMAL


names = st.sampled_from(["", "a", "b", "é"])
writes = st.lists(
    st.builds(Put, names, key=names, value=st.binary(max_size=3))
    | st.builds(Delete, names, key=names)
    | st.builds(Append, names, key=names, value=st.binary(max_size=3)),
    max_size=6,
)
#: Commits, and trims as the number of rows to keep.
histories = st.lists(writes | st.integers(1, 4), max_size=8)


@settings(deadline=None, max_examples=40)
@given(histories)
def test_both_stores_hold_the_same_after_any_history(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[Write] | int]
) -> None:
    async def replay(store: Store) -> None:
        for step in history:
            if isinstance(step, int):
                await store.trim_log("a", keep=step)
            else:
                await store.commit(step)

    async def contents(store: Store) -> list[object]:
        return [
            (list((await store.load(name)).items()), await store.read_log(name))
            for name in ["", "a", "b", "é"]
        ]

    async def compare() -> None:
        path = tmp_path_factory.mktemp("store") / "store.db"
        memory = MemoryStore()
        await replay(memory)
        async with SqliteStore.open(path, durability=Durability.NORMAL) as store:
            await replay(store)
            assert await contents(store) == await contents(memory)
        async with SqliteStore.open(path, durability=Durability.NORMAL) as store:
            assert await contents(store) == await contents(memory)

    asyncio.run(compare())


def commit_frames(path: Path) -> int:
    """Return how many transactions the write-ahead log of `path` holds.

    A frame that ends a transaction carries the size of the database, others carry 0; see "WAL Frame
    Header" in https://www.sqlite.org/fileformat2.html.
    """
    wal = path.with_name(f"{path.name}-wal").read_bytes()
    page_bytes = int.from_bytes(wal[8:12])
    frames = range(32, len(wal), 24 + page_bytes)
    return sum(wal[start + 4 : start + 8] != bytes(4) for start in frames)


async def test_commits_that_wait_together_share_one_transaction(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store:
        before = commit_frames(path)
        async with asyncio.TaskGroup() as group:
            for append in appended(64):
                group.create_task(store.commit([append]))
        assert await sequences(store) == list(range(1, 65))
        assert commit_frames(path) == before + 1


async def test_a_full_waiting_room_sheds_the_newcomer(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store.db") as store:
        async with asyncio.TaskGroup() as group:
            group.create_task(store.commit(appended(WAITING_WRITES_COUNT_MAX)))
            refused = group.create_task(raised_by(store, appended(1)))
        assert isinstance(refused.result(), ExhaustedError)
        assert len(await sequences(store)) == WAITING_WRITES_COUNT_MAX
        await store.commit(appended(1))


async def test_waiting_bytes_are_bounded_too(tmp_path: Path) -> None:
    big = Put("t", key="a", value=bytes(VALUE_BYTES_MAX))
    async with SqliteStore.open(tmp_path / "store.db", durability=Durability.NORMAL) as store:
        async with asyncio.TaskGroup() as group:
            group.create_task(store.commit([big] * (WAITING_BYTES_MAX // VALUE_BYTES_MAX - 1)))
            refused = group.create_task(raised_by(store, [big]))
        assert isinstance(refused.result(), ExhaustedError)


async def raised_by(store: Store, writes: list[Append] | list[Put]) -> GcosError | None:
    try:
        await store.commit(writes)
    except GcosError as exc:
        return exc
    return None


async def test_a_cancelled_waiter_cancels_nobody_and_is_still_written(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store.db") as store:
        async with asyncio.TaskGroup() as group:
            waiters = [group.create_task(store.commit([append])) for append in appended(3)]
            await asyncio.sleep(0)
            waiters[1].cancel()
        assert [waiter.cancelled() for waiter in waiters] == [False, True, False]
        assert await sequences(store) == [1, 2, 3]


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store, asyncio.TaskGroup() as group:
        group.create_task(store.commit(appended(1)))
        await asyncio.sleep(0)
        await store.close()
    async with SqliteStore.open(path) as store:
        assert await sequences(store) == [1]


@pytest.mark.parametrize("cancel_count", [1, 2, 3])
async def test_an_owner_cancelled_while_it_commits_leaves_a_closed_store_and_no_half(
    tmp_path: Path, cancel_count: int
) -> None:
    """One cancellation lets the commit finish; more interrupt the closing itself."""
    path = tmp_path / "store.db"
    opened = asyncio.Event()
    stores: list[SqliteStore] = []

    async def own() -> None:
        async with SqliteStore.open(path) as store:
            stores.append(store)
            opened.set()
            await store.commit(appended(2))

    async with asyncio.TaskGroup() as group:
        owner = group.create_task(own())
        await opened.wait()
        for _ in range(cancel_count):
            await asyncio.sleep(0)
            owner.cancel()
    assert owner.cancelled()
    with pytest.raises(UnavailableError):
        await stores[0].load("t")
    async with SqliteStore.open(path) as store:
        possible = ([1, 2],) if cancel_count == 1 else ([], [1, 2])
        assert await sequences(store) in possible


@pytest.mark.parametrize("turn_count", range(0, 40, 3))
async def test_a_store_cut_off_at_any_turn_leaves_whole_commits(
    tmp_path: Path, turn_count: int
) -> None:
    path = tmp_path / "store.db"

    async def own() -> None:
        async with SqliteStore.open(path) as store:
            while True:
                await store.commit([*appended(3), Put("t", key="a", value=b"")])

    async with asyncio.TaskGroup() as group:
        owner = group.create_task(own())
        for _ in range(turn_count):
            await asyncio.sleep(0)
        for _ in range(3):
            owner.cancel()
            await asyncio.sleep(0)
    assert owner.cancelled()
    async with SqliteStore.open(path) as store:
        assert len(await sequences(store)) % 3 == 0
        await store.commit(appended(1))


@contextmanager
def held_by_another(path: Path) -> Iterator[sqlite3.Connection]:
    """Let the store wait for the file until the yielded connection rolls back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def let_others_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_batch_cut_off_at_its_begin_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    opened, held = asyncio.Event(), asyncio.Event()

    async def own() -> None:
        async with SqliteStore.open(path) as store:
            opened.set()
            await held.wait()
            await store.commit(appended(2))

    async with asyncio.TaskGroup() as group:
        owner = group.create_task(own())
        await opened.wait()
        with held_by_another(path) as other:
            held.set()
            await let_others_run()
            for _ in range(2):
                owner.cancel()
                await let_others_run()
            other.execute("ROLLBACK")
    async with SqliteStore.open(path) as store:
        await store.commit(appended(1))
        assert await sequences(store) == [1, 2, 3]


async def test_a_cancelled_trim_leaves_the_writer_to_others(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store, asyncio.TaskGroup() as group:
        await store.commit(appended(3))
        with held_by_another(path) as other:
            trim = group.create_task(store.trim_log("journal", keep=1))
            await let_others_run()
            trim.cancel()
            commit = group.create_task(store.commit(appended(1)))
            await let_others_run()
            other.execute("ROLLBACK")
        await commit
        assert trim.cancelled()
        assert await sequences(store) == [3, 4]


async def test_a_trim_that_waits_while_the_store_closes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"

    async def refused(store: Store) -> None:
        with pytest.raises(UnavailableError, match="closed"):
            await store.trim_log("journal", keep=1)

    async with SqliteStore.open(path) as store, asyncio.TaskGroup() as group:
        with held_by_another(path) as other:
            group.create_task(store.commit(appended(2)))
            await let_others_run()
            group.create_task(refused(store))
            group.create_task(store.close())
            await let_others_run()
            other.execute("ROLLBACK")
    async with SqliteStore.open(path) as store:
        assert await sequences(store) == [1, 2]


async def test_trims_and_commits_take_turns(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store.db") as store:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(store.commit(appended(3)))
                group.create_task(store.trim_log("journal", keep=1))
                await asyncio.sleep(0)
        await store.trim_log("journal", keep=1)
        assert await sequences(store) == [60]


async def test_closing_ends_the_threads_of_the_store(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    async with SqliteStore.open(tmp_path / "store.db") as store:
        ours = set(threading.enumerate()) - before
        assert len(ours) == 2
        await store.close()
        for thread in ours:
            thread.join(timeout=10)
        assert not any(thread.is_alive() for thread in ours)


def test_no_thread_outlives_a_loop_whose_store_could_not_be_opened(tmp_path: Path) -> None:
    """A thread that outlived its loop would fail to answer, which pytest makes an error."""

    async def fail() -> None:
        with pytest.raises(UnavailableError):
            async with SqliteStore.open(tmp_path / "absent" / "store.db"):
                pass

    for _ in range(20):
        asyncio.run(fail())


async def test_an_error_of_the_owner_passes_unwrapped(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with SqliteStore.open(tmp_path / "store.db"):
            raise ZeroDivisionError


@contextmanager
def files_limited(size_bytes: int) -> Iterator[None]:
    """Let this process extend no file beyond `size_bytes`, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_failing_disk_is_told_to_every_waiter_and_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store:
        await store.commit(appended(1))
        wal_bytes = path.with_name("store.db-wal").stat().st_size
        with files_limited(wal_bytes + 20_000):
            async with asyncio.TaskGroup() as group:
                failing = [
                    group.create_task(raised_by(store, [*appended(1), *big_puts(count)]))
                    for count in (0, 1, 8)
                ]
        assert [type(waiter.result()) for waiter in failing] == [UnavailableError] * 3
        assert await sequences(store) == [1]
        await store.commit(appended(1))
        assert await sequences(store) == [1, 2]
        assert await store.load("t") == {}


async def test_a_statement_that_fails_midway_undoes_its_whole_batch(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store:
        with closing(sqlite3.connect(path)) as other:
            other.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON records WHEN new.key = 'bad'"
                " BEGIN SELECT raise(ABORT, 'refused'); END"
            )
        writes = [*appended(2), Put("t", key="a", value=b""), Put("t", key="bad", value=b"")]
        with pytest.raises(UnavailableError, match="refused"):
            await store.commit(writes)
        await store.commit(appended(1))
        assert await sequences(store) == [1]
        assert await store.load("t") == {}


def big_puts(count: int) -> list[Append]:
    return [Append("big", key="k", value=bytes(10_000)) for _ in range(count)]


def test_a_full_database_is_told_as_exhaustion() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA max_page_count = 2")
        connection.execute("CREATE TABLE t (value BLOB)")
        with pytest.raises(sqlite3.OperationalError) as caught:
            connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    error = storage_error(Path("/data/store.db"), caught.value)
    assert isinstance(error, ExhaustedError)
    assert "/data/store.db is full" in str(error)


async def test_another_writer_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.0)
    path = tmp_path / "store.db"
    async with SqliteStore.open(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(UnavailableError, match="another process holds"):
                await store.commit(appended(1))
        await store.commit(appended(1))
        assert await sequences(store) == [1]


@pytest.mark.parametrize("content", [b"no database at all, " * 100, b"SQLite format 3\x00" * 500])
async def test_a_damaged_file_is_refused_by_path_and_next_step(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    with pytest.raises(GcosError, match=f"{path} is damaged or no database.*restore it"):
        async with SqliteStore.open(path):
            pass
    assert path.read_bytes() == content


async def test_a_file_that_cannot_be_opened_is_refused_by_path(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "store.db"
    with pytest.raises(UnavailableError, match=f"{path} cannot be used.*directory exists"):
        async with SqliteStore.open(path):
            pass


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SqliteStore.open(path):
        pass
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE meta SET value = value + 1")
    with pytest.raises(WrongStateError, match=f"schema version {SCHEMA_VERSION + 1}.*newer"):
        async with SqliteStore.open(path):
            pass


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE meta (x)")
    content = path.read_bytes()
    with pytest.raises(WrongStateError, match="another program"):
        async with SqliteStore.open(path):
            pass
    assert path.read_bytes() == content


COMMITTER = """
import asyncio, sys
from pathlib import Path
from gcos.store import Append, Put, SqliteStore

async def commit_forever(store, key):
    number = 0
    while True:
        number += 1
        value = b"%d" % number
        await store.commit([Append("journal", key=key, value=value), Put("last", key, value)])
        print(key, number, flush=True)

async def main():
    async with SqliteStore.open(Path(sys.argv[1])) as store, asyncio.TaskGroup() as group:
        for key in "abcdefgh":
            group.create_task(commit_forever(store, key))

asyncio.run(main())
"""


def acknowledged_before_kill(path: Path, *, count: int) -> dict[str, int]:
    """Kill a committing process after `count` acknowledgements; return the last of each key."""
    command = [sys.executable, "-c", COMMITTER, str(path)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True
    ) as committer:
        assert committer.stdout is not None
        lines = [committer.stdout.readline() for _ in range(count)]
        committer.kill()
        lines += [line for line in committer.stdout if line.endswith("\n")]
    pairs = [line.split() for line in lines]
    return {key: int(number) for key, number in pairs}


@pytest.mark.parametrize("count", [1, 100, 400])
async def test_every_acknowledged_commit_survives_a_killed_process(
    tmp_path: Path, count: int
) -> None:
    path = tmp_path / "store.db"
    acknowledged = acknowledged_before_kill(path, count=count)
    async with SqliteStore.open(path) as store:
        last = await store.load("last")
        for key, number in acknowledged.items():
            stored = [int(entry.value) for entry in await store.read_log("journal", key)]
            assert stored == list(range(1, len(stored) + 1))
            assert len(stored) >= number
            assert int(last[key]) == stored[-1]
