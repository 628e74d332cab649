"""Learning curves of every configuration of a small space, recorded once from real training on MNIST.

`python -m tests.bench.curves FOLDER-OF-MNIST` writes them to curves.parquet, which is part of the
repository: one row per configuration, in the order of `grid`, with its validation loss and seconds by epoch.
Each row is a complete training by `Fit` on one thread: 9 epochs of 1,000 training images, validated on 2,000
images, with the row as seed, as a sweep seeds a trial with its number. The seconds are the process's CPU
time, so that other load on the machine has little effect. The file's metadata describe the recording.
"""

import itertools
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from convene.config.search_space import SearchSpace, build

FILE = Path(__file__).with_name("curves.parquet")
EPOCHS = 9

# The space that a search explores. The learning rate is a range, with six points in the table.
SPACE = {
    "network": {
        "kernel_size": {"choices": [3, 5]},
        "depth": {"low": 2, "high": 3},
        "width": {"choices": [4, 8, 16]},
        "dropout": {"low": 0.0, "high": 0.4, "step": 0.2},
    },
    "training": {
        "learning_rate": {"low": 3e-4, "high": 1e-1, "log": True},
        "batch_size": {"choices": [32, 128]},
        "epochs": EPOCHS,
        "label_smoothing": 0.0,
    },
}
DATA = {"train_limit": 1_000, "valid_fraction": 1 / 30}
VALUES: dict[str, tuple[Any, ...]] = {
    "network.kernel_size": (3, 5),
    "network.depth": (2, 3),
    "network.width": (4, 8, 16),
    "network.dropout": (0.0, 0.2, 0.4),
    "training.learning_rate": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "training.batch_size": (32, 128),
}


@dataclass(frozen=True)
class Curve:
    """The recorded training of one configuration: validation loss and seconds of each epoch."""

    row: int
    valid_loss: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """The curves of all configurations."""

    curves: tuple[Curve, ...]

    def curve(self, parameters: Mapping[str, Any]) -> Curve:
        """Return the curve of the nearest recorded configuration. Learning rates are compared by ratio."""
        row = 0
        for name, values in VALUES.items():
            row = row * len(values) + _nearest(values, parameters[name], log=name == "training.learning_rate")
        return self.curves[row]

    @property
    def best(self) -> float:
        """The lowest final validation loss of all configurations."""
        return min(curve.valid_loss[-1] for curve in self.curves)

    @property
    def mean_seconds(self) -> float:
        """Mean seconds of a complete training over all configurations."""
        return float(np.mean([sum(curve.seconds) for curve in self.curves]))


def space() -> SearchSpace:
    """Return the space that a search explores."""
    return build(SPACE)


def grid() -> Iterator[dict[str, Any]]:
    """Yield the parameters of each row."""
    for values in itertools.product(*VALUES.values()):
        yield dict(zip(VALUES, values, strict=True))


def read(file: Path = FILE) -> Table:
    """Return the recorded table."""
    rows = pq.read_table(file, columns=["valid_loss", "seconds"]).to_pylist()
    return Table(
        tuple(Curve(index, tuple(row["valid_loss"]), tuple(row["seconds"])) for index, row in enumerate(rows))
    )


def record(mnist: Path, file: Path = FILE, rows: int | None = None) -> None:
    """Train every configuration, or the first `rows`, and write the table."""
    import torch

    from convene.datasets import load

    torch.set_num_threads(1)
    recorded = build({**SPACE, "data": {"source": str(mnist), **DATA}})
    dataset = load(recorded.base.data)
    records = []
    for number, parameters in enumerate(itertools.islice(grid(), rows)):
        records.append(parameters | _trained(recorded, parameters, number, dataset.training_data))
        print(f"{number + 1}: {records[-1]}", flush=True)
    notes = {
        "what": "validation loss and CPU seconds by epoch; see tests/bench/curves.py",
        "data": f"{len(dataset.train)} training and {len(dataset.valid)} validation images of MNIST",
        "fingerprint": dataset.fingerprint,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, one thread",
    }
    table = pa.Table.from_pylist(records).replace_schema_metadata({"convene": json.dumps(notes)})
    pq.write_table(table, file, compression="zstd")


def _trained(
    recorded: SearchSpace, parameters: Mapping[str, Any], number: int, data: Any
) -> dict[str, list[float]]:
    from convene.training.fit import Fit

    losses, seconds = [], []
    fit = Fit(recorded.configuration(parameters, number), data)
    for _ in range(EPOCHS):
        start = time.process_time()
        losses.append(fit.run_epoch().valid_loss)
        seconds.append(time.process_time() - start)
    return {"valid_loss": losses, "seconds": seconds}


def _nearest(values: tuple[Any, ...], value: float, *, log: bool) -> int:
    scale = np.log if log else np.asarray
    return int(np.argmin(np.abs(scale(np.array(values)) - scale(value))))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
