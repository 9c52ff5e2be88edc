"""Lines of an output come whole and with their places, however it was cut into pieces."""

from hypothesis import given
from hypothesis import strategies as st

from gcos.cli.log_lines import LINE_BYTES_MAX, LineReader, LogLine
from gcos.client_records import LogPiece
from gcos.ids import RunId

RUN = RunId("de-1.1.1")


@given(st.lists(st.binary(max_size=20) | st.just(b"\n"), max_size=20))
def test_lines_do_not_depend_on_where_pieces_begin(pieces: list[bytes]) -> None:
    reader, lines, position = LineReader(), [], 0
    for data in pieces:
        lines += reader.take(LogPiece(RUN, position, data))
        position += len(data)
    lines += reader.end()
    whole = b"".join(pieces)
    wanted = [each.decode(errors="replace") for each in whole.split(b"\n")]
    assert [line.text for line in lines] == (wanted if wanted[-1] else wanted[:-1])
    starts = [0, *(index + 1 for index, byte in enumerate(whole) if byte == ord("\n"))]
    assert [line.offset_bytes for line in lines] == starts[: len(lines)]


def test_another_attempt_begins_its_own_line() -> None:
    reader, other = LineReader(), RunId("de-1.1.2")
    assert not reader.take(LogPiece(RUN, 0, b"cut o"))
    assert reader.take(LogPiece(other, 0, b"new\n")) == [
        LogLine(RUN, 0, "cut o"),
        LogLine(other, 0, "new"),
    ]


def test_a_line_without_an_end_is_told_in_parts() -> None:
    reader = LineReader()
    (line,) = reader.take(LogPiece(RUN, 0, b"x" * (LINE_BYTES_MAX + 5)))
    (rest,) = reader.end()
    assert (len(line.text), rest) == (LINE_BYTES_MAX, LogLine(RUN, LINE_BYTES_MAX, "xxxxx"))
