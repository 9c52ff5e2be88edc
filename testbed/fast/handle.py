"""How compiled functions see a run: one pointer, behind which `s.tasks` and the others are arrays.

A tuple of so many arrays would be copied word by word at every call; a pointer is one word, and
compiles ten times as fast. Behind it lies a table with one row for each array: its address and its
shape. Whoever hands a table in keeps its arrays alive.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import OpaqueModel
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic, overload_attribute
from numba.np import numpy_support
from numba.np.arrayobj import make_array, populate_array

from testbed.fast.layout import FIELDS, Ints, State

_COLUMN_COUNT: Final = 4


class _Handle(types.Type):
    """Numba's type of `State`."""

    def __init__(self) -> None:
        super().__init__(name="gcos_State")


register_default(_Handle)(OpaqueModel)
_HANDLE: Final = _Handle()


def _handle_of(typing: Any, table: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(array.data, cgutils.voidptr_t)

    return _HANDLE(table), generate


#: Within compiled functions: the pointer to a table, which they take for a `State`.
handle_of: Final[Callable[[Ints], State]] = cast(Any, intrinsic(_handle_of))


def table_of(state: State) -> Ints:
    """Return the table behind a pointer: a row for each array, with its address and shape."""
    table = np.zeros((len(FIELDS), _COLUMN_COUNT), np.int64)
    for row, (name, (dtype, dimension_count)) in zip(table, FIELDS.items(), strict=True):
        array = getattr(state, name)
        assert array.dtype == dtype, name
        assert array.ndim == dimension_count, name
        assert array.flags.c_contiguous, name
        row[0] = array.ctypes.data
        row[1 : 1 + array.ndim] = array.shape
    return table


def _array(index: int, array_type: Any) -> Callable[..., Any]:
    """Return what makes an array of row `index` of a table."""

    @intrinsic
    def found(typing: Any, handle: Any) -> Any:
        del typing

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del signature
            word = ir.IntType(64)
            row = builder.bitcast(arguments[0], word.as_pointer())

            def entry(column: int) -> Any:
                at = builder.gep(row, [ir.Constant(word, index * _COLUMN_COUNT + column)])
                loaded = builder.load(at)
                # A table does not change while a compiled function runs.
                loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
                return loaded

            made = make_array(array_type)(context, builder)
            item = context.get_abi_sizeof(context.get_data_type(array_type.dtype))
            size = ir.Constant(word, item)
            shape = [entry(1 + axis) for axis in range(array_type.ndim)]
            strides = [size]
            for count in reversed(shape[1:]):
                strides.insert(0, builder.mul(strides[0], count))
            data = builder.inttoptr(entry(0), context.get_data_type(array_type.dtype).as_pointer())
            populate_array(
                made,
                data=data,
                shape=shape,
                strides=strides,
                itemsize=size,
                meminfo=None,
                parent=None,
            )
            return made._getvalue()

        return array_type(handle), generate

    return found


def _declare(index: int, name: str, dtype: "np.dtype[Any]", dimension_count: int) -> None:
    item = numpy_support.from_dtype(dtype)
    found = _array(index, types.Array(item, dimension_count, "C", aligned=True))

    def attribute(s: Any) -> Any:
        del s

        def read(s: Any) -> Any:
            return found(s)

        return read

    overload_attribute(_Handle, name)(attribute)


for _index, (_name, (_item, _count)) in enumerate(FIELDS.items()):
    _declare(_index, _name, _item, _count)
