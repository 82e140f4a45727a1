"""The engine of one process on one device."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from paribus.data.batches import Batch
from paribus.objectives.objective import Objective
from paribus.train.config import TrainConfig
from paribus.train.engine import StepReport, equip
from paribus.train.optim import build_optimizer
from paribus.train.update import Share, Update
from paribus.train.weights import load_training_state, save_training_state


class SingleEngine:
    """One process, one device."""

    rank = 0
    world = 1
    model: PreTrainedModel

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._config = config
        self.device = device

    def prepare(self, model: PreTrainedModel) -> None:
        self.model = equip(model.to(self.device), self._config)
        optimizer = build_optimizer(self.model, self._config.optimizer)
        self._update = Update(self._config, self.model, optimizer, Share(0, 1, self.device))

    def step(self, objective: Objective, batch: Batch, lr: float, seed: int) -> StepReport:
        return self._update.step(objective, batch, lr, seed)

    def save(self, folder: Path) -> None:
        save_training_state(self.model, self._update, folder)

    def load(self, folder: Path) -> None:
        load_training_state(self.model, self._update, folder)

    def agree(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def any(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None:
        pass

    def close(self) -> None:
        pass
