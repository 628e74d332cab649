"""A trial's files restore it completely and are safe to open."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convene.config.schema import Configuration
from convene.config.validation import validate
from convene.storage import Storage
from convene.training import checkpoint
from convene.training.checkpoint import TrialRecord, folder, load_logits, load_network, load_record, save
from convene.training.fit import Fit, logits
from convene.training.metrics import Epoch
from tests.training.test_fit import digits

FILES = {"trial.json", "weights.safetensors", "valid_logits.npy"}
STATE = "state.safetensors"  # until the last epoch
DATA = digits(train=64, valid=20)
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"network": {}, "training": {}},
    "no batch norm, channels first": {
        "network": {"batch_norm": False},
        "training": {"channels_last": False},
    },
    "averaged weights": {"network": {"depth": 2, "dense": [8, 4], "dropout": 0.5}, "training": {"ema": 0.5}},
    "listed filters": {"network": {"filters": [3, 5], "kernel_size": 4}, "training": {"seed": 2**40}},
}


def configuration(case: str) -> Configuration:
    tables = CASES[case]
    return validate(
        {
            "network": {"width": 4, "depth": 1} | tables["network"],
            "training": {"epochs": 3, "shift": 1, "seed": 1} | tables["training"],
        }
    )


def train(case: str, epochs: int = 1) -> tuple[TrialRecord, Fit]:
    fit = Fit(configuration(case), DATA)
    rows = tuple(fit.run_epoch() for _ in range(epochs))
    return TrialRecord(17, configuration(case), fit.parameter_count, 0.25, None, rows), fit


@pytest.mark.parametrize("case", CASES)
def test_a_saved_trial_is_loaded_unchanged(case: str, tmp_path: Path) -> None:
    record, fit = train(case)
    files = Storage(str(tmp_path))
    save(files, record, fit)
    back = load_record(files, 17)
    assert back == record
    assert back.last == record.epochs[-1]
    np.testing.assert_array_equal(load_logits(files, 17), fit.valid_logits)

    network = load_network(files, back, (1, 8, 8), 10)
    assert not network.training
    for name, value in fit.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    pixels = torch.from_numpy(DATA.valid.pixels)
    # A loaded network is in channels-first memory, where PyTorch's kernels sum in another order.
    plain = fit.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    np.testing.assert_array_equal(logits(network, pixels), logits(plain, pixels))
    np.testing.assert_allclose(logits(network, pixels), fit.valid_logits, atol=1e-5, rtol=1e-5)


def test_a_later_epoch_replaces_an_earlier_one(tmp_path: Path) -> None:
    files = Storage(str(tmp_path))
    for epochs in (1, 3):
        record, fit = train("averaged weights", epochs)
        save(files, record, fit)
    back = load_record(files, 17)
    assert back is not None
    assert [row.epoch for row in back.epochs] == [1, 2, 3]
    np.testing.assert_array_equal(load_logits(files, 17), fit.valid_logits)
    assert {path.name for path in (tmp_path / "trials/0017").iterdir()} == FILES


def test_no_file_can_run_code(tmp_path: Path) -> None:
    record, fit = train("plain")
    save(Storage(str(tmp_path)), record, fit)
    place = tmp_path / folder(17)
    assert {path.name for path in place.iterdir()} == {*FILES, STATE}
    json.loads((place / "trial.json").read_bytes())
    assert np.load(place / "valid_logits.npy", allow_pickle=False).shape == (20, 10)
    # safetensors: the length of a JSON header, the header, then numbers alone.
    content = (place / "weights.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    assert {name: tuple(entry["shape"]) for name, entry in header.items()} == {
        name: tuple(value.shape) for name, value in fit.network.state_dict().items()
    }
    assert len(content) == 8 + length + max(entry["data_offsets"][1] for entry in header.values())


def test_the_record_is_written_after_weights_and_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted first epoch leaves no record, so it does not count as a trial."""
    record, fit = train("plain")
    files = Storage(str(tmp_path))
    write = Storage.write

    def interrupted(self: Storage, path: str, data: bytes) -> None:
        if path == "trial.json":
            raise KeyboardInterrupt
        write(self, path, data)

    monkeypatch.setattr(Storage, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(files, record, fit)
    assert {path.name for path in (tmp_path / folder(17)).iterdir()} == FILES - {"trial.json"}
    assert load_record(files, 17) is None


def test_a_trial_without_an_epoch_has_no_record(tmp_path: Path) -> None:
    assert load_record(Storage(str(tmp_path)), 3) is None
    with pytest.raises(FileNotFoundError):
        load_logits(Storage(str(tmp_path)), 3)


def test_a_record_is_plain_json(tmp_path: Path) -> None:
    rows = (Epoch(1, 0.5, 0.25, 0.75, 1000.0), Epoch(2, 1e-9, 1e9, 1.0, 0.1))
    record = TrialRecord(12345, configuration("listed filters"), 10, 1.5, 0.5, rows)
    _, fit = train("listed filters")
    files = Storage(str(tmp_path))
    save(files, record, fit)
    assert load_record(files, 12345) == record
    content = json.loads(files.read("trials/12345/trial.json"))
    assert content["configuration"]["network"]["filters"] == [3, 5]
    assert content["epochs"][1]["valid_loss"] == 1e9


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "trials/0000"), (17, "trials/0017"), (12345, "trials/12345")]
)
def test_a_trial_folder_is_named_by_its_number(number: int, expected: str) -> None:
    assert checkpoint.folder(number) == expected


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_trial_resumes_with_the_same_curve(case: str, tmp_path: Path) -> None:
    whole = list(Fit(configuration(case), DATA))
    files = Storage(str(tmp_path))
    record, fit = train(case, epochs=1)
    save(files, record, fit)
    again = Fit(configuration(case), DATA)
    torch.rand(3)  # other work in the new process
    resumed = checkpoint.load_state(files, record, again)
    curve = [*resumed.epochs, *again]
    assert [(row.epoch, row.train_loss, row.valid_loss) for row in curve] == [
        (row.epoch, row.train_loss, row.valid_loss) for row in whole
    ]


def test_a_record_ahead_of_the_state_is_cut_back(tmp_path: Path) -> None:
    """A process that ends between the two writes repeats the epoch, which is recorded once."""
    files = Storage(str(tmp_path))
    record, fit = train("plain", epochs=1)
    save(files, record, fit)
    ahead, _ = train("plain", epochs=2)
    again = Fit(configuration("plain"), DATA)
    assert [row.epoch for row in checkpoint.load_state(files, ahead, again).epochs] == [1]
    assert [row.epoch for row in again] == [2, 3]


def test_a_trial_without_a_state_starts_over(tmp_path: Path) -> None:
    record, _ = train("plain", epochs=1)
    again = Fit(configuration("plain"), DATA)
    assert checkpoint.load_state(Storage(str(tmp_path)), record, again).epochs == ()
    assert again.epoch == 0


def test_removing_a_network_keeps_its_record_and_logits(tmp_path: Path) -> None:
    files = Storage(str(tmp_path))
    record, fit = train("plain")
    save(files, record, fit)
    assert checkpoint.has_network(files, 17)
    checkpoint.remove_network(files, 17)
    assert not checkpoint.has_network(files, 17)
    assert {path.name for path in (tmp_path / folder(17)).iterdir()} == {"trial.json", "valid_logits.npy"}


def test_removing_a_state_also_removes_incomplete_files(tmp_path: Path) -> None:
    files = Storage(str(tmp_path))
    record, fit = train("plain")
    save(files, record, fit)
    place = tmp_path / folder(17)
    (place / ".weights.safetensors.0123.partial").write_bytes(b"half")
    checkpoint.remove_state(files, 17)
    assert {path.name for path in place.iterdir()} == FILES
    checkpoint.remove_state(files, 18)  # a trial that never started
