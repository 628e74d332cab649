"""Synthetic sweeps of any size, recorded like real ones, for tests of readable and fast pages."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convene import datasets
from convene.config import search_space
from convene.config.schema import Configuration
from convene.datasets import Dataset
from convene.ensemble import test_predictions, test_set
from convene.ensemble.selection import top_k
from convene.environment import utc_now
from convene.records.open_sweep import OpenSweep
from convene.records.result import EnsembleChoice, MlflowRun, SweepResult
from convene.records.sweep_record import SweepMetadata, SweepRecord
from convene.search.study import Study
from convene.search.trial_state import ENDED, TrialState
from convene.storage import Storage
from convene.training import checkpoint
from convene.training.checkpoint import TrialRecord
from convene.training.metrics import Epoch

SPACE: dict[str, dict[str, Any]] = {
    "data": {"source": "digits"},
    "network": {
        "kernel_size": {"choices": [3, 5]},
        "depth": {"low": 1, "high": 3},
        "width": {"choices": [8, 16, 24, 32]},
        "dropout": {"low": 0.0, "high": 0.5},
        "dense": {"choices": [0, 128, [256, 64]]},
        "dense_dropout": {"low": 0.0, "high": 0.5, "when": {"dense": [128, [256, 64]]}},
    },
    "training": {
        "learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
        "batch_size": {"choices": [32, 64, 128]},
        "label_smoothing": {"low": 0.0, "high": 0.1},
        "epochs": 20,
    },
    "search": {"sampler": "random"},
}
KEPT = 20  # networks, the default


def record_sweep(root: Path, trials: int, seed: int = 0) -> OpenSweep:
    """Record a finished sweep named `synthetic`: half of its trials are pruned, some failed."""
    space = search_space.build(SPACE | {"search": SPACE["search"] | {"trials": trials}})
    dataset = datasets.load(space.base.data)
    random = np.random.default_rng(seed)
    about = SweepMetadata(
        name="synthetic",
        id="0" * 32,
        created=utc_now(),
        dataset=dataset.name,
        classes=len(dataset.classes),
        train=len(dataset.train),
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        versions={"python": "3", "convene": "0"},
    )
    record = SweepRecord.create(Storage(str(root)), about.name, space, about)
    study = Study(space, lambda configuration: None)
    losses = {}
    for _ in range(trials):
        number, configuration = study.ask()
        loss = _loss(configuration.training.learning_rate, configuration.network.dropout, random)
        state = TrialState(random.choice([ended.value for ended in ENDED], p=[0.45, 0.5, 0.05]))
        epochs = {"COMPLETE": 20, "PRUNED": int(random.integers(3, 12)), "FAIL": 0}[state]
        curve = [loss * (1 + 2 / epoch) * random.uniform(0.95, 1.05) for epoch in range(1, epochs + 1)]
        for epoch, value in enumerate(curve, 1):
            study.report(number, epoch, value)
        reason = {"PRUNED": "not among the best at epoch 7", "FAIL": "loss is nan in epoch 1"}.get(state)
        study.tell(number, state, [curve[-1]] if state == "COMPLETE" else None, reason)
        if curve:
            _write_trial(record, number, configuration, curve, state == "COMPLETE", random)
        if state == "COMPLETE":
            losses[number] = curve[-1]
    best = sorted(losses, key=lambda number: losses[number])[:KEPT]
    _write_result(record, dataset, study, best, random)
    return OpenSweep(record, space, dataset, study)


def _loss(rate: float, dropout: float, random: np.random.Generator) -> float:
    """Return a loss that is lowest at a learning rate of 0.005 and a dropout of 0.15."""
    distance = 0.4 * np.log10(rate / 5e-3) ** 2 + 2 * (dropout - 0.15) ** 2
    return float((0.04 + 0.1 * distance) * random.lognormal(0, 0.2))


def _write_trial(
    record: SweepRecord,
    number: int,
    configuration: Configuration,
    curve: list[float],
    complete: bool,
    random: np.random.Generator,
) -> None:
    epochs = tuple(Epoch(e, value, value, 1 - value / 3, 5000.0) for e, value in enumerate(curve, 1))
    parameters = int(configuration.network.width**2 * configuration.network.depth * 40)
    latency = parameters / 2e4 * random.uniform(0.9, 1.1) if complete else None
    row = asdict(TrialRecord(number, configuration, parameters, len(curve) * 1.5, latency, epochs))
    row["configuration"] = configuration.model_dump(mode="json")
    record.files.write(f"{checkpoint.folder(number)}/trial.json", json.dumps(row).encode())


def _write_result(
    record: SweepRecord, dataset: Dataset, study: Study, best: list[int], random: np.random.Generator
) -> None:
    """Write the best trials' logits, select an ensemble from them, and write its test result."""
    valid = {number: _logits(dataset.valid.labels, random) for number in best}
    for number, logits in valid.items():
        place = record.files / checkpoint.folder(number)
        place.write("weights.safetensors", b"")
        np.save(place.local("valid_logits.npy"), logits)
    selection = top_k(valid, dataset.valid.labels, size=5, rank_by="valid_loss")
    test = dataset.test.open()
    seen = test_predictions.collect(
        selection.members, {m.trial: _logits(test.labels, random) for m in selection.members}, test
    )
    test_predictions.save(record.files, seen)
    record.add_test_read(dataset.test.sha256, [member.trial for member in selection.members])
    scores = test_set.score(record, selection, seen)
    states = [trial.state for trial in study.trials()]
    record.write_result(
        SweepResult(
            name=record.name,
            trials=len(states),
            states={state: states.count(state) for state in ENDED},
            wall_seconds=3600.0,
            images_trained=10**9,
            best_single=scores.best_single,
            ensemble=scores.ensemble,
            test_reads=scores.test_reads,
            mlflow=MlflowRun("", "digits", "", waiting=0),
            export="",
            storage=record.storage.root,
            chosen=EnsembleChoice(5, "valid_loss"),
        )
    )


def _logits(labels: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float32]:
    """Return mostly correct logits. The networks' errors are correlated."""
    common = np.random.default_rng(0).normal(0, 1.3, (len(labels), 10))
    own = random.normal(0, 0.8, (len(labels), 10))
    logits: NDArray[np.float64] = common + own + 4.6 * np.eye(10)[labels]
    return logits.astype(np.float32)
