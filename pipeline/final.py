"""The final stage: chooses on validation logits, opens the test set once, scores, exports, records."""

import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline import checkpoint, ensemble, export
from pipeline.config import EnsembleConfig, flatten
from pipeline.datasets import Dataset
from pipeline.errors import InputError, WorkError
from pipeline.model_card import ModelCard
from pipeline.record import BestSingle, Outcome, ScoredEnsemble, ScoredMember, SweepRecord
from pipeline.runs import TrialView
from pipeline.search_space import SearchSpace
from pipeline.study import StudiedTrial, Study
from pipeline.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd

ENDED = ("COMPLETE", "PRUNED", "FAIL")


def finish(
    kept: SweepRecord,
    dataset: Dataset,
    study: Study,
    config: EnsembleConfig,
    tracker: Tracker,
    started: float,
) -> Outcome:
    """Scores and exports the ensemble, and leaves the result with MLflow and in the sweep's folder.

    Args:
        kept: the sweep's folder.
        dataset: the data set that its trials were trained on.
        study: its trials, ended.
        config: which of them to choose.
        tracker: inside its context.
        started: when the command began, in seconds of `time.monotonic`.

    Raises:
        InputError: if the ensemble is to be larger than there are networks.
        WorkError: if no trial finished an epoch, or the export disagrees with the networks.
    """
    trials = study.trials()
    candidates = _candidates(kept, trials)
    if len(candidates) < min(config.size, sum(trial.state == "COMPLETE" for trial in trials)):
        raise InputError(
            f"ensemble.size = {config.size}: only {len(candidates)} networks were kept (ensemble.keep)"
        )
    scored = _score_and_export(kept, dataset, config, candidates)
    tracker.settle()
    table = trials_table(kept, trials, tracker.run_ids())
    kept.write_trials(table)
    outcome = Outcome(
        name=kept.name,
        trials=len(trials),
        states={state: sum(trial.state == state for trial in trials) for state in ENDED},
        wall_seconds=round(time.monotonic() - started, 3),
        images_trained=sum(_images(row, len(dataset.train)) for row in table.to_dict("records")),
        best_single=asdict(scored.best_single),
        ensemble={
            key: value for key, value in asdict(scored).items() if key not in ("best_single", "test_reads")
        },
        test_reads=scored.test_reads,
        mlflow={
            "tracking_uri": tracker.uri,
            "experiment": dataset.name,
            "run_id": tracker.parent,
            "waiting": 0,
        },
        export=str(kept.export),
        storage=kept.storage.root,
    )
    kept.write_result(outcome)
    tracker.show_result(scored, kept.export, [kept.trials_table, kept.space_file])
    return outcome


def _score_and_export(
    kept: SweepRecord, dataset: Dataset, config: EnsembleConfig, candidates: Sequence[int]
) -> ScoredEnsemble:
    """Decides on validation logits, and only then opens the test set: once, for the scores and the proof."""
    selection = ensemble.choose(kept, candidates, dataset.valid.labels, config)
    networks = ensemble.load_members(kept, dataset, selection)
    test = ensemble.open_test(kept, dataset, selection)
    scored = ensemble.score(kept, networks, selection, dataset.valid.labels, test)
    export.write(
        networks,
        classes=dataset.classes,
        pixels=test.pixels,
        card=_card(kept, dataset, scored),
        folder=kept.export,
    )
    return scored


def scored(outcome: Outcome) -> ScoredEnsemble:
    """The scores that an outcome was made of."""
    content = {**outcome.ensemble, "test_interval": tuple(outcome.ensemble["test_interval"])}
    content["members"] = tuple(ScoredMember(**member) for member in outcome.ensemble["members"])
    single = {**outcome.best_single, "test_interval": tuple(outcome.best_single["test_interval"])}
    return ScoredEnsemble(**content, best_single=BestSingle(**single), test_reads=outcome.test_reads)


def views(kept: SweepRecord, space: SearchSpace, study: Study) -> Iterator[TrialView]:
    """What MLflow is to show of each trial that has ended."""
    for trial in study.trials():
        if trial.ended is not None:
            left = checkpoint.load_record(kept.files, trial.number)
            yield TrialView(
                trial.number,
                space.configuration(trial.parameters, trial.number),
                trial.started,
                trial.ended,
                trial.state,
                trial.reason,
                left.epochs if left else (),
            )


def trials_table(
    kept: SweepRecord, trials: Sequence[StudiedTrial], runs: Mapping[int, str]
) -> "pd.DataFrame":
    """One row a trial, with its last epoch and configuration; best first by validation loss, FAIL last."""
    import pandas as pd

    rows, space = [], kept.space
    for trial in trials:
        left = checkpoint.load_record(kept.files, trial.number)
        configuration = space.configuration(trial.parameters, trial.number)
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state,
                "reason": trial.reason,
                "epochs": len(left.epochs) if left else 0,
                "seconds": left.seconds if left else None,
                "parameters": left.parameters if left else None,
                "latency_ms": left.latency_ms if left else None,
                **(left.last.metrics() if left else {}),
                **flatten(configuration, "network", "training"),
                "mlflow_run_id": runs.get(trial.number),
            }
        )
    return pd.DataFrame(rows).sort_values(
        ["state", "valid_loss", "trial"], key=_by_outcome, ignore_index=True
    )


def _images(trial: Mapping[Hashable, Any], train: int) -> int:
    """Training images that a trial saw: its epochs in whole batches."""
    batch: int = min(trial["training.batch_size"], train)
    return int(trial["epochs"]) * (train - train % batch)


def _by_outcome(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """States in the order of ENDED, other columns as they are."""
    return column.map([*ENDED, "RUNNING"].index) if column.name == "state" else column


def _candidates(kept: SweepRecord, trials: Sequence[StudiedTrial]) -> list[int]:
    """The complete trials; where time left none, the stopped ones that finished an epoch."""
    for state in ("COMPLETE", "PRUNED"):
        found = [
            t.number for t in trials if t.state == state and checkpoint.has_network(kept.files, t.number)
        ]
        if found:
            return found
    reasons = "".join(f"\n  trial {t.number}: {t.state} {t.reason or ''}" for t in trials)
    raise WorkError(f"sweep {kept.name}: no trial finished an epoch, so there is no ensemble{reasons}")


def _card(kept: SweepRecord, dataset: Dataset, scored: ScoredEnsemble) -> ModelCard:
    return ModelCard(
        name=kept.name,
        dataset=dataset.name,
        source=dataset.source,
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        test_reads=scored.test_reads,
        valid_accuracy=scored.valid_accuracy,
        test_accuracy=scored.test_accuracy,
        test_interval=scored.test_interval,
        best_single_test_accuracy=scored.best_single.test_accuracy,
        members=scored.members,
        versions=kept.about.versions,
    )
