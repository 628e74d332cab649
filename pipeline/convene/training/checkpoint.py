"""What a trial leaves behind: its weights, its validation logits, its curve, and the state to go on from."""

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
_AT_A_TIME = 16  # files of several trials: an object store takes tens of milliseconds for each


@dataclass(frozen=True)
class TrialRecord:
    """A trial as its worker saw it; rewritten whole after each epoch."""

    number: int
    configuration: Configuration
    parameters: int
    """Trained numbers in the network."""
    seconds: float
    """Spent on training and validation, over all epochs."""
    latency_ms: float | None
    """What one image takes, once all epochs are done; see `Fit.latency_ms`."""
    epochs: tuple[Epoch, ...]

    @property
    def last(self) -> Epoch:
        """The epoch whose weights and logits lie beside this record."""
        return self.epochs[-1]


def folder(number: int) -> str:
    """A trial's folder, under its sweep's: `trials/0017`."""
    return f"trials/{number:04d}"


def save(sweep: Storage, record: TrialRecord, fit: "Fit") -> None:
    """Writes the weights and logits, the record that vouches for them, and last the state to go on from.

    A trial that is cut off between two of these goes on from the state before, and repeats the epoch.
    """
    place = sweep / folder(record.number)
    place.write(_WEIGHTS, _serialized(fit.network.state_dict()))
    buffer = io.BytesIO()
    np.save(buffer, fit.valid_logits)
    place.write(_LOGITS, buffer.getvalue())
    row = asdict(record) | {"configuration": record.configuration.model_dump(mode="json")}
    place.write(_RECORD, json.dumps(row).encode())
    if fit.epoch < record.configuration.training.epochs:
        place.write(_STATE, _serialized(fit.state_tensors()))
    else:
        place.remove(_STATE)


def load_state(sweep: Storage, record: TrialRecord, fit: "Fit") -> TrialRecord:
    """Puts the fit where the trial was cut off; returns the record of the epochs until there."""
    from safetensors.torch import load

    place = sweep / folder(record.number)
    if len(record.epochs) == record.configuration.training.epochs:
        return record
    if not place.exists(_STATE):
        return replace(record, epochs=(), seconds=0.0)
    fit.load_state_tensors(load(place.read(_STATE)))
    done = fit.epoch
    return replace(record, epochs=record.epochs[:done])


def has_network(sweep: Storage, number: int) -> bool:
    """Whether the trial finished an epoch and its weights were kept."""
    place = sweep / folder(number)
    return place.exists(_RECORD) and place.exists(_WEIGHTS)


def with_network(sweep: Storage, numbers: Iterable[int]) -> set[int]:
    """Those of the trials that have a network; see `has_network`."""
    asked = list(numbers)
    with ThreadPoolExecutor(_AT_A_TIME) as readers:
        has = readers.map(lambda number: has_network(sweep, number), asked)
        return {number for number, there in zip(asked, has, strict=True) if there}


def forget_network(sweep: Storage, number: int) -> None:
    """Removes what only a member of an ensemble needs; the record and the logits stay."""
    (sweep / folder(number)).remove(_WEIGHTS)
    forget_state(sweep, number)


def forget_state(sweep: Storage, number: int) -> None:
    """Removes what only a trial that goes on needs, and what its workers left unfinished when they died."""
    place = sweep / folder(number)
    place.remove(_STATE)
    place.remove_partial()


def _serialized(tensors: Mapping[str, "Tensor"]) -> bytes:
    from safetensors.torch import save as serialize

    # safetensors stores plain row-major memory, so channels-last weights are laid out anew.
    return serialize({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})


def load_record(sweep: Storage, number: int) -> TrialRecord | None:
    """The record, or None where the trial never finished an epoch."""
    try:
        row: dict[str, Any] = json.loads((sweep / folder(number)).read(_RECORD))
    except FileNotFoundError:
        return None
    configuration = Configuration.model_validate_json(json.dumps(row.pop("configuration")))
    epochs = tuple(Epoch(**epoch) for epoch in row.pop("epochs"))
    return TrialRecord(configuration=configuration, epochs=epochs, **row)


def load_records(sweep: Storage, numbers: Iterable[int]) -> dict[int, TrialRecord]:
    """The records of those of the trials that finished an epoch."""
    with ThreadPoolExecutor(_AT_A_TIME) as readers:
        records = readers.map(lambda number: load_record(sweep, number), numbers)
        return {record.number: record for record in records if record}


def load_logits(sweep: Storage, number: int) -> NDArray[np.float32]:
    """Validation logits [example, class]."""
    data = io.BytesIO((sweep / folder(number)).read(_LOGITS))
    return np.asarray(np.load(data, allow_pickle=False), np.float32)


def load_all_logits(sweep: Storage, numbers: Iterable[int]) -> dict[int, NDArray[np.float32]]:
    """Return the validation logits [example, class] of several trials, by trial."""
    asked = list(numbers)
    with ThreadPoolExecutor(_AT_A_TIME) as readers:
        return dict(zip(asked, readers.map(lambda number: load_logits(sweep, number), asked), strict=True))


def load_network(
    sweep: Storage, record: TrialRecord, image_shape: tuple[int, int, int], classes: int
) -> "ConvNet":
    """The trial's network on the CPU, in evaluation mode."""
    from safetensors.torch import load

    from convene.training.network import ConvNet

    state = load((sweep / folder(record.number)).read(_WEIGHTS))
    network = ConvNet(
        record.configuration.network, image_shape, classes, state["mean"].numpy(), state["deviation"].numpy()
    )
    network.load_state_dict(state)
    return network.eval()
