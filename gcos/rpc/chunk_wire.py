"""Chunks of artifacts on the wire, without the copies that a message object makes.

A chunk is a `ReadFileResponse`: one field of bytes. Through a message object its megabyte is copied
into the object and out again at either side. Written and read by hand, it is copied once where it
is sent and never where it arrives. The bytes on the wire are those of protobuf, so that a peer in
another language sees an ordinary message.
"""

from typing import Final

from google.protobuf.message import DecodeError

from gcos.errors import InvalidRequestError
from gcos.v1.artifacts_pb2 import ReadFileResponse

#: Field 1, of which a length and that many bytes follow (protobuf encoding guide, wire type 2).
_DATA_TAG: Final = 0x0A
_VARINT_BYTES_MAX: Final = 10


def chunk_header(length_bytes: int) -> bytes:
    """Return what stands before a chunk of `length_bytes`, which is not empty."""
    assert length_bytes > 0, "an empty field is not written at all"
    header = bytearray((_DATA_TAG,))
    while length_bytes >= 0x80:
        header.append(length_bytes & 0x7F | 0x80)
        length_bytes >>= 7
    header.append(length_bytes)
    return bytes(header)


def chunk_of(message: bytes) -> memoryview:
    """Return the bytes of a chunk that arrived: a view of `message` wherever it is plain.

    Raises:
        InvalidRequestError: It is no valid message.
    """
    if message and message[0] == _DATA_TAG:
        length_bytes = 0
        for at, byte in enumerate(message[1:_VARINT_BYTES_MAX]):
            length_bytes |= (byte & 0x7F) << 7 * at
            if byte < 0x80:
                if at + 2 + length_bytes == len(message):
                    return memoryview(message)[at + 2 :]
                break
    # Fields that are unknown here, or written in another way.
    try:
        return memoryview(ReadFileResponse.FromString(message).data)
    except DecodeError as exc:
        raise InvalidRequestError("a chunk is no valid message") from exc
