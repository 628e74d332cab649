import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import load_digits
from torch.export import ExportedProgram

from convene.config.schema import NetworkConfig
from convene.ensemble.averaging import AveragedLogits
from convene.errors import InputError, WorkError
from convene.export import exporter, verification
from convene.export.model_card import ModelCard, readme
from convene.records.result import ScoredMember
from convene.training.network import ConvNet

CLASSES = tuple(f"digit {n}" for n in range(10))
FILES = {"model.onnx", "model.pt2", "manifest.json", "README.md"}
CARD = ModelCard(
    name="evening",
    dataset="digits",
    source="scikit-learn",
    fingerprint="f" * 64,
    test_sha256="a" * 64,
    test_reads=1,
    valid_accuracy=0.99,
    test_accuracy=0.9812,
    test_interval=(0.97, 0.99),
    best_single_test_accuracy=0.975,
    members=(ScoredMember(3, 0.75, 0.985, 0.975), ScoredMember(7, 0.25, 0.98, 0.97)),
    versions={"convene": "0.1.0", "torch": "2.13.0"},
)

Pixels = NDArray[np.uint8]
"""[example, channel, height, width]."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, because networks this small are slower with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pixels() -> Pixels:
    images: NDArray[np.float64] = load_digits().images[:101, None]
    return (images * 15.9).astype(np.uint8)


def network(
    seed: int, shape: tuple[int, int, int] = (1, 8, 8), mean: ArrayLike = ((70.0,),), **config: Any
) -> ConvNet:
    """Return a small network whose running statistics differ from a new one's."""
    torch.manual_seed(seed)
    config = {"width": 4, "depth": 1} | config
    deviation = np.full((1, 1, 1), 90, np.float32)
    convnet = ConvNet(NetworkConfig(**config), shape, len(CLASSES), np.array([mean], np.float32), deviation)
    convnet.train()(torch.randint(0, 256, (16, *shape), dtype=torch.uint8))
    return convnet


def write(ensemble: AveragedLogits, pixels: Pixels, folder: Path) -> verification.Agreement:
    return exporter.write(ensemble, classes=CLASSES, pixels=pixels, card=CARD, folder=folder)


@pytest.fixture(scope="module")
def ensemble() -> AveragedLogits:
    padded: dict[str, Any] = {"pool_size": 3, "pool_padding": "same"}
    members = [network(0, kernel_size=4, pooling="average", **padded), network(1, dropout=0.5, **padded)]
    return AveragedLogits(members, [3.0, 1.0]).eval()


@pytest.fixture(scope="module")
def folder(ensemble: AveragedLogits, pixels: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sweep") / "export"
    write(ensemble, pixels, target)
    return target


def run_onnx(folder: Path, pixels: Pixels) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    outputs: list[NDArray[np.float32]] = session.run(["logits", "probabilities"], {"images": pixels})
    return outputs


def run_original(ensemble: AveragedLogits, pixels: Pixels) -> list[NDArray[np.float32]]:
    with torch.inference_mode():
        return [output.numpy() for output in ensemble(torch.tensor(pixels))]


# The ensemble.


@pytest.mark.parametrize(
    ("members", "weights"),
    [(0, []), (1, []), (2, [1.0]), (1, [0.0]), (2, [1.0, -1.0]), (1, [float("nan")]), (1, [float("inf")])],
)
def test_an_ensemble_needs_a_weight_above_0_for_each_member(members: int, weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        AveragedLogits([network(0)] * members, weights)


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=4))
def test_logits_are_the_weighted_mean_and_probabilities_their_softmax(weights: list[float]) -> None:
    members = [network(seed).eval() for seed in range(len(weights))]
    ensemble = AveragedLogits(members, weights)
    images = torch.arange(3 * 64, dtype=torch.uint8).reshape(3, 1, 8, 8)
    logits, probabilities = ensemble(images)
    expected = sum(w * member(images) for w, member in zip(weights, members, strict=True)) / sum(weights)
    assert torch.isclose(ensemble.weights.sum(), torch.tensor(1.0))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(probabilities, torch.softmax(logits, dim=1))


# The files.


@pytest.mark.parametrize("batch", [0, 1, 2, 7])
def test_files_and_networks_agree_for_any_batch_size(
    folder: Path, ensemble: AveragedLogits, pixels: Pixels, batch: int
) -> None:
    images = pixels[:batch]
    program = torch.export.load(folder / "model.pt2").module()
    expected = run_original(ensemble, images)
    for found in (run_onnx(folder, images), [output.numpy() for output in program(torch.tensor(images))]):
        for ours, theirs in zip(expected, found, strict=True):
            assert theirs.shape == (len(images), len(CLASSES))
            np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_the_onnx_file_applies_the_weights(folder: Path, ensemble: AveragedLogits, pixels: Pixels) -> None:
    first, second = (member(torch.tensor(pixels)).detach().numpy() for member in ensemble.members)
    np.testing.assert_allclose(run_onnx(folder, pixels)[0], (3 * first + second) / 4, atol=1e-5)
    assert np.abs(first - second).max() > 0.1


CHANNELS_LAST: dict[str, Any] = {"memory_format": torch.channels_last}
VARIANTS: dict[str, dict[str, Any]] = {
    "even kernel": {"kernel_size": 4, "depth": 2},
    "average pooling, gelu": {"pooling": "average", "activation": "gelu"},
    "dense layers with dropout": {"dense": (12, 6), "dense_dropout": 0.4, "dropout": 0.3},
    "valid, stride, no pooling or norm": {
        "padding": "valid",
        "stride": 2,
        "pooling": "none",
        "batch_norm": False,
        "activation": "silu",
    },
    "rgb": {"shape": (3, 9, 7), "activation": "leaky_relu"},
    "mean of each pixel": {"mean": np.linspace(0, 200, 64).reshape(8, 8)},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_kind_of_network_agrees(variant: dict[str, Any], tmp_path: Path) -> None:
    # In training mode with channels last, as after training.
    ensemble = AveragedLogits([network(0, **variant).to(**CHANNELS_LAST)], [1.0])
    pixels = np.random.default_rng(0).integers(0, 256, (9, *variant.get("shape", (1, 8, 8))), dtype=np.uint8)
    agreement = write(ensemble, pixels, tmp_path / "export")
    assert max(agreement.onnx, agreement.pt2) <= agreement.tolerance
    np.testing.assert_allclose(
        run_onnx(tmp_path / "export", pixels)[0], run_original(ensemble.eval(), pixels)[0], atol=1e-4
    )


def test_the_ensemble_is_not_changed_and_nothing_is_logged(
    pixels: Pixels, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    ensemble = AveragedLogits([network(0).to(**CHANNELS_LAST)], [1.0]).train()
    before = {name: value.clone() for name, value in ensemble.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        agreement = write(ensemble, pixels[:1], tmp_path / "export")
    assert agreement.examples == 1
    assert ensemble.training and all(parameter.requires_grad for parameter in ensemble.parameters())
    assert all(torch.equal(before[name], value) for name, value in ensemble.state_dict().items())
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_manifest_describes_every_other_file(folder: Path, pixels: Pixels) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {path.name for path in folder.iterdir()} == FILES
    assert manifest["files"].keys() == FILES - {"manifest.json"}
    assert all(len(sha256) == 64 for sha256 in manifest["files"].values())
    assert manifest["classes"] == list(CLASSES)
    assert manifest["image_shape"] == [1, 8, 8]
    assert manifest["agreement"]["examples"] == len(pixels)
    assert manifest["card"]["members"][0] == {
        "trial": 3,
        "weight": 0.75,
        "valid_accuracy": 0.985,
        "test_accuracy": 0.975,
    }


@pytest.mark.parametrize(
    ("reads", "expected"), [(1, "was read once."), (3, "was read 3 times in this sweep.")]
)
def test_the_model_card_contains_the_scores(reads: int, expected: str) -> None:
    agreement = verification.Agreement(101, 1e-7, 0.0, 1e-4)
    text = readme(replace(CARD, test_reads=reads), CLASSES, (1, 8, 8), agreement)
    for part in [
        expected,
        "**98.12 %**",
        "97.00 to 99.00 %",
        "| 7 | 0.250 | 98.00 % | 97.00 % |",
        "f" * 64,
    ]:
        assert part in text


def test_the_onnx_file_is_self_contained_and_uses_standard_operators(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", exporter.OPSET)]
    assert not model.functions
    assert [value.name for value in model.graph.input] == ["images"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(model, full_check=True)


def test_no_file_contains_a_pickle_or_a_path_of_this_machine(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    (samples,) = (name for name in contents if "sample_inputs" in name)
    assert contents[samples] == b""
    configs = [json.loads(content) for name, content in contents.items() if name.endswith("_config.json")]
    assert not any(item["use_pickle"] for config in configs for item in config["config"].values())
    contents["model.onnx"] = (folder / "model.onnx").read_bytes()
    for name, content in contents.items():
        assert b"data.pkl" not in content and not content.startswith(b"PK"), name
        assert str(Path(exporter.__file__).parents[2]).encode() not in content, name


def test_the_code_in_the_model_card_runs_without_this_package(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert [len(block.splitlines()) for block in blocks] == [5, 5]
    program = (
        "import sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "sys.modules['convene'] = None\n" + "".join(blocks) + "assert logits.shape == (1, 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    onnx_line, torch_line = done.stdout.splitlines()
    assert re.findall(r"\d+", onnx_line)[0] == re.findall(r"\d+", torch_line)[0]


# Failures.


@pytest.fixture
def earlier(folder: Path, tmp_path: Path) -> Path:
    """Return the folder of an earlier export."""
    shutil.copytree(folder, tmp_path / "export")
    return tmp_path / "export"


def contents(folder: Path) -> dict[Path, bytes | bool]:
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def wrong_program(ensemble: AveragedLogits) -> ExportedProgram:
    """Return a program that differs from the right one by a small error."""
    members = [member for member in ensemble.members if isinstance(member, ConvNet)]
    other = AveragedLogits(members, [3.0, 1.01])
    with exporter._quiet_exporters():
        return exporter._program(exporter._evaluation_copy(other), (1, 8, 8))


@pytest.mark.parametrize(
    ("saver", "target", "message"),
    [
        ("_save_onnx", "export", "ONNX Runtime disagrees"),
        ("_save_pt2", "new", "PyTorch's exported program disagrees"),
    ],
)
def test_a_file_that_computes_something_else_is_rejected(
    saver: str,
    target: str,
    message: str,
    ensemble: AveragedLogits,
    pixels: Pixels,
    earlier: Path,
    wrong_program: ExportedProgram,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = getattr(exporter, saver)
    monkeypatch.setattr(exporter, saver, lambda program, path: save(wrong_program, path))
    before = contents(earlier.parent)
    with pytest.raises(WorkError, match=rf"{message}.*differ by up to .* is allowed"):
        write(ensemble, pixels, earlier.parent / target)
    assert contents(earlier.parent) == before


def test_a_full_disk_leaves_the_earlier_export(
    ensemble: AveragedLogits, pixels: Pixels, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(program: ExportedProgram, path: Path) -> None:
        path.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(exporter, "_save_pt2", full)
    before = contents(earlier.parent)
    with pytest.raises(WorkError, match=r"could not write .*No space left"):
        write(ensemble, pixels, earlier)
    assert contents(earlier.parent) == before


def test_an_earlier_export_is_replaced(pixels: Pixels, earlier: Path) -> None:
    (earlier / "README.md").unlink()
    write(AveragedLogits([network(5)], [1.0]), pixels[:3], earlier)
    assert [path.name for path in earlier.parent.iterdir()] == ["export"]
    assert json.loads((earlier / "manifest.json").read_text())["agreement"]["examples"] == 3
    assert {path.name for path in earlier.iterdir()} == FILES


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json/notes.txt"])
def test_a_folder_with_other_files_is_not_replaced(
    name: str, ensemble: AveragedLogits, pixels: Pixels, tmp_path: Path
) -> None:
    note = tmp_path / name
    note.parent.mkdir(exist_ok=True)
    note.write_text("mine")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match="not an export"):
        write(ensemble, pixels, note.parent)
    assert note.read_text() == "mine"


def test_a_folder_below_a_file_is_rejected(ensemble: AveragedLogits, pixels: Pixels, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot write"):
        write(ensemble, pixels, tmp_path / "file" / "export")


def test_an_export_needs_an_image_and_a_name_for_each_logit(
    ensemble: AveragedLogits, pixels: Pixels, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        write(ensemble, pixels[:0], tmp_path / "export")
    with pytest.raises(ValueError, match="2 class names for 10 logits"):
        exporter.write(ensemble, classes=CLASSES[:2], pixels=pixels, card=CARD, folder=tmp_path / "export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("examples", "sizes"),
    [(1, [1]), (2, [1, 1]), (7, [1, 6]), (256, [1, 255]), (257, [1, 255, 1]), (700, [1, 255, 256, 188])],
)
def test_verification_runs_batches_of_several_sizes(examples: int, sizes: list[int]) -> None:
    seen: list[int] = []

    def runtime(batch: Pixels) -> verification.Outputs:
        seen.append(len(batch))
        return np.zeros((len(batch), 2), np.float32), np.zeros((len(batch), 2), np.float32)

    logits, _ = verification.run_batches(runtime, np.zeros((examples, 1, 28, 28), np.uint8))
    assert seen == sizes
    assert len(logits) == examples


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([[1.0, 2.2]], "logits differ by up to 0.2, but only 0.1"),
        ([[1.0, float("nan")]], "logits differ by up to nan"),
        ([[1.0, 2.0]], None),
        ([[1.0, 2.09]], None),
    ],
)
def test_logits_must_agree_within_the_tolerance(found: list[list[float]], message: str | None) -> None:
    logits, expected = np.array(found, np.float32), np.array([[1.0, 2.0]], np.float32)
    same = np.array([[0.3, 0.7]], np.float32)
    if message:
        with pytest.raises(WorkError, match=message):
            verification.compare("Runtime", (logits, same), (expected, same), 0.1)
    else:
        difference = verification.compare("Runtime", (logits, same), (expected, same), 0.1)
        assert difference == pytest.approx(float(np.abs(logits - expected).max()))


@pytest.mark.parametrize(
    ("expected", "found", "rejected"),
    [([1.0, 1.09], [1.05, 1.04], False), ([1.0, 1.15], [1.1, 1.05], True), ([1.1, 1.1], [1.0, 1.1], False)],
)
def test_another_class_is_allowed_only_if_the_top_two_logits_are_within_the_tolerance(
    expected: list[float], found: list[float], rejected: bool
) -> None:
    same = np.array([[0.5, 0.5]], np.float32)
    ours, theirs = ((np.array([logits], np.float32), same) for logits in (expected, found))
    if rejected:
        with pytest.raises(WorkError, match="another class"):
            verification.compare("Runtime", theirs, ours, 0.125)
    else:
        verification.compare("Runtime", theirs, ours, 0.125)


# The copy.


@pytest.mark.parametrize("prepare", [lambda path: None, lambda path: path.mkdir(parents=True)])
def test_a_copy_into_a_new_or_empty_folder_is_identical(
    folder: Path, tmp_path: Path, prepare: Callable[[Path], None]
) -> None:
    destination = tmp_path / "some" / "where"
    prepare(destination)
    assert exporter.copy(folder, destination) == destination
    assert contents(destination) == contents(folder)
    assert [path.name for path in destination.parent.iterdir()] == ["where"]


def test_a_copy_into_a_folder_with_files_is_rejected(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for destination in (tmp_path, tmp_path / "notes.txt", folder):
        with pytest.raises(InputError, match="exists and is not empty"):
            exporter.copy(folder, destination)
    with pytest.raises(InputError, match=r"cannot write .*Not a directory"):
        exporter.copy(folder, tmp_path / "notes.txt" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "README.md"])
def test_a_damaged_file_is_not_copied(earlier: Path, tmp_path: Path, name: str, empty: bool) -> None:
    damaged = bytearray((earlier / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (earlier / name).write_bytes(damaged)
    destination = tmp_path / "copy"
    if empty:
        destination.mkdir()
    with pytest.raises(WorkError, match=rf"{re.escape(name)}: not the exported file"):
        exporter.copy(earlier, destination)
    assert {path.name for path in tmp_path.iterdir()} == {"export", *(["copy"] if empty else [])}
    assert not empty or not list(destination.iterdir())


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, WorkError, "could not write .*No space left on device"),
        (errno.EACCES, InputError, "cannot write .*Permission denied"),
    ],
)
def test_a_copy_that_cannot_be_written_leaves_nothing(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception],
    message: str,
) -> None:
    def fail(source: str, destination: str) -> None:
        Path(destination).write_bytes(b"a part")
        raise OSError(number, os.strerror(number), str(destination))

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(kind, match=message):
        exporter.copy(folder, tmp_path / "copy")
    assert not list(tmp_path.iterdir())
