"""The settings of the trackers that mirror metrics.jsonl."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from paribus.config import Section


def _is_an_id(value: str) -> str:
    if not value or len(value) > 128 or set(value) & set("/\\#?%: "):
        raise ValueError("the id of a W&B run is expected: no blank, and none of / \\ # ? % :")
    return value


class WandbConfig(Section):
    project: str
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    id: Annotated[str, AfterValidator(_is_an_id)] | None = Field(
        None, description="go on in this W&B run, which must exist; null: one of the run's own identity"
    )
    step_in_name: bool = Field(
        False, description="add `-step=N` to the name: the checkpoint's step at which this process begins"
    )
    mode: Literal["online", "offline"] = "online"


class TrackConfig(Section):
    """metrics.jsonl is always written; these mirror it."""

    wandb: WandbConfig | None = None
    tensorboard: bool = False
