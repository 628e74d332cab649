"""The Ray actor that trains trials: an epoch a step, each left on disk."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, final

from ray import tune

from pipeline import checkpoint
from pipeline.config import Configuration
from pipeline.datasets import TrainingData
from pipeline.metrics import Epoch
from pipeline.storage import Storage, is_out_of_service

if TYPE_CHECKING:
    from pipeline.training import Fit


@final
class TrialWorker(tune.Trainable):
    """A Ray actor that trains one trial after another; a Tune step is an epoch."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds what all trials share
        self, config: dict[str, Any], sweep: Storage, data: TrainingData, device: str, threads: int
    ) -> None:
        """Tune's constructor: `config` is the trial's, the rest is shared by all trials."""
        import torch

        if sweep.is_local and not sweep.exists():
            raise RuntimeError(f"the storage {sweep.root} is not to be seen on this node")
        torch.set_num_threads(threads)
        self._sweep, self._data, self._device = sweep, data, device
        self._fit: Fit | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes on with another trial in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains for an epoch and leaves it on disk. A loss that is not finite ends the trial as failed."""
        # PyTorch loads in the workers alone while the driver only waits for them.
        from pipeline.training import DivergenceError

        epochs = self._configuration.training.epochs
        try:
            fit = self._fit or self._start()
            if len(self._epochs) < epochs:
                self._train(fit)
        except DivergenceError as error:
            return {"failure": str(error), "done": True}
        except OSError as error:
            if not is_out_of_service(error):
                raise
            return {"storage": error.strerror or str(error), "done": True}
        last = self._epochs[-1]
        return {
            **asdict(last),
            "number": self._number,
            "epochs": epochs,
            "seconds": self._seconds,
            "parameters": fit.parameter_count,
            "latency_ms": self._latency_ms,
            "done": last.epoch == epochs,
        }

    def _begin(self, config: dict[str, Any]) -> None:
        self._number = int(config["number"])
        self._configuration = Configuration.model_validate_json(config["configuration"])
        self._fit = None
        self._epochs: list[Epoch] = []
        self._seconds = 0.0
        self._latency_ms: float | None = None

    def _start(self) -> "Fit":
        """Begins the trial, or goes on where an earlier attempt was cut off."""
        from pipeline.training import Fit

        self._fit = fit = Fit(self._configuration, self._data, self._device)
        if record := checkpoint.load_record(self._sweep, self._number):
            record = checkpoint.load_state(self._sweep, record, fit)
            self._epochs = list(record.epochs)
            self._seconds = record.seconds
            self._latency_ms = record.latency_ms
        return fit

    def _train(self, fit: "Fit") -> None:
        begin = time.perf_counter()
        self._epochs.append(fit.run_epoch())
        self._seconds += time.perf_counter() - begin
        if len(self._epochs) == self._configuration.training.epochs:
            self._latency_ms = fit.latency_ms()
        record = checkpoint.TrialRecord(
            self._number,
            self._configuration,
            fit.parameter_count,
            self._seconds,
            self._latency_ms,
            tuple(self._epochs),
        )
        checkpoint.save(self._sweep, record, fit)
