"""The Ray actor that trains trials, one epoch at a step, and leaves each epoch on disk."""

import gc
import time
from typing import TYPE_CHECKING, Any, final

from ray import tune

from convene.config.schema import Configuration
from convene.datasets import TrainingData
from convene.errors import last_line
from convene.storage import Storage, is_storage_failure
from convene.sweep.step_report import StepOutcome, StepReport
from convene.training import checkpoint
from convene.training.metrics import Epoch

if TYPE_CHECKING:
    from convene.training.fit import Fit

# Messages of PyTorch and CUDA's libraries in errors other than OutOfMemoryError.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_memory_error(error: BaseException) -> bool:
    """Return whether an error means out of memory, on a CPU or a GPU, raised by Python, PyTorch or CUDA."""
    from torch import OutOfMemoryError

    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


@final
class TrialWorker(tune.Trainable):
    """A Ray actor that trains one trial after another; one Tune step is one epoch."""

    def setup(  # type: ignore[override]  # tune.with_parameters adds what all trials share
        self, config: dict[str, Any], sweep: Storage, data: TrainingData, device: str, threads: int
    ) -> None:
        """Set up as Tune asks for: `config` is the trial's, the rest is shared by all trials."""
        import torch

        if sweep.is_local and not sweep.exists():
            raise RuntimeError(f"the storage {sweep.root} is not visible on this node")
        torch.set_num_threads(threads)
        self._sweep, self._data, self._device = sweep, data, device
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Switch to another trial in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train for an epoch and leave it on disk. A loss that is not finite ends the trial as failed.

        Running out of memory does not: the worker drops the trial, and the observer decides what becomes of
        it.
        """
        # Imported here, so that the driver, which only waits for its workers, does not load PyTorch.
        from convene.training.fit import DivergenceError

        try:
            return self._epoch()
        except DivergenceError as error:
            return self._report(StepOutcome.DIVERGED, str(error))
        except OSError as error:
            if not is_storage_failure(error):
                raise
            return self._report(StepOutcome.STORAGE_FAILURE, error.strerror or str(error), error.errno)
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            reason = last_line(error)
        self._forget()  # only now: the error's frames held the network, too
        return self._report(StepOutcome.OUT_OF_MEMORY, reason)

    def _report(self, outcome: StepOutcome, reason: str, errno: int | None = None) -> dict[str, Any]:
        return StepReport(self._number, outcome, reason, errno).to_result()

    def _epoch(self) -> dict[str, Any]:
        fit = self._fit or self._start()
        epochs = self._configuration.training.epochs
        if len(self._epochs) < epochs:
            self._train(fit)
        return StepReport(
            self._number,
            StepOutcome.TRAINED,
            epoch=self._epochs[-1],
            epochs=epochs,
            seconds=self._seconds,
            parameters=fit.parameter_count,
            latency_ms=self._latency_ms,
        ).to_result()

    def _begin(self, config: dict[str, Any]) -> None:
        self._number = int(config["number"])
        self._configuration = Configuration.model_validate_json(config["configuration"])
        self._forget()
        self._epochs: list[Epoch] = []
        self._seconds = 0.0
        self._latency_ms: float | None = None

    def _forget(self) -> None:
        """Free the memory of the last trial, on a GPU including PyTorch's cache."""
        self._fit: Fit | None = None
        if self._device != "cpu":
            import torch

            gc.collect()
            torch.cuda.empty_cache()

    def _start(self) -> "Fit":
        """Begin the trial, or continue where an earlier attempt was cut off."""
        from convene.training.fit import Fit

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
