"""The Optuna study of a sweep: states, lasting numbers, pruning and the ranking of trials."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from convene.config.schema import Configuration, SearchConfig
from convene.config.search_space import SearchSpace
from convene.search import pruning
from convene.search.sampler import Sampler, ShapeCheck
from convene.search.study_storage import MEMORY, StudyStorage, batched_writes
from convene.search.trial_state import TrialState

# User attributes, as studies on disk have them.
_SEARCHED = "searched"  # of a study: whether its search has ended
_TAKEN_FROM = "taken from"  # of a trial: the earlier sweep that ran it
_CURVE = "epoch {}"  # of a trial with several objectives, for which Optuna accepts no reports


@dataclass(frozen=True)
class StudyTrial:
    """A trial in the study."""

    number: int
    state: TrialState
    parameters: dict[str, Any]
    reason: str | None
    """Why it was pruned or failed."""
    values: tuple[float, ...] | None
    """The objectives of a COMPLETE trial."""
    started: float
    """Seconds since the epoch."""
    ended: float | None


@final
class Study:
    """An Optuna study over a search space, which optuna-dashboard opens too."""

    def __init__(
        self, space: SearchSpace, shape_check: ShapeCheck, place: StudyStorage = MEMORY, name: str = "study"
    ) -> None:
        self._space = space
        self._search = search = space.base.search
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = storage = place.storage()
        try:
            self._study = optuna.load_study(study_name=name, storage=storage, pruner=NopPruner())
        except KeyError:
            self._study = optuna.create_study(
                study_name=name, storage=storage, pruner=NopPruner(), directions=_directions(search)
            )
            self._name_objectives()
        self._open: dict[int, optuna.Trial] = {}
        self._reported: dict[int, int] = {}
        # Updated with each event: to go through all trials each time would slow down as they add up.
        self._at_rung: dict[int, dict[int, float]] = {rung: {} for rung in pruning.rungs(space)}
        self.ended: Counter[TrialState] = Counter()
        """Ended trials of the sweep by state."""
        self.best: tuple[int, float] | None = None
        """Number and validation objective of the best complete trial."""
        self.known = 0
        """Trials of an earlier sweep in this study."""
        self._own_trials = 0
        self._count_trials()
        # Otherwise a resumed search would repeat its first draws.
        self._sampler = Sampler(space, shape_check, seed=(search.seed + len(self)) % 2**32)
        self._study.sampler = self._sampler

    @property
    def optuna_study(self) -> optuna.Study:
        """Optuna's study, read-only, for its importances and figures."""
        return self._study

    @property
    def open_trials(self) -> list[int]:
        """Numbers of the trials that this process asked for or reopened and has not ended."""
        return list(self._open)

    @property
    def has_ended(self) -> bool:
        """Return whether all trials have ended and none will follow."""
        if any(trial.state is TrialState.RUNNING for trial in self.trials()):
            return False
        return self._study.user_attrs.get(_SEARCHED, False) or len(self) >= self._search.trials

    def end_search(self, ended: bool = True) -> None:
        """Record whether the search has ended, as it does when time is up before all trials were run."""
        self._study.set_user_attr(_SEARCHED, ended)
        self._name_objectives()  # earlier versions did not

    def _name_objectives(self) -> None:
        """Name the objectives for optuna-dashboard, which would call the first one "Objective 0"."""
        names: list[str] = [*self._search.objectives]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if self._study.metric_names != names:
                self._study.set_metric_names(names)

    def __len__(self) -> int:
        """Return the number of the sweep's own trials, in any state."""
        return self._own_trials

    def _count_trials(self) -> None:
        """Read the trials that the study has already."""
        every = self._study.get_trials(deepcopy=False)
        self.known = sum(_TAKEN_FROM in trial.user_attrs for trial in every)
        self._own_trials = len(every) - self.known
        for rung, values in self._at_rung.items():
            curves = ((trial.number, _curve(trial)) for trial in every)
            values.update({number: curve[rung] for number, curve in curves if rung in curve})
        self.ended = Counter(trial.state for trial in self.trials() if trial.ended is not None)
        self.best = next(iter(self.ranked()), None)

    def _own(self, *states: OptunaState) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if _is_own(trial)]

    def add_known(self, sweep: str, earlier: Sequence["KnownTrial"]) -> None:
        """Add the trials of an earlier sweep that are not in the study yet; its own are numbered later."""
        with batched_writes(self._storage):
            for known in earlier[self.known :]:
                distributions = {name: self._space.searched[name].distribution for name in known.parameters}
                self._study.add_trial(
                    optuna.trial.create_trial(
                        state=OptunaState[known.state],
                        params=dict(known.parameters),
                        distributions=distributions,
                        values=known.values,
                        intermediate_values=dict(known.curve) if self._reports else None,
                        user_attrs={_TAKEN_FROM: sweep},
                    )
                )
        self._count_trials()

    def ask(self) -> tuple[int, Configuration]:
        """Return a new trial's number and complete configuration."""
        first = self._space.try_first[len(self) :]
        self._sampler.fixed = first[0] if first else {}
        with batched_writes(self._storage):
            trial = self._study.ask()
            self._own_trials += 1
            return self._begin(trial)

    def _begin(self, trial: optuna.Trial) -> tuple[int, Configuration]:
        for name in self._space.searched:
            if name in trial.relative_params:
                _suggest(trial, name, self._space.searched[name].distribution)
        self._open[trial.number] = trial
        return trial.number, self._space.configuration(trial.params, trial.number)

    def reopen(self) -> list[tuple[int, Configuration]]:
        """Return numbers and configurations of the running trials, also of those that another process left.

        A trial that was cut off while its parameters were written gets the missing ones.
        """
        for frozen in self._own(OptunaState.RUNNING):
            if frozen.number not in self._open:
                self._sampler.fixed = frozen.params
                self._begin(optuna.Trial(self._study, frozen._trial_id))
                self._reported[frozen.number] = max(_curve(frozen), default=0)
        return [
            (number, self._space.configuration(trial.params, number)) for number, trial in self._open.items()
        ]

    def settings(self, number: int) -> dict[str, Any]:
        """Return the values of [network] and [training] that apply to a trial, by dotted name."""
        return self._space.settings(self._open[number].params, number)

    @property
    def _reports(self) -> bool:
        """Return whether Optuna accepts reports: not with several objectives."""
        return len(self._study.directions) == 1

    def report(self, number: int, epoch: int, value: float) -> None:
        """Record the validation objective after an epoch. A repeated report is ignored."""
        if epoch > self._reported.get(number, 0):
            if self._reports:
                self._open[number].report(value, epoch)
            else:
                self._open[number].set_user_attr(_CURVE.format(epoch), value)
            self._reported[number] = epoch
            if epoch in self._at_rung:
                self._at_rung[epoch][number] = value

    def should_prune(self, number: int, epoch: int) -> bool:
        """Return whether successive halving stops the trial by its report for this epoch.

        The values at a rung are the study's own, so that they outlive the process.
        """
        if epoch not in self._at_rung:
            return False
        values = self._at_rung[epoch]
        others = [value for each, value in values.items() if each != number]
        return pruning.should_prune(values[number], others, self._search)

    def tell(
        self, number: int, state: TrialState, values: Sequence[float] | None = None, reason: str | None = None
    ) -> None:
        """End a trial, a COMPLETE one with its objectives. A PRUNED one keeps its reported values."""
        trial = self._open[number]
        if reason:
            trial.set_user_attr("reason", reason)
        self._study.tell(trial, values if state is TrialState.COMPLETE else None, OptunaState[state])
        del self._open[number]
        self.ended[state] += 1
        if state is TrialState.COMPLETE:
            assert values, "a complete trial has its objectives"
            complete = number, values[self._ranked_by]
            self.best = min(self.best or complete, complete, key=self._rank)

    def trials(self) -> list[StudyTrial]:
        """Return the sweep's own trials, in order of number."""
        return _studied(self._own())

    def ranked(self) -> list[tuple[int, float]]:
        """Return the complete trials' numbers and validation objectives, from best to worst."""
        complete = [(trial.number, trial.values[self._ranked_by]) for trial in self.trials() if trial.values]
        return sorted(complete, key=self._rank)

    @property
    def _ranked_by(self) -> int:
        """Index of the validation objective among the objectives."""
        return self._search.objectives.index(self._search.primary_objective)

    def _rank(self, complete: tuple[int, float]) -> tuple[float, int]:
        """Return a key that sorts complete trials from best to worst."""
        number, value = complete
        return value if self._search.minimize else -value, number

    def pareto(self) -> list[int]:
        """Return the numbers of the trials on the Pareto front."""
        return sorted(trial.number for trial in self._study.best_trials if _is_own(trial))


def recorded_trials(place: StudyStorage, name: str) -> list[StudyTrial]:
    """Return a sweep's own trials in order of number. The study is only read, and may be in use."""
    trials = _recorded(place, name)
    return _studied([trial for trial in trials if _is_own(trial)])


def _recorded(place: StudyStorage, name: str) -> list[FrozenTrial]:
    """Return all trials of a study that is only read; none before it is created."""
    if place.journal and not place.journal.exists():
        return []
    try:
        study = optuna.load_study(study_name=name, storage=place.storage(), pruner=NopPruner())
    except KeyError:
        return []
    return study.get_trials(deepcopy=False)


def _studied(trials: Sequence[FrozenTrial]) -> list[StudyTrial]:
    return [
        StudyTrial(
            trial.number,
            TrialState(trial.state.name),
            trial.params,
            trial.user_attrs.get("reason"),
            tuple(trial.values) if trial.state is OptunaState.COMPLETE else None,
            trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
            trial.datetime_complete.timestamp() if trial.datetime_complete else None,
        )
        for trial in trials
        # A waiting trial was enqueued by hand in a shared database; `ask` returns it later.
        if trial.state is not OptunaState.WAITING
    ]


def _is_own(trial: FrozenTrial) -> bool:
    """Return whether a trial is the sweep's own, and not one of an earlier sweep."""
    return _TAKEN_FROM not in trial.user_attrs


@dataclass(frozen=True)
class KnownTrial:
    """A trial of an earlier sweep, with the parameters of this sweep's space."""

    state: TrialState
    parameters: Mapping[str, Any]
    values: tuple[float, ...] | None
    curve: Mapping[int, float]
    """The validation objective by epoch."""


def known_trials(place: StudyStorage, name: str, then: SearchSpace, now: SearchSpace) -> list[KnownTrial]:
    """Return the ended trials of an earlier study that lie in the space `now`."""
    known = []
    for trial in _recorded(place, name):
        if trial.state not in (OptunaState.COMPLETE, OptunaState.PRUNED):
            continue
        parameters = now.parameters(then.configuration(trial.params, trial.number))
        if parameters is not None:
            state = TrialState(trial.state.name)
            values = tuple(trial.values) if state is TrialState.COMPLETE else None
            known.append(KnownTrial(state, parameters, values, _curve(trial)))
    return known


def _curve(trial: FrozenTrial) -> dict[int, float]:
    """Return the validation objective by epoch."""
    if trial.intermediate_values:
        return trial.intermediate_values
    prefix = _CURVE.format("")
    return {
        int(key.removeprefix(prefix)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(prefix)
    }


def _suggest(trial: optuna.Trial, name: str, drawn_from: BaseDistribution) -> None:
    """Write the parameter that the sampler drew."""
    if isinstance(drawn_from, CategoricalDistribution):
        trial.suggest_categorical(name, drawn_from.choices)
        return
    assert isinstance(drawn_from, IntDistribution | FloatDistribution)
    suggest: Any = trial.suggest_int if isinstance(drawn_from, IntDistribution) else trial.suggest_float
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns if rounding makes the last step miss `high`
        suggest(name, drawn_from.low, drawn_from.high, step=drawn_from.step, log=drawn_from.log)


def _directions(search: SearchConfig) -> list[StudyDirection]:
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    return [up if objective == "valid_accuracy" else down for objective in search.objectives]
