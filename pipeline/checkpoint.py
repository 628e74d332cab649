"""What a trial leaves behind: its weights, its validation logits and its curve."""

import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Configuration
from pipeline.metrics import Epoch
from pipeline.storage import Storage

if TYPE_CHECKING:
    from pipeline.network import ConvNet
    from pipeline.training import Fit

_RECORD, _WEIGHTS, _LOGITS = "trial.json", "weights.safetensors", "valid_logits.npy"


@dataclass(frozen=True)
class TrialRecord:
    """A trial as its worker saw it; rewritten whole after each epoch."""

    number: int
    configuration: Configuration
    parameter_count: int
    seconds: float
    epochs: tuple[Epoch, ...]

    @property
    def last(self) -> Epoch:
        """The epoch whose weights and logits lie beside this record."""
        return self.epochs[-1]


def folder(number: int) -> str:
    """A trial's folder, under its sweep's: `trials/0017`."""
    return f"trials/{number:04d}"


def save(sweep: Storage, record: TrialRecord, fit: "Fit") -> None:
    """Writes the weights and logits, then the record that vouches for them."""
    from safetensors.torch import save as serialize

    place = sweep / folder(record.number)
    # safetensors stores plain row-major memory, so channels-last weights are laid out anew.
    place.write(
        _WEIGHTS, serialize({name: t.contiguous().cpu() for name, t in fit.network.state_dict().items()})
    )
    buffer = io.BytesIO()
    np.save(buffer, fit.valid_logits)
    place.write(_LOGITS, buffer.getvalue())
    row = asdict(record) | {"configuration": record.configuration.model_dump(mode="json")}
    place.write(_RECORD, json.dumps(row).encode())


def load_record(sweep: Storage, number: int) -> TrialRecord | None:
    """The record, or None where the trial never finished an epoch."""
    try:
        row: dict[str, Any] = json.loads((sweep / folder(number)).read(_RECORD))
    except FileNotFoundError:
        return None
    configuration = Configuration.model_validate_json(json.dumps(row.pop("configuration")))
    epochs = tuple(Epoch(**epoch) for epoch in row.pop("epochs"))
    return TrialRecord(configuration=configuration, epochs=epochs, **row)


def load_logits(sweep: Storage, number: int) -> NDArray[np.float32]:
    """Validation logits [example, class]."""
    data = io.BytesIO((sweep / folder(number)).read(_LOGITS))
    return np.asarray(np.load(data, allow_pickle=False), np.float32)


def load_network(
    sweep: Storage, record: TrialRecord, image_shape: tuple[int, int, int], classes: int
) -> "ConvNet":
    """The trial's network on the CPU, in evaluation mode."""
    from safetensors.torch import load

    from pipeline.network import ConvNet

    state = load((sweep / folder(record.number)).read(_WEIGHTS))
    network = ConvNet(
        record.configuration.network, image_shape, classes, state["mean"].numpy(), state["deviation"].numpy()
    )
    network.load_state_dict(state)
    return network.eval()
