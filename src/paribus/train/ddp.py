"""The engine of several processes with a copy of the model each (DistributedDataParallel, Li et al. 2020)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from paribus.data.batches import Batch
from paribus.objectives.objective import Objective
from paribus.train.config import LaunchConfig, TrainConfig
from paribus.train.engine import StepReport, equip
from paribus.train.optim import build_optimizer
from paribus.train.ranks import Ranks
from paribus.train.update import Share, Update
from paribus.train.weights import load_training_state, save_training_state


class DdpEngine:
    """Each rank runs its rows of the batch through its own copy; gradients are summed while they are computed.

    Its checkpoints are those of the single engine, so a run may go on with any number of ranks."""

    device: torch.device
    model: PreTrainedModel

    def __init__(self, config: TrainConfig, launch: LaunchConfig) -> None:
        self._config = config
        self._ranks = Ranks(launch)
        self.rank, self.world, self.device = self._ranks.rank, self._ranks.world, self._ranks.device

    def prepare(self, model: PreTrainedModel) -> None:
        self.model = equip(model.to(self.device), self._config)
        is_cuda = self.device.type == "cuda"
        wrapped = DistributedDataParallel(self.model, device_ids=[self.device.index] if is_cuda else None)
        share = Share(self.rank, self.world, self.device, self._ranks.sum, float(self.world), wrapped.no_sync)
        self._update = Update(self._config, wrapped, build_optimizer(self.model, self._config.optimizer), share)

    def step(self, objective: Objective, batch: Batch, lr: float, seed: int) -> StepReport:
        return self._update.step(objective, batch, lr, seed)

    def save(self, folder: Path) -> None:
        """Rank 0 writes: every rank holds the same."""
        if self.rank == 0:
            save_training_state(self.model, self._update, folder)

    def load(self, folder: Path) -> None:
        load_training_state(self.model, self._update, folder)

    def agree(self, values: Sequence[float]) -> list[float]:
        return self._ranks.agree(values)

    def any(self, flag: bool) -> bool:
        return self._ranks.any(flag)

    def barrier(self) -> None:
        self._ranks.barrier()

    def close(self) -> None:
        self._ranks.leave()
