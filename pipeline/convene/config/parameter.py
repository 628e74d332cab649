"""One searched parameter: what it is drawn from, and beside which others it means anything."""

import json
import math
import types
import typing
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from convene.config.schema import SECTIONS, default, flatten
from convene.config.validation import suggestion, validate
from convene.errors import InputError

SEARCHABLE = ("network", "training")
_RANGE_KEYS = ("low", "high", "log", "step")
_LISTED = 100_000  # values of one parameter
_KEYS = ("choices", *_RANGE_KEYS, "when")


@dataclass(frozen=True)
class Searched:
    """A table of a search-space file, read.

    A parameter is a value as Optuna has it; a setting is what a configuration has, in JSON's types.
    """

    given: Mapping[str, Any]
    """The table."""
    distribution: BaseDistribution
    allowed: tuple[Any, ...]
    """All choices, or both ends of a range."""
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Other searched parameters by dotted name, each with those of its parameters that this one needs."""

    def parameter(self, name: str, setting: object) -> Any | None:
        """The parameter that gives a setting of the field `name`, or None where it cannot be drawn."""
        drawn_from = self.distribution
        if isinstance(drawn_from, CategoricalDistribution):
            pairs = zip(self.allowed, drawn_from.choices, strict=True)
            return next((choice for value, choice in pairs if normalize(name, value) == setting), None)
        assert isinstance(drawn_from, IntDistribution | FloatDistribution)
        if not isinstance(setting, int | float) or not drawn_from.low <= setting <= drawn_from.high:
            return None
        steps = (setting - drawn_from.low) / drawn_from.step if drawn_from.step else 0.0
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            return None
        return setting if isinstance(drawn_from, IntDistribution) else float(setting)

    def inactive_default(self, name: str) -> list[Any]:
        """What the field `name` is where its condition does not hold; nothing where it has none."""
        return [default(*name.split("."))] if self.when else []

    @property
    def candidates(self) -> list[Any] | None:
        """Every parameter there is, or None where there are more than could be looked through."""
        drawn_from = self.distribution
        if isinstance(drawn_from, CategoricalDistribution):
            return list(drawn_from.choices)
        assert isinstance(drawn_from, IntDistribution | FloatDistribution)
        low, high, step = drawn_from.low, drawn_from.high, drawn_from.step
        if step is None or (high - low) / step >= _LISTED:
            return None
        if isinstance(drawn_from, IntDistribution):
            return list(range(low, high + 1, step))  # type: ignore[arg-type]  # they are whole
        return [min(low + index * step, high) for index in range(round((high - low) / step) + 1)]


def read_table(name: str, table: Mapping[str, Any]) -> Searched:
    """What the table of the field `name` says, but for its condition.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    section, key = name.split(".")
    if section not in SEARCHABLE:
        raise InputError(f"{name}: only [network] and [training] are searched; give one value")
    for word in table:
        if word not in _KEYS:
            raise InputError(f"{name}.{word}: no such key{suggestion(word, list(_KEYS))}")
    if "choices" not in table:
        allowed, distribution = _range(name, _numeric_type(section, key), table)
    elif beside := sorted(set(table) - {"choices", "when"}):
        raise InputError(f"{name}: choices stand alone, without {', '.join(beside)}")
    else:
        allowed, distribution = _choices(name, table["choices"])
    for value in allowed:
        if isinstance(value, Mapping):
            raise InputError(f"{name} = {dict(table)!r}: a choice cannot be a table")
        validate({section: {key: value}})
    return Searched(table, distribution, tuple(allowed))


def with_conditions(searched: Mapping[str, Searched], fixed: Mapping[str, Any]) -> dict[str, Searched]:
    """The parameters with their conditions read, each after those that it depends on.

    `fixed` are the settings of all fields that are not searched. A condition on one of them is settled here.

    Raises:
        InputError: if a condition names what is not there or cannot be, or leads back to itself.
    """
    read_ = {name: replace(each, when=_conditions(name, searched, fixed)) for name, each in searched.items()}
    edges = {name: [other for other in each.when if other in read_] for name, each in read_.items()}
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        raise InputError(f"when: conditions lead in a circle: {' needs '.join(error.args[1])}") from None
    return {name: read_[name] for name in order}


def _conditions(
    name: str, searched: Mapping[str, Searched], fixed: Mapping[str, Any]
) -> dict[str, tuple[Any, ...]]:
    when = {}
    for other, values in _named(name, searched[name].given.get("when", {})):
        settings = [normalize(other, value) for value in values]
        if other in searched:
            if searched[other].candidates is None:
                raise InputError(f"{name}.when: {other} has too many values for a condition to list")
            when[other] = tuple(searched[other].parameter(other, setting) for setting in settings)
            if None in when[other]:
                strange = values[when[other].index(None)]
                raise InputError(
                    f"{name}.when: {other} = {strange!r} is not in {dict(searched[other].given)!r}"
                )
        elif fixed[other] not in settings:
            when[other] = ()
    return when


def _named(name: str, when: object) -> Iterator[tuple[str, list[Any]]]:
    """The fields of a condition by dotted name, with the values that it lists."""
    if not isinstance(when, Mapping):
        raise InputError(f"{name}.when = {when!r}: must be a table, such as {{ dense = [128, 625] }}")
    for key, values in when.items():
        if isinstance(values, Mapping):  # from training.optimizer = "sgd"
            yield from _named(name, {f"{key}.{field}": value for field, value in values.items()})
            continue
        other = key if "." in key else f"{name.split('.')[0]}.{key}"
        section, _, field = other.partition(".")
        if section not in SEARCHABLE or field not in SECTIONS[section].model_fields:
            known = [f"{place}.{each}" for place in SEARCHABLE for each in SECTIONS[place].model_fields]
            raise InputError(f"{name}.when: {other}: no such key{suggestion(other, known)}")
        listed = values if isinstance(values, list) else [values]
        if not listed:
            raise InputError(f"{name}.when: {other} = []: must list at least one value")
        yield other, listed


def normalize(name: str, value: object) -> Any:
    """A value of the field `name` as a configuration has it, in JSON's types.

    Raises:
        InputError: if the field does not take it.
    """
    section, key = name.split(".")
    return flatten(validate({section: {key: value}}), section)[name]


def from_optuna(parameter: Any) -> Any:
    """The value of the field that a parameter stands for."""
    is_list = isinstance(parameter, str) and parameter.startswith("[")
    return tuple(json.loads(parameter)) if is_list else parameter


def _encoded(choice: object) -> str | int | float | bool:
    """Optuna's categories are scalars, so a list stands there as JSON."""
    if isinstance(choice, str | int | float | bool):
        return choice
    return json.dumps(choice, default=str)


def _choices(name: str, choices: object) -> tuple[list[Any], BaseDistribution]:
    if not isinstance(choices, list) or not choices:
        raise InputError(f"{name}.choices = {choices!r}: must be a list of at least one value")
    encoded = [_encoded(choice) for choice in choices]
    if len(set(encoded)) < len(encoded):
        raise InputError(f"{name}.choices = {choices!r}: a value stands there twice")
    return choices, CategoricalDistribution(encoded)


def _range(name: str, kind: type | None, table: Mapping[str, Any]) -> tuple[list[Any], BaseDistribution]:
    if kind is None:
        raise InputError(f"{name} = {dict(table)!r}: is not a number; search it with choices = [...]")
    missing = [key for key in ("low", "high") if key not in table]
    if missing:
        raise InputError(f"{name} = {dict(table)!r}: needs {' and '.join(missing)}, or choices")
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    if not isinstance(log, bool):
        raise InputError(f"{name}.log = {log!r}: must be true or false")
    allowed = (int,) if kind is int else (int, float)
    for key, value in (("low", low), ("high", high), ("step", step)):
        if key in table and (isinstance(value, bool) or not isinstance(value, allowed)):
            raise InputError(f"{name}.{key} = {value!r}: must be {'a whole' if kind is int else 'a'} number")
    if not low < high:
        raise InputError(f"{name}: low = {low!r} must be less than high = {high!r}")
    if log and low <= 0:
        raise InputError(f"{name}: low = {low!r} must be more than 0 where log = true")
    if step is not None and (log or not 0 < step < math.inf):
        raise InputError(f"{name}.step = {step!r}: must be more than 0, and not with log = true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, where the last step ends before `high`
        try:
            if kind is int:
                return [low, high], IntDistribution(low, high, log=log, step=1 if step is None else step)
            return [low, high], FloatDistribution(float(low), float(high), log=log, step=step)
        except ArithmeticError:  # from 400 digits, or a step of 1e-300
            raise InputError(f"{name} = {dict(table)!r}: these numbers are too far apart") from None


def _numeric_type(section: str, field: str) -> type | None:
    """The field's type where it is int or float, looked for through Optional."""
    annotation = SECTIONS[section].model_fields[field].annotation
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    for option in options:
        while typing.get_origin(option) is typing.Annotated:
            option = typing.get_args(option)[0]
        if option in (int, float):
            return typing.cast(type, option)
    return None
