"""The final stage: chooses on validation logits, opens the test set once, scores, exports, records."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from convene.config.schema import EnsembleConfig
from convene.datasets import Dataset
from convene.ensemble import ensemble, test_predictions
from convene.errors import InputError, WorkError
from convene.export import exporter
from convene.export.inference import MANIFEST
from convene.export.model_card import ModelCard
from convene.records import trials
from convene.records.open_sweep import OpenSweep
from convene.records.sweep_record import EXPORT, Outcome, ScoredEnsemble, SweepRecord
from convene.records.trials import Standing
from convene.search.study import StudiedTrial
from convene.tracking.tracker import Tracker
from convene.training import checkpoint

logger = logging.getLogger(__name__)


def finish(sweep: OpenSweep, tracker: Tracker, started: float) -> Outcome:
    """Scores and exports the ensemble, and leaves the result with MLflow and in the sweep's folder.

    Args:
        sweep: its trials have ended; its space says which of them to choose.
        tracker: inside its context.
        started: when the command began, in seconds of `time.monotonic`.

    Raises:
        InputError: if the ensemble is to be larger than the number of best networks that were kept.
        WorkError: if no trial finished an epoch, or the export disagrees with the networks.
    """
    record, dataset, config = sweep.record, sweep.dataset, sweep.space.base.ensemble
    studied = sweep.study.trials()
    candidates = _candidates(record, studied)
    kept_best = record.space.base.ensemble.networks
    if config.size > kept_best and len(candidates) < sum(trial.state == "COMPLETE" for trial in studied):
        raise InputError(
            f"ensemble.size = {config.size}: only the {kept_best} best networks were kept (ensemble.keep)"
        )
    scored = _score_and_export(record, dataset, config, candidates)
    tracker.flush()
    record.write_trials(trials.table(sweep, tracker.run_ids()))
    outcome = Outcome(
        name=record.name,
        trials=len(studied),
        states={state: sum(trial.state == state for trial in studied) for state in trials.ENDED},
        wall_seconds=round(time.monotonic() - started, 3),
        images_trained=trials.images_trained(sweep),
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
        export=record.export,
        storage=record.storage.root,
        taken=sweep.study.taken,
        ended=sweep.study.has_ended,
        pareto=_pareto(sweep),
        chosen={"ensemble.size": config.size, "ensemble.rank_by": config.rank_by},
    )
    record.write_result(outcome)
    leave_report(sweep)
    show(tracker, sweep, outcome)
    return outcome


def leave_report(sweep: OpenSweep) -> None:
    """Writes the page that shows the result. Where that fails it is told, and the result is the same."""
    record = sweep.record
    try:
        from convene.visualization import report

        record.write_report(report.render(report.gather(sweep)))
    except Exception as error:  # whatever goes wrong with a page must not lose the result of hours
        what = f"{type(error).__name__}: {error}"
        logger.warning(
            "%s was not written (%s); again with: %s", record.report, what, record.command("report")
        )


def show(tracker: Tracker, sweep: OpenSweep, outcome: Outcome) -> None:
    """Hands the result to MLflow, and where each trial stands by it."""
    tags = {"convene.pareto": json.dumps(outcome.pareto)} if outcome.pareto else {}
    tracker.show_result(outcome, sweep.record, tags)
    tracker.show_standings(tuple(trials.views(sweep)), _standings(sweep, outcome))


def _standings(sweep: OpenSweep, outcome: Outcome) -> dict[int, Standing]:
    """Of the complete trials, and of stopped ones that are members where none was complete."""
    ranks = {number: rank for rank, (number, _) in enumerate(sweep.study.ranked(), 1)}
    weights = {member.trial: member.weight for member in outcome.scored.members}
    return {
        number: Standing(ranks.get(number), len(ranks), weights.get(number))
        for number in ranks.keys() | weights.keys()
    }


def _pareto(sweep: OpenSweep) -> list[dict[str, Any]]:
    """The trials that none beats in all objectives, where there are several."""
    objectives = sweep.space.base.search.objectives
    if len(objectives) == 1:
        return []
    values = {trial.number: trial.values for trial in sweep.study.trials()}
    return [
        {"trial": number, **dict(zip(objectives, values[number] or (), strict=True))}
        for number in sweep.study.pareto()
    ]


def note_waiting(sweep: OpenSweep, outcome: Outcome, tracker: Tracker) -> Outcome:
    """The outcome, with what MLflow had not taken when the tracker closed."""
    mlflow = {**outcome.mlflow, "waiting": tracker.waiting, "run_id": tracker.parent}
    outcome = replace(outcome, mlflow=mlflow)
    sweep.record.write_result(outcome)
    return outcome


def _score_and_export(
    record: SweepRecord, dataset: Dataset, config: EnsembleConfig, candidates: Sequence[int]
) -> ScoredEnsemble:
    """Decides on validation logits, and only then opens the test set: once, for the scores and the proof."""
    selection = ensemble.choose(record, candidates, dataset.valid.labels, config)
    networks = ensemble.load_members(record, dataset, selection)
    test = ensemble.open_test(record, dataset, selection)
    examined = ensemble.examine(networks, selection, test)
    test_predictions.save(record.files, examined)
    scored = ensemble.score(record, selection, dataset.valid.labels, examined)
    with record.files.staging(EXPORT, last=MANIFEST) as folder:
        exporter.write(
            networks,
            classes=dataset.classes,
            pixels=test.pixels,
            card=_card(record, dataset, scored),
            folder=folder,
        )
    return scored


def _candidates(record: SweepRecord, studied: Sequence[StudiedTrial]) -> list[int]:
    """The complete trials; where time left none, the stopped ones that finished an epoch."""
    for state in ("COMPLETE", "PRUNED"):
        found = checkpoint.with_network(record.files, (t.number for t in studied if t.state == state))
        if found:
            return sorted(found)
    reasons = "".join(f"\n  trial {t.number}: {t.state} {t.reason or ''}" for t in studied)
    raise WorkError(f"sweep {record.name}: no trial finished an epoch, so there is no ensemble{reasons}")


def _card(record: SweepRecord, dataset: Dataset, scored: ScoredEnsemble) -> ModelCard:
    return ModelCard(
        name=record.name,
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
        versions=record.about.versions,
    )
