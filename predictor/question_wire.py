"""Reads what a predictor is asked, by hand: a task of a batch must not take longer than its answer.

Of each task only its number of tokens is read. All else of it stays the bytes it came in, by which
its template is remembered. New ones are read by `gcos.rpc.wire`, which knows the words of every
error.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from gcos.durations import PoolSpeed, WorkFeatures
from gcos.errors import InvalidRequestError
from gcos.rpc.wire import from_proto
from gcos.v1 import predictor_pb2
from predictor.features import (
    COUNT_MAX,
    Question,
    Template,
    check_features,
    check_pool,
    template_of,
)

#: Templates remembered: about 2 kB each.
TEMPLATE_COUNT_MAX: Final = 4096
#: Lists of pool types remembered.
POOLS_COUNT_MAX: Final = 64


class Work(Protocol):
    """A `WorkFeatures` of which only the number of tokens is known; the rest is kept."""

    token_count: int

    def SerializeToString(self) -> bytes:  # noqa: N802  protobuf's name
        """Return its bytes, with what is not known."""


class Asked(Protocol):
    """A `PredictRequest` as it is read here; pool types are bytes."""

    @property
    def works(self) -> Sequence[Work]:
        """Tasks."""

    @property
    def pools(self) -> Sequence[bytes]:
        """Pool types."""


def asked_in(document: bytes) -> Asked:
    """Return the `PredictRequest` of these bytes.

    Raises:
        InvalidRequestError: They are none.
    """
    try:
        return _asked_from(document)
    except DecodeError as exc:
        raise _no_message("the request") from exc


class QuestionReader:
    """Reads tasks as questions, and remembers their templates by their bytes.

    Pool types too are remembered: who asks mostly names the same.
    """

    def __init__(self) -> None:
        self._templates: dict[bytes, Template] = {}
        self._pools: dict[tuple[bytes, ...], tuple[PoolSpeed, ...]] = {}

    def questions(self, works: Iterable[Work]) -> list[Question]:
        """Return one question for each of at least one task, in order; uses up the tasks.

        Raises:
            InvalidRequestError: A task is outside the stated limits.
        """
        # Column by column, as far as that goes without a step of Python.
        works = list(works)
        token_counts = [work.token_count for work in works]
        if min(token_counts) < 0 or max(token_counts) > COUNT_MAX:
            for index, work in enumerate(works):
                _read(work.SerializeToString(), index)
        for work, token_count in zip(works, token_counts, strict=True):
            if token_count:
                work.token_count = 1  # the key tells all but their number
        keys = list(map(type(works[0]).SerializeToString, works))
        templates = list(map(self._templates.get, keys))
        if not all(templates):
            templates = [self._template(key, index) for index, key in enumerate(keys)]
        return list(zip(cast("list[Template]", templates), token_counts, strict=True))

    def pools(self, documents: Iterable[bytes]) -> tuple[PoolSpeed, ...]:
        """Return pool types, in order.

        Raises:
            InvalidRequestError: One is outside the stated limits.
        """
        key = tuple(documents)
        pools = self._pools.get(key)
        if pools is None:
            pools = tuple(_read_pool(document, index) for index, document in enumerate(key))
            if len(self._pools) >= POOLS_COUNT_MAX:
                self._pools = {}
            self._pools[key] = pools
        return pools

    def _template(self, key: bytes, index: int) -> Template:
        template = self._templates.get(key)
        if template is None:
            template = template_of(_read(key, index))
            if len(self._templates) >= TEMPLATE_COUNT_MAX:
                self._templates.clear()
            self._templates[key] = template
        return template


@contextlib.contextmanager
def placed(place: str) -> Iterator[None]:
    """Put `place` before the field and the message of an error raised inside.

    Raises:
        InvalidRequestError: Something inside is refused, or its bytes are no message.
    """
    try:
        yield
    except DecodeError as exc:
        raise _no_message(place) from exc
    except InvalidRequestError as exc:
        raise InvalidRequestError(
            f"{place}: {exc.message}", field=f"{place}.{exc.field}", hint=exc.hint
        ) from exc


def _read(document: bytes, index: int) -> WorkFeatures:
    """Return a task that is within its limits."""
    with placed(f"works[{index}]"):
        features = from_proto(predictor_pb2.WorkFeatures.FromString(document), WorkFeatures)
        check_features(features)
        return features


def _read_pool(document: bytes, index: int) -> PoolSpeed:
    """Return a pool type that is within its limits."""
    with placed(f"pools[{index}]"):
        pool = from_proto(predictor_pb2.PoolSpeed.FromString(document), PoolSpeed)
        check_pool(pool)
        return pool


def _no_message(place: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{place} is no valid message",
        hint="text must be UTF-8; or the caller speaks another version of the protocol",
    )


def _reader() -> Callable[[bytes], Asked]:
    """Return what reads bytes as `Asked`: messages with fewer fields than those on the wire."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="predictor/asked.proto", syntax="proto3")
    work = file.message_type.add(name="Work")
    asked = file.message_type.add(name="Asked")
    request, features = predictor_pb2.PredictRequest, predictor_pb2.WorkFeatures
    for message, name, number, kind in (
        (work, "token_count", features.TOKEN_COUNT_FIELD_NUMBER, kinds.TYPE_INT64),
        (asked, "works", request.WORKS_FIELD_NUMBER, kinds.TYPE_MESSAGE),
        (asked, "pools", request.POOLS_FIELD_NUMBER, kinds.TYPE_BYTES),
    ):
        label = kinds.LABEL_OPTIONAL if message is work else kinds.LABEL_REPEATED
        message.field.add(name=name, number=number, type=kind, label=label)
    asked.field[0].type_name = "Work"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    message_class: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName("Asked"))
    read: Callable[[bytes], Asked] = message_class.FromString
    return read


_asked_from: Final = _reader()
