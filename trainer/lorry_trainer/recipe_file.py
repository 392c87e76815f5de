"""Read a recipe from YAML, strictly: every complaint names the line, the key, the rule and near matches.

Stricter than plain YAML 1.1 where people are bitten: a key given twice is an error, and `2e-3` is a number.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lorry_trainer.errors import RecipeError
from lorry_trainer.habits import known_elsewhere
from lorry_trainer.recipe import Recipe
from lorry_trainer.recipe.section import section_in

Place = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(  # YAML 1.1 asks for a dot: without this, 2e-3 is a string
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_recipe(path: Path) -> Recipe:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    return parse_recipe(text, str(path))


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """The recipe in `text`; `name` stands in messages. Raises RecipeError with every fault that was found."""
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        faults = list(_repeated_keys(root))
        values = loader.construct_document(root) if root is not None else None
        as_json = json.dumps(values)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is not YAML: {error}") from error
    except (TypeError, ValueError) as error:  # a date, say
        raise RecipeError(
            f"{name}: a value that no field takes: {error}; put it in quotes"
        ) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise RecipeError(
            f"{name}: a recipe is a mapping of sections (base, method, data, …), not {_kind(values)}"
        )
    try:
        recipe = Recipe.model_validate_json(as_json)
    except ValidationError as error:
        faults += [(_line_of(root, e["loc"]), _say(e)) for e in error.errors()]
    else:
        faults += [
            (_line_of(root, ("search", "values", key)), f"search.values: {complaint}")
            for key in (recipe.search.values if recipe.search else ())
            for complaint in _unknown(key)
        ]
    if faults:
        lines = "\n".join(f"{name}:{line}: {message}" for line, message in sorted(set(faults)))
        raise RecipeError(lines)
    return recipe


def _say(error: ErrorDetails) -> str:
    place = tuple(p for p in error["loc"] if not _is_union_tag(p))
    where = ".".join(map(str, place))
    if error["type"] == "extra_forbidden":
        section = _section(place[:-1])
        known = list(section.model_fields) if section else []
        elsewhere = [p for p in all_places(Recipe) if p.rpartition(".")[2] == place[-1]]
        if not elsewhere and (habit := known_elsewhere(str(place[-1]))):
            return f"{where}: unknown key; {habit}"
        hint = elsewhere or difflib.get_close_matches(str(place[-1]), known, n=3)
        ask = f"did you mean {' or '.join(hint)}?" if hint else f"known here: {', '.join(known)}"
        return f"{where}: unknown key; {ask}"
    if error["type"] == "missing":
        return f"{where}: missing; a recipe needs it"
    message = error["msg"].removeprefix("Value error, ")
    value = error["input"]
    shown = "" if isinstance(value, dict) else f" (got {value!r})"
    return f"{where + ': ' if where else ''}{message[0].lower()}{message[1:]}{shown}"


def _unknown(key: str) -> Iterator[str]:
    """A complaint where a recipe has no such key."""
    known = list(all_places(Recipe))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=3)
        yield f"no recipe has a key {key}" + (
            f"; did you mean {' or '.join(near)}?" if near else ""
        )


def _is_union_tag(part: str | int) -> bool:
    """pydantic adds the branch of a union to a place: `literal['all-linear']`, `tuple[str, ...]`."""
    return isinstance(part, str) and "[" in part


def _section(place: Place) -> type[BaseModel] | None:
    section: type[BaseModel] | None = Recipe
    keyed = False  # whether the next part is a key that the user chose
    for part in place:
        if keyed:
            keyed = False
            continue
        field = section.model_fields.get(str(part)) if section else None
        keyed = field is not None and get_origin(field.annotation) is dict
        section = section_in(field.annotation) if field else None
    return section


def all_places(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        if inner := section_in(field.annotation):
            yield from all_places(inner, f"{prefix}{name}.")


def _line_of(node: yaml.Node | None, place: Place) -> int:
    """The line of the deepest part of `place` that stands in the text."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _repeated_keys(node: yaml.Node | None) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield key.start_mark.line + 1, f"{key.value}: given twice; keep one"
            seen.add(key.value)
            yield from _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated_keys(value)


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
