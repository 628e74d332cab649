"""Arrow columns of every type: an array of images or labels, or one message."""

import datetime
import decimal
import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from convene.datasets.arrow import image_values, label_values
from convene.errors import InputError


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (2, 2)).save(stream, "PNG")
    return stream.getvalue()


BYTES = [png(), png() + b"\0"]
PIXELS = [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
STRUCT = pa.StructArray.from_arrays(
    [pa.array(BYTES, pa.binary_view()), pa.array(["a", None])], ["bytes", "path"]
)


@pytest.mark.parametrize(
    "column",
    [
        *(pa.array(BYTES, kind) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
        pa.array(BYTES).dictionary_encode(),
        pc.run_end_encode(pa.array(BYTES)),
        STRUCT,
    ],
    ids=lambda column: str(column.type)[:40],
)
def test_encoded_images(column: Any) -> None:
    assert image_values(column, "image", 0) == BYTES


def test_encoded_images_may_all_have_the_same_length() -> None:
    assert image_values(pa.array([b"abc", b"def"], pa.binary(3)), "image", 0) == [b"abc", b"def"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.list_(pa.uint8())),
        pa.large_list(pa.list_(pa.int64(), 2)),
        pa.list_(pa.list_(pa.float16(), 2), 2),
        pa.list_view(pa.list_view(pa.uint8())),
        pa.large_list_view(pa.list_(pa.int32())),
        pa.list_(pa.list_view(pa.uint16())),
    ],
    ids=str,
)
def test_lists_of_pixels(kind: Any) -> None:
    values = np.array(PIXELS, np.float16).tolist() if "halffloat" in str(kind) else PIXELS
    assert np.asarray(image_values(pa.array(values, kind), "image", 0)).tolist() == PIXELS


def test_a_tensor_keeps_its_shape() -> None:
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(pixels)
    np.testing.assert_array_equal(image_values(column, "image", 0), pixels)


@pytest.mark.parametrize(
    "column",
    [
        *(pa.array(["cat", "dog"], kind) for kind in (pa.string(), pa.large_string(), pa.string_view())),
        pa.array(["cat", "dog"]).dictionary_encode(),
        pa.array(["cat", "dog"], pa.string_view()),
        pc.run_end_encode(pa.array(["cat", "dog"])),
    ],
    ids=lambda column: str(column.type)[:40],
)
def test_labels_as_strings(column: Any) -> None:
    assert label_values(column, "label", 0).tolist() == ["cat", "dog"]


OTHER: dict[str, Any] = {
    "map": pa.array([[("a", 1)], [("b", 2)]], pa.map_(pa.string(), pa.int64())),
    "list of maps": pa.array([[[("a", 1)]]] * 2, pa.list_(pa.map_(pa.string(), pa.int64()))),
    "null": pa.nulls(2),
    "struct": pa.array([{"a": 1}, {"a": 2}]),
    "struct of strings": pa.array([{"bytes": "a"}, {"bytes": "b"}]),
    "list of structs": pa.array([[{"a": 1}], [{"a": 2}]]),
    "empty lists": pa.array([[], []], pa.list_(pa.uint8())),
    "lists of empty lists": pa.array([[[]], [[]]], pa.list_(pa.list_(pa.uint8()))),
    "empty outer lists": pa.array([[], []], pa.list_(pa.list_(pa.uint8()))),
    "null in a list view": pa.array([[1, None], [1, 2]], pa.list_view(pa.uint8())),
    "list of strings": pa.array([["a"], ["b"]]),
    "dates": pa.array([datetime.date(2020, 1, 1)] * 2),
    "times": pa.array([datetime.time(1)] * 2),
    "durations": pa.array([datetime.timedelta(1)] * 2),
    "timestamps": pa.array([datetime.datetime(2020, 1, 1)] * 2),
    "decimals": pa.array([decimal.Decimal("1.5")] * 2),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    ),
    "sparse union": pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]
    ),
    "intervals": pa.array([pa.scalar((1, 2, 3), pa.month_day_nano_interval())] * 2),
    "uuids": pa.array([b"0" * 16] * 2, pa.uuid()),
    "json": pa.array(["{}"] * 2, pa.json_()),
    "numbers": pa.array([1, 2]),
    "booleans": pa.array([True, False]),
    "bool8": pa.array([1, 0], pa.int8()).cast(pa.bool8()),
    "large numbers": pa.array([2**64 - 1, 0], pa.uint64()),
}


@pytest.mark.parametrize("role", ["image", "label"])
@pytest.mark.parametrize("case", OTHER)
def test_any_type_is_read_or_refused(case: str, role: str) -> None:
    try:
        values = (image_values if role == "image" else label_values)(OTHER[case], "file: column", 0)
        assert len(values) == 2
    except InputError as error:
        assert str(error).startswith("file: column")


@pytest.mark.parametrize(
    ("role", "column", "parts"),
    [
        ("image", OTHER["map"], ["map<string, int64>", "lists of pixels"]),
        ("label", OTHER["map"], ["map<string, int64>", "integers or strings"]),
        ("image", OTHER["empty lists"], ["an empty list, from row 7"]),
        ("image", OTHER["struct of strings"], ["bytes of type string", "binary"]),
        (
            "image",
            pa.array([{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}]),
            ["row 8", "no bytes, only the path 'b.png'", "embedded in the Parquet file"],
        ),
        ("image", pa.array([{"bytes": b"x", "path": None}, None]), ["row 8", "a value is missing"]),
        ("label", pa.nulls(2), ["row 7", "a value is missing"]),
    ],
)
def test_messages_name_the_problem(role: str, column: Any, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        (image_values if role == "image" else label_values)(column, "file: column", 7)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
