"""The sampler: Optuna's own, asked again until its proposal fits the images, applies and is new."""

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

from convene.config.schema import Configuration
from convene.config.search_space import SearchSpace
from convene.errors import WorkError

ShapeCheck = Callable[[Configuration], str | None]
"""The reason that a configuration's network does not fit the images, or None if it fits."""
Parameters = dict[str, Any]
_Key = tuple[tuple[str, Any], ...]

_OWN_TRIES = 5  # of Optuna's sampler: GP and late CMA-ES repeat themselves, and GP takes 0.2 s or more
_UNIFORM_TRIES = 100_000  # if none of them fits, a search would be hopeless anyway
_SMALLEST_POPULATION = 4  # complete trials in a generation of NSGA-II
_COUNTED = 100_000  # configurations; in a larger space a uniform draw is almost surely new


@final
class Sampler(BaseSampler):
    """Draws whole configurations that are new, fit the images and hold only parameters that apply.

    Once every configuration of a finite space has been tried, it starts over: other seeds make other networks
    of the same configuration, which an ensemble can use.
    """

    def __init__(self, space: SearchSpace, shape_check: ShapeCheck, seed: int) -> None:
        self._sampler = SAMPLERS[space.base.search.sampler](space, seed)
        # A seed of its own, or it would repeat the random draws of Optuna's sampler.
        self._uniform = RandomSampler(seed=seed ^ 0xFFFF_FFFF)
        self._random = random.Random(seed)
        self._space = space
        self._shape_check = shape_check
        self.fixed: Mapping[str, Any] = {}
        """Parameters that the next trial must have."""
        self._seen: set[int] = set()
        self._ended_keys: set[_Key] = set()

    def reseed_rng(self) -> None:
        """Reseed, as Optuna asks for in forked processes."""
        self._sampler.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the whole space: all parameters are drawn together."""
        return self._space.distributions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Parameters:
        """Draw a trial's parameters.

        Raises:
            WorkError: if no configuration that was drawn fits the images.
        """
        tried = self._tried(study, trial)
        for _ in range(_OWN_TRIES):
            drawn = self._draw(self._sampler, study, trial)
            if drawn.keys() <= self.fixed.keys() or (self._fits(drawn) and _key(drawn) not in tried):
                return drawn
        if (every := every_configuration(self._space, self.fixed, self._random)) is not None:
            fitting = (parameters for parameters in every if _key(parameters) not in tried)
            if untried := next(filter(self._fits, fitting), None):
                return untried
            tried = set()
        for _ in range(_UNIFORM_TRIES):
            drawn = self._draw(self._uniform, study, trial)
            if self._fits(drawn) and _key(drawn) not in tried:
                return drawn
        raise WorkError(f"search: none of {_UNIFORM_TRIES:,} random configurations fits the images")

    def _tried(self, study: optuna.Study, trial: FrozenTrial) -> set[_Key]:
        """Return the configurations of the other trials. Ended trials, perhaps thousands, are read once."""
        running: set[_Key] = set()
        for each in study.get_trials(deepcopy=False):
            if each.number in self._seen or each.number == trial.number:
                continue
            if each.state.is_finished():
                self._seen.add(each.number)
                self._ended_keys.add(_key(each.params))
            else:
                running.add(_key(each.params))
        return self._ended_keys | running

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter that `sample_relative` did not; there is none."""
        return self._sampler.sample_independent(study, trial, name, distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Pass Optuna's call on."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Pass Optuna's call on."""
        self._sampler.after_trial(study, trial, state, values)

    def _fits(self, parameters: Parameters) -> bool:
        return self._shape_check(self._space.configuration(parameters, number=0)) is None

    def _draw(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> Parameters:
        """Return the given parameters, and the sampler's values for the others that apply."""
        if self._is_complete():
            return self._space.active_parameters(self.fixed)
        together = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        together = {**together, **self.fixed}
        drawn: Parameters = {}
        for name, parameter in self._space.searched.items():
            if not self._space.is_active(name, drawn):
                continue
            drawn[name] = (
                together[name]
                if name in together
                else sampler.sample_independent(study, trial, name, parameter.distribution)
            )
        return drawn

    def _is_complete(self) -> bool:
        """Return whether the given parameters leave nothing to draw."""
        given = self._space.active_parameters(self.fixed)
        return all(name in given or not self._space.is_active(name, given) for name in self._space.searched)


def every_configuration(
    space: SearchSpace, given: Mapping[str, Any], order: random.Random
) -> Iterator[Parameters] | None:
    """Return all configurations with the given parameters, in random order.

    Returns:
        None for a space that is infinite or too large to count.
    """
    candidates = [
        [given.get(name)] if name in given or space.is_never_active(name) else each.all_values
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
        values, rest = [], index
        for options in candidates:
            rest, which = divmod(rest, len(options))
            values.append(options[which])
        yield space.active_parameters(dict(zip(space.searched, values, strict=True)))


def any_admissible(
    space: SearchSpace, shape_check: ShapeCheck, names: Sequence[str], given: Mapping[str, Any] | None = None
) -> str | None:
    """Return None if some combination of the named parameters fits, else why the last one does not.

    The answer is exact: the named parameters are integers and choices, and every combination is checked with
    the given parameters.
    """
    given = given or {}
    needed = set(names)
    for name, each in reversed(space.searched.items()):  # a parameter comes after those it depends on
        needed |= set(each.when) if name in needed else set()
    options = {
        name: [given[name]] if name in given else each.all_values or []
        for name, each in space.searched.items()
        if name in needed
    }
    reason = None
    for values in itertools.product(*options.values()):
        parameters = space.active_parameters({**given, **dict(zip(options, values, strict=True))})
        reason = shape_check(space.configuration(parameters, number=0))
        if reason is None:
            return None
    return reason


def _key(parameters: Mapping[str, Any]) -> _Key:
    return tuple(sorted(parameters.items()))


def _tpe(space: SearchSpace, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        conditional = any(parameter.when for parameter in space.searched.values())
        return TPESampler(seed=seed, multivariate=True, group=conditional)


def _nsga2(space: SearchSpace, seed: int) -> BaseSampler:
    population = max(_SMALLEST_POPULATION, space.base.search.trials // 5)
    return NSGAIISampler(seed=seed, population_size=population)


SAMPLERS: Mapping[str, Callable[[SearchSpace, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": lambda space, seed: GPSampler(seed=seed),
    "cmaes": lambda space, seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": _nsga2,
    "random": lambda space, seed: RandomSampler(seed=seed),
}
"""Optuna's samplers for a space and a seed, by `search.sampler`."""
