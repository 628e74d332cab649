"""Arrow columns as arrays of images and labels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.errors import InputError


def image_values(column: Any, where: str, row: int) -> NDArray[Any] | list[bytes]:
    """Return a column's pixels [row, ...] or encoded images.

    Args:
        column: an Arrow array.
        where: name of the column in error messages.
        row: number of the column's first row in its file, for error messages.

    Raises:
        InputError: for missing values, values that are not images, and lists of different lengths.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    column_type = column.type
    if pa.types.is_struct(column_type) and column_type.get_field_index("bytes") >= 0:
        column = pc.struct_field(column, "bytes")
    _check_no_nulls(column, where, row)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [bytes(image) for image in column.to_pylist()]
    shape = [len(column)]
    while isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        _check_no_nulls(column, where, row if len(shape) == 1 else None)
        lengths = pc.min_max(pc.list_value_length(column)).as_py()
        if lengths["min"] != lengths["max"]:
            raise InputError(
                f"{where}: lists of different lengths, {lengths['min']} and {lengths['max']}, from row {row} "
                "on; lists of pixels must have the same length"
            )
        shape.append(lengths["min"])
        column = column.flatten()
    if len(shape) == 1:
        raise InputError(
            f"{where}: values of type {column_type}; images must be lists of pixels, bytes of image files, "
            "or structs with such bytes"
        )
    _check_no_nulls(column, where, None)
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def label_values(column: Any, where: str, row: int) -> NDArray[Any]:
    """Return a column's numbers or strings [row]; for the arguments see `image_values`.

    Raises:
        InputError: for missing values and values of other types.
    """
    import pyarrow as pa

    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    _check_no_nulls(column, where, row)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    if (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
    ):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    raise InputError(f"{where}: values of type {column.type}; labels must be integers or strings")


def _check_no_nulls(column: Any, where: str, row: int | None) -> None:
    if column.null_count:
        row_name = "" if row is None else f", row {row + column.is_null().to_pylist().index(True)}"
        raise InputError(f"{where}{row_name}: a value is missing")
