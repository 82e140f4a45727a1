"""The settings of the trackers that mirror metrics.jsonl."""

from typing import Literal

from paribus.config import Section


class WandbConfig(Section):
    project: str
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    mode: Literal["online", "offline"] = "online"


class TrackConfig(Section):
    """metrics.jsonl is always written; these mirror it."""

    wandb: WandbConfig | None = None
    tensorboard: bool = False
