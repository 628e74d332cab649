"""The Ray actor that trains trials: an epoch a step, each left on disk."""

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

# What PyTorch and CUDA's libraries say where it is not an OutOfMemoryError that they raise.
_NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_memory_error(error: BaseException) -> bool:
    """Whether an error is a want of memory: of a CPU's or of a GPU's, told by Python, PyTorch or CUDA."""
    from torch import OutOfMemoryError

    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


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
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes on with another trial in the same process."""
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Trains for an epoch and leaves it on disk. A loss that is not finite ends the trial as failed.

        A want of memory does not: the trial is given back, for the observer to say what becomes of it, and
        the worker keeps nothing of it.
        """
        # PyTorch loads in the workers alone while the driver only waits for them.
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
            lacking = last_line(error)
        self._forget()  # not before: the error's frames have held the network, too
        return self._report(StepOutcome.OUT_OF_MEMORY, lacking)

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
        """Gives back the memory of the last trial; of a GPU's also what PyTorch keeps of it for another."""
        self._fit: Fit | None = None
        if self._device != "cpu":
            import torch

            gc.collect()
            torch.cuda.empty_cache()

    def _start(self) -> "Fit":
        """Begins the trial, or goes on where an earlier attempt was cut off."""
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
