import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gcos.artifacts import CHUNK_BYTES
from gcos.errors import InvalidRequestError
from gcos.rpc.chunk_wire import chunk_header, chunk_of
from gcos.v1.artifacts_pb2 import ReadFileResponse


@pytest.mark.parametrize("size", [1, 127, 128, 16_383, 16_384, CHUNK_BYTES])
def test_what_is_written_by_hand_is_what_protobuf_writes(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert (
        chunk_header(size) + data[:size] == ReadFileResponse(data=data[:size]).SerializeToString()
    )


@given(st.binary(max_size=70_000))
def test_a_message_of_protobuf_is_read(data: bytes) -> None:
    assert chunk_of(ReadFileResponse(data=data).SerializeToString()) == data


def test_a_plain_chunk_is_not_copied() -> None:
    message = chunk_header(5) + b"bytes"
    assert chunk_of(message).obj is message


def test_fields_of_a_later_version_are_skipped() -> None:
    plain = ReadFileResponse(data=b"bytes").SerializeToString()
    assert bytes(chunk_of(b"\x10\x07" + plain)) == b"bytes"
    assert bytes(chunk_of(plain + b"\x10\x07")) == b"bytes"
    assert bytes(chunk_of(b"")) == b""


@given(st.binary(max_size=64))
@example(b"\n")
@example(b"\n\x80")
@example(b"\n\x80\x00")
def test_any_bytes_are_read_as_protobuf_reads_them_or_refused(message: bytes) -> None:
    try:
        expected = ReadFileResponse.FromString(message).data
    except Exception:
        with pytest.raises(InvalidRequestError):
            chunk_of(message)
    else:
        assert chunk_of(message) == expected
