"""Weights and optimizer state as safetensors: what the engines that hold a whole model write and read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from paribus.errors import CheckpointError
from paribus.train.update import Update

OPTIMIZER_FILE = "optimizer.safetensors"
LOSS_SCALE = "loss_scale"  # (2,): its value and the good steps since it changed


def save_training_state(model: PreTrainedModel, update: Update, folder: Path) -> None:
    """Write the weights as `save_pretrained` does, and the optimizer's state under PART/PARAMETER."""
    with _quiet():
        model.save_pretrained(folder)
    save_file(optimizer_state(model, update), folder / OPTIMIZER_FILE)


def load_training_state(model: PreTrainedModel, update: Update, folder: Path) -> None:
    """Put saved weights and optimizer state into a prepared model and its optimizer, bit for bit."""
    model.load_state_dict(load_weights(folder).state_dict())
    restore_optimizer(model, update, load_file(folder / OPTIMIZER_FILE), folder)


def load_weights(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint folder, fp32, on the CPU, its weights as saved; the caller has verified the folder."""
    with _quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)


def optimizer_state(model: nn.Module, update: Update) -> dict[str, Tensor]:
    """The optimizer's tensors by PART/PARAMETER, and the loss scale; parameters that had no gradient yet have none."""
    tensors = {
        f"{part}/{name}": value.detach().contiguous()
        for name, parameter in model.named_parameters()
        for part, value in update.optimizer.state.get(parameter, {}).items()
    }
    if update.scale.is_on:
        tensors[LOSS_SCALE] = torch.tensor([update.scale.value, update.scale.good_steps], dtype=torch.float64)
    return tensors


def restore_optimizer(model: nn.Module, update: Update, tensors: dict[str, Tensor], folder: Path) -> None:
    """The inverse of optimizer_state. Raises CheckpointError when a saved tensor fits no parameter of the model."""
    scale = tensors.pop(LOSS_SCALE, None)
    if scale is not None and update.scale.is_on:
        update.scale.value, update.scale.good_steps = float(scale[0]), int(scale[1])
    parameters = dict(model.named_parameters())
    update.optimizer.state.clear()
    for key, saved in tensors.items():
        part, _, name = key.partition("/")
        parameter = parameters.get(name)
        if parameter is None or saved.shape not in ((), parameter.shape):
            raise CheckpointError(f"{folder / OPTIMIZER_FILE}: {key} fits no parameter; made by another model?")
        # fresh memory: the loaded file's tensors are aligned as the file is, and rounding may depend on alignment
        update.optimizer.state[parameter][part] = torch.empty_like(saved, device=parameter.device).copy_(saved)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars: a run has one bar of its own."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()
