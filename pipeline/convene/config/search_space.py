"""A TOML file read as fixed values and searched ones: a bare value is fixed, a table is searched."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from convene.config.parameter import SEARCHABLE, Searched, from_optuna, normalize, read_table, with_conditions
from convene.config.schema import Configuration, default, flatten
from convene.config.validation import check_keys, validate
from convene.errors import InputError

Tables = dict[str, dict[str, Any]]

_NOTHING = object()  # equals no parameter


@dataclass(frozen=True)
class SearchSpace:
    """Everything that a search-space file says.

    `tables` is the file as resolved, ready to be written; `base` has the fixed values, with a valid one
    in each searched place; `searched` has the rest by dotted name, each after those that it depends on.
    """

    tables: Tables
    base: Configuration
    searched: dict[str, Searched]
    try_first: tuple[dict[str, Any], ...] = ()
    """Parameters, not all of them perhaps, of the first trials."""

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What each searched parameter is drawn from."""
        return {name: searched.distribution for name, searched in self.searched.items()}

    def applies(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Whether a searched parameter means anything beside these, which it depends on."""
        return all(
            parameters.get(other, _NOTHING) in values for other, values in self.searched[name].when.items()
        )

    def never_applies(self, name: str) -> bool:
        """Whether a searched parameter means nothing beside any others."""
        return any(
            not values or self.never_applies(other) for other, values in self.searched[name].when.items()
        )

    def applicable(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the parameters that mean something beside the others."""
        kept: dict[str, Any] = {}
        for name in self.searched:
            if name in parameters and self.applies(name, kept):
                kept[name] = parameters[name]
        return kept

    def configuration(self, parameters: Mapping[str, Any], number: int) -> Configuration:
        """The complete configuration of trial `number` at the sampled `parameters` (dotted names).

        A parameter with a condition that is not among them has its default.
        """
        dump = self.base.model_dump()
        for name, searched in self.searched.items():
            section, field = name.split(".")
            if name in parameters:
                dump[section][field] = from_optuna(parameters[name])
            elif searched.when:
                dump[section][field] = default(section, field)
        if dump["training"]["seed"] is None:
            dump["training"]["seed"] = dump["search"]["seed"] + number
        return Configuration.model_validate(dump)

    def settings(self, parameters: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Values of [network] and [training] by dotted name, without those that do not apply."""
        values = flatten(self.configuration(parameters, number), *SEARCHABLE)
        return {
            name: value
            for name, value in values.items()
            if name in parameters or name not in self.searched or not self.searched[name].when
        }

    def parameters(self, configuration: Configuration) -> dict[str, Any] | None:
        """The parameters that give this network and training, but for its seed; None where there are none."""
        settings, fixed = flatten(configuration, *SEARCHABLE), flatten(self.base, *SEARCHABLE)
        unlike = {name for name, value in fixed.items() if settings[name] != value} - {"training.seed"}
        parameters: dict[str, Any] = {}
        for name, searched in self.searched.items():
            if self.applies(name, parameters):
                found = searched.parameter(name, settings[name])
                if found is None:
                    return None
                parameters[name] = found
            elif settings[name] != normalize(name, default(*name.split("."))):
                return None
        return None if unlike - self.searched.keys() else parameters

    def to_toml(self) -> str:
        """The file as resolved: reading it back gives the same space."""
        return "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())
            for section, table in self.tables.items()
        )


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> SearchSpace:
    """Reads a search-space file, with values by dotted name (`network.width`) laid over it.

    Raises:
        InputError: no such file, malformed TOML (with line and column), or a value that is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"search space {path}: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, overrides, source=str(path))


def parse(text: str, overrides: Mapping[str, Any] | None = None, source: str = "search space") -> SearchSpace:
    """Reads the text of a search-space file; see `read`."""
    try:
        tables: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # beside malformed TOML: thousands of digits or brackets
        raise InputError(f"{source}: not valid TOML: {error}") from None
    return build(_laid_over(tables, overrides or {}))


def override(space: SearchSpace, overrides: Mapping[str, Any]) -> SearchSpace:
    """The space with values by dotted name (`network.width`) laid over it; see `build`."""
    return build(_laid_over(space.tables, overrides))


def _laid_over(tables: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    laid = {section: dict(table) if isinstance(table, dict) else table for section, table in tables.items()}
    for name, value in overrides.items():
        section, _, field = name.partition(".")
        table = laid.setdefault(section, {})
        if isinstance(table, dict):
            table[field] = value
    return laid


def build(tables: Mapping[str, Any]) -> SearchSpace:
    """The space that the tables of a file describe.

    Raises:
        InputError: naming the field, the value and what is allowed.
    """
    check_keys(tables)
    given: dict[str, Mapping[str, Any]] = {}
    fixed: Tables = {}
    for section, table in tables.items():
        fixed[section] = {}
        for field, value in table.items():
            if isinstance(value, Mapping):
                given[f"{section}.{field}"] = value
            else:
                fixed[section][field] = value
    tables_read = {name: read_table(name, table) for name, table in given.items()}
    for name, each in tables_read.items():
        section, field = name.split(".")
        fixed[section][field] = each.allowed[0]
    base = validate(fixed)
    resolved = {section: dict(table) for section, table in tables.items()}
    conditional = with_conditions(tables_read, flatten(base, *SEARCHABLE))
    space = SearchSpace(resolved, base, conditional)
    return replace(space, try_first=tuple(_first_trials(space)))


def _first_trials(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """The parameters of `search.try_first`, each checked to be in the space."""
    for index, tables in enumerate(space.base.search.try_first):
        entry = f"search.try_first[{index}]"
        check_keys(tables, f"{entry}: ")
        values = {
            f"{section}.{field}": value for section, table in tables.items() for field, value in table.items()
        }
        for name in values:
            if name not in space.searched:
                raise InputError(f"{entry}: {name} is not searched; there are {', '.join(space.searched)}")
        found: dict[str, Any] = {}
        for name, searched in space.searched.items():
            if name not in values:
                continue
            if not space.applies(name, found):
                raise InputError(f"{entry}: {name} applies only when {_toml(searched.given['when'])}")
            parameter = searched.parameter(name, normalize(name, values[name]))
            if parameter is None:
                raise InputError(f"{entry}: {name} = {values[name]!r}: must be in {_toml(searched.given)}")
            found[name] = parameter
        yield found


def parse_override(text: str) -> tuple[str, Any]:
    """Name and value of `SECTION.KEY=VALUE`; a value that is not TOML is taken as text.

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
    """A value as inline TOML. JSON's strings, numbers, booleans and lists are TOML's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)
