"""The driver's load in a sweep of thousands of trials: `python -m tests.bench scale`.

For a quick run, `python -m tests.bench.scale --trials 200 --concurrent 8`; for the second part, `--growth`.
MLflow is at MLFLOW_TRACKING_URI, by default SQLite.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from convene.search.trial_state import TrialState

MIB = 2**20
TRIALS, CONCURRENT, EPOCHS, SECONDS = 2_000, 64, 5, 5.0
SIZES = (100, 1_000, 2_000, 10_000)  # numbers of earlier trials
_REPEATS = 5  # trials measured at each size


def run() -> None:
    """2,000 sleeping trials of 5 epochs, 64 at a time; then the cost of one trial after up to 10,000."""
    sweep(TRIALS, CONCURRENT, EPOCHS, SECONDS)
    growth(SIZES)


def sweep(trials: int, concurrent: int, epochs: int, seconds: float) -> None:
    """Run a whole sweep in its own process, and print its measurements."""
    with tempfile.TemporaryDirectory() as folder:
        _call("-c", f"from tests.bench.scale import _record; _record({folder!r})")
        options = {"trials": trials, "concurrent": concurrent, "epochs": epochs, "seconds": seconds}
        step = max(1, min(200, trials // 10))
        _call("-m", "tests.bench.scale_driver", json.dumps({**options, "folder": folder, "step": step}))
        measured = json.loads(Path(folder, "measured.json").read_text())
    copy = os.environ.get("CONVENE_SCALE_KEEP")
    if copy:
        Path(copy).write_text(json.dumps(measured))
    _print(measured)


def _record(folder: str) -> None:
    from tests.bench import sleeper

    sleeper.record(Path(folder), sleeper.space(1, 1, 1, 1.0).configuration({}, 0))


def _call(*arguments: str) -> None:
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{arguments}: exit code {ended.returncode}\n{ended.stderr}")


def _print(measured: dict[str, Any]) -> None:
    calls, (first, *_, last, ended) = measured["calls"], measured["samples"]
    trials, wall = last["done"] - first["done"], last["wall"] - first["wall"]
    epochs = len([call for call in calls["Observer.__call__"] if call[0] >= first["done"]])
    print(
        f"{trials} trials, {epochs} epochs in {wall:.0f} s, {measured['running']:.0f} running on average: "
        f"{trials / wall:.1f} trials and {epochs / wall:.1f} epochs per second; {measured['states']}"
    )
    cpu = last["cpu"] - first["cpu"]
    print(
        f"driver: {cpu:.0f} CPU seconds, {cpu / wall:.2f} of a core: {1000 * cpu / trials:.0f} ms per trial, "
        f"{1000 * cpu / epochs:.0f} per epoch"
    )
    for name, total in last["threads"].items():
        spent = total - first["threads"][name]
        print(f"  {name}: {1000 * spent / trials:.0f} ms per trial, {spent / wall:.2f} of a core")
    print(f"Ray's raylet and GCS: {1000 * (last['ray'] - first['ray']) / trials:.0f} ms per trial")
    grown = (last["uss"] - first["uss"]) / trials * 1000
    print(f"driver's memory: {last['uss'] / MIB:.0f} MiB unique, {grown / MIB:+.0f} per 1,000 trials")
    print(f"workers: {first['workers']}, the largest {first['worker'] / MIB:.0f} MiB unique")
    grown, took = (ended["uss"] - last["uss"]) / MIB, ended["cpu"] - last["cpu"]
    print(
        f"until Tune has ended all trials: {ended['wall'] - last['wall']:.0f} s, {took:.1f} of CPU; "
        f"{grown:+.0f} MiB"
    )
    rows, requests = (last["written"][key] - first["written"].get(key, 0) for key in ("rows", "calls"))
    busy = sum(call[2] for call in calls["SweepRuns.log_trial"] if call[0] >= first["done"])
    print(
        f"MLflow: {rows / wall:.0f} rows per second in {requests / wall:.0f} requests, of {rows / busy:.0f} "
        f"possible rows; after the last trial {measured['backlog']} trials were pending, "
        f"for {measured['settled']:.1f} s"
    )
    final = measured["final"]
    print(f"final stage: {final['wall']:.0f} s, {final['cpu']:.0f} of CPU; {final['files']} file operations")
    print("CPU ms per call, by number of earlier trials:")
    marks = [mark for mark in SIZES if mark <= last["done"]] or [last["done"]]
    for name, samples in calls.items():
        means = ", ".join(f"{mark}: {_near(samples, mark):.2f}" for mark in marks)
        print(f"  {name} ({measured['called'].get(name, 0) / last['done']:.1f} per trial) {means}")


def _near(calls: Sequence[Sequence[float]], mark: int) -> float:
    """Return the mean CPU milliseconds of the calls in the last tenth of the trials before a mark."""
    spent = [call[1] for call in calls if 0.9 * mark <= call[0] <= mark]
    return 1000 * sum(spent) / len(spent) if spent else float("nan")


def growth(sizes: Sequence[int]) -> None:
    """Print the CPU ms of study and observer for one trial, without Ray, MLflow and disk."""
    with tempfile.TemporaryDirectory() as folder:
        driver = _Driver(Path(folder), max(sizes))
        print("CPU ms of one trial's calls, by number of earlier trials: " + ", ".join(map(str, sizes)))
        means: dict[str, list[float]] = {}
        for size in sizes:
            driver.fill(size)
            for name, spent in driver.measure().items():
                means.setdefault(name, []).append(spent)
        for name, values in means.items():
            print(f"  {name}: " + ", ".join(f"{value:.1f}" for value in values))


class _Driver:
    """A study in memory and its observer, called as by Tune."""

    def __init__(self, folder: Path, trials: int) -> None:
        from convene import datasets
        from convene.records.sweep_record import SweepRecord
        from convene.search.study import Study
        from convene.storage import Storage
        from tests.bench import sleeper

        self._space = sleeper.space(trials, CONCURRENT, EPOCHS, 1.0)
        self._study = Study(self._space, lambda configuration: None)
        self._dataset = datasets.load(self._space.base.data)
        self._sweep_record = SweepRecord(Storage(str(folder)), "growth")

    def fill(self, size: int) -> None:
        """Fill the study up to `size` random trials, half of them complete."""
        import numpy as np
        import optuna

        random, optuna_study = np.random.default_rng(size), self._study._study
        uniform = optuna.samplers.RandomSampler(seed=size)
        for number in range(len(self._study), size):
            drawn = {
                name: uniform.sample_independent(optuna_study, None, name, distribution)  # type: ignore[arg-type]
                for name, distribution in self._space.distributions.items()
            }
            drawn = self._space.active_parameters(drawn)
            complete, loss = bool(random.random() < 0.5), float(random.lognormal(-2, 0.5))
            curve = {epoch: loss * (1 + 2 / epoch) for epoch in range(1, EPOCHS + 1 if complete else 3)}
            optuna_study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState["COMPLETE" if complete else TrialState.PRUNED],
                    params=drawn,
                    distributions={name: self._space.distributions[name] for name in drawn},
                    value=curve[EPOCHS] if complete else None,
                    intermediate_values=curve,
                )
            )
            if complete:
                self._write_record(number, drawn, curve)

    def _write_record(self, number: int, drawn: dict[str, Any], curve: dict[int, float]) -> None:
        from dataclasses import asdict

        from convene.training import checkpoint
        from convene.training.metrics import Epoch

        configuration = self._space.configuration(drawn, number)
        rows = tuple(Epoch(epoch, loss, loss, 1 - loss / 4, 1e4) for epoch, loss in curve.items())
        record = checkpoint.TrialRecord(number, configuration, 1, 1.0, 1.0, rows)
        row = asdict(record) | {"configuration": configuration.model_dump(mode="json")}
        (self._sweep_record.files / checkpoint.folder(number)).write("trial.json", json.dumps(row).encode())

    def measure(self) -> dict[str, float]:
        """Return the mean CPU milliseconds of each of a trial's calls."""
        from convene.records.open_sweep import OpenSweep
        from convene.search.time_budget import TimeBudget
        from convene.sweep.observer import Observer
        from convene.sweep.step_report import StepOutcome, StepReport
        from convene.training.metrics import Epoch

        spent: dict[str, float] = {}

        def timed(name: str, work: Callable[[], Any]) -> Any:
            begin = time.thread_time()
            result = work()
            spent[name] = spent.get(name, 0.0) + 1000 * (time.thread_time() - begin) / _REPEATS
            return result

        sweep = OpenSweep(self._sweep_record, self._space, self._dataset, self._study)
        budget, tracker = TimeBudget(0.0, self._space.base, 1), SimpleNamespace(log_trial=lambda view: None)
        observer = Observer(sweep, tracker, budget, lambda progress: None)  # type: ignore[arg-type]
        for _ in range(_REPEATS):
            number, _configuration = timed("ask", self._study.ask)
            trial: Any = SimpleNamespace(config={"number": number}, last_result={})
            timed("start", partial(observer.on_trial_start, 0, [], trial))
            for epoch in range(1, EPOCHS + 1):
                loss = 0.01 * (1 + 2 / epoch)
                row = Epoch(epoch, loss, loss, 1 - loss, 1e4)
                report = StepReport(
                    number, StepOutcome.TRAINED, epoch=row, epochs=EPOCHS, seconds=float(epoch)
                )
                trial.last_result = report.to_result()
                timed("epochs", partial(observer, "", trial.last_result))
            timed("end", partial(observer.on_trial_complete, 0, [], trial))
        return spent


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--concurrent", type=int, default=CONCURRENT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--growth", action="store_true")
    options = vars(parser.parse_args())
    growth(SIZES) if options.pop("growth") else sweep(**options)
