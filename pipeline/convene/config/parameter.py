"""A searched parameter: its values and its conditions."""

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
_MAX_LISTED = 100_000  # values of one parameter
_KEYS = ("choices", *_RANGE_KEYS, "when")


@dataclass(frozen=True)
class Parameter:
    """A searched field: its table in the search-space file, and the Optuna distribution of its values.

    A setting is a value in a configuration, in JSON's types. Optuna stores lists as JSON text.
    """

    spec: Mapping[str, Any]
    """The table in the search-space file."""
    distribution: BaseDistribution
    choices_or_bounds: tuple[Any, ...]
    """All choices, or both ends of a range."""
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """The condition: other searched parameters by dotted name, and the Optuna values that they must have."""

    def to_optuna(self, name: str, setting: object) -> Any | None:
        """Return Optuna's value for a setting of the field `name`, or None if there is none."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            pairs = zip(self.choices_or_bounds, distribution.choices, strict=True)
            return next((choice for value, choice in pairs if normalize(name, value) == setting), None)
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        if not isinstance(setting, int | float) or not distribution.low <= setting <= distribution.high:
            return None
        steps = (setting - distribution.low) / distribution.step if distribution.step else 0.0
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            return None
        return setting if isinstance(distribution, IntDistribution) else float(setting)

    def inactive_default(self, name: str) -> list[Any]:
        """Return the field's default in a list if the parameter has a condition, else an empty list."""
        return [default(*name.split("."))] if self.when else []

    @property
    def all_values(self) -> list[Any] | None:
        """All of Optuna's values, or None if they are continuous or too many to list."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step
        if step is None or (high - low) / step >= _MAX_LISTED:
            return None
        if isinstance(distribution, IntDistribution):
            return list(range(low, high + 1, step))  # type: ignore[arg-type]  # whole numbers
        return [min(low + index * step, high) for index in range(round((high - low) / step) + 1)]


def read_parameter(name: str, table: Mapping[str, Any]) -> Parameter:
    """Return the parameter in the table of the field `name`, without its condition.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    section, key = name.split(".")
    if section not in SEARCHABLE:
        raise InputError(f"{name}: only [network] and [training] can be searched; set a single value")
    for word in table:
        if word not in _KEYS:
            raise InputError(f"{name}.{word}: no such key{suggestion(word, list(_KEYS))}")
    if "choices" not in table:
        choices_or_bounds, distribution = _read_range(name, _numeric_type(section, key), table)
    elif others := sorted(set(table) - {"choices", "when"}):
        raise InputError(f"{name}: choices cannot be combined with {', '.join(others)}")
    else:
        choices_or_bounds, distribution = _read_choices(name, table["choices"])
    for value in choices_or_bounds:
        if isinstance(value, Mapping):
            raise InputError(f"{name} = {dict(table)!r}: a choice cannot be a table")
        validate({section: {key: value}})
    return Parameter(table, distribution, tuple(choices_or_bounds))


def read_conditions(parameters: Mapping[str, Parameter], fixed: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the parameters with their conditions, each after the parameters that it depends on.

    Args:
        parameters: searched parameters by dotted name.
        fixed: settings of all other fields. A condition on one of them is decided here.

    Raises:
        InputError: if a condition names an unknown field or an impossible value, or depends on itself.
    """
    conditional = {
        name: replace(parameter, when=_read_condition(name, parameters, fixed))
        for name, parameter in parameters.items()
    }
    edges = {
        name: [other for other in parameter.when if other in conditional]
        for name, parameter in conditional.items()
    }
    try:
        order = list(TopologicalSorter(edges).static_order())
    except CycleError as error:
        raise InputError(f"when: conditions form a cycle: {' needs '.join(error.args[1])}") from None
    return {name: conditional[name] for name in order}


def _read_condition(
    name: str, parameters: Mapping[str, Parameter], fixed: Mapping[str, Any]
) -> dict[str, tuple[Any, ...]]:
    when = {}
    for other, values in _condition_fields(name, parameters[name].spec.get("when", {})):
        settings = [normalize(other, value) for value in values]
        if other in parameters:
            if parameters[other].all_values is None:
                raise InputError(f"{name}.when: {other} has too many values for a condition")
            when[other] = tuple(parameters[other].to_optuna(other, setting) for setting in settings)
            if None in when[other]:
                impossible = values[when[other].index(None)]
                raise InputError(
                    f"{name}.when: {other} = {impossible!r} is not in {dict(parameters[other].spec)!r}"
                )
        elif fixed[other] not in settings:
            when[other] = ()
    return when


def _condition_fields(name: str, when: object) -> Iterator[tuple[str, list[Any]]]:
    """Yield the fields of a condition by dotted name, each with its list of values."""
    if not isinstance(when, Mapping):
        raise InputError(f"{name}.when = {when!r}: must be a table, such as {{ dense = [128, 625] }}")
    for key, values in when.items():
        if isinstance(values, Mapping):  # from training.optimizer = "sgd"
            yield from _condition_fields(name, {f"{key}.{field}": value for field, value in values.items()})
            continue
        other = key if "." in key else f"{name.partition('.')[0]}.{key}"
        section, _, field = other.partition(".")
        if section not in SEARCHABLE or field not in SECTIONS[section].model_fields:
            known = [f"{home}.{key}" for home in SEARCHABLE for key in SECTIONS[home].model_fields]
            raise InputError(f"{name}.when: {other}: no such key{suggestion(other, known)}")
        listed = values if isinstance(values, list) else [values]
        if not listed:
            raise InputError(f"{name}.when: {other} = []: must list at least one value")
        yield other, listed


def normalize(name: str, value: object) -> Any:
    """Return a value of the field `name` as a setting, in JSON's types.

    Raises:
        InputError: if the field does not allow the value.
    """
    section, key = name.split(".")
    return flatten(validate({section: {key: value}}), section)[name]


def from_optuna(value: Any) -> Any:
    """Return the setting for one of Optuna's values."""
    is_list = isinstance(value, str) and value.startswith("[")
    return tuple(json.loads(value)) if is_list else value


def _to_category(choice: object) -> str | int | float | bool:
    """Return a choice as an Optuna category: categories are scalars, so a list is stored as JSON."""
    if isinstance(choice, str | int | float | bool):
        return choice
    return json.dumps(choice, default=str)


def _read_choices(name: str, choices: object) -> tuple[list[Any], BaseDistribution]:
    if not isinstance(choices, list) or not choices:
        raise InputError(f"{name}.choices = {choices!r}: must be a list of at least one value")
    categories = [_to_category(choice) for choice in choices]
    if len(set(categories)) < len(categories):
        raise InputError(f"{name}.choices = {choices!r}: duplicate value")
    return choices, CategoricalDistribution(categories)


def _read_range(name: str, kind: type | None, table: Mapping[str, Any]) -> tuple[list[Any], BaseDistribution]:
    if kind is None:
        raise InputError(f"{name} = {dict(table)!r}: not a number; search it with choices = [...]")
    _check_range_types(name, kind, table)
    low, high, log, step = table["low"], table["high"], table.get("log", False), table.get("step")
    if not low < high:
        raise InputError(f"{name}: low = {low!r} must be less than high = {high!r}")
    if log and low <= 0:
        raise InputError(f"{name}: low = {low!r} must be more than 0 with log = true")
    if step is not None and (log or not 0 < step < math.inf):
        raise InputError(f"{name}.step = {step!r}: must be more than 0, and not with log = true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns if the last step ends before `high`
        try:
            if kind is int:
                return [low, high], IntDistribution(low, high, log=log, step=1 if step is None else step)
            return [low, high], FloatDistribution(float(low), float(high), log=log, step=step)
        except ArithmeticError:  # for example 400 digits, or a step of 1e-300
            raise InputError(f"{name} = {dict(table)!r}: these numbers are too far apart") from None


def _check_range_types(name: str, kind: type, table: Mapping[str, Any]) -> None:
    """Raise InputError if a key of a range is missing or has a value of the wrong type."""
    missing = [key for key in ("low", "high") if key not in table]
    if missing:
        raise InputError(f"{name} = {dict(table)!r}: needs {' and '.join(missing)}, or choices")
    log = table.get("log", False)
    if not isinstance(log, bool):
        raise InputError(f"{name}.log = {log!r}: must be true or false")
    number_types = (int,) if kind is int else (int, float)
    for key in ("low", "high", "step"):
        value = table.get(key)
        if key in table and (isinstance(value, bool) or not isinstance(value, number_types)):
            raise InputError(f"{name}.{key} = {value!r}: must be {'a whole' if kind is int else 'a'} number")


def _numeric_type(section: str, field: str) -> type | None:
    """Return the field's type, without Optional, if it is int or float."""
    annotation = SECTIONS[section].model_fields[field].annotation
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    for option in typing.get_args(annotation) if union else (annotation,):
        plain = option
        while typing.get_origin(plain) is typing.Annotated:
            plain = typing.get_args(plain)[0]
        if plain in (int, float):
            return typing.cast(type, plain)
    return None
