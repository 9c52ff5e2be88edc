"""Sources that claim, deliver, reject and fail in any order."""

from hypothesis import given
from hypothesis import strategies as st

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.ids import SiteId
from site_agent.chunk_board import SLOW_S_MIN, Arrived, ChunkBoard, Claim

A, B = SiteId("a"), SiteId("b")
DATA = memoryview(b"x")


def entries(*sizes: int) -> tuple[FileEntry, ...]:
    return tuple(FileEntry(f"f{n}", size, sha256="0" * 64) for n, size in enumerate(sizes))


def board(*sizes: int, window: int = 8 * CHUNK_BYTES, offset: int = 0) -> ChunkBoard:
    return ChunkBoard(entries(*sizes), file_index=0, offset_bytes=offset, window_bytes=window)


def deliver_all(held: ChunkBoard, claim: Claim) -> None:
    for place in range(len(claim.chunks)):
        held.deliver(claim, place, DATA)
    held.release(claim, now_s=0.0)


def places(gone: list[Arrived]) -> list[tuple[int, int, int]]:
    return [(e.chunk.file_index, e.chunk.offset_bytes, e.chunk.size_bytes) for e in gone]


def test_files_are_claimed_in_order_and_empty_ones_passed_over() -> None:
    held = board(0, CHUNK_BYTES + 1, 0, 5)
    first = held.claim(A, 4 * CHUNK_BYTES, now_s=0.0)
    second = held.claim(B, 4 * CHUNK_BYTES, now_s=0.0)
    assert first is not None
    assert second is not None
    assert (first.offset_bytes, first.size_bytes) == (0, CHUNK_BYTES + 1)
    assert (second.chunks[0].file_index, second.size_bytes) == (3, 5)
    assert held.claim(A, CHUNK_BYTES, now_s=0.0) is None
    deliver_all(held, second)
    assert held.leave(1 << 30) == [], "what is before it is missing"
    deliver_all(held, first)
    assert places(held.leave(1 << 30)) == [(1, 0, CHUNK_BYTES), (1, CHUNK_BYTES, 1)]
    assert places(held.leave(1 << 30)) == [(3, 0, 5)]
    assert held.is_all_here


def test_no_more_than_the_window_is_claimed_and_leaving_makes_room() -> None:
    held = board(10 * CHUNK_BYTES, window=2 * CHUNK_BYTES)
    claims = [held.claim(A, CHUNK_BYTES, now_s=0.0) for _ in range(3)]
    assert claims[2] is None
    assert claims[0] is not None
    deliver_all(held, claims[0])
    held.leave(1 << 30)
    assert held.claim(A, CHUNK_BYTES, now_s=0.0) is not None


def test_what_a_source_gives_back_is_claimed_before_anything_new() -> None:
    held = board(10 * CHUNK_BYTES)
    claim = held.claim(A, 3 * CHUNK_BYTES, now_s=0.0)
    assert claim is not None
    held.deliver(claim, 0, DATA)
    held.release(claim, now_s=1.0)
    again = held.claim(B, CHUNK_BYTES, now_s=1.0)
    assert again is not None
    assert (again.offset_bytes, again.size_bytes) == (CHUNK_BYTES, 2 * CHUNK_BYTES)


def test_a_chunk_that_came_wrong_is_asked_of_another_source_alone() -> None:
    held = board(3 * CHUNK_BYTES)
    claim = held.claim(A, 3 * CHUNK_BYTES, now_s=0.0)
    assert claim is not None
    held.deliver(claim, 0, DATA)
    held.reject(claim, 1)
    held.deliver(claim, 2, DATA)
    held.release(claim, now_s=0.0)
    assert held.claim(A, CHUNK_BYTES, now_s=0.0) is None
    assert held.stuck_chunk([A]) is not None
    assert held.stuck_chunk([A, B]) is None
    again = held.claim(B, 3 * CHUNK_BYTES, now_s=0.0)
    assert again is not None
    assert (again.offset_bytes, again.size_bytes) == (CHUNK_BYTES, CHUNK_BYTES)


def test_a_slow_source_shares_its_range_and_the_first_one_wins() -> None:
    held = board(2 * CHUNK_BYTES)
    slow = held.claim(A, 2 * CHUNK_BYTES, now_s=0.0)
    assert slow is not None
    assert held.claim(B, CHUNK_BYTES, now_s=SLOW_S_MIN / 2) is None
    assert held.next_slow_s(B) == SLOW_S_MIN
    assert held.next_slow_s(A) is None
    assert held.claim(A, CHUNK_BYTES, now_s=SLOW_S_MIN) is None, "not from itself"
    quick = held.claim(B, CHUNK_BYTES, now_s=SLOW_S_MIN)
    assert quick is not None
    assert held.deliver(quick, 0, DATA) == []
    assert held.deliver(quick, 1, DATA) == [slow]
    assert slow.is_over
    held.deliver(slow, 0, memoryview(b"late"))
    assert [each.source for each in held.leave(1 << 30)] == [B, B]


@given(
    sizes=st.lists(st.integers(0, 5 * CHUNK_BYTES), min_size=1, max_size=6),
    window_chunks=st.integers(1, 8),
    data=st.data(),
)
def test_every_byte_leaves_once_and_in_order_whatever_sources_do(
    sizes: list[int], window_chunks: int, data: st.DataObject
) -> None:
    held = board(*sizes, window=window_chunks * CHUNK_BYTES)
    now_s, claims, gone = 0.0, list[Claim](), list[tuple[int, int, int]]()
    for _ in range(200):
        now_s += 0.4
        move = data.draw(st.sampled_from(["claim", "deliver", "drop"]))
        if move == "claim":
            source = data.draw(st.sampled_from([A, B]))
            claim = held.claim(source, data.draw(st.integers(1, 3)) * CHUNK_BYTES, now_s=now_s)
            claims += [] if claim is None else [claim]
        elif claims:
            claim = claims.pop(data.draw(st.integers(0, len(claims) - 1)))
            end = len(claim.chunks) if move == "deliver" else 0
            for place in range(end):
                held.deliver(claim, place, DATA)
            held.release(claim, now_s=now_s)
        gone += places(held.leave(data.draw(st.integers(1, 4)) * CHUNK_BYTES))
        assert held._claimed_bytes <= max(held.window_bytes, 3 * CHUNK_BYTES)
    while not held.is_all_here or held._ranges:
        for claim in claims:
            deliver_all(held, claim)
        claims = [c for c in [held.claim(A, CHUNK_BYTES, now_s=now_s)] if c is not None]
        gone += places(held.leave(1 << 30))
    expected = [
        (index, at, min(CHUNK_BYTES, size - at))
        for index, size in enumerate(sizes)
        for at in range(0, size, CHUNK_BYTES)
    ]
    assert gone == expected


def test_a_file_that_is_here_is_not_claimed() -> None:
    held = ChunkBoard(
        entries(5, 6, 7),
        file_index=0,
        offset_bytes=0,
        window_bytes=CHUNK_BYTES,
        is_here=lambda file_index: file_index == 1,
    )
    claims = [held.claim(A, CHUNK_BYTES, now_s=0.0) for _ in range(3)]
    assert [claim.chunks[0].file_index for claim in claims if claim is not None] == [0, 2]
