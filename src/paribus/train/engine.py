"""The seam between the loop and the machines: an engine owns the model, its optimizer, and how ranks share a step."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from transformers import PreTrainedModel

from paribus.data.batches import Batch
from paribus.errors import ConfigError
from paribus.objectives.objective import Objective
from paribus.train.allocator import keep_freed_memory
from paribus.train.config import LaunchConfig, TrainConfig

if TYPE_CHECKING:
    from paribus.train.olmo.engine import OlmoCoreEngine


class StepReport(NamedTuple):
    """What one step did; the same on every rank."""

    loss: float  # the mean over the global batch, before the update
    grad_norm: float  # of all parameters, before clipping
    sums: dict[str, float]  # the objective's further sums, divided by the weight like the loss
    update: Literal["applied", "skipped", "refused"]  # skipped: fp16 overflow, scale lowered; refused: not finite


class Host(Protocol):
    """What holds the model of a run between its steps, on one rank of several."""

    rank: int
    world: int
    device: torch.device
    model: PreTrainedModel  # as prepared: for evaluations, on every rank alike

    def save(self, folder: Path) -> None:
        """Write weights (as `save_pretrained` does) and optimizer into an existing folder. Every rank calls it."""

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote, at any world size; the folder has been verified. Every rank calls it."""

    def agree(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values, on every rank: decisions that follow from them are then the same everywhere."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""

    def barrier(self) -> None: ...

    def close(self) -> None: ...


class Engine(Host, Protocol):
    """How a model is trained by our own loop: in one process, on several with a copy each (ddp), or a shard each (fsdp2)."""

    def prepare(self, model: PreTrainedModel) -> None:
        """Take the model over: move, wrap or shard it, and build its optimizer. Once, before anything else."""

    def step(self, objective: Objective, batch: Batch, lr: float, seed: int) -> StepReport:
        """Forward, backward, clip and update on the *global* batch, of which this rank takes its rows.

        seed: of this step's dropout. A loss or gradient that is not finite changes no weight, on no rank."""


def build_engine(launch: LaunchConfig, train: TrainConfig) -> "Engine | OlmoCoreEngine":
    """The engine of a `launch:` section; all but single join the process group that torchrun's environment describes."""
    if launch.threads is not None:
        torch.set_num_threads(launch.threads)
    keep_freed_memory()
    match launch.engine:
        case "single":
            if int(os.environ.get("WORLD_SIZE", 1)) > 1:
                raise ConfigError(
                    f"launch.engine: single is one process, but {os.environ['WORLD_SIZE']} ranks were started;"
                    " use ddp or fsdp2, or start one"
                )
            from paribus.train.single import SingleEngine

            return SingleEngine(train, single_device(launch))
        case "ddp":
            from paribus.train.ddp import DdpEngine

            return DdpEngine(train, launch)
        case "fsdp2":
            from paribus.train.fsdp2 import Fsdp2Engine

            return Fsdp2Engine(train, launch)
        case "olmo_core":
            from paribus.train.olmo.engine import OlmoCoreEngine

            return OlmoCoreEngine(train, launch)


def single_device(launch: LaunchConfig, local_rank: int = 0) -> torch.device:
    """The device of `launch.device`; `auto` takes CUDA where there is one."""
    if launch.device == "cpu" or (launch.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("launch.device: cuda is asked for, but PyTorch finds no CUDA device; use auto or cpu")
    return torch.device("cuda", local_rank)


def equip(model: PreTrainedModel, config: TrainConfig) -> PreTrainedModel:
    """Turn on gradient checkpointing and compilation where the config asks for them."""
    if config.gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ConfigError(f"train.gradient_checkpointing: {model.config.model_type} does not support it")
        # transformers renamed it within version 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if config.compile:
        model.compile()
    return model.train()
