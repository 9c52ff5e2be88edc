"""Many numbers of an array at once: what numba leaves to chance, said in the compiler's own terms.

A loop that ends as soon as something is found looks at one number after the other, and a processor
guesses at each whether it is the last; a wrong guess takes as long as twenty additions. Here the
next `LANES` numbers are compared in one go, and what is found is a bit. Arrays need room for so
many numbers behind the last that counts.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from testbed.fast.layout import HINT_COUNT, LANES, Counts, Floats

_WORD: Final = ir.IntType(64)
_HALF: Final = ir.IntType(32)


class _Lanes:
    """Numbers of an array that lie side by side, read and written as one."""

    def __init__(self, builder: Any, place: Any, count: int) -> None:
        self.builder = builder
        vector = ir.VectorType(place.type.pointee, count)
        self._place = builder.bitcast(place, vector.as_pointer())
        self._item_bytes = 8 if vector.element == ir.DoubleType() else 4
        self._count = count

    def load(self) -> Any:
        loaded = self.builder.load(self._place)
        loaded.align = self._item_bytes
        return loaded

    def store(self, values: Any) -> None:
        self.builder.store(values, self._place).align = self._item_bytes

    def each(self, value: Any) -> Any:
        """Return a number in all lanes, as wide as those of the array where it is whole."""
        vector = self._place.type.pointee
        if vector.element != value.type:
            value = self.builder.trunc(value, vector.element)
        first = ir.Constant(_HALF, 0)
        none = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(none, value, first)
        zeros = ir.Constant(ir.VectorType(_HALF, self._count), [0] * self._count)
        return self.builder.shuffle_vector(one, none, zeros)


def _at(context: Any, builder: Any, array_type: Any, array: Any, first: Any, count: int) -> _Lanes:
    data = make_array(array_type)(context, builder, array).data
    return _Lanes(builder, builder.gep(data, [first]), count)


def _lower(typing: Any, values: Any, first: Any, limit: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _at(context, builder, signature.args[0], arguments[0], arguments[1], LANES)
        compare = builder.fcmp_ordered if values.dtype == types.float64 else builder.icmp_signed
        return builder.bitcast(compare("<", lanes.load(), lanes.each(arguments[2])), _WORD)

    return types.uint64(values, first, limit), generate


def _lowest(typing: Any, bits: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.intp(bits), generate


def _move_up(typing: Any, values: Any, first: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at = arguments
        after = builder.add(at, ir.Constant(_WORD, 1))
        source = _at(context, builder, signature.args[0], array, at, LANES)
        _at(context, builder, signature.args[0], array, after, LANES).store(source.load())
        return context.get_dummy_value()

    return types.void(values, first), generate


def _take(typing: Any, values: Any, first: Any, count: Any, amount: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = _at(context, builder, signature.args[0], arguments[0], arguments[1], LANES)
        known = lanes.load()
        index = ir.Constant(known.type, list(range(LANES)))
        is_meant = builder.icmp_signed("<", index, lanes.each(arguments[2]))
        less = builder.select(
            is_meant, lanes.each(arguments[3]), ir.Constant(known.type, [0] * LANES)
        )
        lanes.store(builder.sub(known, less))
        return context.get_dummy_value()

    return types.void(values, first, count, amount), generate


def _follow(typing: Any, hints: Any, step: Any, least: Any, known: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, floor, bits = arguments
        zero = ir.Constant(_WORD, 0)
        lanes = _at(context, builder, signature.args[0], array, zero, HINT_COUNT)
        hints = lanes.load()
        is_behind = builder.icmp_signed(">=", hints, lanes.each(at))
        hints = builder.sub(hints, builder.sext(is_behind, hints.type))
        is_known = builder.bitcast(
            builder.trunc(bits, ir.IntType(HINT_COUNT)), ir.VectorType(ir.IntType(1), HINT_COUNT)
        )
        is_raised = builder.and_(is_known, builder.icmp_signed("<", hints, lanes.each(floor)))
        lanes.store(builder.select(is_raised, lanes.each(floor), hints))
        return context.get_dummy_value()

    return types.void(hints, step, least, known), generate


#: `lower(values, first, limit)`: a bit for each of the `LANES` values from `first` on, the lowest
#: for the first, that is below the limit.
lower: Final = cast(Callable[[Floats | Counts, int, float], np.uint64], intrinsic(_lower))
#: `lowest(bits)`: the place of the lowest bit; `LANES`: there is none.
lowest: Final = cast(Callable[[np.uint64], int], intrinsic(_lowest))
#: `move_up(values, first)`: the `LANES` values from `first` on, each one place further.
move_up: Final = cast(Callable[[Floats | Counts, int], None], intrinsic(_move_up))
#: `take(values, first, count, amount)`: less in the first `count` of the `LANES` from `first` on.
take: Final = cast(Callable[[Counts, int, int, int], None], intrinsic(_take))
#: `follow(hints, step, least, known)`: one more in hints that are no less than `step`; then those
#: of the bits `known` are `least` at least.
follow: Final = cast(Callable[[Counts, int, int, int], None], intrinsic(_follow))
