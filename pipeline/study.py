"""The Optuna study of a sweep: right states, lasting numbers, only networks that fit."""

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pipeline.config import Configuration
from pipeline.search_space import SearchSpace

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
Misfit = Callable[[Configuration], str | None]

_SEARCHED = "searched"  # of the study: its search has come to its end
_OWN_TRIES = 5  # then a uniform draw: GP and late CMA-ES repeat themselves, and GP takes 0.2 s or more
_UNIFORM_TRIES = 100_000  # a space where fewer fit is one whose search would be hopeless anyway


@dataclass(frozen=True)
class StudiedTrial:
    """A trial as the study knows it. `reason` says why it was stopped or failed."""

    number: int
    state: State
    parameters: dict[str, Any]
    reason: str | None
    value: float | None
    """The objective, of a COMPLETE trial."""
    started: float
    """Seconds since 1970."""
    ended: float | None


@final
class Study:
    """An Optuna study over a search space, in a journal file that optuna-dashboard opens, or in memory."""

    def __init__(
        self, space: SearchSpace, misfit: Misfit, journal: Path | None = None, name: str = "study"
    ) -> None:
        self._space = space
        search = space.base.search
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        if journal:
            _mend(journal)
        storage = JournalStorage(JournalFileBackend(str(journal))) if journal else InMemoryStorage()
        try:
            self._study = optuna.load_study(study_name=name, storage=storage, pruner=NopPruner())
        except KeyError:
            self._study = optuna.create_study(
                study_name=name,
                storage=storage,
                pruner=NopPruner(),
                direction="minimize" if search.objective == "valid_loss" else "maximize",
            )
        # A resumed search would else draw again what it drew at first.
        seed = (search.seed + len(self)) % 2**32
        self._study.sampler = _Admissible(_sampler(search.sampler, seed), space, misfit, seed)
        self._rungs = _rungs(space)
        self._open: dict[int, optuna.Trial] = {}
        self._reported: dict[int, int] = {}

    @property
    def open_trials(self) -> list[int]:
        """Numbers of the trials that were asked for or reopened here, and not told."""
        return list(self._open)

    @property
    def has_ended(self) -> bool:
        """Whether all trials have ended, and none is to follow."""
        if any(trial.state == "RUNNING" for trial in self.trials()):
            return False
        return _SEARCHED in self._study.user_attrs or len(self) >= self._space.base.search.trials

    def end_search(self) -> None:
        """Notes that no trial is to follow, though there may be fewer than were asked for: time was over."""
        self._study.set_user_attr(_SEARCHED, True)

    def __len__(self) -> int:
        """Trials so far, in whatever state."""
        return len(self._study.get_trials(deepcopy=False))

    def ask(self) -> tuple[int, Configuration]:
        """A new trial's number and complete configuration."""
        trial = self._study.ask(self._space.distributions)
        self._open[trial.number] = trial
        self._reported[trial.number] = 0
        return trial.number, self._space.configuration(trial.params, trial.number)

    def reopen(self) -> list[tuple[int, Configuration]]:
        """Takes over the trials that another process left running: their numbers and configurations."""
        taken = []
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number not in self._open:
                self._open[frozen.number] = optuna.Trial(self._study, frozen._trial_id)
                self._reported[frozen.number] = max(frozen.intermediate_values, default=0)
                taken.append((frozen.number, self._space.configuration(frozen.params, frozen.number)))
        return taken

    def report(self, number: int, epoch: int, value: float) -> None:
        """The objective after an epoch; once is enough, and more does no harm."""
        if epoch > self._reported[number]:
            self._open[number].report(value, epoch)
            self._reported[number] = epoch

    def is_weak(self, number: int, epoch: int) -> bool:
        """Whether asynchronous successive halving stops the trial at what it reported for this epoch.

        At each rung a trial goes on if it is in the best 1/`reduction_factor` of those that were there before
        it; the first always does. The rungs are the study's own values, so that they outlive the process.
        Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (2020).
        """
        if epoch not in self._rungs:
            return False
        reached = {
            trial.number: trial.intermediate_values[epoch]
            for trial in self._study.get_trials(deepcopy=False)
            if epoch in trial.intermediate_values
        }
        value = reached.pop(number)
        if not reached:
            return False
        share = 100 / self._space.base.search.reduction_factor
        if self._study.direction is StudyDirection.MINIMIZE:
            return value > float(np.percentile(list(reached.values()), share))
        return value < float(np.percentile(list(reached.values()), 100 - share))

    def tell(self, number: int, state: State, value: float | None = None, reason: str | None = None) -> None:
        """Ends a trial. A PRUNED one keeps its reported values, and its last one counts."""
        trial = self._open[number]
        if reason:
            trial.set_user_attr("reason", reason)
        self._study.tell(trial, value if state == "COMPLETE" else None, TrialState[state])
        del self._open[number]

    def trials(self) -> list[StudiedTrial]:
        """All trials in order of number."""
        return [
            StudiedTrial(
                trial.number,
                trial.state.name,  # type: ignore[arg-type]  # WAITING is never asked for
                trial.params,
                trial.user_attrs.get("reason"),
                trial.value if trial.state is TrialState.COMPLETE else None,
                trial.datetime_start.timestamp() if trial.datetime_start else 0.0,
                trial.datetime_complete.timestamp() if trial.datetime_complete else None,
            )
            for trial in self._study.get_trials(deepcopy=False)
        ]

    def ranked(self) -> list[StudiedTrial]:
        """The complete trials, from best to worst by the objective."""
        sign = 1 if self._study.direction is StudyDirection.MINIMIZE else -1
        complete = [(sign * trial.value, trial) for trial in self.trials() if trial.value is not None]
        return [trial for _, trial in sorted(complete, key=lambda pair: (pair[0], pair[1].number))]


def _mend(journal: Path) -> None:
    """Cuts off a line that was begun on a full disk: what is appended to it could never be read again."""
    if journal.exists():
        content = journal.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(journal, whole)


def any_admissible(space: SearchSpace, misfit: Misfit, names: Sequence[str]) -> str | None:
    """None where some combination of the named parameters fits, else why the last one did not.

    Exact: the named parameters are whole numbers and choices, and every combination is looked at.
    """
    searched = [name for name in names if name in space.distributions]
    reason = None
    for values in itertools.product(*(candidates(space.distributions[name]) for name in searched)):
        reason = misfit(space.configuration(dict(zip(searched, values, strict=True)), number=0))
        if reason is None:
            return None
    return reason


def candidates(distribution: BaseDistribution) -> Iterator[Any]:
    """Every value of a distribution of choices or whole numbers; nothing for a continuous one."""
    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
    elif isinstance(distribution, IntDistribution):
        yield from range(distribution.low, distribution.high + 1, distribution.step)


@final
class _Admissible(BaseSampler):
    """Another sampler, asked again until the network that it proposes fits the image."""

    def __init__(self, sampler: BaseSampler, space: SearchSpace, misfit: Misfit, seed: int) -> None:
        self._sampler = sampler
        # Another seed, or its draws would be the sampler's own random ones over again.
        self._uniform = RandomSampler(seed=seed ^ 0xFFFF_FFFF)
        self._space = space
        self._misfit = misfit

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._space.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        for sampler, tries in ((self._sampler, _OWN_TRIES), (self._uniform, _UNIFORM_TRIES)):
            for _ in range(tries):
                parameters = self._draw(sampler, study, trial)
                if self._misfit(self._space.configuration(parameters, trial.number)) is None:
                    return parameters
        raise RuntimeError("no configuration that fits was found")

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def _draw(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        relative = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        return {
            name: relative[name]
            if name in relative
            else sampler.sample_independent(study, trial, name, distribution)
            for name, distribution in self._space.distributions.items()
        }


def most_epochs(space: SearchSpace) -> int:
    """The most that any configuration of the space trains for."""
    searched = space.distributions.get("training.epochs")
    return max(candidates(searched)) if searched else space.base.training.epochs


def _rungs(space: SearchSpace) -> set[int]:
    """The epochs after which weak trials are stopped.

    None but the first is so late that a trial stopped there had used most of its epochs: it saves little, and
    an ensemble wants trials that are complete.
    """
    search, epochs = space.base.search, most_epochs(space)
    rung = search.grace_epochs or math.ceil(epochs / 3)
    rungs = {rung} if search.scheduler == "asha" and rung < epochs else set()
    while rungs and (rung := rung * search.reduction_factor) <= epochs / search.reduction_factor:
        rungs.add(rung)
    return rungs


def _sampler(name: str, seed: int) -> BaseSampler:
    if name == "tpe":
        return TPESampler(seed=seed, multivariate=True)
    if name == "gp":
        return GPSampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    return RandomSampler(seed=seed)
