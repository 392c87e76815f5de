"""`RECIPE.md`, made from the fields: `python -m lorry_trainer.recipe_doc > trainer/lorry_trainer/RECIPE.md`."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lorry_trainer.recipe import Recipe
from lorry_trainer.recipe.section import section_in

HEAD = """\
# The recipe

One YAML file says what to train. The shortest one that works:

```yaml
data:
  path: questions.jsonl        # {"instruction": …, "context": …, "output": …} on each line
```

    lorry train questions.yaml --push questions

- An unknown key, a key given twice and a value of the wrong type are errors that name the line and near matches.
- Where a default is *chosen*, the trainer picks a value that fits the base, the data and the machine, and writes it
  with its reason into the `recipe.yaml` beside the adapter. That file is a recipe too, with nothing left open: put it
  where the first one stood, and it makes the same adapter.
- Relative data paths start at the recipe's folder.
- A row's split follows from its question and the seed: adding rows moves none, and equal questions stay together.
- The same recipe on the same data and machine gives the same bytes.
"""


def document() -> str:
    return "\n".join([HEAD, *_section(Recipe, "")])


def _section(section: type[BaseModel], prefix: str) -> Iterator[str]:
    if prefix:
        yield f"\n## {prefix.rstrip('.')}\n\n{(section.__doc__ or '').strip()}\n"
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in section.model_fields.items():
        yield f"| `{prefix}{name}` | {_kind(field)} | {_default(field)} | {field.description} |"
    for name, field in section.model_fields.items():
        if inner := section_in(field.annotation):
            keyed = get_origin(field.annotation) is dict
            yield from _section(inner, f"{prefix}{name}." + ("*." if keyed else ""))


def _kind(field: FieldInfo) -> str:
    if get_origin(field.annotation) is dict:
        return "sections by name"
    if section_in(field.annotation):
        return "section"
    rules = [
        f"{sign} {_number(getattr(rule, name))}"
        for rule in field.metadata
        for name, sign in _SIGNS
        if hasattr(rule, name)
    ]
    return " ".join([_type_name(field.annotation), *rules])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


_SIGNS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _type_name(get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin is tuple:
        return "list"
    if parts := get_args(annotation):  # a union
        return " or ".join(_type_name(part) for part in parts if part is not NoneType)
    return {"str": "text", "int": "integer", "float": "number", "bool": "yes/no"}[
        annotation.__name__
    ]


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if field.is_required() or default is PydanticUndefined:
        return "*required*"
    if section_in(field.annotation):
        return ""
    if default is None:
        return "*chosen*" if "Left out:" in (field.description or "") else "none"
    if isinstance(default, bool):
        return "`true`" if default else "`false`"
    shown = {"": "empty", (): "none"}.get(default)
    return shown or f"`{default!r}`".replace("'", "")


if __name__ == "__main__":
    print(document(), end="")
