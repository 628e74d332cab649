"""A trial that runs out of memory: its worker gives it back and keeps nothing of it."""

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from convene import datasets
from convene.config.schema import Configuration
from convene.config.validation import validate
from convene.storage import Storage
from convene.sweep.step_report import StepOutcome, StepReport
from convene.sweep.worker import TrialWorker, is_memory_error
from convene.training.fit import Fit
from convene.training.metrics import Epoch

SPACE = {"data": {"train_limit": 200}, "network": {"depth": 1, "width": 4}, "training": {"epochs": 3}}


def too_much() -> torch.Tensor:
    return torch.empty(1 << 48)


def test_what_is_a_want_of_memory() -> None:
    with pytest.raises(RuntimeError) as lacking:
        too_much()
    assert is_memory_error(lacking.value)
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED"),
    ):
        assert is_memory_error(error)
    for other in (RuntimeError("shape mismatch"), ValueError("out of memory"), OSError(28, "No space left")):
        assert not is_memory_error(other)


@pytest.fixture
def worker(tmp_path: Path) -> TrialWorker:
    """As Tune makes one, but in this process."""
    config = validate(SPACE)
    made = TrialWorker.__new__(TrialWorker)
    made.setup(trial(config, 0), Storage(str(tmp_path)), datasets.load(config.data).training_data, "cpu", 1)
    return made


def step(worker: TrialWorker) -> Epoch:
    report = StepReport.from_result(worker.step())
    assert report and report.epoch
    return report.epoch


def trial(config: Configuration, number: int) -> dict[str, Any]:
    return {"number": number, "configuration": config.model_dump_json()}


def test_a_worker_that_ran_out_of_memory_goes_on_without_the_trial(
    worker: TrialWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert step(worker).epoch == 1
    held: list[weakref.ref[Any]] = []
    run_epoch = Fit.run_epoch

    def fails(fit: Fit) -> None:
        beside = torch.zeros(1)  # lives in the frame of the error, as a batch does
        held.extend((weakref.ref(fit), weakref.ref(fit.network), weakref.ref(beside)))
        too_much()

    monkeypatch.setattr(Fit, "run_epoch", fails)
    report = StepReport.from_result(worker.step())
    assert report and report.outcome is StepOutcome.OUT_OF_MEMORY
    assert "can't allocate memory" in report.reason
    gc.collect()  # a schedule may hold its optimizer in a circle, which is no leak
    assert [each() for each in held] == [None, None, None]
    # The same worker takes another trial; and the same one again, from the epoch that it had.
    monkeypatch.setattr(Fit, "run_epoch", run_epoch)
    for number, epoch in ((1, 1), (0, 2)):
        worker.reset_config(trial(validate(SPACE), number))
        assert step(worker).epoch == epoch


def test_another_error_is_not_taken_for_a_want_of_memory(
    worker: TrialWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fit: Fit) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Fit, "run_epoch", fails)
    with pytest.raises(RuntimeError, match="mat1"):
        worker.step()


WITHOUT = """
import json, sys
for absent in ("ray", "mlflow", "optuna"):
    sys.modules[absent] = None  # importing it raises ImportError
from convene import datasets
from convene.config.validation import validate
from convene.training.fit import Fit
config = validate(json.loads(sys.argv[1]))
rows = list(Fit(config, datasets.load(config.data).training_data))
print(len(rows), rows[-1].valid_loss)
"""


def test_a_network_is_trained_without_ray_mlflow_and_optuna() -> None:
    """A machine with a GPU needs PyTorch and the data's readers alone."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(SPACE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    epochs, valid_loss = done.stdout.split()
    config = validate(SPACE)
    *_, last = Fit(config, datasets.load(config.data).training_data)
    assert int(epochs) == 3
    assert float(valid_loss) == pytest.approx(last.valid_loss, rel=1e-6)  # threads may differ
