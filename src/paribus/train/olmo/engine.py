"""What holds the model while OLMo-core's trainer trains it: its checkpoints are those of the other engines."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from paribus.train.config import LaunchConfig, TrainConfig
from paribus.train.olmo.extra import require_olmo_core
from paribus.train.ranks import Ranks
from paribus.train.update import DTYPES
from paribus.train.weights import (
    OPTIMIZER_FILE,
    load_optimizer_state,
    load_weights,
    moments,
    restore_moments,
    save_model,
)

if TYPE_CHECKING:
    from olmo_core.train.train_module import TransformerTrainModule


class OlmoCoreEngine:
    """One rank of a run under OLMo-core: a copy of the model each, gradients averaged by its DDP.

    The transformers model shares its memory with OLMo-core's: evaluations and checkpoints see it as it is."""

    device: torch.device
    model: PreTrainedModel
    module: "TransformerTrainModule"  # OLMo-core's model, optimizer and step

    def __init__(self, config: TrainConfig, launch: LaunchConfig) -> None:
        require_olmo_core()
        os.environ.setdefault("OLMO_SHARED_FS", "1")  # all ranks see the run directory
        logging.getLogger("olmo_core").setLevel(logging.CRITICAL)  # what goes wrong is raised, and told by us
        self._config = config
        self._ranks = Ranks(launch)
        self.rank, self.world, self.device = self._ranks.rank, self._ranks.world, self._ranks.device

    def prepare(self, model: PreTrainedModel, row_tokens: int) -> None:
        """Take the model over; row_tokens: S, of which OLMo-core's model sees all and predicts all but the first.

        Raises ConfigError for a model that OLMo-core does not have."""
        from olmo_core.distributed.parallel import DataParallelType
        from olmo_core.train.train_module import TransformerTrainModule
        from olmo_core.train.train_module.transformer import TransformerDataParallelConfig

        from paribus.train.olmo.mapping import NO_CLIPPING, as_optimizer, as_schedule, as_transformer, share_weights

        config = self._config
        self.model = model.to(self.device).train()
        bare = as_transformer(model.config).build(init_device="meta")
        rows = config.batch_size // self.world
        self.module = TransformerTrainModule(
            bare,
            optim=as_optimizer(config.optimizer, bare),
            rank_microbatch_size=min(config.micro_batch_size or rows, rows) * row_tokens,
            max_sequence_length=row_tokens,
            dp_config=TransformerDataParallelConfig(name=DataParallelType.ddp) if self.world > 1 else None,
            autocast_precision=None if config.precision == "fp32" else DTYPES[config.precision],
            max_grad_norm=config.clip_norm or NO_CLIPPING,
            scheduler=as_schedule(config.schedule, config.optimizer.lr),
            device=self.device,
        )
        self._parameters = share_weights(self.model, self.module.model)

    def save(self, folder: Path) -> None:
        """Rank 0 writes: every rank holds the same."""
        if self.rank == 0:
            save_model(self.model, folder)
            save_file(moments(self._parameters, self.module.optim), folder / OPTIMIZER_FILE)

    def load(self, folder: Path) -> None:
        self.model.load_state_dict(load_weights(folder).state_dict())  # in place: OLMo-core's model has it too
        restore_moments(self._parameters, self.module.optim, load_optimizer_state(folder))

    def agree(self, values: Sequence[float]) -> list[float]:
        return self._ranks.agree(values)

    def any(self, flag: bool) -> bool:
        return self._ranks.any(flag)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """(B / W, ...) rows of each rank -> (B, ...) of the global batch, on every rank."""
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        torch.distributed.all_gather(parts, rows)
        return torch.stack(parts, dim=1).flatten(0, 1)  # rank r has rows r, r + W, ...

    def mean(self, value: torch.Tensor) -> float:
        """The mean over the ranks."""
        total = value.detach().double().to(self.device)
        self._ranks.sum(total)
        return float(total) / self.world

    def barrier(self) -> None:
        self._ranks.barrier()

    def close(self) -> None:
        self._ranks.leave()
