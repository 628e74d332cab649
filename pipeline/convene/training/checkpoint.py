"""A trial's files: its record, weights, validation logits, and the state to resume from."""

import io
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import Configuration
from convene.storage import Storage
from convene.training.metrics import Epoch

if TYPE_CHECKING:
    from torch import Tensor

    from convene.training.fit import Fit
    from convene.training.network import ConvNet

_RECORD, _WEIGHTS, _LOGITS = "trial.json", "weights.safetensors", "valid_logits.npy"
_STATE = "state.safetensors"
_READERS = 16  # threads; an object store takes tens of milliseconds for a file


@dataclass(frozen=True)
class TrialRecord:
    """A trial's configuration, cost and learning curve, rewritten after each epoch."""

    number: int
    configuration: Configuration
    parameters: int
    """Number of trainable parameters."""
    seconds: float
    """Duration of training and validation over all epochs."""
    latency_ms: float | None
    """Milliseconds for one image, measured after the last epoch; see `Fit.latency_ms`."""
    epochs: tuple[Epoch, ...]

    @property
    def last(self) -> Epoch:
        """The last epoch, which the saved weights and logits belong to."""
        return self.epochs[-1]


def folder(number: int) -> str:
    """Return a trial's folder, relative to its sweep's: `trials/0017`."""
    return f"trials/{number:04d}"


def save(files: Storage, record: TrialRecord, fit: "Fit") -> None:
    """Write the weights and logits, then the record that makes them valid, then the state to resume from.

    A trial that is interrupted between two writes resumes from its previous state and repeats the epoch.
    """
    trial_files = files / folder(record.number)
    trial_files.write(_WEIGHTS, _serialize(fit.network.state_dict()))
    buffer = io.BytesIO()
    np.save(buffer, fit.valid_logits)
    trial_files.write(_LOGITS, buffer.getvalue())
    row = asdict(record) | {"configuration": record.configuration.model_dump(mode="json")}
    trial_files.write(_RECORD, json.dumps(row).encode())
    if fit.epoch < record.configuration.training.epochs:
        trial_files.write(_STATE, _serialize(fit.state_tensors()))
    else:
        trial_files.remove(_STATE)


def load_state(files: Storage, record: TrialRecord, fit: "Fit") -> TrialRecord:
    """Restore the fit to the trial's saved state.

    Returns:
        The record up to the epoch of that state: without epochs if there is no state, unchanged if all epochs
        are done.
    """
    from safetensors.torch import load

    trial_files = files / folder(record.number)
    if len(record.epochs) == record.configuration.training.epochs:
        return record
    if not trial_files.exists(_STATE):
        return replace(record, epochs=(), seconds=0.0)
    fit.load_state_tensors(load(trial_files.read(_STATE)))
    done = fit.epoch
    return replace(record, epochs=record.epochs[:done])


def has_network(files: Storage, number: int) -> bool:
    """Return whether the trial finished an epoch and its weights are saved."""
    trial_files = files / folder(number)
    return trial_files.exists(_RECORD) and trial_files.exists(_WEIGHTS)


def trials_with_network(files: Storage, numbers: Iterable[int]) -> set[int]:
    """Return the numbers of the trials that have a network; see `has_network`."""
    candidates = list(numbers)
    with ThreadPoolExecutor(_READERS) as readers:
        results = readers.map(lambda number: has_network(files, number), candidates)
        return {number for number, found in zip(candidates, results, strict=True) if found}


def remove_network(files: Storage, number: int) -> None:
    """Remove the weights and the state of a trial, but not its record and logits."""
    (files / folder(number)).remove(_WEIGHTS)
    remove_state(files, number)


def remove_state(files: Storage, number: int) -> None:
    """Remove the state to resume from, and files that killed workers left incomplete."""
    trial_files = files / folder(number)
    trial_files.remove(_STATE)
    trial_files.remove_partial()


def _serialize(tensors: Mapping[str, "Tensor"]) -> bytes:
    from safetensors.torch import save as serialize

    # safetensors stores row-major memory, so channels-last weights are copied.
    return serialize({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})


def load_record(files: Storage, number: int) -> TrialRecord | None:
    """Return the trial's record, or None if it has not finished an epoch."""
    try:
        row: dict[str, Any] = json.loads((files / folder(number)).read(_RECORD))
    except FileNotFoundError:
        return None
    configuration = Configuration.model_validate_json(json.dumps(row.pop("configuration")))
    epochs = tuple(Epoch(**epoch) for epoch in row.pop("epochs"))
    return TrialRecord(configuration=configuration, epochs=epochs, **row)


def load_records(files: Storage, numbers: Iterable[int]) -> dict[int, TrialRecord]:
    """Return the records, by number, of the trials that finished an epoch."""
    with ThreadPoolExecutor(_READERS) as readers:
        records = readers.map(lambda number: load_record(files, number), numbers)
        return {record.number: record for record in records if record}


def load_logits(files: Storage, number: int) -> NDArray[np.float32]:
    """Return the trial's validation logits [example, class]."""
    data = io.BytesIO((files / folder(number)).read(_LOGITS))
    return np.asarray(np.load(data, allow_pickle=False), np.float32)


def load_all_logits(files: Storage, numbers: Iterable[int]) -> dict[int, NDArray[np.float32]]:
    """Return the validation logits [example, class] of several trials, by trial number."""
    trials = list(numbers)
    with ThreadPoolExecutor(_READERS) as readers:
        return dict(zip(trials, readers.map(lambda number: load_logits(files, number), trials), strict=True))


def load_network(
    files: Storage, record: TrialRecord, image_shape: tuple[int, int, int], classes: int
) -> "ConvNet":
    """Return the trial's network on the CPU, in evaluation mode."""
    from safetensors.torch import load

    from convene.training.network import ConvNet

    state = load((files / folder(record.number)).read(_WEIGHTS))
    network = ConvNet(
        record.configuration.network, image_shape, classes, state["mean"].numpy(), state["deviation"].numpy()
    )
    network.load_state_dict(state)
    return network.eval()
