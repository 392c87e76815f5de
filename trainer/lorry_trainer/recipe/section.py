"""What all sections of a recipe share: frozen, strict, and an unknown key is an error."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def asks(self, key: str) -> bool:
        """Whether a key asks for something that leaving it out does not: neither off nor its default."""
        value = getattr(self, key)
        return bool(value) and value != type(self).model_fields[key].default


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, `X` or `X | None`."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
