"""What a trial leaves behind is enough to have it back, and safe to open."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convene.config.schema import Configuration, validate
from convene.storage import Storage
from convene.training import checkpoint
from convene.training.checkpoint import TrialRecord, folder, load_logits, load_network, load_record, save
from convene.training.fit import Fit, logits
from convene.training.metrics import Epoch
from tests.training.test_fit import digits

FILES = {"trial.json", "weights.safetensors", "valid_logits.npy"}
STATE = "state.safetensors"  # beside them, until the last epoch
DATA = digits(train=64, valid=20)
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {"network": {}, "training": {}},
    "no batch norm, planes of memory": {
        "network": {"batch_norm": False},
        "training": {"channels_last": False},
    },
    "averaged": {"network": {"depth": 2, "dense": [8, 4], "dropout": 0.5}, "training": {"ema": 0.5}},
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
def test_what_is_saved_comes_back(case: str, tmp_path: Path) -> None:
    record, fit = train(case)
    sweep = Storage(str(tmp_path))
    save(sweep, record, fit)
    back = load_record(sweep, 17)
    assert back == record
    assert back.last == record.epochs[-1]
    np.testing.assert_array_equal(load_logits(sweep, 17), fit.valid_logits)

    network = load_network(sweep, back, (1, 8, 8), 10)
    assert not network.training
    for name, value in fit.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    pixels = torch.from_numpy(DATA.valid.pixels)
    # A loaded network lies in memory by planes, and PyTorch's other kernels sum in another order.
    plain = fit.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    np.testing.assert_array_equal(logits(network, pixels), logits(plain, pixels))
    np.testing.assert_allclose(logits(network, pixels), fit.valid_logits, atol=1e-5, rtol=1e-5)


def test_a_later_epoch_replaces_an_earlier_one(tmp_path: Path) -> None:
    sweep = Storage(str(tmp_path))
    for epochs in (1, 3):
        record, fit = train("averaged", epochs)
        save(sweep, record, fit)
    back = load_record(sweep, 17)
    assert back is not None
    assert [row.epoch for row in back.epochs] == [1, 2, 3]
    np.testing.assert_array_equal(load_logits(sweep, 17), fit.valid_logits)
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


def test_the_record_vouches_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written last, so that what was interrupted before it never counts as a trial."""
    record, fit = train("plain")
    sweep = Storage(str(tmp_path))
    write = Storage.write

    def interrupted(self: Storage, path: str, data: bytes) -> None:
        if path == "trial.json":
            raise KeyboardInterrupt
        write(self, path, data)

    monkeypatch.setattr(Storage, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(sweep, record, fit)
    assert {path.name for path in (tmp_path / folder(17)).iterdir()} == FILES - {"trial.json"}
    assert load_record(sweep, 17) is None


def test_a_trial_that_never_finished_an_epoch_is_none(tmp_path: Path) -> None:
    assert load_record(Storage(str(tmp_path)), 3) is None
    with pytest.raises(FileNotFoundError):
        load_logits(Storage(str(tmp_path)), 3)


def test_a_record_is_json_that_others_can_read(tmp_path: Path) -> None:
    rows = (Epoch(1, 0.5, 0.25, 0.75, 1000.0), Epoch(2, 1e-9, 1e9, 1.0, 0.1))
    record = TrialRecord(12345, configuration("listed filters"), 10, 1.5, 0.5, rows)
    _, fit = train("listed filters")
    sweep = Storage(str(tmp_path))
    save(sweep, record, fit)
    assert load_record(sweep, 12345) == record
    content = json.loads(sweep.read("trials/12345/trial.json"))
    assert content["configuration"]["network"]["filters"] == [3, 5]
    assert content["epochs"][1]["valid_loss"] == 1e9


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "trials/0000"), (17, "trials/0017"), (12345, "trials/12345")]
)
def test_a_trials_folder_is_named_by_its_number(number: int, expected: str) -> None:
    assert checkpoint.folder(number) == expected


@pytest.mark.parametrize("case", CASES)
def test_a_trial_that_was_cut_off_goes_on_as_if_nothing_had_been(case: str, tmp_path: Path) -> None:
    whole = list(Fit(configuration(case), DATA))
    sweep = Storage(str(tmp_path))
    record, fit = train(case, epochs=1)
    save(sweep, record, fit)
    again = Fit(configuration(case), DATA)
    torch.rand(3)  # whatever else the new process does
    went_on = checkpoint.load_state(sweep, record, again)
    curve = [*went_on.epochs, *again]
    assert [(row.epoch, row.train_loss, row.valid_loss) for row in curve] == [
        (row.epoch, row.train_loss, row.valid_loss) for row in whole
    ]


def test_a_record_that_is_ahead_of_the_state_is_cut_to_it(tmp_path: Path) -> None:
    """As when the process ends between the two: the epoch is made again, and stands there once."""
    sweep = Storage(str(tmp_path))
    record, fit = train("plain", epochs=1)
    save(sweep, record, fit)
    ahead, _ = train("plain", epochs=2)
    again = Fit(configuration("plain"), DATA)
    assert [row.epoch for row in checkpoint.load_state(sweep, ahead, again).epochs] == [1]
    assert [row.epoch for row in again] == [2, 3]


def test_without_its_state_a_trial_begins_anew(tmp_path: Path) -> None:
    record, _ = train("plain", epochs=1)
    again = Fit(configuration("plain"), DATA)
    assert checkpoint.load_state(Storage(str(tmp_path)), record, again).epochs == ()
    assert again.epoch == 0


def test_a_forgotten_network_leaves_its_record_and_logits(tmp_path: Path) -> None:
    sweep = Storage(str(tmp_path))
    record, fit = train("plain")
    save(sweep, record, fit)
    assert checkpoint.has_network(sweep, 17)
    checkpoint.forget_network(sweep, 17)
    assert not checkpoint.has_network(sweep, 17)
    assert {path.name for path in (tmp_path / folder(17)).iterdir()} == {"trial.json", "valid_logits.npy"}


def test_a_trial_that_does_not_go_on_leaves_no_state_and_nothing_unfinished(tmp_path: Path) -> None:
    sweep = Storage(str(tmp_path))
    record, fit = train("plain")
    save(sweep, record, fit)
    place = tmp_path / folder(17)
    (place / ".weights.safetensors.0123.partial").write_bytes(b"half")
    checkpoint.forget_state(sweep, 17)
    assert {path.name for path in place.iterdir()} == FILES
    checkpoint.forget_state(sweep, 18)  # one that never began
