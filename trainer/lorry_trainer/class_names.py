"""Labels that a data set keeps as numbers, with their names beside: a row gets the names.

`datasets` writes the names into the schema of what it saves, and so the hub's Parquet files have them.
"""

from __future__ import annotations

import json
from typing import Any

Names = dict[str, list[str]]  # column -> the name of each number, where its labels are numbers


def names_of(schema: Any) -> Names:
    """Of an Arrow schema; nothing where `datasets` did not write it."""
    kept = (schema.metadata or {}).get(b"huggingface")
    features = json.loads(kept)["info"]["features"] if kept else {}
    found = {column: _class_label(feature) for column, feature in features.items()}
    return {column: names for column, names in found.items() if names}


def _class_label(feature: Any) -> list[str] | None:
    """The names of a label, or of each of a list of labels."""
    if isinstance(feature, list):
        feature = feature[0]
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names: list[str] = feature["names"]
        return names
    return _class_label(feature.get("feature"))


def with_names(values: dict[str, Any], names: Names) -> dict[str, Any]:
    """A row with its labels by name; a label that is not known, -1 on the hub, becomes None."""
    return values | {c: _named(values[c], known) for c, known in names.items() if c in values}


def _named(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None
