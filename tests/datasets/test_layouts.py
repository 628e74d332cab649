"""Layouts of folders: what is read, what is refused, and what is reported as left out."""

import io
import os
import socket
import subprocess
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from convene.config.schema import DataConfig
from convene.datasets import Dataset, iterate_images, load
from convene.datasets.split_names import are_splits, parse_split
from convene.errors import InputError

CIFAR10 = Path(os.environ.get("CONVENE_CIFAR10") or Path(__file__).parents[3] / "shared" / "data" / "cifar10")


def picture(path: Path, shade: int = 0, format: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path, format)


def write(root: Path, *folders: str, count: int = 4) -> Path:
    """Write images into each folder; a name with an ending is a file."""
    for folder in folders:
        if Path(folder).suffix:
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (root / folder).write_bytes(b"no image")
        for number in range(0 if Path(folder).suffix else count):
            picture(root / folder / f"{number}.png", number)
    return root


def loaded(source: Path, **config: Any) -> Dataset:
    return load(DataConfig(source=str(source), **config))


def size(dataset: Dataset) -> int:
    return len(dataset.train) + len(dataset.valid) + len(dataset.test)


def refused(source: Path, *parts: str, **config: Any) -> None:
    """Check that the source is refused in one line with these parts."""
    with pytest.raises(InputError) as caught:
        loaded(source, **config)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert "\n" not in message
    message.encode()


# --- Names of splits ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Training", "TRAIN", "train-00000-of-00001", "trainset")),
        *(
            (name, "train")
            for name in ("train2017", "seg_train", "MnistTrain", "train_images", "partial-train")
        ),
        *(
            (name, "valid")
            for name in ("valid", "validation", "Val", "dev", "val.2", "validation-0", "devset")
        ),
        *((name, "test") for name in ("test", "Testing", "eval", "evaluation-1", "mnist_test", "my test 2")),
        *(
            (name, None)
            for name in ("strain", "latest", "value", "device", "contest", "cat", "0", "", "part-0")
        ),
        *((name, None) for name in ("train-test", "val_or_test")),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    parsed = parse_split(name)
    assert (parsed.split if parsed else None) == split


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "test"], True),
        (["Training", "Testing", "labels"], True),
        (["test"], True),
        (["train_1", "train_2"], True),
        (["seg_train", "seg_test", "seg_pred"], True),
        (["train_images", "test"], True),
        (["fold1", "fold2"], True),
        (["Part 1", "part_2"], True),
        (["bus", "train"], False),
        (["test_tube", "train_station"], False),
        (["bus_station", "train_station"], False),
        (["0", "1"], False),
        ([], False),
    ],
)
def test_splits_are_told_from_classes(names: list[str], expected: bool) -> None:
    assert are_splits(names) is expected


# --- Folders of images ---------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "dev", "eval"),
        ("train", "val", "evaluation"),
    ],
)
def test_usual_names_of_splits_are_read(names: tuple[str, ...], tmp_path: Path) -> None:
    for number, name in enumerate(names):
        write(tmp_path, f"{name}/cat", f"{name}/dog", count=number + 2)
    dataset = loaded(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (4, 6, 8)


REFUSED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "flat splits": (("train", "test"), ("test and train look like splits", "train/cat/1.png")),
    "flat splits, other names": (("Training", "Testing"), ("Testing and Training look like splits",)),
    "flat splits with labels": (("train", "val", "labels/a.txt"), ("look like splits",)),
    "no train": (("test/cat", "test/dog", "val/cat"), ("test and val look like splits", "train/cat/1.png")),
    "decorated": (("seg_train/cat", "seg_test/cat"), ("seg_test and seg_train look like splits",)),
    "folds": (("fold1/cat", "fold2/cat"), ("fold1 and fold2", "parts of the data")),
    "only flat train": (("train",), ("train look like splits",)),
    "splits in classes": (
        ("cat/train", "cat/test", "dog/train", "dog/test"),
        ("cat and dog: has folders of splits", "test and train"),
    ),
    "a folder around splits": (("pets/train/cat", "pets/test/cat"), ("pets: has folders", "/pets'")),
    "a folder around classes": (("pets/cat", "pets/dog"), ("class, 'pets'", "cat and dog", "/pets'")),
    "train or class": (("bus", "train/steam", "train/diesel"), ("train has folders", "in bus", "rename")),
    "test without classes": (
        ("train/cat", "train/dog", "test"),
        ("test: 4 images that are not in class folders", "cat and dog"),
    ),
    "unknown format": (
        ("train/a.arrow", "test/b.arrow"),
        ("no images in its folders test and train", "left out: 2 .arrow files", "image files end with"),
    ),
    "a file instead of its folder": (("a.npz", "b.csv"), ("neither IDX", "1 .npz file", "1 .csv file")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_layout_that_is_not_understood_is_refused(case: str, tmp_path: Path) -> None:
    folders, parts = REFUSED[case]
    refused(write(tmp_path, *folders), str(tmp_path), *parts)


@pytest.mark.parametrize(
    "names", [("bus", "train"), ("test_tube", "train_station"), ("test", "cat"), ("0", "1")]
)
def test_classes_may_have_the_name_of_a_split(names: tuple[str, ...], tmp_path: Path) -> None:
    assert loaded(write(tmp_path, *names)).classes == tuple(sorted(names))


@pytest.mark.parametrize(
    ("suffix", "format"),
    [
        (".ppm", "PPM"),
        (".PGM", "PPM"),
        (".pnm", "PPM"),
        (".jfif", "JPEG"),
        (".jpe", "JPEG"),
        (".apng", "PNG"),
    ],
)
def test_every_ending_of_a_format_is_read(suffix: str, format: str, tmp_path: Path) -> None:
    write(tmp_path, "cat", "dog")
    picture(tmp_path / "cat" / f"x{suffix}", 200, format)
    assert size(loaded(tmp_path)) == 9
    ((names, _),) = iterate_images(tmp_path, image_shape=(1, 4, 4))
    assert f"cat/x{suffix}" in names


def test_what_is_left_out_is_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train/cat", "train/dog", "test/cat", "test/dog", "extra", count=3)
    for name in ("cat/a.svg", "cat/b.svg", "dog/notes.TXT", "dog/noending", "cat/Thumbs.db", "cat/.x.svg"):
        (tmp_path / "train" / name).write_bytes(b"")
    picture(tmp_path / "train" / "loose.png")
    loaded(tmp_path)
    (record,) = [record for record in caplog.records if "left out" in record.getMessage()]
    message = record.getMessage()
    for part in (
        f"2 .svg files (such as {tmp_path}/train/cat/a.svg)",
        "1 .TXT file",
        "1 file without an ending",
        "3 images beside the splits",
        f"1 image outside the class folders ({tmp_path}/train/loose.png)",
        ".jfif",
    ):
        assert part in message, message
    assert ".db" not in message
    caplog.clear()
    list(iterate_images(tmp_path / "train", image_shape=(1, 4, 4), chunk=2))
    (record,) = [record for record in caplog.records if "left out" in record.getMessage()]
    assert "2 .svg files" in record.getMessage()


def test_nothing_is_reported_where_all_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "cat", "dog", "README.md")
    loaded(tmp_path)
    list(iterate_images(tmp_path / "cat", image_shape=(1, 4, 4)))
    assert "left out" not in caplog.text


def test_images_to_predict_without_a_known_ending_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.svg", "b.svg")
    with pytest.raises(InputError, match=r"no images found; left out: 2 \.svg files .* end with \.apng"):
        iterate_images(tmp_path, image_shape=(1, 4, 4))


# --- Odd files, links and names --------------------------------------------------------


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # an address has at most 107 bytes


def link_to_pipe(cat: Path) -> None:
    os.mkfifo(cat.parent.parent / "pipe")
    (cat / "x.png").symlink_to("../../pipe")


def link_further_below(cat: Path) -> None:
    (cat / "a").mkdir()
    (cat / "a" / "b").symlink_to(cat)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (lambda cat: os.mkfifo(cat / "x.png"), "1 pipe or device"),
    "link to a pipe": (link_to_pipe, "1 pipe or device"),
    "socket": (lambda cat: make_socket(cat / "x.png"), "1 pipe or device"),
    "device": (lambda cat: (cat / "x.png").symlink_to("/dev/zero"), "1 pipe or device"),
    "link to the class": (lambda cat: (cat / "again").symlink_to(cat), "1 link to a folder above it"),
    "link to the root": (lambda cat: (cat / "again").symlink_to("../.."), "1 link to a folder above it"),
    "link to everything": (lambda cat: (cat / "again").symlink_to("/"), "1 link to a folder above it"),
    "link further below": (link_further_below, "1 link to a folder above it"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_files_are_left_out(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path / "data", "cat", "dog")
    monkeypatch.chdir(tmp_path)
    make, part = ODD[case]
    make(root / "cat")
    assert size(loaded(root)) == 8
    assert part in caplog.text
    caplog.clear()
    ((names, _),) = iterate_images(root / "cat", image_shape=(1, 4, 4))
    assert names == [f"{number}.png" for number in range(4)]
    assert part in caplog.text


def test_links_to_other_folders_are_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "dog")
    write(tmp_path, "elsewhere/deep")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    assert loaded(root).classes == ("cat", "dog")


@pytest.mark.parametrize("target", ["self.png", "gone.png"])
def test_a_broken_link_is_reported(target: str, tmp_path: Path) -> None:
    root = write(tmp_path, "cat", "dog")
    (root / "cat" / "self.png").symlink_to(target)
    refused(root, "cat/self.png", "cannot be read")


@pytest.mark.parametrize("name", ["x.npz", "x.parquet", "x"])
def test_a_pipe_as_the_source_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    refused(tmp_path / name, "not a folder, a .parquet or a .npz file")
    with pytest.raises(InputError, match="a pipe or device"):
        iterate_images(tmp_path / name, image_shape=(1, 4, 4))


def test_a_pipe_among_parquet_files_is_not_opened(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "train.parquet")
    os.mkfifo(tmp_path / "test.parquet")
    assert len(loaded(tmp_path).test) == 2


def test_endings_of_files_may_be_in_capitals(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((8, 4, 4), np.uint8), y=[0, 1] * 4)
    (tmp_path / "a.npz").rename(tmp_path / "a.NPZ")
    pq.write_table(table(), tmp_path / "b.PARQUET")
    assert loaded(tmp_path / "a.NPZ").classes == loaded(tmp_path / "b.PARQUET").classes == ("0", "1")


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """Yield a data set with an image below 1,500 folders."""
    root = write(tmp_path / "data", "cat", "dog")
    deep = root / "cat"
    for _ in range(1500):
        deep = deep / "d"
        deep.mkdir()
    picture(deep / "x.png")
    yield root
    # Python 3.11 removes folders by recursion, so pytest could not clear this one in its next session.
    subprocess.run(["rm", "-rf", root / "cat/d"], check=True)


def test_folders_may_be_nested_deeply(nested: Path) -> None:
    root = nested
    assert size(loaded(root)) == 9
    ((names, _),) = iterate_images(root / "cat", image_shape=(1, 4, 4))
    assert names[-1].endswith("d/x.png")


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "cat", "dog")
    odd = os.fsdecode(b"caf\xe9.png")
    picture(root / "cat" / odd)
    assert size(loaded(root)) == 9
    ((names, _),) = iterate_images(root / "cat", image_shape=(1, 4, 4))
    assert names[-1] == r"caf\xe9.png"
    (root / "cat" / odd).write_bytes(b"no image")
    refused(root, r"cat/caf\xe9.png", "cannot be read as an image")
    with pytest.raises(InputError, match=r"caf\\xe9.png: cannot be read as an image"):
        list(iterate_images(root / "cat", image_shape=(1, 4, 4)))


def test_a_source_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    odd = write(tmp_path / os.fsdecode(b"caf\xe9"), "cat", "dog")
    refused(odd, r"caf\xe9 must be UTF-8")
    (tmp_path / "link").symlink_to(odd)
    refused(tmp_path / "link", r"caf\xe9 must be UTF-8")


def test_parquet_files_may_have_names_that_are_not_utf8(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(tmp_path / os.fsdecode(b"caf\xe9.parquet"))
    assert loaded(tmp_path).classes == ("0", "1")
    (tmp_path / os.fsdecode(b"caf\xe9.parquet")).write_bytes(b"no table")
    refused(tmp_path, r"caf\xe9.parquet", "cannot be read as Parquet")


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "caf\xe9") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("train", "test"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_accents_may_be_composed_in_one_split_only(train: str, test: str, tmp_path: Path) -> None:
    root = write(tmp_path / "folder", f"train/{train}", "train/dog", f"test/{test}", "test/dog")
    assert loaded(root).classes == (train, "dog")
    for split, name in (("train", train), ("test", test)):
        pq.write_table(table(labels=[name, "dog"] * 4), tmp_path / f"{split}.parquet")
    (tmp_path / "tables").mkdir()
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").rename(tmp_path / "tables" / f"{split}.parquet")
    dataset = loaded(tmp_path / "tables")
    assert dataset.classes == (train, "dog")
    assert dataset.test.open().labels.tolist() == [0, 1] * 4


def test_the_same_name_in_two_forms_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "folder", COMPOSED, DECOMPOSED), "two folders are called", COMPOSED)
    pq.write_table(table(labels=[COMPOSED, DECOMPOSED] * 4), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", COMPOSED, "decomposed accents")


# --- Parquet -----------------------------------------------------------------------


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), shade).save(stream, "PNG")
    return stream.getvalue()


def table(labels: Any = None, image: str = "image", label: str = "label", metadata: str = "") -> pa.Table:
    rows = [{"bytes": png(number), "path": None} for number in range(8)]
    content = pa.table({image: rows, label: [0, 1] * 4 if labels is None else labels})
    return content.replace_schema_metadata({"huggingface": metadata} if metadata else None)


def write_tables(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(), root / name)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("mnist/train-00000-of-00001.parquet", "mnist/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("default/partial-train/0000.parquet", "default/partial-test/0000.parquet"),
        ("data/train-0.parquet", "data/test-0.parquet"),
        ("data/train/0.parquet", "data/test/0.parquet"),
        ("train/0.parquet", "test/0.parquet"),
        ("mnist_train.parquet", "mnist_test.parquet"),
        ("Training.parquet", "Testing.parquet"),
        ("train.parquet", "eval.parquet"),
    ],
)
def test_the_splits_of_parquet_files_are_recognised(names: tuple[str, ...], tmp_path: Path) -> None:
    dataset = loaded(write_tables(tmp_path, *names))
    assert (len(dataset.train) + len(dataset.valid), len(dataset.test)) == (8, 8)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (("a/train-0.parquet", "b/train-0.parquet"), ("several configurations, a and b", "/a'")),
        (("a/train/0.parquet", "b/train/0.parquet"), ("several configurations, a and b", "/a'")),
        (("test.parquet", "val.parquet"), ("no Parquet file name starts with train",)),
        (("train.parquet", "val.parquet", "valid.parquet"), ("val and valid are both the valid split",)),
        (("train.parquet", "test.parquet", "eval.parquet"), ("eval and test are both the test split",)),
        (("xtrain.parquet", "xtest.parquet"), ("xtest.parquet and xtrain.parquet are not clear",)),
    ],
)
def test_parquet_files_in_an_unclear_layout_are_refused(
    names: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path
) -> None:
    refused(write_tables(tmp_path, *names), str(tmp_path), *parts)


def test_parquet_files_beside_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_tables(write(tmp_path, "cat", "dog"), "cat/meta.parquet")
    assert loaded(root).classes == ("cat", "dog")
    assert "1 .parquet file" in caplog.text
    refused(write_tables(root, "more/a.parquet"), "more/a.parquet", "cat/0.png", "one kind")


FEATURES = (
    '{"info": {"features": {"img": {"_type": "Image"}, '
    '"fine": {"names": ["cat", "dog"], "_type": "ClassLabel"}%s}}}'
)


def test_columns_come_from_hugging_face_metadata(tmp_path: Path) -> None:
    pq.write_table(table(image="img", label="fine", metadata=FEATURES % ""), tmp_path / "a.parquet")
    assert loaded(tmp_path / "a.parquet").classes == ("cat", "dog")


def test_the_only_column_of_encoded_images_is_read(tmp_path: Path) -> None:
    pq.write_table(table(image="img"), tmp_path / "a.parquet")
    assert loaded(tmp_path / "a.parquet").classes == ("0", "1")


@pytest.mark.parametrize(
    "metadata", ["", "null", "[]", '{"info": 3}', '{"info": {"features": []}}', "[" * 10**5]
)
def test_columns_that_nothing_states_are_refused(metadata: str, tmp_path: Path) -> None:
    pq.write_table(table(label="kind", metadata=metadata), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "data.label_column = 'label'", "no such column", "image, kind")


def test_one_of_several_columns_must_be_named(tmp_path: Path) -> None:
    metadata = FEATURES % ', "coarse": {"names": ["pet"], "_type": "ClassLabel"}'
    content = table(image="img", label="fine", metadata=metadata).append_column("coarse", [[0] * 8])
    pq.write_table(content.replace_schema_metadata({"huggingface": metadata}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "data.label_column", "fine, coarse")
    assert loaded(tmp_path / "a.parquet", label_column="fine").classes == ("cat", "dog")
    refused(
        tmp_path / "a.parquet", "data.image_column = 'picture'", image_column="picture", label_column="fine"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    not CIFAR10.is_dir(), reason=f"CIFAR-10 is not at {CIFAR10}; CONVENE_CIFAR10 names its folder"
)
def test_cifar10() -> None:
    dataset = loaded(CIFAR10)
    assert (len(dataset.train), len(dataset.valid), len(dataset.test)) == (45_000, 5_000, 10_000)
    assert dataset.image_shape == (3, 32, 32)
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(dataset.test.open().labels).tolist() == [1000] * 10
    # The usual constants, from all 50,000 training images before JPEG.
    assert dataset.statistics.mean.ravel() / 255 == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
