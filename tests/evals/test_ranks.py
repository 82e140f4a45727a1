"""Oracle: the same evaluation in one process, bit for bit; and a sharded model that trains on after it was scored."""

import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from paribus.data.config import CoinsData
from paribus.data.generators import generator
from paribus.evals.scoring import EvalContext, score
from paribus.models.config import Preset
from paribus.models.hf import build_model

pytestmark = pytest.mark.slow  # starting two processes takes seconds

CONTEXT = EvalContext(CoinsData(num_components=2, window=24))
CASES = [(11, 2), (11, 4), (3, 8), (8, 4), (1, 4)]  # rows and batch size: an odd batch, a short one, ranks without any


def scored(model, case: tuple[int, int], context: EvalContext) -> np.ndarray:
    tokens = generator(0, "test").integers(0, 3, (case[0], 24), dtype=np.int32)
    return score(model, tokens, case[1], lambda logits, _: logits[:, :, :3], context)


def rank_main(rank: int, folder: Path, is_sharded: bool) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "rendezvous"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    model = build_model(Preset(name="micro-neox"), 3, 24, 0)
    if is_sharded:
        mesh = init_device_mesh("cpu", (2,))
        for layer in model.gpt_neox.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    for case in CASES:
        np.save(folder / f"{rank}-{case[0]}-{case[1]}.npy", scored(model, case, CONTEXT._replace(rank=rank, world=2)))
    model(input_ids=torch.zeros(2, 24, dtype=torch.long), use_cache=False).logits.sum().backward()
    dist.destroy_process_group()
    os._exit(0)  # on a busy machine a thread of PyTorch's may outlive the interpreter, and abort it


@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_ranks_give_what_one_process_gives_and_train_on(tmp_path, one_thread, is_sharded):
    mp.spawn(rank_main, (tmp_path, is_sharded), nprocs=2)
    model = build_model(Preset(name="micro-neox"), 3, 24, 0)
    for case in CASES:
        alone = scored(model, case, CONTEXT)
        for rank in range(2):
            np.testing.assert_array_equal(np.load(tmp_path / f"{rank}-{case[0]}-{case[1]}.npy"), alone)
