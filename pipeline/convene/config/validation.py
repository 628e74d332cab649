"""Checks of a search-space file's tables, with errors that name the field, its value and what is allowed."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from convene.config.schema import SECTIONS, Configuration
from convene.errors import InputError


def validate(tables: Mapping[str, Mapping[str, Any]]) -> Configuration:
    """Return the configuration in the tables of a file.

    Raises:
        InputError: naming each wrong field, its value and what is allowed.
    """
    check_keys(tables)
    try:
        return Configuration.model_validate({name: dict(table) for name, table in tables.items()})
    except ValidationError as error:
        raise InputError("\n".join(_messages(error))) from None


def check_keys(tables: Mapping[str, Any], where: str = "") -> None:
    """Check that all sections and fields exist.

    Args:
        tables: sections by name.
        where: the start of error messages.

    Raises:
        InputError: for an unknown section or field, with the most similar valid names.
    """
    for section, table in tables.items():
        if section not in SECTIONS:
            raise InputError(f"{where}[{section}]: no such section{suggestion(section, SECTIONS)}")
        if not isinstance(table, Mapping):
            raise InputError(f"{where}{section}: must be a table, [{section}], not {table!r}")
        fields = SECTIONS[section].model_fields
        for field in table:
            if field not in fields:
                raise InputError(f"{where}{section}.{field}: no such key{_suggest_field(section, field)}")


def suggestion(name: str, known: Mapping[str, Any] | list[str]) -> str:
    """Return the end of an error message about an unknown name: similar known names, else all of them."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known names: {', '.join(known)}" if known else ""


def _suggest_field(section: str, field: str) -> str:
    """Suggest the section of a misplaced field, or the spelling of a misspelt one."""
    homes = [name for name, model in SECTIONS.items() if field in model.model_fields]
    if homes:
        return f"; did you mean {homes[0]}.{field}?"
    return suggestion(field, list(SECTIONS[section].model_fields))


def _messages(error: ValidationError) -> Iterator[str]:
    """Yield a message for each wrong field."""
    seen: set[str] = set()
    for problem in error.errors():
        # Locations in unions and tuples end with type names; the first two parts are the field.
        name = ".".join(str(part) for part in problem["loc"][:2])
        if name not in seen:
            seen.add(name)
            message = problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
            message = message[0].lower() + message[1:] if message.startswith("Input") else message
            yield f"{name} = {problem['input']!r}: {message}"
