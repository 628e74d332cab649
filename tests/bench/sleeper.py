"""Trials that sleep: the real worker with a fake training, in a process without PyTorch.

In each epoch a trial sleeps, and writes files of realistic size through the real checkpoint. Every trial
writes the same network, trained once by `record`, so that the sweep can be scored and exported. The space
has only parameters that do not change the network's shape. Losses depend on the configuration.
"""

import math
import os
import random
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace, build
from convene.datasets import TrainingData
from convene.storage import Storage
from convene.sweep.worker import TrialWorker
from convene.training import checkpoint
from convene.training.metrics import Epoch

FOLDER, SECONDS, CONCURRENT = "CONVENE_SCALE_FOLDER", "CONVENE_SCALE_SECONDS", "CONVENE_SCALE_CONCURRENT"
"""Environment variables of the workers: the folder of `record`, seconds per epoch, and trials at a time."""
_NETWORK = "network.npz"

Tensors = dict[str, NDArray[Any]]


def space(trials: int, concurrent: int, epochs: int, cpus: float) -> SearchSpace:
    """Return a space of ten parameters of every kind, one of them conditional."""
    return build(
        {
            "data": {"source": "digits"},
            "network": {
                "depth": 3,
                "width": 16,
                "activation": {"choices": ["relu", "leaky_relu", "elu"]},
                "dropout": {"low": 0.0, "high": 0.5},
                "initialization": {"choices": ["default", "kaiming", "xavier"]},
            },
            "training": {
                "epochs": epochs,
                "optimizer": {"choices": ["adamw", "adam", "sgd"]},
                "learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
                "batch_size": {"choices": [32, 64, 128]},
                "weight_decay": {"low": 1e-4, "high": 1e-1, "log": True, "when": {"optimizer": ["adamw"]}},
                "label_smoothing": {"low": 0.0, "high": 0.1},
                "shift": {"low": 0, "high": 3},
                "rotation": {"low": 0.0, "high": 15.0},
            },
            "search": {"trials": trials, "concurrency": concurrent, "cpus_per_trial": cpus},
        }
    )


def record(folder: Path, configuration: Configuration) -> None:
    """Train the network for an epoch, and save what a trial writes of it."""
    from convene import datasets
    from convene.training.fit import Fit

    fit = Fit(configuration, datasets.load(configuration.data).training_data)
    fit.run_epoch()
    network = {f"network/{name}": value.numpy() for name, value in fit.network.state_dict().items()}
    state = {f"state/{name}": value.numpy() for name, value in fit.state_tensors().items()}
    tensors: dict[str, Any] = {**network, **state}
    np.savez(folder / _NETWORK, logits=fit.valid_logits, parameters=fit.parameter_count, **tensors)


class _Network:
    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def state_dict(self) -> Tensors:
        return self._tensors


class SleepingFit:
    """A fake Fit with the attributes that the worker and the checkpoint use."""

    def __init__(self, configuration: Configuration, data: TrainingData, device: str) -> None:
        with np.load(Path(os.environ[FOLDER], _NETWORK)) as file:
            tensors = dict(file)
        self.valid_logits: NDArray[np.float32] = tensors["logits"]
        self.parameter_count = int(tensors["parameters"])
        self.network = _Network(_under("network/", tensors))
        self.epoch = 0
        self._state = _under("state/", tensors)
        self._images, self._training = len(data.train), configuration.training
        self._random = random.Random(configuration.training.seed)
        self._final_loss = _final_loss(configuration) * self._random.lognormvariate(0, 0.2)

    def run_epoch(self) -> Epoch:
        if not self.epoch:
            _wait_for_all(self._training.seed or 0)
        # Random, so that trials do not end at the same time.
        seconds = float(os.environ[SECONDS]) * self._random.uniform(0.8, 1.2)
        time.sleep(seconds)
        self.epoch += 1
        loss = self._final_loss * (1 + 2 / self.epoch) * self._random.uniform(0.95, 1.05)
        return Epoch(self.epoch, 1.2 * loss, loss, 1 - loss / 4, self._images / seconds)

    def state_tensors(self) -> Tensors:
        return self._state

    def load_state_tensors(self, tensors: Tensors) -> None:
        raise AssertionError("no trial is interrupted here")

    def latency_ms(self) -> float:
        return 1.0


def _wait_for_all(number: int) -> None:
    """Make the first trials start together.

    Tune gives a waiting trial the worker of one that has ended, and discards the worker that is starting. If
    trials ended before a worker has started, there would never be enough workers.
    """
    folder, all_trials = Path(os.environ[FOLDER], "started"), int(os.environ[CONCURRENT])
    if number < all_trials:
        folder.mkdir(exist_ok=True)
        Path(folder, str(number)).touch()
        while sum(1 for _ in folder.iterdir()) < all_trials:
            time.sleep(1)


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _final_loss(configuration: Configuration) -> float:
    """Return the expected final loss, lowest at a learning rate of 0.005 and a dropout of 0.15."""
    training = configuration.training
    distance = (
        0.4 * math.log10(training.learning_rate / 5e-3) ** 2 + 2 * (configuration.network.dropout - 0.15) ** 2
    )
    return 0.04 + 0.1 * distance + 0.02 * (training.optimizer == "sgd")


def _serialized(tensors: Tensors) -> bytes:
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(value) for name, value in tensors.items()})


class Sleeper(TrialWorker):  # type: ignore[misc]  # final, except for this test
    """The worker of real sweeps, without PyTorch."""

    def setup(  # type: ignore[override]  # as in TrialWorker
        self, config: dict[str, Any], sweep: Storage, data: TrainingData, device: str, threads: int
    ) -> None:
        training = ModuleType("convene.training.fit")
        training.Fit = SleepingFit  # type: ignore[attr-defined]
        training.DivergenceError = FloatingPointError  # type: ignore[attr-defined]
        sys.modules["convene.training.fit"] = training
        checkpoint._serialize = _serialized  # type: ignore[assignment]
        torch = ModuleType("torch")
        torch.set_num_threads = lambda threads: None  # type: ignore[attr-defined]
        sys.modules["torch"] = torch
        super().setup(config, sweep, data, device, threads)
        del sys.modules["torch"]
