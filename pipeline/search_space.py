"""A TOML file read as fixed values and searched ones: a bare value is fixed, a table is searched."""

import json
import math
import tomllib
import types
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from pipeline.config import SECTIONS, Configuration, check_keys, nearest, validate
from pipeline.errors import InputError

SEARCHABLE = ("network", "training")
_RANGE_KEYS = ("low", "high", "log", "step")

Tables = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SearchSpace:
    """Everything that a search-space file says.

    `tables` is the file as resolved, ready to be written; `base` has the fixed values, with a valid one
    in each searched place; `distributions` holds the searched ones by dotted name.
    """

    tables: Tables
    base: Configuration
    distributions: dict[str, BaseDistribution]

    def configuration(self, parameters: Mapping[str, Any], number: int) -> Configuration:
        """The complete configuration of trial `number` at the sampled `parameters` (dotted names)."""
        dump = self.base.model_dump()
        for name, value in parameters.items():
            section, field = name.split(".")
            dump[section][field] = _decoded(value)
        if dump["training"]["seed"] is None:
            dump["training"]["seed"] = dump["search"]["seed"] + number
        return Configuration.model_validate(dump)

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
    distributions: dict[str, BaseDistribution] = {}
    fixed: Tables = {}
    for section, table in tables.items():
        fixed[section] = {}
        for field, value in table.items():
            if isinstance(value, Mapping):
                name = f"{section}.{field}"
                candidates, distributions[name] = _searched(section, field, value)
                for candidate in candidates:
                    _check(section, field, candidate, value)
                value = candidates[0]
            fixed[section][field] = value
    resolved = {section: dict(table) for section, table in tables.items()}
    return SearchSpace(resolved, validate(fixed), distributions)


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


def _searched(section: str, field: str, table: Mapping[str, Any]) -> tuple[list[Any], BaseDistribution]:
    """The values to check against the field's own rules, and the distribution."""
    name = f"{section}.{field}"
    if section not in SEARCHABLE:
        raise InputError(f"{name}: only [network] and [training] are searched; give one value")
    for key in table:
        if key not in ("choices", *_RANGE_KEYS):
            raise InputError(f"{name}.{key}: no such key{nearest(key, ['choices', *_RANGE_KEYS])}")
    if "choices" in table:
        if len(table) > 1:
            raise InputError(
                f"{name}: choices stand alone, without {', '.join(sorted(set(table) - {'choices'}))}"
            )
        return _choices(name, table["choices"])
    return _range(name, _numeric_type(section, field), table)


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


def _check(section: str, field: str, candidate: object, table: Mapping[str, Any]) -> None:
    if isinstance(candidate, Mapping):
        raise InputError(f"{section}.{field} = {dict(table)!r}: a choice cannot be a table")
    validate({section: {field: candidate}})


def _encoded(choice: object) -> str | int | float | bool:
    """Optuna's categories are scalars, so a list stands there as JSON."""
    if isinstance(choice, str | int | float | bool):
        return choice
    return json.dumps(choice, default=str)


def _decoded(value: Any) -> Any:
    return tuple(json.loads(value)) if isinstance(value, str) and value.startswith("[") else value


def _toml(value: object) -> str:
    """A value as inline TOML. JSON's strings, numbers, booleans and lists are TOML's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
