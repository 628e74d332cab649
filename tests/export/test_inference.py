import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from convene.config.schema import NetworkConfig
from convene.ensemble.averaging import AveragedLogits
from convene.errors import InputError, WorkError
from convene.export import exporter
from convene.export.inference import batch_size, predict, read_manifest, write_table
from convene.export.model_card import ModelCard
from convene.records.result import ScoredMember
from convene.training.network import ConvNet

CLASSES = ("nought", 'one, "uno"', *(f"digit {n}" for n in range(2, 10)))

Pixels = NDArray[np.uint8]
"""[example, channel, height, width]."""


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    images: NDArray[np.float64] = load_digits().images[:7, None]
    return (images * 15.9).astype(np.uint8)


@pytest.fixture(scope="module")
def ensemble() -> AveragedLogits:
    torch.manual_seed(0)
    mean, deviation = np.full((1, 1, 1), 70, np.float32), np.full((1, 1, 1), 90, np.float32)
    config = NetworkConfig(width=4, depth=1)
    return AveragedLogits([ConvNet(config, (1, 8, 8), 10, mean, deviation) for _ in range(2)], [1, 2]).eval()


@pytest.fixture(scope="module")
def exported(ensemble: AveragedLogits, pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "export"
    member = ScoredMember(0, 0.5, 0.9, 0.9)
    card = ModelCard(
        "evening", "digits", "here", "f", "a", 1, 0.9, 0.9, (0.8, 1.0), 0.9, (member, member), {}
    )
    exporter.write(ensemble, classes=CLASSES, pixels=pixels, card=card, folder=folder)
    return folder


@pytest.fixture(scope="module")
def images(pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "more").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image[0]).save(folder / ("more" if number > 4 else ".") / f"{number}.png")
    return folder


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_every_image_gets_its_most_probable_class(
    exported: Path, images: Path, ensemble: AveragedLogits, pixels: Pixels, chunk: int
) -> None:
    frames = list(predict(exported, images, chunk=chunk))
    assert all(len(frame) <= chunk for frame in frames)
    table = pd.concat(frames, ignore_index=True)
    with torch.inference_mode():
        probability, best = ensemble(torch.tensor(pixels))[1].max(dim=1)
    assert list(table.columns) == ["file", "label", "probability"]
    assert list(table["file"]) == ["0.png", "1.png", "2.png", "3.png", "4.png", "more/5.png", "more/6.png"]
    assert list(table["label"]) == [CLASSES[n] for n in best]
    np.testing.assert_allclose(table["probability"], probability, atol=1e-5)


def test_one_image_is_enough(exported: Path, images: Path) -> None:
    (frame,) = predict(exported, images / "3.png", threads=1)
    assert list(frame["file"]) == ["3.png"]


def test_prediction_imports_neither_torch_nor_ray_nor_mlflow(exported: Path, images: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from convene.export.inference import predict, write_table\n"
        f"frames = predict(Path({str(exported)!r}), Path({str(images)!r}))\n"
        "assert sum(map(len, frames)) == 7\n"
        "assert 'onnxruntime' in sys.modules\n"
        "heavy = ('torch', 'ray', 'mlflow', 'optuna', 'convene.training.network')\n"
        "print([m for m in heavy if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 8, 8), 256), ((1, 28, 28), 256), ((3, 224, 224), 20), ((3, 1024, 1024), 1), ((3, 4096, 4096), 1)],
)
def test_large_images_run_in_small_batches(shape: tuple[int, int, int], expected: int) -> None:
    assert batch_size(shape) == expected


# Folders that are not an export.


def edit(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | changes))

    return damage


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[100] ^= 1
    (folder / "model.onnx").write_bytes(content)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "export: no such folder"),
    (
        lambda folder: (folder / "manifest.json").unlink(),
        r"not an exported ensemble: manifest\.json is missing",
    ),
    (lambda folder: (folder / "model.onnx").unlink(), r"incomplete export, without model\.onnx"),
    (lambda folder: (folder / "model.pt2").unlink(), r"incomplete export, without model\.pt2"),
    (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json: not JSON"),
    (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe"), r"manifest\.json: not JSON"),
    (lambda folder: (folder / "manifest.json").write_text("[1]"), r"manifest\.json: content: "),
    (edit(format=2), r"manifest\.json: format 2 is newer than 1"),
    (edit(format="1"), r"manifest\.json: format: "),
    (edit(classes=[]), r"manifest\.json: classes: "),
    (edit(classes=["a", 2]), r"manifest\.json: classes\.1: "),
    (edit(classes=["a", "b"]), r"2 classes and images of shape \(1, 8, 8\), but model\.onnx has 10 classes"),
    (edit(image_shape=[1, 8]), r"manifest\.json: image_shape"),
    (edit(image_shape=[1, 9, 9]), r"of shape \(1, 9, 9\), but .* \(1, 8, 8\)"),
    (edit(files={}), r"model\.onnx: does not match manifest\.json"),
    (edit(files={"../model.onnx": "0"}), r"manifest\.json: files.*not the name of a file"),
    (flip, r"model\.onnx: does not match manifest\.json"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_export_is_reported_at_once(
    damage: Callable[[Path], object], message: str, exported: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(InputError, match=message):
        predict(folder, images)


def test_missing_images_are_reported_at_once(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        predict(exported, tmp_path)
    with pytest.raises(InputError, match="nowhere"):
        predict(exported, tmp_path / "nowhere")


def test_unknown_keys_of_a_manifest_are_ignored(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    edit(colour="blue")(folder)
    assert read_manifest(folder).classes == CLASSES


# Tables.


READERS: dict[str, Callable[..., pd.DataFrame]] = {
    "table.csv": pd.read_csv,
    "table.parquet": pd.read_parquet,
    "TABLE.CSV": pd.read_csv,
}


@pytest.mark.parametrize("name", READERS)
def test_a_table_can_be_read_back(name: str, exported: Path, images: Path, tmp_path: Path) -> None:
    expected = pd.concat(predict(exported, images), ignore_index=True)
    (tmp_path / name).write_text("an earlier file")
    assert write_table(predict(exported, images, chunk=2), tmp_path / name) == 7
    assert [path.name for path in tmp_path.iterdir()] == [name]
    found = READERS[name](tmp_path / name)
    assert list(found.columns) == ["file", "label", "probability"]
    assert list(found["file"]) == list(expected["file"])
    assert list(found["label"]) == list(expected["label"])
    np.testing.assert_allclose(found["probability"], expected["probability"], rtol=1e-6)


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_any_file_name_is_kept_and_a_table_may_be_empty(name: str, tmp_path: Path) -> None:
    files = ["a,b.png", 'a"b.png', "a\nb.png", "ä/é.png", ""]
    frame = pd.DataFrame(
        {"file": files, "label": CLASSES[:5], "probability": np.array([0.1, 0.2, 0, 1, 1], np.float32)}
    )
    write_table([frame, frame], tmp_path / name)
    options: dict[str, Any] = {"keep_default_na": False} if name.endswith("csv") else {}
    found = READERS[name](tmp_path / name, **options)
    assert list(found["file"]) == files * 2
    assert list(found["label"]) == list(CLASSES[:5]) * 2
    assert write_table([], tmp_path / name) == 0
    assert list(READERS[name](tmp_path / name).columns) == ["file", "label", "probability"]


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (InputError("3.png: not an image"), InputError),
        (OSError(28, "No space left on device"), WorkError),
        (PermissionError(13, "Permission denied"), InputError),
    ],
)
def test_an_unfinished_table_does_not_appear(
    name: str, failure: Exception, expected: type[Exception], tmp_path: Path
) -> None:
    def frames() -> Iterator[pd.DataFrame]:
        yield pd.DataFrame({"file": ["a"], "label": ["b"], "probability": np.array([1], np.float32)})
        raise failure

    (tmp_path / name).write_text("an earlier file")
    with pytest.raises(expected, match=str(failure.args[-1])):
        write_table(frames(), tmp_path / name)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["an earlier file"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table.xlsx", r"\.csv or \.parquet"),
        ("table", r"\.csv or \.parquet"),
        ("nowhere/table.csv", "nowhere does not exist"),
        ("folder.csv", "is a folder"),
    ],
)
def test_an_impossible_table_path_is_rejected_before_any_work(
    name: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.csv").mkdir()

    def frames() -> Iterator[pd.DataFrame]:
        raise AssertionError("work was done")
        yield

    with pytest.raises(InputError, match=message):
        write_table(frames(), tmp_path / name)
