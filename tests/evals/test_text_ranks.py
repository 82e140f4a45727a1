"""Oracle: the same evaluations in one process, on two ranks with copies and with shards of the model."""

import json
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from evals.text_models import context, model, write_lines
from paribus.evals.build import evaluate
from paribus.evals.config import CanaryEval, ExtractionEval, ReferenceDraws, ScriptEval, VerbatimEval

pytestmark = pytest.mark.slow  # starting two processes takes seconds

SCRIPT = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[2])
open(sys.argv[4], "w").write(f"norm: {sum(float(p.double().square().sum()) for p in model.parameters())}")
"""


def cases(folder):
    canaries, prompts = str(folder / "canaries.jsonl"), str(folder / "prompts.jsonl")
    return {
        "canary": CanaryEval(file=canaries, references=ReferenceDraws(num=9), batch_size=4),
        "verbatim": VerbatimEval(file=canaries, prompt_tokens=3, continuation_tokens=4, batch_size=3),
        "extraction": ExtractionEval(file=prompts, batch_size=2),
        "script": ScriptEval(script=str(folder / "norm.py")),
    }


def records(tiny, folder, where):
    return {name: evaluate(config, tiny, where).record for name, config in cases(folder).items()}


def rank_main(rank, folder, is_sharded):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "rendezvous"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=100))
    tiny = model()
    if is_sharded:
        mesh = init_device_mesh("cpu", (2,))
        for layer in tiny.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(tiny, mesh=mesh)
    found = records(tiny, folder, context(folder / "store")._replace(rank=rank, world=2))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    tiny.train()(input_ids=torch.zeros(2, 24, dtype=torch.long), use_cache=False).logits.sum().backward()
    dist.destroy_process_group()


@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_ranks_find_what_one_process_finds_and_train_on(text_store_path, tmp_path, one_thread, is_sharded):
    (tmp_path / "store").symlink_to(text_store_path)
    (tmp_path / "norm.py").write_text(SCRIPT)
    write_lines(tmp_path / "canaries.jsonl", [{"text": f"canary {'ab 1' * n} {n}"} for n in range(2, 13)])
    write_lines(
        tmp_path / "prompts.jsonl",
        [{"prompt": f"say {'x' * n}", "reference": "ant bee " * (n % 4 + 1)} for n in range(7)],
    )
    alone = records(model(), tmp_path, context(tmp_path / "store"))
    mp.spawn(rank_main, (tmp_path, is_sharded), nprocs=2)
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name, record in alone.items():
            assert found[name]["summary"] == pytest.approx(record["summary"], rel=1e-6), name
            assert found[name].get("items", {}).get("continuation") == record.get("items", {}).get("continuation")
