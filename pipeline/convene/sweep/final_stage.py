"""The final stage: choose by validation logits, open the test set once, score, export and record."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from convene.config.schema import EnsembleConfig
from convene.datasets import Dataset
from convene.ensemble import averaging, test_predictions, test_set
from convene.ensemble.selection import choose
from convene.errors import InputError, WorkError
from convene.export import exporter
from convene.export.inference import MANIFEST
from convene.export.model_card import ModelCard
from convene.records import trials
from convene.records.open_sweep import OpenSweep
from convene.records.result import EnsembleChoice, MlflowRun, Scores, SweepResult
from convene.records.sweep_record import EXPORT, SweepRecord
from convene.records.trials import Standing
from convene.search.study import StudyTrial
from convene.search.time_budget import TimeBudget
from convene.search.trial_state import ENDED, TrialState
from convene.tracking.tracker import Tracker
from convene.training import checkpoint

logger = logging.getLogger(__name__)


def finish(sweep: OpenSweep, tracker: Tracker, started: float) -> SweepResult:
    """Score and export the ensemble, and leave the result in the sweep's folder and with MLflow.

    Args:
        sweep: its trials have ended; its space says how to choose among them.
        tracker: inside its context.
        started: when the command began, in seconds of `time.monotonic`.

    Raises:
        InputError: if the ensemble is to be larger than the number of networks that were kept.
        WorkError: if no trial finished an epoch, or the export disagrees with the networks.
    """
    record, config = sweep.record, sweep.space.base.ensemble
    studied = sweep.study.trials()
    candidates = _candidates(record, studied, config, search_ended=sweep.study.has_ended)
    scores = _score_and_export(record, sweep.dataset, config, candidates)
    tracker.flush()
    record.write_trials(trials.table(sweep, tracker.trial_run_ids()))
    result = SweepResult(
        name=record.name,
        trials=len(studied),
        states={state: sum(trial.state is state for trial in studied) for state in ENDED},
        wall_seconds=round(time.monotonic() - started, 3),
        images_trained=trials.images_trained(sweep),
        best_single=scores.best_single,
        ensemble=scores.ensemble,
        test_reads=scores.test_reads,
        mlflow=MlflowRun(tracker.uri, sweep.dataset.name, tracker.run_id, waiting=0),
        export=record.export,
        storage=record.storage.root,
        taken=sweep.study.known,
        ended=sweep.study.has_ended,
        pareto=_pareto(sweep),
        chosen=EnsembleChoice(config.size, config.rank_by),
    )
    record.write_result(result)  # first, so that no failure of the report or MLflow loses it
    write_report(sweep)
    show(tracker, sweep, result)
    return result


def record_pending_writes(sweep: OpenSweep, result: SweepResult, tracker: Tracker) -> SweepResult:
    """Record how many writes MLflow still lacks, which is known once the tracker is closed."""
    mlflow = replace(result.mlflow, waiting=tracker.waiting, run_id=tracker.run_id)
    result = replace(result, mlflow=mlflow)
    sweep.record.write_result(result)
    return result


def write_report(sweep: OpenSweep) -> None:
    """Write the report. A failure is logged and does not change the result."""
    record = sweep.record
    try:
        from convene.visualization import report

        record.write_report(report.render(report.load_data(sweep)))
    except Exception as error:  # no fault of a page may lose the result
        what = f"{type(error).__name__}: {error}"
        logger.warning(
            "%s was not written (%s); retry with: %s", record.report, what, record.command("report")
        )


def show(tracker: Tracker, sweep: OpenSweep, result: SweepResult) -> None:
    """Pass the result to MLflow, with the rank and weight of each trial."""
    tags = {"convene.pareto": json.dumps(result.pareto)} if result.pareto else {}
    tracker.log_result(result, sweep.record, tags)
    tracker.log_standings(tuple(trials.views(sweep)), _standings(sweep, result))


def _standings(sweep: OpenSweep, result: SweepResult) -> dict[int, Standing]:
    """Return the standings of the complete trials, and of pruned ones that are members."""
    ranks = {number: rank for rank, (number, _) in enumerate(sweep.study.ranked(), 1)}
    weights = {member.trial: member.weight for member in result.ensemble.members}
    return {
        number: Standing(ranks.get(number), len(ranks), weights.get(number))
        for number in ranks.keys() | weights.keys()
    }


def _pareto(sweep: OpenSweep) -> tuple[Mapping[str, int | float], ...]:
    """Return the trials on the Pareto front, where there are several objectives."""
    objectives = sweep.space.base.search.objectives
    if len(objectives) == 1:
        return ()
    values = {trial.number: trial.values for trial in sweep.study.trials()}
    return tuple(
        {"trial": number, **dict(zip(objectives, values[number] or (), strict=True))}
        for number in sweep.study.pareto()
    )


def _score_and_export(
    record: SweepRecord, dataset: Dataset, config: EnsembleConfig, candidates: Sequence[int]
) -> Scores:
    """Decide by validation logits, then open the test set once, for the scores and to verify the export."""
    # All trials' logits are needed for the choice alone, and are not kept while the export needs memory.
    selection = choose(checkpoint.load_all_logits(record.files, candidates), dataset.valid.labels, config)
    networks = averaging.load_members(record, dataset, selection.members)
    test = test_set.open_test(record, dataset, selection)
    predictions = test_set.predict(networks, selection, test)
    test_predictions.save(record.files, predictions)
    scores = test_set.score(record, selection, predictions)
    with record.files.staging(EXPORT, last=MANIFEST) as folder:
        exporter.write(
            networks,
            classes=dataset.classes,
            pixels=test.pixels,
            card=_card(record, dataset, scores),
            folder=folder,
        )
    return scores


def _candidates(
    record: SweepRecord, studied: Sequence[StudyTrial], config: EnsembleConfig, *, search_ended: bool
) -> list[int]:
    """Return the trials to choose among.

    Raises:
        InputError: if networks were removed that an ensemble of this size might need.
        WorkError: if no trial has left a network.
    """
    found = trials.candidates(studied, lambda numbers: checkpoint.trials_with_network(record.files, numbers))
    if not found:
        raise WorkError(_nothing_to_choose_from(record, studied, search_ended=search_ended))
    kept = record.space.base.ensemble.saved_networks
    complete = sum(trial.state is TrialState.COMPLETE for trial in studied)
    if config.size > kept and len(found) < complete:
        raise InputError(
            f"ensemble.size = {config.size}: only the {kept} best networks were kept (ensemble.keep)"
        )
    return found


def _nothing_to_choose_from(record: SweepRecord, studied: Sequence[StudyTrial], *, search_ended: bool) -> str:
    """Return why no trial has left a network, and how to continue if only time was lacking."""
    text = f"sweep {record.name}: no trial finished an epoch"
    # A search that ended without a trial had no time to start one.
    if any(trial.reason == TimeBudget.REASON for trial in studied) or (search_ended and not studied):
        trials_more = record.space.base.search.trials
        text += (
            " before search.time_budget was over (`convene preflight` measures one); continue with: "
            f"{record.command('sweep')} --trials +{trials_more} --time-budget LONGER"
        )
    else:
        text += ", so there is no ensemble"
    return text + trials.states_and_reasons(studied)


def _card(record: SweepRecord, dataset: Dataset, scores: Scores) -> ModelCard:
    ensemble = scores.ensemble
    return ModelCard(
        name=record.name,
        dataset=dataset.name,
        source=dataset.source,
        fingerprint=dataset.fingerprint,
        test_sha256=dataset.test.sha256,
        test_reads=scores.test_reads,
        valid_accuracy=ensemble.valid_accuracy,
        test_accuracy=ensemble.test_accuracy,
        test_interval=ensemble.test_interval,
        best_single_test_accuracy=scores.best_single.test_accuracy,
        members=ensemble.members,
        versions=record.about.versions,
    )
