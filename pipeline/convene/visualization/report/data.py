"""The recorded data of a sweep that its report shows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from convene.config import search_space
from convene.config.search_space import SearchSpace
from convene.datasets import Dataset
from convene.ensemble import test_predictions
from convene.ensemble.selection import EnsembleScore, scores_by_size
from convene.ensemble.test_predictions import Predictions
from convene.environment import utc_now
from convene.records.open_sweep import OpenSweep
from convene.records.result import SweepResult
from convene.records.sweep_record import SweepMetadata, SweepRecord
from convene.records.trials import RecordedTrial, load_trials
from convene.search.trial_state import TrialState
from convene.training import checkpoint

if TYPE_CHECKING:
    import optuna

_MAX_SIZE = 20  # of the scored ensembles: the number of networks kept by default


@dataclass(frozen=True)
class ReportData:
    """A sweep's data up to now."""

    metadata: SweepMetadata
    generated: str
    """Time of the report: UTC, ISO 8601."""
    space: SearchSpace
    classes: tuple[str, ...]
    valid_images: int
    trials: tuple[RecordedTrial, ...]
    ranking: tuple[int, ...]
    """Numbers of the complete trials, from best to worst."""
    study: "optuna.Study"
    pareto_front: frozenset[int]
    """Numbers of the complete trials that no other dominates."""
    ensemble_scores: tuple[EnsembleScore, ...]
    """Validation scores by ensemble size."""
    result: SweepResult | None
    predictions: Predictions | None
    """The test predictions behind `result`."""
    test_reads: int
    has_ended: bool
    """True if all trials have ended and none will follow."""

    @property
    def objective(self) -> str:
        """Return the primary objective."""
        return self.space.base.search.primary_objective

    @property
    def minimizes(self) -> bool:
        """Return whether lower values of the primary objective are better."""
        return self.space.base.search.minimize

    @property
    def costs(self) -> tuple[str, ...]:
        """Return the other objectives; usually there are none."""
        return tuple(name for name in self.space.base.search.objectives if name != self.objective)

    @property
    def seconds(self) -> float:
        """Return the total seconds of training and validation over all trials."""
        return sum(trial.record.seconds for trial in self.trials if trial.record)

    @property
    def members(self) -> tuple[int, ...]:
        """Return the ensemble's trials, best first; empty before there is a result."""
        return self.result.ensemble.trials if self.result else ()

    @property
    def chosen_score(self) -> EnsembleScore | None:
        """Return the chosen ensemble's validation scores, or None before there is a result."""
        if not self.result:
            return None
        ensemble = self.result.ensemble
        return EnsembleScore(len(self.members), ensemble.valid_loss, ensemble.valid_accuracy)

    @property
    def ranked(self) -> tuple[RecordedTrial, ...]:
        """Return the complete trials with records, from best to worst."""
        by_number = {trial.number: trial for trial in self.trials if trial.record}
        return tuple(by_number[number] for number in self.ranking if number in by_number)


def load_data(sweep: OpenSweep) -> ReportData:
    """Load the data of a sweep, which may still be running."""
    record, space, dataset, study = sweep.record, sweep.space, sweep.dataset, sweep.study
    ranking = tuple(number for number, _ in study.ranked())
    trials = tuple(load_trials(record.files, study.trials()))
    result, predictions = record.result, test_predictions.load(record.files)
    members = result.ensemble.trials if result else ()
    if result:  # the search space with the settings of this ensemble
        space = search_space.override(space, result.chosen.overrides if result.chosen else {})
    if predictions and tuple(member.trial for member in predictions.members) != members:
        predictions = None  # a final stage was interrupted between writing the two
    return ReportData(
        metadata=record.about,
        generated=utc_now(),
        space=space,
        classes=dataset.classes,
        valid_images=len(dataset.valid),
        trials=trials,
        ranking=ranking,
        study=study.optuna_study,
        pareto_front=frozenset(study.pareto()),
        ensemble_scores=_ensemble_scores(record, space, dataset, trials),
        result=result,
        predictions=predictions,
        test_reads=len(record.test_reads),
        has_ended=study.has_ended,
    )


def _ensemble_scores(
    record: SweepRecord, space: SearchSpace, dataset: Dataset, trials: tuple[RecordedTrial, ...]
) -> tuple[EnsembleScore, ...]:
    """Return the scores by ensemble size, from the complete trials whose networks were kept."""
    complete = (t.number for t in trials if t.state is TrialState.COMPLETE)
    numbers = sorted(checkpoint.trials_with_network(record.files, complete))
    logits = checkpoint.load_all_logits(record.files, numbers)
    if not logits:
        return ()
    config = space.base.ensemble
    largest = min(_MAX_SIZE, config.saved_networks)
    return tuple(scores_by_size(logits, dataset.valid.labels, largest=largest, rank_by=config.rank_by))
