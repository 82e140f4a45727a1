"""AdamW with its weight-decay groups, and the learning-rate schedules as pure functions of the step."""

import math

import torch
from torch import nn

from paribus.errors import ConfigError
from paribus.train.config import AdamW, Constant, Cosine, Linear, ReduceOnPlateau, Schedule, WarmupStableDecay


def build_optimizer(model: nn.Module, config: AdamW) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; matrices and embeddings are decayed, vectors and scalars are not.

    Fused, on CPU and CUDA alike: one pass over the memory of each parameter."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def lr_factor(schedule: Schedule, step: int, num_steps: int) -> float:
    """The learning rate of optimizer step `step` as a fraction of the peak. Pure.

    Steps count from 1 to num_steps, whatever the accumulation. Step s <= warmup_steps takes s / warmup_steps, so step
    warmup_steps takes the peak; the decay starts there, and step num_steps takes final_fraction, both exactly.
    A plateau schedule gives only its warm-up here: its reductions depend on evaluations (stopping.Plateau)."""
    warmup = schedule.warmup_steps
    if step < warmup:
        return step / warmup
    match schedule:
        case Constant() | ReduceOnPlateau():
            return 1.0
        case Linear(final_fraction=floor):
            return _between(floor, 1.0 - _passed(step, warmup, num_steps))
        case Cosine(final_fraction=floor):
            return _between(floor, 0.5 + 0.5 * math.cos(math.pi * _passed(step, warmup, num_steps)))
        case WarmupStableDecay(final_fraction=floor, decay_steps=decay):
            return _between(floor, 1.0 - _passed(step, num_steps - decay, num_steps))


def check_schedule(schedule: Schedule, num_steps: int) -> None:
    """Refuse a schedule that does not fit into the run, whose peak or floor would never be reached."""
    decay = (
        schedule.decay_steps if isinstance(schedule, WarmupStableDecay) else int(isinstance(schedule, Linear | Cosine))
    )
    if schedule.warmup_steps + decay > num_steps:
        parts = f"{schedule.warmup_steps} warm-up" + (f" + {decay} decay" if decay else "")
        raise ConfigError(
            f"train.schedule: {parts} steps do not fit into the run's {num_steps}; shorten them or raise the budget"
        )


def _passed(step: int, start: int, stop: int) -> float:
    """The share of start..stop that lies behind: 0 up to start, 1 at stop."""
    return max(0, step - start) / (stop - start)


def _between(floor: float, remaining: float) -> float:
    """From 1 (all remains) down to the floor (nothing remains), exact at both ends."""
    return 1.0 if remaining == 1.0 else floor + (1.0 - floor) * remaining
