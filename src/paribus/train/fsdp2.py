"""The engine of several processes with a shard of the model each (fully_shard: PyTorch's FSDP2)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from paribus.data.batches import Batch
from paribus.models.view import whole_state
from paribus.objectives.objective import Objective
from paribus.train.config import LaunchConfig, TrainConfig
from paribus.train.engine import StepReport, equip
from paribus.train.optim import build_optimizer
from paribus.train.ranks import Ranks
from paribus.train.update import Share, Update
from paribus.train.weights import SHARDS, WEIGHTS, load_weights, optimizer_state, save_model


class Fsdp2Engine:
    """Each rank holds a shard of every parameter, gradient and optimizer tensor, and gathers a block while it runs.

    Its checkpoints hold the shards as safetensors that any world size reads, and the gathered model for everyone else."""

    device: torch.device
    model: PreTrainedModel

    def __init__(self, config: TrainConfig, launch: LaunchConfig) -> None:
        self._config = config
        self._ranks = Ranks(launch)
        self.rank, self.world, self.device = self._ranks.rank, self._ranks.world, self._ranks.device

    def prepare(self, model: PreTrainedModel) -> None:
        mesh = init_device_mesh(self.device.type, (self.world,))
        self.model = model.to(self.device)
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        equip(self.model, self._config)
        share = Share(self.rank, self.world, self.device, self._ranks.sum, float(self.world), self._without_sync)
        self._update = Update(self._config, self.model, build_optimizer(self.model, self._config.optimizer), share)

    @contextmanager
    def _without_sync(self) -> Iterator[None]:
        """Leave gradients unreduced: those of the last micro-batch carry the sum."""
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def step(self, objective: Objective, batch: Batch, lr: float, seed: int) -> StepReport:
        return self._update.step(objective, batch, lr, seed)

    def save(self, folder: Path) -> None:
        """Every rank writes its shards, through the safetensors writer: PyTorch's default one pickles its metadata."""
        tensors = {**_weights(self.model), **optimizer_state(self.model, self._update)}
        save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder / SHARDS), save_distributed=True))
        gathered = whole_state(self.model)
        if self.rank == 0:
            save_model(self.model, folder, gathered)

    def load(self, folder: Path) -> None:
        """Read shards of any world size, or the whole tensors that another engine wrote."""
        weights, optimizer = dict(self.model.named_parameters()), self._update.optimizer
        source = folder / SHARDS if (folder / SHARDS).is_dir() else folder
        reader = HuggingFaceStorageReader(str(source))
        for key in reader.read_metadata().state_dict_metadata:
            part, _, name = key.partition("/")
            if name in weights and part != WEIGHTS:
                like = weights[name] if part != "step" else torch.zeros((), device=self.device)
                optimizer.state[weights[name]][part] = torch.zeros_like(like)
        tensors = optimizer_state(self.model, self._update)
        if source != folder:
            load({**tensors, **_weights(self.model)}, storage_reader=reader)
        else:
            load(tensors, storage_reader=reader)
            _scatter(load_weights(folder), self.model)
        self._update.scale.restore(tensors)

    def agree(self, values: Sequence[float]) -> list[float]:
        return self._ranks.agree(values)

    def any(self, flag: bool) -> bool:
        return self._ranks.any(flag)

    def barrier(self) -> None:
        self._ranks.barrier()

    def close(self) -> None:
        self._ranks.leave()


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The layers to gather one at a time: those that transformers itself never splits, or else the longest list."""
    names = set(model._no_split_modules or [])
    named = [module for module in model.modules() if type(module).__name__ in names]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return named or list(max(lists, key=len, default=[]))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model's state under WEIGHTS/NAME; tied ones once."""
    once = {id(tensor): (name, tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
    return {f"{WEIGHTS}/{name}": tensor.detach() for name, tensor in once.values()}


def _scatter(source: PreTrainedModel, model: nn.Module) -> None:
    """Copy a whole model into a sharded one: each rank takes its part, nothing is sent."""
    saved = source.state_dict()
    for name, tensor in model.state_dict(keep_vars=True).items():
        value = saved[name].to(tensor.device)
        if isinstance(tensor, DTensor):
            value = distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.detach().copy_(value)
