"""The keys of a search space as Markdown tables, read from the configuration's schema."""

import json
import re
import typing
from typing import Any

from convene.config.schema import SECTIONS, Duration

_DURATION = '`"30m"`, or seconds'


def table(section: str) -> str:
    """Return a Markdown table of a section's keys: values, default and meaning."""
    model = SECTIONS[section]
    properties = model.model_json_schema()["properties"]
    lines = ["| key | values | default | meaning |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        is_duration = Duration in typing.get_args(field.annotation)
        values = _DURATION if is_duration else _values(properties[key])
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {values} | {_default(field.default)} | {meaning} |")
    return "\n".join(lines)


def _default(default: Any) -> str:
    if default is None:
        return "–"
    return f"`{json.dumps(list(default) if isinstance(default, tuple) else default)}`"


def _values(schema: dict[str, Any]) -> str:
    """Return the values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(_values(option) for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        return "list of " + re.sub(r"^(integer|table)", r"\1s", _values(schema["items"]))
    words = {"boolean": "`true`, `false`", "object": "table", "string": "text"}
    kind: str = schema["type"]
    return words.get(kind, kind) + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        return ""
    above = ">" if "exclusiveMinimum" in schema else "≥"
    if high is None:
        return f" {above} {low:g}"
    if "minimum" in schema and "maximum" in schema:
        return f", {low:,g} to {high:,g}"
    below = "<" if "exclusiveMaximum" in schema else "≤"
    is_seed = high >= 2**32
    return f" {above} {low:g} and {below} {f'2^{high.bit_length() - 1}' if is_seed else f'{high:g}'}"
