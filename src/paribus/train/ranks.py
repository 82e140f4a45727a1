"""The process group that torchrun describes in the environment, and the few collectives that the loop needs."""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from paribus.errors import ConfigError
from paribus.train.config import LaunchConfig
from paribus.train.engine import single_device


class Ranks:
    """Membership in the default process group: gloo on CPUs, nccl on CUDA."""

    def __init__(self, launch: LaunchConfig) -> None:
        """Join the group; alone, without torchrun's environment, when one process was asked for."""
        self.device = single_device(launch, int(os.environ.get("LOCAL_RANK", "0")))
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        elif launch.num_processes == 1:
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            raise ConfigError(
                f"launch.engine: {launch.engine} on {launch.num_processes} processes must be started by torchrun,"
                " which sets RANK and WORLD_SIZE"
            )
        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def sum(self, values: Tensor) -> None:
        """Add up a tensor over the ranks, in place."""
        dist.all_reduce(values)

    def agree(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values."""
        shared = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return [float(value) for value in shared.tolist()]

    def any(self, flag: bool) -> bool:
        shared = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared.item())

    def barrier(self) -> None:
        dist.barrier()

    def leave(self) -> None:
        dist.destroy_process_group()
