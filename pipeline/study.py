"""The Optuna study of a sweep: right states, lasting numbers, only networks that fit."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pipeline.config import Configuration, SearchConfig
from pipeline.search_space import SearchSpace

State = Literal["RUNNING", "COMPLETE", "PRUNED", "FAIL"]
Misfit = Callable[[Configuration], str | None]

_OWN_TRIES = 5  # then a uniform draw: GP and late CMA-ES repeat themselves, and GP takes 0.2 s or more
_UNIFORM_TRIES = 100_000  # a space where fewer fit is one whose search would be hopeless anyway


@dataclass(frozen=True)
class StudiedTrial:
    """A trial as the study knows it. `reason` says why it was stopped or failed."""

    number: int
    state: State
    parameters: dict[str, Any]
    reason: str | None
    seconds: float | None


@final
class Study:
    """An Optuna study over a search space, in a journal file that optuna-dashboard opens, or in memory."""

    def __init__(self, space: SearchSpace, misfit: Misfit, journal: Path | None = None, name: str = "study"):
        self._space = space
        search = space.base.search
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = _Admissible(_sampler(search), space, misfit)
        self._study = optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(journal))) if journal else None,
            sampler=sampler,
            load_if_exists=True,
            direction="minimize" if search.objective == "valid_loss" else "maximize",
        )
        self._open: dict[int, optuna.Trial] = {}

    @property
    def open_trials(self) -> list[int]:
        """Numbers of the trials that were asked for here and not told."""
        return list(self._open)

    def ask(self) -> tuple[int, Configuration]:
        """A new trial's number and complete configuration."""
        trial = self._study.ask(self._space.distributions)
        self._open[trial.number] = trial
        return trial.number, self._space.configuration(trial.params, trial.number)

    def report(self, number: int, epoch: int, value: float) -> None:
        """The objective after an epoch."""
        self._open[number].report(value, epoch)

    def tell(self, number: int, state: State, value: float | None = None, reason: str | None = None) -> None:
        """Ends a trial. A PRUNED one keeps its reported values, and its last one counts."""
        trial = self._open.pop(number)
        if reason:
            trial.set_user_attr("reason", reason)
        self._study.tell(trial, value if state == "COMPLETE" else None, TrialState[state])

    def trials(self) -> list[StudiedTrial]:
        """All trials in order of number."""
        return [
            StudiedTrial(
                trial.number,
                trial.state.name,  # type: ignore[arg-type]  # WAITING is never asked for
                trial.params,
                trial.user_attrs.get("reason"),
                trial.duration.total_seconds() if trial.duration else None,
            )
            for trial in self._study.get_trials(deepcopy=False)
        ]


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

    def __init__(self, sampler: BaseSampler, space: SearchSpace, misfit: Misfit) -> None:
        self._sampler = sampler
        # Another seed, or its draws would be the sampler's own random ones over again.
        self._uniform = RandomSampler(seed=space.base.search.seed ^ 0xFFFF_FFFF)
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


def _sampler(search: SearchConfig) -> BaseSampler:
    if search.sampler == "tpe":
        return TPESampler(seed=search.seed, multivariate=True)
    if search.sampler == "gp":
        return GPSampler(seed=search.seed)
    if search.sampler == "cmaes":
        return CmaEsSampler(seed=search.seed, warn_independent_sampling=False)
    return RandomSampler(seed=search.seed)
