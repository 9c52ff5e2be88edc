"""How compiled functions see a run: one pointer, behind which `s.tasks` and the others are arrays.

A tuple of so many arrays would be copied word by word at every call; a pointer is one word, and
compiles in half the time. Behind it lies a table with one row for each array: its address and its
shape. Whoever hands a table in keeps its arrays alive.

Indices into these arrays are never negative. Numba would look at each whether it is, and add the
length; such loops would be neither moved in blocks nor counted in wide instructions.
"""

import operator
from collections.abc import Callable
from typing import Any, Final, cast

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import ArrayModel, OpaqueModel
from numba.core.datamodel.registry import register_default
from numba.core.typing.templates import AttributeTemplate, Signature
from numba.extending import infer_getattr, intrinsic, lower_builtin, lower_getattr_generic
from numba.np import arrayobj, numpy_support
from numba.np.arrayobj import make_array, populate_array

from testbed.fast.layout import FIELDS, Ints, State

_COLUMN_COUNT: Final = 4
_WORD: Final = ir.IntType(64)


class _Handle(types.Type):
    """Numba's type of `State`."""

    def __init__(self) -> None:
        super().__init__(name="gcos_State")


class _Column(types.Array):
    """Numba's type of an array behind the pointer, and of its parts."""

    def copy(
        self, dtype: Any = None, ndim: Any = None, layout: Any = None, readonly: Any = None
    ) -> Any:
        like = super().copy(dtype, ndim, layout, readonly)
        return _Column(like.dtype, like.ndim, like.layout, not like.mutable, aligned=like.aligned)


register_default(_Handle)(OpaqueModel)
register_default(_Column)(ArrayModel)
_HANDLE: Final = _Handle()
_ROWS: Final = {name: row for row, name in enumerate(FIELDS)}
_ARRAYS: Final = {
    name: _Column(numpy_support.from_dtype(dtype), dimension_count, "C", aligned=True)
    for name, (dtype, dimension_count) in FIELDS.items()
}


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


def _handle_of(typing: Any, table: Any) -> Any:
    del typing

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = make_array(signature.args[0])(context, builder, arguments[0])
        return builder.bitcast(array.data, cgutils.voidptr_t)

    return _HANDLE(table), generate


#: Within compiled functions: the pointer to a table, which they take for a `State`.
handle_of: Final[Callable[[Ints], State]] = cast(Any, intrinsic(_handle_of))


@infer_getattr
class _Attributes(AttributeTemplate):
    """Which array stands behind which name."""

    key = _Handle

    def generic_resolve(self, handle: Any, name: str) -> Any:  # type: ignore[override]
        """Return the array's type; None where there is no such name."""
        del handle
        return _ARRAYS.get(name)


def _array(context: Any, builder: Any, handle: Any, pointer: Any, name: str) -> Any:
    """Make the array of that name from its row of the table."""
    del handle
    array_type = _ARRAYS[name]
    row = builder.bitcast(pointer, _WORD.as_pointer())

    def entry(column: int) -> Any:
        at = builder.gep(row, [ir.Constant(_WORD, _ROWS[name] * _COLUMN_COUNT + column)])
        loaded = builder.load(at)
        # A table does not change while a compiled function runs.
        loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
        return loaded

    item = context.get_data_type(array_type.dtype)
    size = ir.Constant(_WORD, context.get_abi_sizeof(item))
    shape = [entry(1 + axis) for axis in range(array_type.ndim)]
    strides = [size]
    for count in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], count))
    made = make_array(array_type)(context, builder)
    populate_array(
        made,
        data=builder.inttoptr(entry(0), item.as_pointer()),
        shape=shape,
        strides=strides,
        itemsize=size,
        meminfo=None,
        parent=None,
    )
    return made._getvalue()


lower_getattr_generic(_Handle)(_array)


def _unsigned(index: Any) -> Any:
    """Return the type of an index that is taken as it is: the same bits without a sign."""
    if isinstance(index, types.BaseTuple):
        parts: Any = index
        return types.BaseTuple.from_types(tuple(_unsigned(each) for each in parts.types))
    return types.uintp if index in types.signed_domain else index


def _at(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    column, index, *value = signature.args
    known = Signature(signature.return_type, (column, _unsigned(index), *value), None)
    if value:
        return arrayobj.setitem_array(context, builder, known, arguments)
    if isinstance(index, types.BaseTuple):
        return arrayobj.getitem_array_tuple(context, builder, known, arguments)
    return arrayobj.getitem_arraynd_intp(context, builder, known, arguments)


for _index in (types.Integer, types.BaseTuple):
    lower_builtin(operator.getitem, _Column, _index)(_at)
    lower_builtin(operator.setitem, _Column, _index, types.Any)(_at)
