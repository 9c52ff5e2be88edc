"""JSON of our frozen dataclasses, for journals and stored records.

Enums are stored by value, tuples as arrays, bytes as base64. Reading is tolerant in both directions
of time: a field that a newer version added takes its default, one that it dropped is ignored; so a
field added to a stored record needs a default. Numpy arrays are not stored.
"""

import re
from typing import Final, TypeVar

import msgspec

from gcos.errors import GcosError, InvalidRequestError

RecordT = TypeVar("RecordT")

#: A number of 64 bits in MessagePack, 0xcb and big-endian IEEE 754, whose exponent is all ones.
_NOT_FINITE: Final = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")


def encode(record: object) -> bytes:
    """Return the JSON of a dataclass instance, in UTF-8.

    Raises:
        InvalidRequestError: A value has no JSON: a float that is not finite, or text that is not
            valid Unicode.
    """
    try:
        document = msgspec.json.encode(record)
    except ValueError as exc:
        raise InvalidRequestError(f"{type(record).__name__} has no JSON: {exc}") from exc
    # msgspec writes NaN and infinity as null, which would be noticed at the next start, when it is
    # too late. MessagePack keeps them, at a third of the price of reading a document back, which is
    # left to those that have one, or bytes that look like one.
    if b"null" in document and _may_lose_a_number(record):
        _check_readable(record, document)
    return document


def decode(cls: type[RecordT], document: bytes) -> RecordT:
    """Return the record of class `cls` that `encode` made into `document`.

    Raises:
        GcosError: The document is no JSON or does not fit `cls`; the message names the place.
    """
    try:
        return msgspec.json.decode(document, type=cls)
    except msgspec.DecodeError as exc:
        raise GcosError(
            f"a stored {cls.__name__} cannot be read: {exc}",
            hint="it was written by an incompatible version, or the file is damaged",
        ) from exc


def _may_lose_a_number(record: object) -> bool:
    try:
        return _NOT_FINITE.search(msgspec.msgpack.encode(record)) is not None
    except OverflowError:  # MessagePack has no integers of more than 64 bits
        return True


def _check_readable(record: object, document: bytes) -> None:
    try:
        is_same = msgspec.json.decode(document, type=type(record)) == record
    except msgspec.DecodeError:
        is_same = False
    if not is_same:
        raise InvalidRequestError(
            f"{type(record).__name__} does not survive JSON",
            hint="a number in it is not finite, or a value is not of its field's type",
        )
