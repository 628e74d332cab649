"""Hugging Face's description of columns in the metadata of a Parquet schema."""

import json
from collections.abc import Mapping
from typing import Any, Literal

_TYPES = {"image": "Image", "label": "ClassLabel"}


def class_names(schema: Any, label_column: str) -> list[str] | None:
    """Return the names of the ClassLabel in a column, or None."""
    names = _mapping(_features(schema).get(label_column)).get("names")
    return [str(name) for name in names] if isinstance(names, list) and names else None


def find_columns(schema: Any, role: Literal["image", "label"]) -> list[str]:
    """Return the columns of images or of labels in a schema.

    They are described in the metadata. Without that, columns that are structs with `bytes` hold images.
    """
    import pyarrow as pa

    features = _features(schema)
    described = [name for name in schema.names if _mapping(features.get(name)).get("_type") == _TYPES[role]]
    if described or role == "label":
        return described
    return [
        field.name
        for field in schema
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]


def _features(schema: Any) -> Mapping[str, Any]:
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return _mapping(_mapping(_mapping(metadata).get("info")).get("features"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
