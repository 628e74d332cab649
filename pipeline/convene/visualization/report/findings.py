"""Everything that is recorded of a sweep and that its report tells, in one place."""

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

_LARGEST = 20  # ensemble whose score is looked at: of no more networks than are kept by default


@dataclass(frozen=True)
class Findings:
    """A sweep, as far as it has come."""

    about: SweepMetadata
    written: str
    """When this was gathered: UTC, ISO 8601."""
    space: SearchSpace
    classes: tuple[str, ...]
    valid_images: int
    trials: tuple[RecordedTrial, ...]
    order: tuple[int, ...]
    """Numbers of the complete trials, from best to worst."""
    study: "optuna.Study"
    front: frozenset[int]
    """Numbers of the complete trials that no other beats in all objectives."""
    ensembled: tuple[EnsembleScore, ...]
    """Ensembles by size, on the validation images."""
    result: SweepResult | None
    predictions: Predictions | None
    """What the final stage that came to `result` kept of the test set."""
    test_reads: int
    ended: bool
    """Whether no trial is still to come."""

    @property
    def objective(self) -> str:
        """What the search improved: of several objectives, that of validation."""
        return self.space.base.search.primary_objective

    @property
    def minimizes(self) -> bool:
        """Whether less of the objective is better."""
        return self.space.base.search.minimize

    @property
    def costs(self) -> tuple[str, ...]:
        """The objectives beside that of validation; mostly none."""
        return tuple(name for name in self.space.base.search.objectives if name != self.objective)

    @property
    def seconds(self) -> float:
        """What the trials spent on training and validation, one after the other."""
        return sum(trial.record.seconds for trial in self.trials if trial.record)

    @property
    def members(self) -> tuple[int, ...]:
        """The ensemble's trials, best first; none before there is a result."""
        return self.result.ensemble.trials if self.result else ()

    @property
    def chosen(self) -> EnsembleScore | None:
        """The ensemble that was scored; none before there is a result."""
        if not self.result:
            return None
        ensemble = self.result.ensemble
        return EnsembleScore(len(self.members), ensemble.valid_loss, ensemble.valid_accuracy)

    @property
    def ranked(self) -> tuple[RecordedTrial, ...]:
        """The complete trials with their records, from best to worst."""
        by_number = {trial.number: trial for trial in self.trials if trial.record}
        return tuple(by_number[number] for number in self.order if number in by_number)


def gather(sweep: OpenSweep) -> Findings:
    """Reads what a sweep has left so far. It may still be running."""
    record, space, dataset, study = sweep.record, sweep.space, sweep.dataset, sweep.study
    order = tuple(number for number, _ in study.ranked())
    trials = tuple(load_trials(record.files, study.trials()))
    result, predictions = record.result, test_predictions.load(record.files)
    members = result.ensemble.trials if result else ()
    if result:  # the space that makes this very ensemble
        space = search_space.override(space, result.chosen.overrides)
    if predictions and tuple(member.trial for member in predictions.members) != members:
        predictions = None  # a final stage was cut off between the two
    return Findings(
        about=record.about,
        written=utc_now(),
        space=space,
        classes=dataset.classes,
        valid_images=len(dataset.valid),
        trials=trials,
        order=order,
        study=study.optuna_study,
        front=frozenset(study.pareto()),
        ensembled=_ensembled(record, space, dataset, trials),
        result=result,
        predictions=predictions,
        test_reads=len(record.test_reads),
        ended=study.has_ended,
    )


def _ensembled(
    record: SweepRecord, space: SearchSpace, dataset: Dataset, trials: tuple[RecordedTrial, ...]
) -> tuple[EnsembleScore, ...]:
    """Ensembles of the complete trials whose networks were kept."""
    complete = (t.number for t in trials if t.state is TrialState.COMPLETE)
    numbers = sorted(checkpoint.trials_with_network(record.files, complete))
    logits = {number: checkpoint.load_logits(record.files, number) for number in numbers}
    if not logits:
        return ()
    config = space.base.ensemble
    largest = min(_LARGEST, config.saved_networks)
    return tuple(scores_by_size(logits, dataset.valid.labels, largest=largest, rank_by=config.rank_by))
