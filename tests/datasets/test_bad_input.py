"""Errors of sources: one message with the file or field, the value and what is allowed."""

import gzip
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format
from PIL import Image

from convene.config.schema import DataConfig
from convene.datasets import iterate_images, load
from convene.datasets.decoding import EncodedImage, decode
from convene.datasets.idx import read_file
from convene.errors import InputError

IMAGES, LABELS = np.zeros((12, 4, 4), dtype=np.uint8), np.repeat([0, 1], 6)
Case = tuple[Callable[[Path], Any], dict[str, Any], list[str]]


def idx_files(folder: Path, **changes: bytes | None) -> None:
    """A valid folder of IDX files, except for the changes; keys are like `train_images`."""
    contents = {}
    for prefix in ("train", "t10k"):
        contents[f"{prefix}_images"] = struct.pack(">IIII", 0x803, *IMAGES.shape) + IMAGES.tobytes()
        contents[f"{prefix}_labels"] = struct.pack(">II", 0x801, 12) + LABELS.astype(np.uint8).tobytes()
    for key, content in (contents | changes).items():
        axes = 3 if key.endswith("images") else 1
        if content is not None:
            (folder / f"{key.replace('_', '-')}-idx{axes}-ubyte").write_bytes(content)


def idx(*parts: str, **changes: bytes | None) -> Case:
    return (lambda folder: idx_files(folder, **changes)), {}, list(parts)


def npz(*parts: str, **arrays: Any) -> Case:
    def write(folder: Path) -> str:
        np.savez(folder / "a.npz", **arrays)
        return "a.npz"

    return write, {}, ["a.npz", *parts]


def huge_npz(folder: Path) -> str:
    """An array whose header states 10^18 bytes."""
    header = io.BytesIO()
    npy_format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**9)}
    )
    with zipfile.ZipFile(folder / "a.npz", "w") as file:
        for name in ("x", "y"):
            file.writestr(f"{name}.npy", header.getvalue())
    return "a.npz"


def duplicate_column(folder: Path) -> str:
    """A table with two columns of the same name."""
    table = pa.table([pa.array(PIXELS), pa.array(PIXELS), pa.array(LABELS)], ["image", "image", "label"])
    pq.write_table(table, folder / "a.parquet")
    return "a.parquet"


def parquet(*parts: str, config: dict[str, Any] | None = None, **columns: Any) -> Case:
    def write(folder: Path) -> str:
        pq.write_table(pa.table(columns), folder / "a.parquet")
        return "a.parquet"

    return write, config or {}, ["a.parquet", *parts]


def files(contents: dict[str, Any], *parts: str, **config: Any) -> Case:
    """Files by path: bytes, or the width, the height and, unless grey, the mode of an image."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                Image.new(content[2] if len(content) > 2 else "L", content[:2]).save(path)

    return write, config, list(parts)


def some(*folders: str, count: int = 3) -> dict[str, Any]:
    return {f"{folder}/{number}.png": (4, 4) for folder in folders for number in range(count)}


def raw(name: str, content: bytes, *parts: str) -> Case:
    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return write, {}, [name, *parts]


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, IMAGES)
    return stream.getvalue()


def bytes_of_idx(count: int) -> bytes:
    """An IDX file of images whose header states 12 x 4 x 4 values, with `count` values."""
    return struct.pack(">IIII", 0x803, 12, 4, 4) + bytes(count)


BMP = b"BM" + bytes(8) + struct.pack("<IIIIHHIIIIII", 62, 40, 4, 4, 1, 8, 0, 0, 0, 0, 2, 0)
PIXELS = IMAGES.tolist()
LOW = struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1)
INVALID_LABEL = "labels must be integers or strings"
CASES: dict[str, Case] = {
    # Sources
    "misspelt": ((lambda folder: None), {"source": "mnits"}, ["data.source = 'mnits'", "mean mnist"]),
    "unknown": ((lambda folder: None), {"source": "/no/such"}, ["'/no/such'", "path", "digits, mnist"]),
    "empty": ((lambda folder: None), {"source": ""}, ["data.source = ''", "neither"]),
    "zero byte": ((lambda folder: None), {"source": "a\0b"}, ["data.source", "neither"]),
    "too long": ((lambda folder: None), {"source": "x" * 5000}, ["data.source", "neither"]),
    "no such user": ((lambda folder: None), {"source": "~nobody-here/x"}, ["data.source", "neither"]),
    "only a scheme": ((lambda folder: None), {"source": "s3://"}, ["'s3://'", "s3://BUCKET/PATH"]),
    "only a bucket": ((lambda folder: None), {"source": "s3://bucket/"}, ["bucket/'", "s3://BUCKET/PATH"]),
    "no bucket": ((lambda folder: None), {"source": "s3:///a"}, ["'s3:///a'", "s3://BUCKET/PATH"]),
    "other scheme": ((lambda folder: None), {"source": "gs://a/b"}, ["'gs://a/b'", "s3://BUCKET/PATH"]),
    "web address": ((lambda folder: None), {"source": "https://a/b"}, ["s3://BUCKET/PATH", "not read"]),
    "other file": raw("a.csv", b"1,2", "data.source", "not a folder, a .parquet or a .npz"),
    "empty folder": ((lambda folder: None), {}, ["neither IDX files", ".parquet", "each class"]),
    "loose images": files({"a.png": (4, 4)}, "a.png should be in a folder named after its class"),
    # Splits
    "one class": files(some("cat"), "data.source", "only one class, 'cat'", "at least two are needed"),
    "small class": files(
        some("cat") | some("dog", count=2), "class 'dog'", "too few", "2", "3 or more", "train, test, valid"
    ),
    "small class, with test": files(
        some("train/cat", "train/dog", "test/cat", "test/dog", count=1),
        "'cat'",
        "1",
        "2 or more",
        "train, valid",
    ),
    "no image of a class": files(some("a", "b") | {"c/readme.txt": b""}, "class 'c'", "too few images", "0"),
    "limit": ((lambda folder: None), {"source": "digits", "train_limit": 9}, ["data.train_limit = 9", "10"]),
    # IDX
    "idx, labels missing": idx("train-labels-idx1-ubyte is missing", "train-images", train_labels=None),
    "idx, images missing": idx("t10k-images-idx3-ubyte is missing", "t10k-labels", t10k_images=None),
    "idx, only tests": idx("each class", train_images=None, train_labels=None),
    "idx, truncated": idx(
        "t10k-images",
        "truncated",
        "12 x 4 x 4",
        "208",
        "has 207",
        t10k_images=struct.pack(">IIII", 0x803, 12, 4, 4) + bytes(191),
    ),
    "idx, too long": idx(
        "train-images", "too long", "has 209", train_images=struct.pack(">IIII", 0x803, 12, 4, 4) + bytes(193)
    ),
    "idx, swapped": idx(
        "train-images", "starts with 00 00 08 01", "00 00 08 03", train_images=struct.pack(">II", 0x801, 0)
    ),
    "idx, empty file": idx("train-labels", "nothing", "00 00 08 01", train_labels=b""),
    "idx, only a header": idx("train-images", "ends after 4 bytes", "16", train_images=b"\0\0\x08\x03"),
    "idx, endless": idx("train-images", "truncated", "4294967295", train_images=LOW),
    "idx, no images": idx("train-images", "0 x 4 x 4", train_images=struct.pack(">IIII", 0x803, 0, 4, 4)),
    "idx, lengths": idx(
        "t10k-labels", "11 labels", "12 images", t10k_labels=struct.pack(">II", 0x801, 11) + bytes(11)
    ),
    "idx, new label in test": idx(
        "label 7 in test", "0, 1", t10k_labels=struct.pack(">II", 0x801, 12) + b"\7" * 12
    ),
    "idx, gzip of more than it states": idx(
        "train-images",
        "too long",
        "208 bytes in all",
        "has more",
        train_images=gzip.compress(bytes_of_idx(193)),
    ),
    "idx, gzip of less than it states": idx(
        "train-images",
        "truncated",
        "208 bytes in all",
        "has 207",
        train_images=gzip.compress(bytes_of_idx(191)),
    ),
    "idx, gzip that cannot fit": idx(
        "train-images", "need", "GB", "memory available", train_images=gzip.compress(LOW)
    ),
    "idx, broken gzip": idx("train-images", "gzip", train_images=gzip.compress(bytes_of_idx(192))[:-9]),
    "idx, sizes": idx(
        "data.image_size",
        "4x4 in train",
        "2x8 in test",
        t10k_images=struct.pack(">IIII", 0x803, 12, 8, 2) + bytes(192),
    ),
    # Images by class
    "unreadable": files(some("a", "b") | {"b/x.png": b"no image"}, "b/x.png", "cannot be read as an image"),
    "truncated png": files(
        some("a", "b") | {"a/x.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0"}, "a/x.png", "cannot be read"
    ),
    "truncated pixels": files(some("a", "b") | {"a/x.bmp": BMP}, "a/x.bmp", "cannot be read"),
    "sizes": files(
        some("a", "b") | {"b/x.png": (5, 6)}, "data.image_size is not set", "a/0.png has 4x4", "b/x.png 5x6"
    ),
    "32 bits": files(some("a", "b") | {"b/x.tif": (4, 4, "F")}, "b/x.tif", "32-bit", "8 or 16 bits"),
    "class only in test": files(
        some("train/a", "train/b", "test/a", "test/b", "test/wolf"), "test: class 'wolf'", "train", "a, b"
    ),
    "name not in UTF-8": files(some("a", "caf\udce9"), "class 'caf\\udce9'", "must be UTF-8"),
    "class not in valid": files(some("train/a", "train/b", "val/a"), "val: class 'b'", "is missing"),
    "no tests": files(
        some("train/a", "train/b") | {"test/a/x.txt": b"", "test/b/x.txt": b""}, "test: no images", ".webp"
    ),
    "two validations": files(
        some("train/a", "train/b", "val/a", "valid/a"), "val and valid are both the valid split"
    ),
    # .npz
    "npz, unknown names": npz("has pictures", "x_train", "images and labels", pictures=IMAGES),
    "npz, no arrays": npz("no arrays"),
    "npz, no labels": npz("array y_train is missing", "x_train", x_train=IMAGES),
    "npz, no test images": npz("array x_test is missing", x_train=IMAGES, y_train=LABELS, y_test=LABELS),
    "npz, lengths": npz("x has 12 images", "y has 11 labels", x=IMAGES, y=LABELS[1:]),
    "npz, fractions": npz(
        "x: float64", "from 0.0 to 0.5", "0 to 255", "255", x=IMAGES + 0.5 * (LABELS[:, None, None]), y=LABELS
    ),
    "npz, not a number": npz("x: float32", "nan", x=np.full(IMAGES.shape, np.nan, np.float32), y=LABELS),
    "npz, above": npz("x: int64", "256", "0 to 255", x=IMAGES.astype(int) + 256, y=LABELS),
    "npz, below": npz("x: int16", "-1", x=IMAGES.astype(np.int16) - 1, y=LABELS),
    "npz, strings": npz("x: values of type <U3", "0 to 255", x=IMAGES.astype(str), y=LABELS),
    "npz, two channels": npz("shape (12, 2, 4, 2)", "1 or 3", x=np.zeros((12, 2, 4, 2), np.uint8), y=LABELS),
    "npz, five axes": npz("shape (12, 4, 4, 1, 1)", x=IMAGES[..., None, None], y=LABELS),
    "npz, no square": npz("shape (12, 17)", "side²", x=np.zeros((12, 17), np.uint8), y=LABELS),
    "npz, no images": npz("shape (0, 4, 4)", x=IMAGES[:0], y=LABELS[:0]),
    "npz, a number": npz("shape ()", x=np.uint8(3), y=LABELS),
    "npz, a number of another type": npz("shape ()", x=np.int64(3), y=LABELS),
    "npz, too large": (huge_npz, {}, ["a.npz: the values of x need 1e+09 GB", "memory available"]),
    "npz, one-hot": npz("y: shape (12, 2)", "one integer or string", x=IMAGES, y=np.eye(2)[LABELS]),
    "npz, fractional labels": npz("label 0.5", INVALID_LABEL, x=IMAGES, y=LABELS + 0.5),
    "npz, label is not a number": npz("label nan", INVALID_LABEL, x=IMAGES, y=np.where(LABELS, np.nan, 0)),
    "npz, dates": npz("datetime64", INVALID_LABEL, x=IMAGES, y=LABELS.astype("M8[s]")),
    "npz, no UTF-8": npz("y", "UTF-8", x=IMAGES, y=np.array([b"\xff", b"a"])[LABELS]),
    "npz, pickled": npz("y cannot be read", "pickle", x=IMAGES, y=np.array([{}] * 12)),
    "npz, new label in test": npz(
        "label wolf in test",
        "a, b",
        x_train=IMAGES,
        y_train=np.array(["a", "b"])[LABELS],
        x_test=IMAGES,
        y_test=np.array(["a", "wolf"])[LABELS],
    ),
    "npz, unlabelled test": npz(
        "label -1 in test is not in train, which has 0, 1",
        "images without labels; remove the test split",
        x_train=IMAGES,
        y_train=LABELS,
        x_test=IMAGES,
        y_test=np.full(12, -1),
    ),
    "npz, other labels in test": npz(
        "integers in train",
        "strings in test",
        x_train=IMAGES,
        y_train=LABELS,
        x_test=IMAGES,
        y_test=LABELS.astype(str),
    ),
    "npz, sizes": (
        npz(x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:, :2], y_test=LABELS)[0],
        {},
        ["data.image_size", "4x4 in train", "4x2 in test"],
    ),
    "npz, broken": raw("a.npz", b"PK\x03\x04 and no more", "cannot be read as .npz"),
    "npz, empty": raw("a.npz", b"", "cannot be read as .npz"),
    "npz, pickle": raw("a.npz", b"\x80\x04}.", "cannot be read as .npz"),
    "npz, one array": raw("a.npz", npy(), "single array"),
    # Parquet
    "parquet, broken": raw("a.parquet", b"PAR1 and no more", "cannot be read as Parquet"),
    "parquet, empty": raw("a.parquet", b"", "cannot be read as Parquet"),
    "parquet, no image column": parquet(
        "data.image_column = 'image'", "img, label", img=PIXELS, label=LABELS
    ),
    "parquet, no label column": parquet(
        "data.label_column = 'kind'",
        "image, label",
        image=PIXELS,
        label=LABELS,
        config={"label_column": "kind"},
    ),
    "parquet, duplicate column": (
        duplicate_column,
        {},
        ["data.image_column = 'image'", "several such columns"],
    ),
    "parquet, no rows": parquet(
        "no rows", image=pa.array([], pa.list_(pa.uint8())), label=pa.array([], pa.int64())
    ),
    "parquet, no list": parquet("image", "int64", "lists of pixels", image=LABELS, label=LABELS),
    "parquet, other struct": parquet("image", "struct", image=[{"path": "a.png"}] * 12, label=LABELS),
    "parquet, no bytes": parquet(
        "image, row 3",
        "missing",
        image=[{"bytes": None if n == 3 else b"x"} for n in range(12)],
        label=LABELS,
    ),
    "parquet, no list in a row": parquet(
        "image, row 2",
        "missing",
        image=[None if n == 2 else row for n, row in enumerate(PIXELS)],
        label=LABELS,
    ),
    "parquet, a pixel missing": parquet("image", "missing", image=[[None] * 16] * 12, label=LABELS),
    "parquet, lengths": parquet(
        "image", "lengths, 9 and 16", image=[[0] * 9] + [[0] * 16] * 11, label=LABELS
    ),
    "parquet, later sizes": parquet(
        "image", "2x2", "3x3", "from 256", image=[[0] * 4] * 256 + [[0] * 9] * 256, label=[0, 1] * 256
    ),
    "parquet, strings for pixels": parquet("image", "0 to 255", image=[["0"] * 16] * 12, label=LABELS),
    "parquet, fractions": parquet("image", "float", "0 to 255", image=[[0.5] * 16] * 12, label=LABELS),
    "parquet, no square": parquet("image", "(12, 17)", image=[[0] * 17] * 12, label=LABELS),
    "parquet, no image": parquet(
        "row 0", "cannot be read as an image", image=[b"no image"] * 12, label=LABELS
    ),
    "parquet, label missing": parquet(
        "label, row 5", "missing", image=PIXELS, label=[*LABELS.tolist()[:5], None] + [1] * 6
    ),
    "parquet, dates": parquet(
        "label", "date32", INVALID_LABEL, image=PIXELS, label=pa.array(LABELS.astype(np.int32), pa.date32())
    ),
    "parquet, no name": (
        lambda folder: pq.write_table(
            pa.table({"image": PIXELS, "label": LABELS - 1}).replace_schema_metadata(
                {"huggingface": '{"info": {"features": {"label": {"names": ["a", "b"]}}}}'}
            ),
            folder / "train.parquet",
        ),
        {},
        ["label -1 in train", "2 classes, 0 to 1", "images without labels; remove them"],
    ),
    "parquet, only tests": (
        lambda folder: pq.write_table(
            pa.table({"image": PIXELS, "label": LABELS}), folder / "test-0.parquet"
        ),
        {},
        ["starts with train", "test-0.parquet"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message(case: str, tmp_path: Path) -> None:
    write, config, parts = CASES[case]
    name = write(tmp_path)
    source = str(tmp_path / name) if isinstance(name, str) else str(tmp_path)
    options: dict[str, Any] = {"source": source, **config}
    with pytest.raises(InputError) as caught:
        load(DataConfig(**options))
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("none", ["none", "no such file or folder"]),
        ("empty", ["empty", "no images found", ".png"]),
        ("broken", ["broken/b.png", "cannot be read as an image"]),
        ("broken/notes.txt", ["notes.txt", "cannot be read as an image"]),
        ("dangling", ["dangling/a.png", "cannot be read", "No such file"]),
    ],
)
def test_invalid_images_for_prediction_are_reported(path: str, parts: list[str], tmp_path: Path) -> None:
    for name in ("empty", "broken", "dangling"):
        (tmp_path / name).mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "broken" / "a.png")
    for name in ("b.png", "notes.txt"):
        (tmp_path / "broken" / name).write_text("no image")
    (tmp_path / "dangling" / "a.png").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError) as caught:
        list(iterate_images(tmp_path / path, image_shape=(1, 4, 4)))
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_a_gzip_is_unpacked_no_further_than_its_header_states(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes_of_idx(192))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(InputError, match="too long"):
        read_file(path, "images")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_path_without_images_is_rejected_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images found"):
        iterate_images(tmp_path, image_shape=(1, 4, 4))


def test_the_first_unreadable_image_is_named_with_any_timing_of_threads(tmp_path: Path) -> None:
    for number in range(300):
        path = tmp_path / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    for number in (100, 102, 250, 101):
        (tmp_path / "ab"[number % 2] / f"{number}.png").write_text("no image")
    for _ in range(5):
        with pytest.raises(InputError, match=r"a/100\.png"):
            load(DataConfig(source=str(tmp_path)))


# --- Damaged files are read or reported ----------------------------------------------------


@cache
def encoded(format: str) -> bytes:
    random = np.random.default_rng(0)
    stream = io.BytesIO()
    picture = Image.fromarray(random.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture.save(stream, format.partition(" ")[0], **({"compression": "tiff_lzw"} if "lzw" in format else {}))
    return stream.getvalue()


def damaged(content: bytes, length: float, changes: list[tuple[float, int]]) -> bytes:
    result = bytearray(content)
    for position, value in changes:
        result[int(position * len(result))] = value
    return bytes(result[: int(length * len(result)) + 1])


damage = (
    st.just(1.0) | st.floats(0, 1, exclude_max=True),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "TIFF lzw", "PPM"])
@settings(max_examples=60, deadline=None)
@given(*damage)
@example(1.0, [])
def test_damaged_images_are_reported(format: str, length: float, changes: list[tuple[float, int]]) -> None:
    image = EncodedImage("the image", damaged(encoded(format), length, changes))
    try:
        assert decode(image, (3, 4, 4)).shape == (3, 4, 4)
    except InputError as error:
        assert str(error).startswith("the image: ")


@settings(max_examples=60, deadline=None)
@given(*damage)
def test_damaged_files_are_reported(
    tmp_path_factory: pytest.TempPathFactory, length: float, changes: list[tuple[float, int]]
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    for name, content in valid_files().items():
        path = folder / name
        path.write_bytes(damaged(content, length, changes))
        try:
            if path.suffix == ".gz":
                read_file(path, "images")
            else:
                load(DataConfig(source=str(path)))
        except InputError as error:
            assert str(path) in str(error)


@cache
def valid_files() -> dict[str, bytes]:
    npz, packed = io.BytesIO(), io.BytesIO()
    np.savez(npz, x=IMAGES, y=LABELS)
    np.savez_compressed(packed, x=IMAGES, y=LABELS)
    return {
        "a.npz": npz.getvalue(),
        "b.npz": packed.getvalue(),
        "a.gz": gzip.compress(struct.pack(">IIII", 0x803, *IMAGES.shape) + IMAGES.tobytes()),
    }
