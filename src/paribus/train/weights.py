"""Weights and optimizer state as safetensors: what the engines that hold a whole model write and read."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import AutoModelForCausalLM, PreTrainedModel

from paribus.models.hf import without_bars
from paribus.train.update import Update

OPTIMIZER_FILE = "optimizer.safetensors"
SHARDS = "distributed"  # the folder of a checkpoint that holds shards instead: weights and optimizer
WEIGHTS = "weights"  # a part, as exp_avg, exp_avg_sq and step are


def save_training_state(model: PreTrainedModel, update: Update, folder: Path) -> None:
    """Write the weights as `save_pretrained` does, and the optimizer's state."""
    save_model(model, folder)
    save_file(optimizer_state(model, update), folder / OPTIMIZER_FILE)


def load_training_state(model: PreTrainedModel, update: Update, folder: Path) -> None:
    """Put saved weights and optimizer state into a prepared model and its optimizer, bit for bit."""
    model.load_state_dict(load_weights(folder).state_dict())
    tensors = load_optimizer_state(folder)
    update.scale.restore(tensors)
    restore_moments(dict(model.named_parameters()), update.optimizer, tensors)


def load_optimizer_state(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint folder that are not its model's, whole: PART/PARAMETER."""
    shards = folder / SHARDS
    return _join(shards) if shards.is_dir() else load_file(folder / OPTIMIZER_FILE)


def restore_moments(
    parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Give each parameter's saved state to the optimizer, in place of whatever it has."""
    optimizer.state.clear()
    for key, saved in tensors.items():
        part, _, name = key.partition("/")
        if name not in parameters or part == WEIGHTS:
            continue
        # fresh memory: the loaded file's tensors are aligned as the file is, and rounding may depend on alignment
        parameter = parameters[name]
        optimizer.state[parameter][part] = torch.empty_like(saved, device=parameter.device).copy_(saved)


def save_model(model: PreTrainedModel, folder: Path, tensors: dict[str, Tensor] | None = None) -> None:
    """Write the model as `save_pretrained` does; `tensors`: its state dict, where it is not the model's own."""
    with without_bars():
        model.save_pretrained(folder, state_dict=tensors)


def load_weights(folder: Path) -> PreTrainedModel:
    """The model of a checkpoint folder, fp32, on the CPU, its weights as saved; the caller has verified the folder."""
    with without_bars():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)


def optimizer_state(model: nn.Module, update: Update) -> dict[str, Tensor]:
    """The optimizer's tensors as PART/PARAMETER, and the loss scale; parameters that had no gradient yet have none."""
    return {**moments(dict(model.named_parameters()), update.optimizer), **update.scale.tensors()}


def moments(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors of named parameters, as PART/NAME."""
    return {
        f"{part}/{name}": value.detach().contiguous()
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
    }


def _join(shards: Path) -> dict[str, Tensor]:
    """Read a folder of shards into whole tensors, without a process group."""
    reader = HuggingFaceStorageReader(str(shards))
    saved = reader.read_metadata().state_dict_metadata
    items = {key: item for key, item in saved.items() if isinstance(item, TensorStorageMetadata)}
    tensors = {key: torch.empty(item.size, dtype=item.properties.dtype) for key, item in items.items()}
    load(tensors, storage_reader=reader, no_dist=True)
    return tensors
