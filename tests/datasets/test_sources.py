"""Splits, statistics and sources, with small real files of each layout."""

import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from convene.config.schema import DataConfig
from convene.datasets import Dataset, Images, iterate_images, load
from convene.datasets.decoding import EncodedImage, decode
from convene.datasets.download import ARCHIVES, Archive, cache_folder, fetch
from convene.datasets.normalization import fit_statistics
from convene.datasets.splitting import hold_out, stratified_sample
from convene.errors import WorkError

MNIST = Path(os.environ.get("CONVENE_MNIST") or Path(__file__).parents[3] / "shared" / "data" / "mnist")

# --- Splits -------------------------------------------------------------------

labels_of_classes = st.lists(st.integers(3, 40), min_size=2, max_size=6).flatmap(
    lambda counts: st.permutations([label for label, count in enumerate(counts) for _ in range(count)])
)


@settings(deadline=None)
@given(
    labels_of_classes,
    st.floats(0.01, 0.99),
    st.integers(1, 2),
    st.integers(0, 2**64 - 1),
)
def test_hold_out_is_disjoint_exhaustive_and_stratified(
    labels: list[int], fraction: float, minimum_left: int, seed: int
) -> None:
    array = np.array(labels)
    kept, held = hold_out(array, fraction, minimum_left=minimum_left, seed=(seed, 1))
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label in set(labels):
        count, got = labels.count(label), int((array[held] == label).sum())
        assert 1 <= got <= count - minimum_left
        assert abs(got - count * fraction) < 1 or got == count - minimum_left


@settings(deadline=None)
@given(labels_of_classes, st.integers(2, 300), st.integers(0, 2**64 - 1))
def test_a_sample_is_stratified_and_exact(labels: list[int], size: int, seed: int) -> None:
    array = np.array(labels)
    if size < len(set(labels)):
        with pytest.raises(ValueError, match="cannot include"):
            stratified_sample(array, size, seed=(seed, 3))
        return
    drawn = stratified_sample(array, size, seed=(seed, 3))
    assert len(drawn) == len(set(drawn.tolist())) == min(size, len(labels))
    got = np.bincount(array[drawn], minlength=max(labels) + 1)
    assert (got >= 1).all()
    exact = np.bincount(array) * (len(drawn) / len(labels))
    # A share below one example is raised to one, at the expense of larger classes.
    if (exact >= 1).all():
        assert (abs(got - exact) < 1).all()


def test_a_class_too_small_to_split_is_rejected() -> None:
    with pytest.raises(ValueError, match="3 examples or more"):
        hold_out(np.array([0, 0, 1, 1, 1]), 0.5, minimum_left=2, seed=(0, 1))


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.integers(-5, 10**12))
def test_digits_are_split_by_fraction_and_seed(test: float, valid: float, seed: int) -> None:
    config = DataConfig(test_fraction=test, valid_fraction=valid, split_seed=seed)
    dataset = load(config)
    assert len(dataset.test) == pytest.approx(1797 * test, abs=1)
    assert len(dataset.valid) == pytest.approx((1797 - len(dataset.test)) * valid, abs=1)
    # No two digits have the same pixels, so pixels identify examples.
    parts = [pictures(images) for images in (dataset.train, dataset.valid, dataset.test.open())]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 1797
    assert load(config).fingerprint == dataset.fingerprint
    other = config.model_copy(update={"split_seed": seed + 1})
    assert load(other).fingerprint != dataset.fingerprint


def pictures(images: Images) -> set[bytes]:
    return {image.tobytes() for image in images.pixels}


def test_digits_use_the_whole_range_of_bytes() -> None:
    dataset = load(DataConfig())
    assert dataset.image_shape == (1, 8, 8)
    assert dataset.classes == tuple("0123456789")
    assert (dataset.train.pixels.min(), dataset.train.pixels.max()) == (0, 255)
    assert (dataset.name, dataset.source) == ("digits", "digits")


def test_train_limit_affects_train_only() -> None:
    whole, limited = load(DataConfig()), load(DataConfig(train_limit=100))
    assert len(limited.train) == 100
    assert pictures(limited.train) < pictures(whole.train)
    assert np.bincount(limited.train.labels).tolist() == [10] * 10
    assert limited.valid.sha256 == whole.valid.sha256
    assert limited.test.sha256 == whole.test.sha256
    assert limited.statistics.mean != whole.statistics.mean
    assert load(DataConfig(train_limit=10**9)).fingerprint == whole.fingerprint


# --- Statistics --------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.integers(1, 20), st.sampled_from([1, 3]), st.integers(1, 5), st.integers(0, 255), st.integers(0, 99)
)
def test_statistics_agree_with_numpy(count: int, channels: int, side: int, highest: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, highest, (count, channels, side, side), dtype=np.uint8, endpoint=True)
    exact = pixels.astype(np.float64)

    statistics = fit_statistics(pixels, "channel")
    np.testing.assert_allclose(statistics.mean, exact.mean((0, 2, 3)).reshape(-1, 1, 1), rtol=1e-6)
    deviation = exact.std((0, 2, 3)).reshape(-1, 1, 1)
    np.testing.assert_allclose(statistics.deviation, np.where(deviation == 0, 1, deviation), rtol=1e-5)

    statistics = fit_statistics(pixels, "pixel")
    np.testing.assert_allclose(statistics.mean, exact.mean(0), rtol=1e-6)
    one = (exact - exact.mean(0)).std() if count > 1 else 0.0
    np.testing.assert_allclose(statistics.deviation, np.full((channels, 1, 1), one or 1.0), rtol=1e-5)

    statistics = fit_statistics(pixels, "center")
    np.testing.assert_allclose(statistics.mean, exact.mean(0), rtol=1e-6)
    assert statistics.deviation.tolist() == [[[255.0]]] * channels

    statistics = fit_statistics(pixels, "none")
    assert statistics.mean.tolist() == [[[0.0]]] * channels
    assert statistics.deviation.tolist() == [[[255.0]]] * channels


@pytest.mark.parametrize("normalization", ["channel", "pixel", "center", "none"])
@pytest.mark.parametrize("value", [0, 7, 255])
def test_constant_images_have_finite_statistics(normalization: Any, value: int) -> None:
    # Enough images for several chunks, and for an inexact variance in floating point.
    pixels = np.full((70_000, 1, 16, 16), value, dtype=np.uint8)
    statistics = fit_statistics(pixels, normalization)
    assert statistics.mean.dtype == statistics.deviation.dtype == np.float32
    assert statistics.deviation.item() == (255 if normalization in ("center", "none") else 1)


def test_an_npz_can_have_members_without_a_suffix(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bare.npz", "w") as file:
        for name, values in (("images", np.zeros((40, 4, 4), np.uint8)), ("labels", np.arange(40) % 2)):
            content = io.BytesIO()
            np.save(content, values)
            file.writestr(name, content.getvalue())
    assert load(DataConfig(source=str(tmp_path / "bare.npz"))).image_shape == (1, 4, 4)


def test_statistics_do_not_depend_on_valid_and_test(tmp_path: Path) -> None:
    arrays = digit_arrays()
    np.savez(tmp_path / "a.npz", **arrays)
    changed = arrays | {"x_valid": 255 - arrays["x_valid"], "x_test": 255 - arrays["x_test"]}
    np.savez(tmp_path / "b.npz", **changed)
    first, second = (load(DataConfig(source=str(tmp_path / name))) for name in ("a.npz", "b.npz"))
    assert first.valid.sha256 != second.valid.sha256
    assert first.fingerprint != second.fingerprint
    np.testing.assert_equal(first.statistics.mean, second.statistics.mean)
    np.testing.assert_equal(first.statistics.deviation, second.statistics.deviation)


# --- Layouts: the same digits and so the same fingerprint in each -----------------------------------


@cache
def digit_arrays() -> dict[str, Any]:
    """Images [n, 8, 8] by class in Keras's layout: of each digit 8 for train, 2 for valid, 3 for test."""
    digits = load_digits()
    arrays: dict[str, Any] = {}
    for split, part in (("train", slice(0, 8)), ("valid", slice(8, 10)), ("test", slice(10, 13))):
        chosen = np.concatenate([np.flatnonzero(digits.target == label)[part] for label in range(10)])
        arrays[f"x_{split}"] = np.rint(digits.images[chosen] * 15.9375).astype(np.uint8)
        arrays[f"y_{split}"] = digits.target[chosen].astype(np.int64)
    return arrays


def write_idx(path: Path, values: Any) -> None:
    """An IDX file, gzipped if its name ends with `.gz`."""
    values = np.asarray(values, dtype=np.uint8)
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def idx(folder: Path, *, mark: str = "-", end: str = "") -> Path:
    for split, prefix in (("train", "train"), ("valid", "valid"), ("test", "t10k")):
        for kind, axes, letter in (("images", 3, "x"), ("labels", 1, "y")):
            name = f"{prefix}-{kind}{mark}idx{axes}-ubyte{end}"
            write_idx(folder / name, digit_arrays()[f"{letter}_{split}"])
    return folder


def image_folder(
    folder: Path, *, suffix: str = ".png", names: tuple[str, ...] = ("train", "valid", "test")
) -> Path:
    for split, name in zip(("train", "valid", "test"), names, strict=True):
        save_images(folder / name, split, suffix)
    (folder / "README.txt").write_text("no image")
    (folder / ".cache").mkdir()
    (folder / "train" / "0" / ".hidden.png").write_text("no image")
    (folder / "train" / "0" / "Thumbs.db").write_text("no image")
    return folder


def save_images(folder: Path, split: str, suffix: str = ".png") -> None:
    arrays = digit_arrays()
    for number, (pixels, label) in enumerate(zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)):
        path = folder / str(label) / f"{number:04}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def npz(folder: Path, change: Callable[[Any], Any] = lambda x: x, **options: Any) -> Path:
    folder.mkdir()
    names = options.get("names", {})
    arrays = {
        names.get(name, name): change(array)
        if name.startswith("x")
        else options.get("labels", np.asarray)(array)
        for name, array in digit_arrays().items()
    }
    np.savez_compressed(folder / "digits.npz", **arrays)
    return folder / "digits.npz"


def parquet(
    folder: Path, image: Callable[[Any], Any], *, type: Any = None, label: Any = int, **options: Any
) -> Path:
    """Two files for the training split and one for each other split, with Hugging Face's names."""
    home = folder / options.get("subfolder", "")
    home.mkdir(parents=True)
    arrays = digit_arrays()
    for split, prefix, shards in (("train", "train", 2), ("valid", "validation", 1), ("test", "test", 1)):
        images = [image(pixels) for pixels in arrays[f"x_{split}"]]
        labels = [label(value) for value in arrays[f"y_{split}"]]
        table = pa.table({"idx": list(range(len(labels))), "image": pa.array(images, type), "label": labels})
        size = len(labels) // shards
        for shard in range(shards):
            part = table.slice(shard * size, size).replace_schema_metadata(options.get("metadata"))
            pq.write_table(part, home / f"{prefix}-{shard:05}-of-{shards:05}.parquet")
    return folder


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


NAMES = json.dumps({"info": {"features": {"label": {"names": list("0123456789"), "_type": "ClassLabel"}}}})
MEDMNIST = {
    f"{letter}_{split}": f"{part}_{kind}"
    for split, part in (("train", "train"), ("valid", "val"), ("test", "test"))
    for letter, kind in (("x", "images"), ("y", "labels"))
}
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "idx": idx,
    "idx gzipped": partial(idx, end=".gz"),
    "idx with a dot": partial(idx, mark="."),
    "idx with a dot, gzipped": partial(idx, mark=".", end=".gz"),
    "png by class": image_folder,
    "bmp by class": partial(image_folder, suffix=".bmp"),
    "tif by class": partial(image_folder, suffix=".TIF"),
    "gif by class": partial(image_folder, suffix=".gif"),
    "val": partial(image_folder, names=("train", "val", "test")),
    "validation": partial(image_folder, names=("train", "Validation", "TEST")),
    "npz": npz,
    "npz, one channel last": partial(npz, change=lambda x: x[..., None]),
    "npz, one channel first": partial(npz, change=lambda x: x[:, None]),
    "npz, flat": partial(npz, change=lambda x: x.reshape(len(x), -1)),
    "npz, whole floats": partial(npz, change=lambda x: x.astype(np.float32)),
    "npz, 64-bit, Fortran order": partial(npz, change=lambda x: np.asfortranarray(x.astype(np.int64))),
    "npz, labels in a column": partial(npz, labels=lambda y: y[:, None]),
    "npz, labels as floats": partial(npz, labels=lambda y: y.astype(np.float64)),
    "npz, labels as strings": partial(npz, labels=lambda y: y.astype(str)),
    "npz, labels as bytes": partial(npz, labels=lambda y: y.astype("S1")),
    "npz, val": partial(npz, names={"x_valid": "x_val", "y_valid": "y_val"}),
    "npz of MedMNIST": partial(npz, names=MEDMNIST),
    "parquet, flat": partial(parquet, image=lambda x: x.ravel().tolist()),
    "parquet, flat bytes": partial(
        parquet, image=lambda x: x.ravel().tolist(), type=pa.list_(pa.uint8(), 64)
    ),
    "parquet, nested": partial(parquet, image=lambda x: x.tolist()),
    "parquet, nested with channels": partial(parquet, image=lambda x: x[..., None].tolist()),
    "parquet, large lists": partial(
        parquet, image=lambda x: x.tolist(), type=pa.large_list(pa.large_list(pa.float32()))
    ),
    "parquet, images": partial(parquet, image=png),
    "parquet, string labels": partial(parquet, image=png, label=str),
    "parquet, Hugging Face": partial(
        parquet,
        image=lambda x: {"bytes": png(x), "path": None},
        type=pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        metadata={"huggingface": NAMES},
        subfolder="data",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_data_set(layout: str, tmp_path: Path) -> None:
    path = LAYOUTS[layout](tmp_path / "digits")
    dataset = load(DataConfig(source=str(path)))
    assert (dataset.name, dataset.source) == ("digits", str(path))
    assert dataset.classes == tuple("0123456789")
    arrays = digit_arrays()
    for split, images in (("train", dataset.train), ("valid", dataset.valid), ("test", dataset.test.open())):
        np.testing.assert_array_equal(images.pixels, arrays[f"x_{split}"][:, None])
        np.testing.assert_array_equal(images.labels, arrays[f"y_{split}"])
        assert images.pixels.dtype == np.uint8
        assert images.labels.dtype == np.int64
        # PyTorch warns about read-only arrays.
        assert images.pixels.flags.c_contiguous
        assert images.pixels.flags.writeable
    # A constant, so that a change in reading or hashing is noticed.
    assert dataset.fingerprint == FINGERPRINT


FINGERPRINT = "ce972e97d2cdb27b12fade3256f9953dcfc15e8aad93404b118ddb044ac5501c"


@pytest.mark.parametrize(
    ("present", "sizes"),
    [
        (("train", "valid", "test"), (80, 20, 30)),
        (("train", "test"), (70, 10, 30)),
        (("train", "valid"), (60, 20, 20)),
        (("train",), (50, 10, 20)),
    ],
)
@pytest.mark.parametrize("layout", ["folder", "npz", "idx", "parquet"])
def test_a_missing_split_is_held_out(
    layout: str, present: tuple[str, ...], sizes: tuple[int, ...], tmp_path: Path
) -> None:
    source = tmp_path / "data"
    source.mkdir()
    arrays = digit_arrays()
    for split in present:
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if layout == "folder":
            save_images(source / split, split)
        elif layout == "idx":
            write_idx(source / f"{split}-images-idx3-ubyte", x)
            write_idx(source / f"{split}-labels-idx1-ubyte", y)
        elif layout == "parquet":
            pq.write_table(pa.table({"image": x.tolist(), "label": y}), source / f"{split}.parquet")
    if layout == "npz":
        source = source / "digits.npz"
        np.savez(source, **{name: array for name, array in arrays.items() if name[2:] in present})
    dataset = load(DataConfig(source=str(source), test_fraction=0.25, valid_fraction=0.125))
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == sizes
    for images in (dataset.train, dataset.valid, dataset.test.open()):
        assert set(images.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("layout", ["classes", "npz", "x and y", "parquet", "folder of parquet"])
def test_sources_without_splits_are_split_alike(layout: str, tmp_path: Path) -> None:
    arrays, source = digit_arrays(), tmp_path / "data"
    images, labels = arrays["x_train"], arrays["y_train"]
    table = pa.table({"image": images.reshape(80, 64).tolist(), "label": labels})
    if layout == "classes":
        save_images(source, "train")
    elif layout == "npz":
        np.savez(source := source.with_suffix(".npz"), images=images, labels=labels)
    elif layout == "x and y":
        np.savez(source := source.with_suffix(".npz"), x=images, y=labels)
    elif layout == "parquet":
        pq.write_table(table, source := source.with_suffix(".parquet"))
    else:
        source.mkdir()
        pq.write_table(table, source / "part-0.parquet")
    dataset = load(DataConfig(source=str(source), test_fraction=0.25, valid_fraction=0.125))
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (50, 10, 20)
    # A constant, because a resumed sweep must have the same splits.
    assert dataset.train.sha256.startswith("7b3a8824101e4e7a")


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for name, shade in (("bus", 0), ("train", 255)):
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (4, 4), shade).save(tmp_path / name / f"{number}.png")
    assert load(DataConfig(source=str(tmp_path))).classes == ("bus", "train")


def test_numeric_labels_are_sorted_as_numbers(tmp_path: Path) -> None:
    labels = np.repeat([2, 10, -1], 5)
    np.savez(tmp_path / "my data!.npz", x=np.zeros((15, 4, 4), np.uint8), y=labels)
    dataset = load(DataConfig(source=str(tmp_path / "my data!.npz")))
    assert dataset.classes == ("-1", "2", "10")
    assert dataset.name == "my-data"


def test_class_names_come_from_hugging_face_metadata(tmp_path: Path) -> None:
    names = {"info": {"features": {"kind": {"names": ["cat", "ant"], "_type": "ClassLabel"}}}}
    table = pa.table({"img": [np.zeros((4, 4)).tolist()] * 8, "kind": [0, 1] * 4})
    table = table.replace_schema_metadata({"huggingface": json.dumps(names)})
    pq.write_table(table, tmp_path / "pets.parquet")
    config = DataConfig(source=str(tmp_path / "pets.parquet"), image_column="img", label_column="kind")
    assert load(config).classes == ("cat", "ant")


def test_a_split_without_a_class_gives_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arrays = digit_arrays()
    keep = arrays["y_test"] != 7
    np.savez(tmp_path / "few.npz", **(arrays | {name: arrays[name][keep] for name in ("x_test", "y_test")}))
    assert len(load(DataConfig(source=str(tmp_path / "few.npz"))).test) == 27
    assert "no images of 7 in test" in caplog.text


# --- Sizes and colours -------------------------------------------------------------------------

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def test_channels_of_arrays_are_recognised(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (12, 3, 5, 6), dtype=np.uint8)  # [example, channel, height, width]
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    labels = np.arange(12) % 2
    for number, array in enumerate((pixels, last)):
        np.savez(tmp_path / f"{number}.npz", x=array, y=labels)
    pq.write_table(pa.table({"image": last.tolist(), "label": labels}), tmp_path / "2.parquet")
    prints = {
        load(DataConfig(source=str(tmp_path / name))).fingerprint for name in ("0.npz", "1.npz", "2.parquet")
    }
    assert len(prints) == 1
    square = np.ascontiguousarray(last[:, :, :5]).reshape(12, 75)
    np.savez(tmp_path / "flat.npz", x=square, y=labels)
    dataset = load(DataConfig(source=str(tmp_path / "flat.npz")))
    assert pictures(dataset.train) < {image.tobytes() for image in np.ascontiguousarray(pixels[..., :5])}


@pytest.mark.parametrize(
    ("color", "modes", "channels"),
    [
        ("auto", "LL", 1),
        ("auto", "LP", 1),
        ("auto", ("L", "LA"), 1),
        ("auto", ("L", "1"), 1),
        ("auto", ("L", "I;16"), 1),
        ("auto", ("L", "RGB"), 3),
        ("auto", ("L", "colourful P"), 3),
        ("auto", ("RGBA", "L"), 3),
        ("grey", ("RGB", "L"), 1),
        ("rgb", "LL", 3),
    ],
)
@pytest.mark.parametrize("image_size", [None, 6])
def test_channels_of_image_files(
    color: Any, modes: Any, channels: int, image_size: int | None, tmp_path: Path
) -> None:
    for name, mode in zip(("a", "b"), modes, strict=True):
        (tmp_path / name).mkdir()
        for number in range(3):
            picture = Image.new("RGB", (4, 4), RED) if mode == "colourful P" else Image.new("L", (4, 4), 100)
            picture = picture.quantize(4) if mode.endswith("P") else picture.convert(mode)
            picture.save(tmp_path / name / f"{number}.png")
    dataset = load(DataConfig(source=str(tmp_path), color=color, image_size=image_size))
    assert dataset.image_shape == (channels, image_size or 4, image_size or 4)


@pytest.mark.parametrize(("color", "channels"), [("auto", 1), ("grey", 1), ("rgb", 3)])
def test_arrays_are_resized_and_converted(color: Any, channels: int) -> None:
    dataset = load(DataConfig(color=color, image_size=16))
    assert dataset.image_shape == (channels, 16, 16)
    same = load(DataConfig())
    assert dataset.train.labels.tolist() == same.train.labels.tolist()
    assert dataset.train.pixels.mean() == pytest.approx(same.train.pixels.mean(), rel=0.02)


def test_grey_is_the_luma_of_colour(tmp_path: Path) -> None:
    pixels = np.zeros((6, 4, 4, 3), dtype=np.uint8) + np.array([200, 100, 50], dtype=np.uint8)
    np.savez(tmp_path / "rgb.npz", x=pixels, y=[0, 1] * 3)
    dataset = load(DataConfig(source=str(tmp_path / "rgb.npz"), color="grey"))
    assert set(dataset.train.pixels.ravel().tolist()) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}


def one_pixel(picture: Image.Image, format: str = "PNG", channels: int = 3, **options: Any) -> list[int]:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    pixels = decode(EncodedImage("picture", stream.getvalue()), (channels, 4, 4))
    values = pixels[:, 0, 0].tolist()
    assert (pixels == np.array(values).reshape(-1, 1, 1)).all()
    return [int(value) for value in values]


def test_conversion_of_modes() -> None:
    size = (4, 4)
    assert one_pixel(Image.new("1", size, 1), channels=1) == [255]
    assert one_pixel(Image.fromarray(np.full(size, 257 * 77, np.uint16)), channels=1) == [77]
    assert one_pixel(Image.fromarray(np.full(size, 65535, np.uint16)), "TIFF") == [255] * 3
    assert one_pixel(Image.new("RGB", size, RED).quantize(8)) == [255, 0, 0]
    assert one_pixel(Image.new("RGB", size, GREEN).quantize(8), "GIF") == [0, 255, 0]
    assert one_pixel(Image.new("CMYK", size, (0, 255, 255, 0)), "TIFF") == [255, 0, 0]
    # Transparent parts get a white background.
    assert one_pixel(Image.new("RGBA", size, (0, 0, 0, 0))) == [255] * 3
    assert one_pixel(Image.new("RGBA", size, (0, 0, 255, 255)), "WEBP", lossless=True) == [0, 0, 255]
    assert one_pixel(Image.new("LA", size, (0, 128)), channels=1) == [127]
    assert one_pixel(Image.new("L", size, 9).quantize(4), transparency=0) == [255] * 3
    # An animation gives its first frame.
    frames = [Image.new("RGB", size, BLUE)]
    assert one_pixel(Image.new("RGB", size, RED), "GIF", save_all=True, append_images=frames) == [255, 0, 0]
    assert one_pixel(Image.new("RGB", size, RED), "TIFF", save_all=True, append_images=frames) == [255, 0, 0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "TIFF, packed", "WEBP"])
def test_orientation_is_applied(format: str, tmp_path: Path) -> None:
    upright = np.zeros((32, 16), dtype=np.uint8)  # Taller than wide, with a white upper half.
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored rotated by 90 degrees.
    format, _, packed = format.partition(",")
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            picture = Image.fromarray(np.rot90(upright) if number else upright)
            options: dict[str, Any] = {"exif": exif} if number else {}
            options |= {"compression": "tiff_lzw"} if packed else {}
            picture.save(tmp_path / name / f"{number}.{format.lower()}", format, **options)
    dataset = load(DataConfig(source=str(tmp_path), color="grey"))
    assert dataset.image_shape == (1, 32, 16)
    for images in (dataset.train, dataset.valid, dataset.test.open()):
        assert images.pixels[:, :, :14].min() > 240
        assert images.pixels[:, :, 18:].max() < 15


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_shrinking_averages_all_pixels(format: str, tmp_path: Path) -> None:
    stripes = np.zeros((512, 640, 3), dtype=np.uint8)
    stripes[:, ::2] = 254
    stream = io.BytesIO()
    Image.fromarray(stripes).save(stream, format, quality=95)
    shrunk = decode(EncodedImage("stripes", stream.getvalue()), (1, 20, 30))
    assert shrunk.shape == (1, 20, 30)
    assert abs(shrunk.astype(int) - 127).max() <= 3


# --- Images for prediction -------------------------------------------------------------------------


def test_images_are_read_in_sorted_chunks_with_names(tmp_path: Path) -> None:
    for name in ("b.png", "a/2.PNG", "a/10.png", "c/d/e.jpg", ".hidden.png", "notes.txt", ".git/x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.new("RGB", (7, 5), RED).save(path)
    chunks = list(iterate_images(tmp_path, image_shape=(3, 4, 6), chunk=3))
    assert [names for names, _ in chunks] == [["a/10.png", "a/2.PNG", "b.png"], ["c/d/e.jpg"]]
    assert [pixels.shape for _, pixels in chunks] == [(3, 3, 4, 6), (1, 3, 4, 6)]
    assert chunks[0][1].dtype == np.uint8
    ((names, pixels),) = iterate_images(tmp_path / "b.png", image_shape=(1, 5, 7))
    assert names == ["b.png"]
    assert pixels.tolist() == [[[[76] * 7] * 5]]


def test_training_and_prediction_see_the_same_pixels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = random.integers(0, 256, (90, 70, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.jpg")
    dataset = load(DataConfig(source=str(tmp_path), image_size=8))
    parts = (dataset.train, dataset.valid, dataset.test.open())
    ((_, predicted),) = iterate_images(tmp_path, image_shape=dataset.image_shape)
    assert {image.tobytes() for image in predicted} == set().union(*map(pictures, parts))


# --- Downloads ---------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path, list[str]]]:
    """A local web server: its address, its folder, and the requested paths."""
    root, requested = tmp_path / "www", list[str]()
    root.mkdir()
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(root))

        def log_message(self, format: str, *arguments: Any) -> None:
            requested.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/", root, requested
        http.shutdown()
        thread.join()


def make_archive(root: Path, *, hash_unpacked: bool) -> Archive:
    """The digits as an archive, with the right files under `good/` and wrong ones under `bad/`."""
    files = {}
    for kind, letter in (("images-idx3-ubyte.gz", "x"), ("labels-idx1-ubyte.gz", "y")):
        for prefix, split in (("train", "train"), ("t10k", "test")):
            path = root / "good" / f"{prefix}-{kind}"
            write_idx(path, digit_arrays()[f"{letter}_{split}"])
            write_idx(root / "bad" / path.name, 1 - digit_arrays()[f"{letter}_{split}"])
            content = path.read_bytes()
            content = gzip.decompress(content) if hash_unpacked else content
            files[path.name] = hashlib.sha256(content).hexdigest()
    return Archive(mirrors=(), files=files, classes=tuple("abcdefghij"))


@pytest.mark.parametrize("hash_unpacked", [True, False])
@pytest.mark.parametrize("before", ["none/", "bad/", "dead"])
def test_the_first_working_mirror_is_used(
    server: tuple[str, Path, list[str]], hash_unpacked: bool, before: str, tmp_path: Path
) -> None:
    address, root, requested = server
    archive = make_archive(root, hash_unpacked=hash_unpacked)
    first = "http://127.0.0.1:9/" if before == "dead" else address + before
    fetch(archive, tmp_path / "cache", mirrors=[first, address + "good/"])
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(archive.files)
    assert f"/good/{next(iter(archive.files))}" in requested
    requested.clear()
    # Existing files are not downloaded again, unless they are damaged.
    fetch(archive, tmp_path / "cache", mirrors=[address + "good/"])
    assert requested == []
    (tmp_path / "cache" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"\x1f\x8b damaged")
    fetch(archive, tmp_path / "cache", mirrors=[address + "good/"])
    assert requested == ["/good/t10k-labels-idx1-ubyte.gz"]


def test_a_failed_download_leaves_no_files_and_names_the_mirrors(
    server: tuple[str, Path, list[str]], tmp_path: Path
) -> None:
    address, root, _ = server
    archive = make_archive(root, hash_unpacked=True)
    mirrors = [address + "none/", "http://127.0.0.1:9/", address + "bad/"]
    with pytest.raises(WorkError) as caught:
        fetch(archive, tmp_path / "cache", mirrors=mirrors)
    message = str(caught.value)
    for part in [
        *mirrors,
        "404",
        "refused",
        "SHA-256",
        "--data FOLDER",
        "train-images-idx3-ubyte.gz",
    ]:
        assert part in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unwritable_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="CONVENE_CACHE"):
        fetch(ARCHIVES["mnist"], tmp_path / "file" / "mnist")


def test_a_copy_of_an_object_that_cannot_be_saved_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def __init__(self, root: str) -> None:
            assert root == "s3://bucket/data"

        def signature(self, name: str) -> str:
            return f"{name} 1 2"

    monkeypatch.setattr("convene.storage.Storage", Store)
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match=r"file/s3: downloads cannot be saved: .*; set CONVENE_CACHE"):
        load(DataConfig(source="s3://bucket/data/pets/"), cache=tmp_path / "file")


def test_a_public_data_set_is_loaded_from_the_cache(
    server: tuple[str, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, root, _ = server
    archive = make_archive(root, hash_unpacked=True)
    monkeypatch.setitem(ARCHIVES, "kmnist", Archive((address + "good/",), archive.files, archive.classes))
    monkeypatch.setenv("CONVENE_CACHE", str(tmp_path / "kept"))
    dataset = load(DataConfig(source="kmnist"))
    assert (dataset.name, dataset.source) == ("kmnist", "kmnist")
    assert dataset.classes == tuple("abcdefghij")
    assert (tmp_path / "kept" / "kmnist" / "t10k-labels-idx1-ubyte.gz").is_file()
    assert load(DataConfig(source="kmnist"), cache=tmp_path / "other").fingerprint == dataset.fingerprint
    monkeypatch.delenv("CONVENE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("mnist") == tmp_path / ".cache" / "convene" / "mnist"


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_complete(name: str) -> None:
    archive = ARCHIVES[name]
    assert len(archive.mirrors) >= 2
    assert all(mirror.endswith("/") for mirror in archive.mirrors)
    assert len(archive.files) == 4
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in archive.files.values())
    assert len(set(archive.files.values())) == 4
    assert len(set(archive.classes)) == 10


# --- MNIST ----------------------------------------------------------------------------


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"MNIST is not at {MNIST}; CONVENE_MNIST names its folder")
def test_mnist(tmp_path: Path) -> None:
    (tmp_path / "mnist").symlink_to(MNIST)
    dataset: Dataset = load(DataConfig(source="mnist"), cache=tmp_path)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (54_000, 6_000, 10_000)
    assert dataset.image_shape == (1, 28, 28)
    assert np.bincount(dataset.test.open().labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    # The usual constants for MNIST, from all 60,000 training images.
    assert dataset.statistics.mean.item() / 255 == pytest.approx(0.1307, abs=2e-4)
    assert dataset.statistics.deviation.item() / 255 == pytest.approx(0.3081, abs=2e-4)


def test_importing_datasets_loads_no_heavy_library() -> None:
    code = "import sys, convene.datasets; print({'PIL', 'pyarrow', 'sklearn', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
