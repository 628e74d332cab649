"""Search-space files: TOML in which a bare value is fixed and a table is searched."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from convene.config.parameter import (
    SEARCHABLE,
    Parameter,
    from_optuna,
    normalize,
    read_conditions,
    read_parameter,
)
from convene.config.schema import Configuration, default, flatten
from convene.config.validation import check_keys, validate
from convene.errors import InputError

Tables = dict[str, dict[str, Any]]

_MISSING = object()  # equal to no value


@dataclass(frozen=True)
class SearchSpace:
    """The content of a search-space file.

    Below, `parameters` are Optuna's values by dotted name (`network.depth`).
    """

    tables: Tables
    """The tables of the file, with overrides."""
    base: Configuration
    """The fixed values, and a valid value for each searched field."""
    searched: dict[str, Parameter]
    """Searched parameters by dotted name, each after the parameters that it depends on."""
    try_first: tuple[dict[str, Any], ...] = ()
    """Parameters of the first trials; each entry may leave some out."""

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The Optuna distribution of each searched parameter."""
        return {name: parameter.distribution for name, parameter in self.searched.items()}

    def is_active(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Return whether the parameters meet the condition of the searched parameter `name`."""
        return all(
            parameters.get(other, _MISSING) in values for other, values in self.searched[name].when.items()
        )

    def is_never_active(self, name: str) -> bool:
        """Return whether no parameters meet the condition of the searched parameter `name`."""
        return any(
            not values or self.is_never_active(other) for other, values in self.searched[name].when.items()
        )

    def active_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters whose conditions are met."""
        active: dict[str, Any] = {}
        for name in self.searched:
            if name in parameters and self.is_active(name, active):
                active[name] = parameters[name]
        return active

    def configuration(self, parameters: Mapping[str, Any], number: int) -> Configuration:
        """Return the complete configuration of trial `number` with the sampled `parameters`.

        Conditional fields that are not among the parameters have their defaults.
        """
        dump = self.base.model_dump()
        for name, parameter in self.searched.items():
            section, field = name.split(".")
            if name in parameters:
                dump[section][field] = from_optuna(parameters[name])
            elif parameter.when:
                dump[section][field] = default(section, field)
        if dump["training"]["seed"] is None:
            dump["training"]["seed"] = dump["search"]["seed"] + number
        return Configuration.model_validate(dump)

    def settings(self, parameters: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return the settings of [network] and [training] by dotted name, without inactive ones."""
        values = flatten(self.configuration(parameters, number), *SEARCHABLE)
        return {
            name: value
            for name, value in values.items()
            if name in parameters or name not in self.searched or not self.searched[name].when
        }

    def parameters(self, configuration: Configuration) -> dict[str, Any] | None:
        """Return the parameters of a configuration's network and training, or None if it is not in the space.

        `training.seed` may differ if it is fixed.
        """
        settings, fixed = flatten(configuration, *SEARCHABLE), flatten(self.base, *SEARCHABLE)
        differing = {name for name, value in fixed.items() if settings[name] != value} - {"training.seed"}
        parameters: dict[str, Any] = {}
        for name, parameter in self.searched.items():
            if self.is_active(name, parameters):
                value = parameter.to_optuna(name, settings[name])
                if value is None:
                    return None
                parameters[name] = value
            elif settings[name] != normalize(name, default(*name.split("."))):
                return None
        return None if differing - self.searched.keys() else parameters

    def to_toml(self) -> str:
        """Return the text of a file that gives the same space."""
        return "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
            for section, table in self.tables.items()
        )


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> SearchSpace:
    """Read a search-space file, with overrides by dotted name (`network.width`).

    Raises:
        InputError: if the file cannot be read, is malformed TOML (with line and column), or has a value that
            is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"search space {path}: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, overrides, source=str(path))


def parse(text: str, overrides: Mapping[str, Any] | None = None, source: str = "search space") -> SearchSpace:
    """Read the text of a search-space file; see `read`."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also thousands of digits or brackets
        raise InputError(f"{source}: not valid TOML: {error}") from None
    return build(_merge(tables, overrides or {}))


def override(space: SearchSpace, overrides: Mapping[str, Any]) -> SearchSpace:
    """Return the space with overrides by dotted name (`network.width`); see `build`."""
    return build(_merge(space.tables, overrides))


def _merge(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {section: dict(table) if isinstance(table, dict) else table for section, table in tables.items()}
    for name, value in overrides.items():
        section, _, field = name.partition(".")
        table = merged.setdefault(section, {})
        if isinstance(table, dict):
            table[field] = value
    return merged


def build(tables: Mapping[str, Any]) -> SearchSpace:
    """Return the search space in the tables of a file.

    Raises:
        InputError: naming the field, the value and what is allowed.
    """
    check_keys(tables)
    specs: dict[str, Mapping[str, Any]] = {}
    fixed: Tables = {}
    for section, table in tables.items():
        fixed[section] = {}
        for field, value in table.items():
            if isinstance(value, Mapping):
                specs[f"{section}.{field}"] = value
            else:
                fixed[section][field] = value
    parameters = {name: read_parameter(name, spec) for name, spec in specs.items()}
    for name, parameter in parameters.items():
        section, field = name.split(".")
        fixed[section][field] = parameter.choices_or_bounds[0]
    base = validate(fixed)
    copy = {section: dict(table) for section, table in tables.items()}
    space = SearchSpace(copy, base, read_conditions(parameters, flatten(base, *SEARCHABLE)))
    return replace(space, try_first=tuple(_first_trials(space)))


def _first_trials(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield the parameters of each entry of `search.try_first`, checked to be in the space."""
    for index, tables in enumerate(space.base.search.try_first):
        entry = f"search.try_first[{index}]"
        check_keys(tables, f"{entry}: ")
        values = {
            f"{section}.{field}": value for section, table in tables.items() for field, value in table.items()
        }
        for name in values:
            if name not in space.searched:
                names = ", ".join(space.searched)
                raise InputError(f"{entry}: {name} is not searched; searched parameters: {names}")
        parameters: dict[str, Any] = {}
        for name, parameter in space.searched.items():
            if name not in values:
                continue
            if not space.is_active(name, parameters):
                raise InputError(f"{entry}: {name} applies only when {_toml(parameter.spec['when'])}")
            value = parameter.to_optuna(name, normalize(name, values[name]))
            if value is None:
                raise InputError(f"{entry}: {name} = {values[name]!r}: must be in {_toml(parameter.spec)}")
            parameters[name] = value
        yield parameters


def parse_override(text: str) -> tuple[str, Any]:
    """Return name and value of `SECTION.KEY=VALUE`. A value that is not valid TOML is a string.

    Raises:
        InputError: if the text has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip().partition(".")[2]:
        raise InputError(f"--set {text}: must be SECTION.KEY=VALUE, such as network.width=16")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return name.strip(), value.strip()


def _toml(value: object) -> str:
    """Return a value as inline TOML. JSON's strings, numbers, booleans and lists are valid TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
