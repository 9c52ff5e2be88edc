"""Sources of unlike rates share the window of one download, in virtual time."""

import heapq

import pytest

from gcos.artifacts import CHUNK_BYTES, FileEntry
from gcos.ids import SiteId
from site_agent.chunk_board import ChunkBoard, Claim
from site_agent.source_shares import ASKED_RATIO, FIRST_BYTES, SourceShares

A, B = SiteId("a"), SiteId("b")
WINDOW_BYTES = 24 * CHUNK_BYTES
CHUNK_COUNT = 400
DATA = memoryview(bytes(CHUNK_BYTES))


def duration_s(chunks_per_s: dict[SiteId, float], *, worker_count: int = 8) -> float:
    """Return when a file is here whose sources send chunk after chunk, each at its rate."""
    file = FileEntry("f", CHUNK_COUNT * CHUNK_BYTES, sha256="0" * 64)
    board = ChunkBoard((file,), file_index=0, offset_bytes=0, window_bytes=WINDOW_BYTES)
    now_s, order = 0.0, 0
    free_s = dict.fromkeys(chunks_per_s, 0.0)
    working = dict.fromkeys(chunks_per_s, 0)
    arrivals: list[tuple[float, int, Claim, int]] = []
    while not (board.is_all_here and not arrivals):
        for source, rate in chunks_per_s.items():
            while working[source] < worker_count:
                claim = board.claim(source, CHUNK_BYTES, now_s=now_s)
                if claim is None:
                    break
                working[source] += 1
                for place in range(len(claim.chunks)):
                    free_s[source] = max(free_s[source], now_s) + 1 / rate
                    order += 1
                    heapq.heappush(arrivals, (free_s[source], order, claim, place))
        now_s, _, claim, place = heapq.heappop(arrivals)
        board.deliver(claim, place, DATA)
        if place == len(claim.chunks) - 1:
            board.release(claim, now_s=now_s)
            working[claim.source] -= 1
        board.leave(1 << 40)
        if board.is_all_here:
            return now_s
    return now_s


def test_two_equal_sources_take_half_the_time_of_one() -> None:
    assert duration_s({A: 30.0}) == pytest.approx(CHUNK_COUNT / 30)
    assert duration_s({A: 30.0, B: 30.0}) < 1.05 * CHUNK_COUNT / 60


@pytest.mark.parametrize("rate", [3.0, 6.0, 10.0, 15.0])
def test_a_slow_source_beside_a_fast_one_never_slows_it_down(rate: float) -> None:
    for order in ({A: 30.0, B: rate}, {B: rate, A: 30.0}):
        assert duration_s(order) < 1.02 * CHUNK_COUNT / 30


def test_one_source_may_hold_all_of_the_window_and_several_their_parts() -> None:
    shares = SourceShares()
    shares.join(A)
    assert shares.room_bytes(A, WINDOW_BYTES) == WINDOW_BYTES
    shares.join(B)
    assert shares.room_bytes(A, WINDOW_BYTES) == FIRST_BYTES, "nothing has come yet"
    for _ in range(100):
        shares.delivered(A, CHUNK_BYTES)
        shares.delivered(B, CHUNK_BYTES)
    shares.asked(A, CHUNK_BYTES)
    half_bytes = int(WINDOW_BYTES * ASKED_RATIO / 2)
    nearly = CHUNK_BYTES // 4  # A's last chunk came before B's
    assert shares.room_bytes(A, WINDOW_BYTES) == pytest.approx(half_bytes - CHUNK_BYTES, abs=nearly)
    assert shares.room_bytes(B, WINDOW_BYTES) == pytest.approx(half_bytes, abs=nearly)


def test_a_source_with_nothing_asked_may_always_ask_for_a_chunk() -> None:
    shares = SourceShares()
    shares.join(A)
    shares.join(B)
    for _ in range(1000):
        shares.delivered(A, CHUNK_BYTES)
    assert shares.room_bytes(B, WINDOW_BYTES) == CHUNK_BYTES
    shares.asked(B, CHUNK_BYTES)
    assert shares.room_bytes(B, WINDOW_BYTES) == 0


def test_the_part_of_a_source_that_failed_goes_to_the_others() -> None:
    shares = SourceShares()
    shares.join(A)
    shares.join(B)
    shares.leave(B)
    shares.asked(B, -CHUNK_BYTES)
    shares.delivered(B, CHUNK_BYTES)
    assert shares.room_bytes(A, WINDOW_BYTES) == WINDOW_BYTES
