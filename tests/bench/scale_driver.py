"""The driver of a sweep of sleeping trials, which measures itself: `python -m tests.bench.scale_driver JSON`.

It is the real `convene.run_sweep`, except for the worker and for the clocks around the methods that
`_instrument` lists. The measurements are written to `measured.json` in the folder.
"""

import functools
import json
import logging
import os
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import convene
from tests.bench import sleeper

if TYPE_CHECKING:
    from convene.records.open_sweep import OpenSweep
    from convene.records.result import SweepResult
    from convene.tracking.tracker import Tracker

Figures = dict[str, Any]


class Clock:
    """CPU seconds of single calls, with the number of trials at that time."""

    def __init__(self) -> None:
        self.calls: defaultdict[str, list[tuple[int, float, float]]] = defaultdict(list)
        self.trials = 0
        self.written: Counter[str] = Counter()

    def time(self, owner: type, method: str) -> None:
        """Wrap a method to time its calls."""
        name, work = f"{owner.__name__}.{method}", getattr(owner, method)

        @functools.wraps(work)
        def timed(*arguments: Any, **named: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                spent = (self.trials, time.thread_time() - cpu, time.perf_counter() - wall)
                self.calls[name].append(spent)

        setattr(owner, method, timed)

    def count(self, owner: type, method: str, rows: Callable[..., int]) -> None:
        """Wrap a method to count the rows that its calls write."""
        work = getattr(owner, method)

        @functools.wraps(work)
        def counted(this: Any, *arguments: Any, **named: Any) -> Any:
            self.written["rows"] += rows(*arguments, **named)
            self.written["calls"] += 1
            return work(this, *arguments, **named)

        setattr(owner, method, counted)


def main(trials: int, concurrent: int, epochs: int, seconds: float, folder: str, step: int) -> None:
    logging.basicConfig(level=logging.WARNING)
    clock, running = Clock(), list[int]()
    samples: list[Figures] = []
    figures: Figures = {}
    cpus = 10_000 * (os.cpu_count() or 1) // concurrent / 10_000  # Ray counts in ten-thousandths
    space = sleeper.space(trials, concurrent, epochs, cpus)
    environment = {
        sleeper.FOLDER: folder,
        sleeper.SECONDS: seconds,
        sleeper.CONCURRENT: concurrent,
        "RAY_worker_niceness": 0,  # with Ray's default of 15, workers hardly start on a busy machine
    }
    os.environ.update({name: str(value) for name, value in environment.items()})
    process, children = psutil.Process(), _Children()
    _instrument(clock, samples, figures, process, children)

    def watch(progress: Any) -> None:
        clock.trials = progress.done
        if samples:
            running.append(progress.running)
        # The first sample is taken when all workers run, so that their start is not counted.
        if progress.done >= step * len(samples) if samples else progress.running == concurrent:
            samples.append(_sample(progress.done, progress.running, clock, process, children))

    begin = time.monotonic()
    result = convene.run_sweep(space, name="scale", storage=f"{folder}/runs", watch=watch)
    figures |= {
        "states": result.states,
        "wall": time.monotonic() - begin,
        "cpu": time.process_time(),
        "waiting": result.mlflow.waiting,
        "samples": samples,
        "calls": clock.calls,
        "running": sum(running) / len(running),
    }
    Path(folder, "measured.json").write_text(json.dumps(figures))


def _instrument(
    clock: Clock, samples: list[Figures], figures: Figures, process: psutil.Process, children: "_Children"
) -> None:
    """Replace the worker by one that sleeps, time methods, and wait for MLflow before the final stage."""
    from mlflow import MlflowClient
    from optuna.storages.journal import JournalFileBackend

    from convene.search.sampler import Sampler
    from convene.search.study import Study
    from convene.storage import Storage
    from convene.sweep import completion, tuner
    from convene.sweep.observer import Observer
    from convene.tracking.sweep_runs import SweepRuns

    tuner.TrialWorker = sleeper.Sleeper  # type: ignore[attr-defined]  # imported there, not exported
    for owner, methods in {
        Study: ("ask", "report", "should_prune", "tell"),
        Sampler: ("sample_relative",),
        Observer: ("__call__", "on_trial_start", "on_trial_complete"),
        SweepRuns: ("log_trial",),
        JournalFileBackend: ("append_logs",),
        Storage: ("read", "write", "exists", "remove", "names"),
    }.items():
        for method in methods:
            clock.time(owner, method)
    clock.count(MlflowClient, "log_batch", _rows)
    clock.count(MlflowClient, "create_run", lambda *arguments: 1 + len(arguments[2]))
    clock.count(MlflowClient, "log_inputs", lambda *arguments: 1)
    clock.count(MlflowClient, "set_terminated", lambda *arguments: 1)
    complete = completion.complete

    def instrumented(
        sweep: "OpenSweep",
        tracking: "AbstractContextManager[Tracker]",
        started: float,
        search: completion.Search | None = None,
    ) -> "SweepResult":
        def search_and_flush(tracker: "Tracker") -> None:
            assert search
            search(tracker)
            samples.append(_sample(clock.trials, 0, clock, process, children))
            figures["called"] = {name: len(calls) for name, calls in clock.calls.items()}
            figures["backlog"], begin = len(tracker._pending), time.monotonic()
            tracker.flush()
            figures["settled"] = time.monotonic() - begin
            _time_final_stage(clock, figures)

        return complete(sweep, tracking, started, search_and_flush)

    completion.complete = instrumented


def _time_final_stage(clock: Clock, figures: Figures) -> None:
    """Time the final stage from now on, including the import of PyTorch, and count its file operations."""
    begin, cpu = time.monotonic(), time.process_time()
    from convene.sweep import final_stage

    finish = final_stage.finish

    def timed(sweep: "OpenSweep", tracker: "Tracker", started: float) -> "SweepResult":
        result = finish(sweep, tracker, started)
        files = sum(len(calls) for name, calls in clock.calls.items() if name.startswith("Storage."))
        files -= sum(count for name, count in figures["called"].items() if name.startswith("Storage."))
        spent = {"wall": time.monotonic() - begin, "cpu": time.process_time() - cpu}
        figures["final"] = {**spent, "files": files}
        return result

    final_stage.finish = timed


def _rows(
    run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), synchronous: bool | None = None
) -> int:
    """Return the rows that a batch writes. MLflow stores the last value of each metric a second time."""
    return 2 * len(metrics) + len(params) + len(tags)


class _Children:
    """CPU time of Ray's own processes, and memory of the workers."""

    def __init__(self) -> None:
        self._service: dict[int, psutil.Process] = {}

    def figures(self, process: psutil.Process) -> Figures:
        memory, service = [], 0.0
        for child in process.children(recursive=True):
            try:
                if child.name() in ("raylet", "gcs_server"):
                    times = child.cpu_times()
                    service += times.user + times.system
                elif child.name().startswith(("ray::Resource", "ray::Sleeper")):
                    memory.append(child.memory_full_info().uss)
            except psutil.Error:
                continue
        return {"ray": service, "workers": len(memory), "worker": max(memory, default=0)}


def _sample(done: int, running: int, clock: Clock, process: psutil.Process, children: _Children) -> Figures:
    native = {thread.native_id: thread.name for thread in threading.enumerate()}
    by_thread: Counter[str] = Counter()
    for thread in process.threads():
        name = native.get(thread.id, "ray")
        by_thread[name if name in ("MainThread", "tracking") else "ray"] += (
            thread.user_time + thread.system_time
        )
    return {
        "done": done,
        "running": running,
        "wall": time.monotonic(),
        "cpu": time.process_time(),
        "threads": by_thread,
        "uss": process.memory_full_info().uss,
        "written": dict(clock.written),
        **children.figures(process),
    }


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
