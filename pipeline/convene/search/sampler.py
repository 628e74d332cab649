"""What is tried next: an Optuna sampler that is asked again until its proposal fits, applies and is new."""

import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import FrozenTrial, TrialState

from convene.config.schema import Configuration, SearchConfig
from convene.config.search_space import SearchSpace
from convene.errors import WorkError

ShapeCheck = Callable[[Configuration], str | None]
"""The reason that a configuration's network does not fit the images, or None if it fits."""
Parameters = dict[str, Any]
_Key = tuple[tuple[str, Any], ...]

_OWN_TRIES = 5  # then another way: GP and late CMA-ES repeat themselves, and GP takes 0.2 s or more
_UNIFORM_TRIES = 100_000  # a space where fewer fit is one whose search would be hopeless anyway
_SMALLEST_POPULATION = 4  # NSGA-II: complete trials of a generation
_COUNTED = 100_000  # configurations; in a larger space a uniform draw is as good as new


@final
class Sampler(BaseSampler):
    """Draws whole configurations: those parameters that apply, together fitting the images, not tried before.

    Once all of a finite space has been tried it begins again: other seeds make other networks of the same
    configuration, and ensembles have a use for them.
    """

    def __init__(self, space: SearchSpace, shape_check: ShapeCheck, seed: int) -> None:
        self._sampler = _optuna_sampler(space, seed)
        # Another seed, or its draws would be the sampler's own random ones over again.
        self._uniform = RandomSampler(seed=seed ^ 0xFFFF_FFFF)
        self._random = random.Random(seed)
        self._space = space
        self._shape_check = shape_check
        self.given: Mapping[str, Any] = {}
        """Parameters that the next trial is to have."""
        self._noted: set[int] = set()
        self._of_ended: set[_Key] = set()

    def reseed_rng(self) -> None:
        """For Optuna, which calls it in processes that were forked."""
        self._sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """For Optuna: all is drawn together."""
        return self._space.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Parameters:
        """The parameters of a trial that apply."""
        tried = self._tried(study, trial)
        for _ in range(_OWN_TRIES):
            drawn = self._draw(self._sampler, study, trial)
            if drawn.keys() <= self.given.keys() or (self._fits(drawn) and _key(drawn) not in tried):
                return drawn
        if (every := every_configuration(self._space, self.given, self._random)) is not None:
            fitting = (parameters for parameters in every if _key(parameters) not in tried)
            if untried := next(filter(self._fits, fitting), None):
                return untried
            tried = set()
        for _ in range(_UNIFORM_TRIES):
            drawn = self._draw(self._uniform, study, trial)
            if self._fits(drawn) and _key(drawn) not in tried:
                return drawn
        raise WorkError(f"search: of {_UNIFORM_TRIES:,} configurations that were drawn, none fits the images")

    def _tried(self, study: optuna.Study, trial: FrozenTrial) -> set[_Key]:
        """What the other trials have. Those that have ended are looked at once: there may be thousands."""
        running: set[_Key] = set()
        for each in study.get_trials(deepcopy=False):
            if each.number in self._noted or each.number == trial.number:
                continue
            if each.state.is_finished():
                self._noted.add(each.number)
                self._of_ended.add(_key(each.params))
            else:
                running.add(_key(each.params))
        return self._of_ended | running

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """For Optuna, which asks for what was not drawn before; nothing is."""
        return self._sampler.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """For Optuna."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """For Optuna."""
        self._sampler.after_trial(study, trial, state, values)

    def _fits(self, parameters: Parameters) -> bool:
        return self._shape_check(self._space.configuration(parameters, number=0)) is None

    def _draw(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> Parameters:
        """The given parameters, and for those that apply beside them the sampler's."""
        if self._is_given():
            return self._space.applicable(self.given)
        together = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        together = {**together, **self.given}
        drawn: Parameters = {}
        for name, searched in self._space.searched.items():
            if not self._space.applies(name, drawn):
                continue
            drawn[name] = (
                together[name]
                if name in together
                else sampler.sample_independent(study, trial, name, searched.distribution)
            )
        return drawn

    def _is_given(self) -> bool:
        """Whether nothing is left to draw."""
        given = self._space.applicable(self.given)
        return all(name in given or not self._space.applies(name, given) for name in self._space.searched)


def every_configuration(
    space: SearchSpace, given: Mapping[str, Any], order: random.Random
) -> Iterator[Parameters] | None:
    """All the space's configurations that have the given parameters, in random order; None where they are
    without number, or too many to count.
    """
    candidates = [
        [given.get(name)] if name in given or space.never_applies(name) else each.candidates
        for name, each in space.searched.items()
    ]
    total = 1
    for values in candidates:
        if values is None:
            return None
        total *= len(values)
        if total > _COUNTED:
            return None
    return _in_random_order(space, candidates, total, order)  # type: ignore[arg-type]  # none is None


def _in_random_order(
    space: SearchSpace, candidates: Sequence[Sequence[Any]], total: int, order: random.Random
) -> Iterator[Parameters]:
    for index in order.sample(range(total), total):
        values = []
        for options in candidates:
            index, which = divmod(index, len(options))
            values.append(options[which])
        yield space.applicable(dict(zip(space.searched, values, strict=True)))


def any_admissible(
    space: SearchSpace, shape_check: ShapeCheck, names: Sequence[str], given: Mapping[str, Any] | None = None
) -> str | None:
    """None where some combination of the named parameters fits, else why the last one did not.

    Exact: the named parameters are whole numbers and choices, and every combination is looked at, each with
    the given parameters.
    """
    given = given or {}
    needed = set(names)
    for name, each in reversed(space.searched.items()):  # each stands after those that it depends on
        needed |= set(each.when) if name in needed else set()
    options = {
        name: [given[name]] if name in given else each.candidates or []
        for name, each in space.searched.items()
        if name in needed
    }
    reason = None
    for values in itertools.product(*options.values()):
        parameters = space.applicable({**given, **dict(zip(options, values, strict=True))})
        reason = shape_check(space.configuration(parameters, number=0))
        if reason is None:
            return None
    return reason


def _key(parameters: Mapping[str, Any]) -> _Key:
    return tuple(sorted(parameters.items()))


def _optuna_sampler(space: SearchSpace, seed: int) -> BaseSampler:
    search: SearchConfig = space.base.search
    if search.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            conditional = any(searched.when for searched in space.searched.values())
            return TPESampler(seed=seed, multivariate=True, group=conditional)
    if search.sampler == "gp":
        return GPSampler(seed=seed)
    if search.sampler == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if search.sampler == "nsga2":
        return NSGAIISampler(seed=seed, population_size=max(_SMALLEST_POPULATION, search.trials // 5))
    return RandomSampler(seed=seed)
