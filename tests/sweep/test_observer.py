"""Which networks a sweep keeps: those of the trials that an ensemble could be made of, and no more."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from convene.config.schema import Configuration
from convene.config.search_space import parse
from convene.search.study import Study
from convene.search.time_budget import TimeBudget
from convene.storage import Storage, StorageError, is_storage_failure
from convene.sweep.observer import Observer
from convene.sweep.progress import Progress, RunningTrial
from convene.sweep.step_report import StepOutcome, StepReport
from convene.training import checkpoint
from convene.training.metrics import Epoch

KEEP, EPOCHS = 2, 3
SPACE = """
[network]
dropout = { low = 0.0, high = 0.5 }
[training]
epochs = 3
[search]
trials = 40
grace_epochs = 1
scheduler = "SCHEDULER"
[ensemble]
size = 1
keep = 2
"""


def fail(trial: Any, outcome: StepOutcome, reason: str, errno: int | None = None) -> None:
    """Has the trial's last step end in an error, after the epochs that it had."""
    trial.epochs_done = _epoch(trial)
    trial.last_result = StepReport(trial.config["number"], outcome, reason, errno).to_result()


def _epoch(trial: Any) -> int:
    report = StepReport.from_result(trial.last_result)
    return report.epoch.epoch if report and report.epoch else trial.epochs_done


class Sweep:
    """A sweep whose trials are not trained, but leave the files of trials that are."""

    def __init__(self, folder: Path, scheduler: str) -> None:
        space = parse(SPACE.replace("SCHEDULER", scheduler))
        self.files = Storage(str(folder))
        self.study = Study(space, lambda configuration: None)
        self.space = space
        self.observe()

    def observe(self) -> None:
        """Begins to observe, or, as the process of a sweep that goes on does, begins again."""
        record: Any = SimpleNamespace(files=self.files)
        sweep: Any = SimpleNamespace(record=record, space=self.space, study=self.study)
        tracker: Any = SimpleNamespace(log_trial=lambda view: None)
        budget = TimeBudget(0.0, self.space.base, test_images=0)
        self.observer = Observer(sweep, tracker, budget, self._note)

    def _note(self, progress: Progress) -> None:
        self.progress = progress

    def begin(self) -> Any:
        number, configuration = self.study.ask()
        trial: Any = SimpleNamespace(
            config={"number": number, "configuration": configuration.model_dump_json()},
            last_result={},
            epochs_done=0,
        )
        self.observer.on_trial_start(0, [], trial)
        return trial

    def train(self, trial: Any, epochs: int, loss: float, accuracy: float) -> None:
        """Until the last of `epochs`, or until the trial is stopped."""
        number = trial.config["number"]
        for epoch in range(_epoch(trial) + 1, epochs + 1):
            rows = tuple(Epoch(each, 1.0, loss, accuracy, 1.0) for each in range(1, epoch + 1))
            record = checkpoint.TrialRecord(number, Configuration(), 1, 1.0, None, rows)
            fit: Any = SimpleNamespace(
                network=nn.Linear(1, 1), valid_logits=np.zeros((1, 2)), epoch=epoch, state_tensors=dict
            )
            checkpoint.save(self.files, record, fit)
            report = StepReport(number, StepOutcome.TRAINED, epoch=rows[-1], epochs=EPOCHS, seconds=1.0)
            trial.last_result = report.to_result()
            if self.observer(str(number), trial.last_result) or epoch == EPOCHS:
                self.observer.on_trial_complete(0, [], trial)
                return

    def with_file(self, name: str) -> set[int]:
        return {int(path.parent.name) for path in self.files.local("trials").glob(f"*/{name}")}

    def networks(self) -> set[int]:
        return self.with_file("weights.safetensors")


def test_while_none_is_complete_the_best_stopped_ones_are_kept(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "asha")
    first = sweep.begin()
    sweep.train(first, 1, loss=0.0, accuracy=0.0)
    for number in range(1, 9):  # each worse than those before by its loss, which stops it, and more accurate
        sweep.train(sweep.begin(), EPOCHS, loss=number, accuracy=number / 10)
        best = {*range(1, number + 1)[:KEEP], *range(1, number + 1)[-KEEP:]}
        assert sweep.networks() == {0} | best
        assert sweep.with_file("state.safetensors") == {0}
    assert sweep.progress.pruned == 8
    sweep.train(first, EPOCHS, loss=0.0, accuracy=0.0)
    assert sweep.networks() == {0}
    assert sweep.with_file("valid_logits.npy") == set(range(9))


@pytest.mark.parametrize("seed", range(3))
def test_the_best_complete_ones_by_either_score_are_kept(seed: int, tmp_path: Path) -> None:
    sweep, scores = Sweep(tmp_path, "none"), random.Random(seed)
    complete: dict[int, tuple[float, float]] = {}
    for number in range(12):
        loss, accuracy = scores.random(), scores.choice([0.1, 0.5, 0.9])
        if number == 6:
            sweep.observe()
        trial = sweep.begin()
        if number % 4 == 3:
            sweep.train(trial, 2, loss, accuracy)
            fail(trial, StepOutcome.DIVERGED, "the loss is nan")
            sweep.observer.on_trial_complete(0, [], trial)
        else:
            sweep.train(trial, EPOCHS, loss, accuracy)
            complete[number] = (loss, -accuracy)
        by_loss = sorted(complete, key=lambda each: complete[each][0])
        by_accuracy = sorted(complete, key=lambda each: (complete[each][1], each))
        assert sweep.networks() == {*by_loss[:KEEP], *by_accuracy[:KEEP]}


def test_a_failed_trial_is_no_member_though_there_is_no_other(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    trial = sweep.begin()
    sweep.train(trial, 2, loss=1.0, accuracy=0.5)
    fail(trial, StepOutcome.DIVERGED, "the loss is nan")
    sweep.observer.on_trial_complete(0, [], trial)
    assert sweep.networks() == set()


def test_what_had_no_time_to_go_on_keeps_its_network(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    for _ in range(2):
        sweep.train(sweep.begin(), 2, loss=1.0, accuracy=0.5)
    sweep.observe()  # in another process, that begins neither again
    sweep.observer.close()
    assert [trial.state for trial in sweep.study.trials()] == ["PRUNED", "PRUNED"]
    assert sweep.networks() == {0, 1}
    assert sweep.with_file("state.safetensors") == set()


def test_a_storage_that_goes_away_while_networks_are_removed_ends_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> None:
        raise StorageError("s3://bucket: no answer")

    sweep = Sweep(tmp_path, "none")
    monkeypatch.setattr(checkpoint, "remove_state", away)
    sweep.train(sweep.begin(), EPOCHS, loss=1.0, accuracy=0.5)
    assert sweep.observer.stop_all()
    with pytest.raises(StorageError, match="no answer"):
        sweep.observer.close()


def lacks_memory(sweep: Sweep, trial: Any) -> None:
    fail(trial, StepOutcome.OUT_OF_MEMORY, "CUDA out of memory")
    sweep.observer.on_trial_complete(0, [], trial)


def test_a_trial_without_memory_is_set_aside_and_fails_when_it_was_alone(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    large, small = sweep.begin(), sweep.begin()
    lacks_memory(sweep, large)
    sweep.train(small, EPOCHS, loss=1.0, accuracy=0.5)
    assert sweep.observer.has_set_aside
    assert sweep.study.open_trials == [large.config["number"]]
    assert sweep.progress.failed == 0
    sweep.observer.retries.begin(alone=True)
    sweep.observer.on_trial_start(0, [], large)
    assert not sweep.observer.has_set_aside
    lacks_memory(sweep, large)
    assert sweep.study.trials()[0].state == "FAIL"
    assert sweep.study.trials()[0].reason == "out of memory, also alone: CUDA out of memory"


def test_a_trial_that_has_memory_when_it_is_alone_is_complete(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    large = sweep.begin()
    sweep.train(large, 1, loss=1.0, accuracy=0.5)
    lacks_memory(sweep, large)
    sweep.observer.retries.begin(alone=True)
    sweep.observer.on_trial_start(0, [], large)
    sweep.train(large, EPOCHS, loss=1.0, accuracy=0.5)
    assert sweep.study.trials()[0].state == "COMPLETE"
    assert not sweep.observer.has_set_aside


def test_without_time_to_try_it_alone_the_reason_is_kept(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    lacks_memory(sweep, sweep.begin())
    sweep.observer.close()
    assert sweep.study.trials()[0].state == "PRUNED"
    reason = "out of memory beside others, and no time to try it alone: CUDA out of memory"
    assert sweep.study.trials()[0].reason == reason


def test_a_trial_that_is_killed_also_alone_fails_and_those_that_wait_do_not(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    trials = [sweep.begin() for _ in range(3)]
    sweep.observer.note_killed("out of memory")  # which of them was too large is not known
    too_large = trials[1]
    retries = sweep.space.base.search.retries
    for _ in range(1 + retries):
        assert sweep.study.open_trials == [0, 1, 2]
        sweep.observer.retries.begin(alone=True)
        sweep.observer.on_trial_start(0, [], too_large)
        sweep.observer.note_killed("out of memory")
    assert [trial.state for trial in sweep.study.trials()] == ["RUNNING", "FAIL", "RUNNING"]
    for _ in range(1 + retries):  # before it began
        sweep.observer.retries.begin(alone=True)
        sweep.observer.note_killed("out of memory")
    assert [trial.state for trial in sweep.study.trials()] == ["FAIL", "FAIL", "RUNNING"]


@pytest.mark.parametrize(("code", "kind"), [(28, OSError), (None, StorageError)])
def test_a_storage_that_a_worker_finds_full_or_away_ends_the_sweep_and_no_trial(
    code: int | None, kind: type[OSError], tmp_path: Path
) -> None:
    sweep = Sweep(tmp_path, "asha")
    done, cut_off = sweep.begin(), sweep.begin()
    sweep.train(done, EPOCHS, 0.5, 0.5)
    fail(cut_off, StepOutcome.STORAGE_FAILURE, "no room", code)
    assert not sweep.observer("1", cut_off.last_result)
    assert sweep.observer.stop_all()
    sweep.observer.on_trial_complete(0, [], cut_off)
    with pytest.raises(OSError, match="no room") as raised:
        sweep.observer.close()
    assert type(raised.value) is kind and is_storage_failure(raised.value)
    assert [trial.state for trial in sweep.study.trials()] == ["COMPLETE", "RUNNING"]


def test_the_progress_has_the_running_trials_and_the_end_of_the_search(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "none")
    first, second = sweep.begin(), sweep.begin()
    assert sweep.progress.running_trials == (
        RunningTrial(0, 0, EPOCHS, None),
        RunningTrial(1, 0, EPOCHS, None),
    )
    sweep.train(second, 2, loss=0.25, accuracy=0.5)
    assert sweep.progress.running_trials[1] == RunningTrial(1, 2, EPOCHS, 0.25)
    assert sweep.progress.work_done == pytest.approx(2 / EPOCHS)
    sweep.train(first, EPOCHS, loss=1.0, accuracy=0.5)
    assert [trial.number for trial in sweep.progress.running_trials] == [1]
    assert not sweep.progress.search_ended
    sweep.train(second, EPOCHS, loss=0.2, accuracy=0.5)
    sweep.observer.close()
    assert sweep.progress.search_ended
    assert sweep.progress.running == 0
    assert sweep.progress.best == (1, 0.2)
