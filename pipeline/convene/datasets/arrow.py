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

    if isinstance(column, pa.FixedShapeTensorArray):
        _check_no_nulls(column, where, row)
        return np.asarray(column.to_numpy_ndarray())
    column_type, column = column.type, _plain(column)
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
        column = _image_bytes(column, where, row)
    _check_no_nulls(column, where, row)
    if _is_binary(column.type):
        return [bytes(image) for image in column.to_pylist()]
    if not _is_list(column.type):
        raise InputError(
            f"{where}: values of type {column_type}; images must be lists of pixels, bytes of image files, "
            "or structs with such bytes"
        )
    return _pixel_lists(column, where, row)


def label_values(column: Any, where: str, row: int) -> NDArray[Any]:
    """Return a column's numbers or strings [row]; for the arguments see `image_values`.

    Raises:
        InputError: for missing values and values of other types.
    """
    import pyarrow as pa

    column = _plain(column)
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


def _plain(column: Any) -> Any:
    """Return the values of an extension, dictionary, run-end-encoded or view array in a plain type.

    List views remain, because Arrow's cast of them loses the last list.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    while True:
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        elif isinstance(column, pa.DictionaryArray):
            column = column.dictionary_decode()
        elif isinstance(column, pa.RunEndEncodedArray):
            column = pc.run_end_decode(column)
        elif pa.types.is_string_view(column.type):
            column = column.cast(pa.large_string())
        elif pa.types.is_binary_view(column.type):
            column = column.cast(pa.large_binary())
        else:
            return column


def _is_binary(value_type: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_binary(value_type)
        or pa.types.is_large_binary(value_type)
        or pa.types.is_fixed_size_binary(value_type)
    )


def _is_list(value_type: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_list(value_type)
        or pa.types.is_large_list(value_type)
        or pa.types.is_fixed_size_list(value_type)
        or pa.types.is_list_view(value_type)
        or pa.types.is_large_list_view(value_type)
    )


def _image_bytes(column: Any, where: str, row: int) -> Any:
    """Return the bytes of structs. An image that is only named by its path is reported as such."""
    import pyarrow.compute as pc

    content = _plain(pc.struct_field(column, "bytes"))
    if not _is_binary(content.type):
        raise InputError(f"{where}: bytes of type {content.type}; they must be binary, as an image file")
    if content.null_count and column.type.get_field_index("path") >= 0:
        missing = content.is_null().to_pylist().index(True)
        path = pc.struct_field(column, "path")[missing].as_py()
        if path is not None:
            raise InputError(
                f"{where}, row {row + missing}: has no bytes, only the path {path!r}; image files must be "
                "embedded in the Parquet file, as Hugging Face's push_to_hub does"
            )
    return content


def _pixel_lists(column: Any, where: str, row: int) -> NDArray[Any]:
    """Return the values of a column of lists, nested to any depth, as one array."""
    import pyarrow.compute as pc

    shape = [len(column)]
    while _is_list(column.type):
        _check_no_nulls(column, where, row if len(shape) == 1 else None)
        lengths = pc.min_max(pc.list_value_length(column)).as_py()
        if lengths["min"] != lengths["max"]:
            raise InputError(
                f"{where}: lists of different lengths, {lengths['min']} and {lengths['max']}, from row {row} "
                "on; lists of pixels must have the same length"
            )
        if not lengths["min"]:
            raise InputError(f"{where}: an empty list, from row {row} on; images must have pixels")
        shape.append(lengths["min"])
        column = _plain(column.flatten())
    _check_no_nulls(column, where, None)
    return np.asarray(column.to_numpy(zero_copy_only=False)).reshape(shape)


def _check_no_nulls(column: Any, where: str, row: int | None) -> None:
    if column.null_count:
        row_name = "" if row is None else f", row {row + column.is_null().to_pylist().index(True)}"
        raise InputError(f"{where}{row_name}: a value is missing")
