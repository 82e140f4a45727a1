"""YAML -> a resolved, typed, frozen config: `extends`, `${VAR}`, `key.path=value`, every mistake at once with file:line."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """One part's settings: strict, frozen, no unknown keys. A part receives its own section, never the whole config."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


def _whole(value: Any) -> Any:
    """1e6 and 2.0 are whole numbers to a person who counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
