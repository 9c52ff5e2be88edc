"""Tails of outputs are short, begin where they say, and cut no line or character needlessly."""

from hypothesis import given
from hypothesis import strategies as st

from gcos.log_tails import TAIL_BYTES_MAX, LogTail, tail_of


@given(st.binary(max_size=3 * TAIL_BYTES_MAX), st.integers(0, TAIL_BYTES_MAX))
def test_a_tail_is_bounded_and_sane_whatever_was_written(output: bytes, more: int) -> None:
    tail = tail_of(output, end_bytes=len(output) + more)
    assert tail.is_sane
    assert tail.end_bytes == len(output) + more


@given(st.lists(st.text(st.characters(exclude_characters="\n\0"), max_size=30), max_size=200))
def test_a_tail_of_text_is_the_end_of_it_and_begins_with_a_line(lines: list[str]) -> None:
    output = "".join(f"{line}\n" for line in lines).encode(errors="replace")
    tail = tail_of(output[-TAIL_BYTES_MAX:], end_bytes=len(output))
    assert tail.text.encode() == output[tail.offset_bytes :]
    assert tail.offset_bytes == 0 or output[tail.offset_bytes - 1 : tail.offset_bytes] == b"\n"


def test_a_long_line_is_cut_between_characters() -> None:
    output = ("x" + "\u20ac" * TAIL_BYTES_MAX).encode()
    tail = tail_of(output, end_bytes=len(output))
    assert set(tail.text) == {"\u20ac"}
    assert tail.text.encode() == output[tail.offset_bytes :]


def test_what_no_peer_can_mean_is_not_sane() -> None:
    assert not LogTail(-1, 3, "abcd").is_sane
    assert not LogTail(4, 3, "").is_sane
    assert not LogTail(0, 9000, "\u20ac" * TAIL_BYTES_MAX).is_sane
