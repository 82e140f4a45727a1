"""A training step of paribus against a bare PyTorch loop, and against transformers' Trainer where accelerate is there.

    python benchmarks/training_step.py [--preset tiny-neox --batch 16 --rounds 8] [--clock cpu, on a shared machine]

All train the same model on the same batches in memory, with the same fused AdamW and clipping. Against the bare loop, blocks
of two steps alternate in this one process: the peer's block runs as an action inside paribus' own loop, so everything that
paribus does between steps is counted: records, hashes, metrics, signals. Where the allocator puts a model moves its speed by
some percent (two copies of the bare loop differ by as much), so each round builds both models anew, in alternating order.
paribus and Trainer each run in processes of their own, in turns, with all that each sets up: the setting of the allocator
(`train/allocator.py`) among it, which a bare loop in our process has too. Ratios are means over rounds, with two standard
errors.
With a CUDA device it goes on with Pythia-70M, bf16, torch.compile: tokens/s, MFU, and the ratio to a hand-written loop.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from paribus.data.batches import Batch, Stream
from paribus.data.config import CorpusConfig, Sample, Seeds, TextData, TrainBpe
from paribus.data.prepare import prepare
from paribus.data.stream import build_stream
from paribus.models.config import Preset
from paribus.models.hf import build_model
from paribus.objectives.next_token import NextTokenLoss
from paribus.rundir import RunDir
from paribus.train.config import AdamW, Budget, LaunchConfig, TrainConfig
from paribus.train.engine import build_engine
from paribus.train.loop import Action, Job, fit

WINDOW, VOCABULARY, BLOCK, LR = 100, 2048, 2, 1e-4
NUM_BATCHES = 16  # in memory, in turn


Blocks = tuple[list[float], list[float]]
now = time.perf_counter


class Quiet:
    """A mirror of metrics that keeps none."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass


def bare_loop(model: torch.nn.Module, batches: list[Batch], precision: str = "fp32") -> Callable[[int], float]:
    """The peer: what everyone writes by hand. Returns a function that runs so many steps and returns their seconds."""
    device = next(model.parameters()).device
    pairs = [tuple(torch.from_numpy(x).long().to(device) for x in (batch.tokens, batch.targets)) for batch in batches]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    model.train()
    done = 0

    def run(steps: int) -> float:
        nonlocal done
        synchronize(device)
        began = now()
        for _ in range(steps):
            tokens, targets = pairs[done % len(pairs)]
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(input_ids=tokens).logits
            loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
        synchronize(device)
        return now() - began

    return run


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def against_paribus(args: argparse.Namespace, stream: Stream, folder: Path, turn: int, **more: Any) -> Blocks:
    """Seconds of each block of steps: paribus', and the bare loop's that ran right after it."""
    batches = [stream.batches(step) for step in range(NUM_BATCHES)]
    memory = stream._replace(batches=lambda step: batches[step % NUM_BATCHES])
    config = train_config(args, **more)
    engine = build_engine(LaunchConfig(device="cuda" if more else "cpu", threads=args.threads), config)
    model, peer_model = models(args, stream.vocab_size, turn)
    engine.prepare(model)
    peer_model.to(engine.device)
    if config.compile:
        peer_model.compile()
    peer = bare_loop(peer_model, batches, config.precision)
    ours, theirs = [], []
    began = now()

    def block(step: int) -> dict[str, float]:
        nonlocal began
        synchronize(engine.device)
        ours.append(now() - began)
        theirs.append(peer(BLOCK))
        began = now()
        return {}

    job = Job(config, RunDir(folder / str(turn)), seed=0, bar=False)
    fit(engine, NextTokenLoss(), memory, job, [Action(BLOCK, False, block)], Quiet())
    return ours[3:], theirs[3:]  # the first three warm up


def models(args: argparse.Namespace, vocab_size: int, turn: int) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Two equal models; every other turn the second is built first."""
    pair = [build_model(Preset(name=args.preset), vocab_size, WINDOW, 0) for _ in range(2)]
    return (pair[turn % 2], pair[1 - turn % 2])


def train_config(args: argparse.Namespace, **more: Any) -> TrainConfig:
    budget = Budget(steps=args.steps)
    return TrainConfig(batch_size=args.batch, budget=budget, optimizer=AdamW(lr=LR), **more)


class Rows(Dataset[dict[str, torch.Tensor]]):
    """The same windows, one a call, as Trainer wants them; it shifts the labels itself."""

    def __init__(self, batches: list[Batch]) -> None:
        self.rows = torch.from_numpy(np.concatenate([batch.tokens for batch in batches])).long()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[number], "labels": self.rows[number]}


def steps_of_trainer(args: argparse.Namespace, stream: Stream, folder: Path) -> list[float]:
    """The moments at which transformers' Trainer ended its steps."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    ended: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            ended.append(now())

    settings = TrainingArguments(
        str(folder),
        per_device_train_batch_size=args.batch,
        max_steps=args.steps,
        learning_rate=LR,
        weight_decay=0.1,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        save_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    model = build_model(Preset(name=args.preset), stream.vocab_size, WINDOW, 0)
    batches = [stream.batches(step) for step in range(NUM_BATCHES)]
    Trainer(model, settings, train_dataset=Rows(batches), callbacks=[Watch()]).train()
    return ended


def steps_of_paribus(args: argparse.Namespace, stream: Stream, folder: Path) -> list[float]:
    """The moments at which paribus ended its steps."""
    ended: list[float] = []

    def watch(step: int) -> dict[str, float]:
        ended.append(now())
        return {}

    batches = [stream.batches(step) for step in range(NUM_BATCHES)]
    config = train_config(args)
    engine = build_engine(LaunchConfig(device="cpu", threads=args.threads), config)
    engine.prepare(build_model(Preset(name=args.preset), stream.vocab_size, WINDOW, 0))
    memory = stream._replace(batches=lambda step: batches[step % NUM_BATCHES])
    fit(
        engine,
        NextTokenLoss(),
        memory,
        Job(config, RunDir(folder), seed=0, bar=False),
        [Action(1, False, watch)],
        Quiet(),
    )
    return ended


def alone(args: argparse.Namespace, side: str) -> float:
    """The median seconds of a step of one side in a process of its own: how it is used, with all that it sets up."""
    options = [f"--{name}={getattr(args, name)}" for name in ("preset", "batch", "steps", "threads", "clock")]
    command = [sys.executable, __file__, *options, f"--alone={side}"]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def against_trainer(args: argparse.Namespace) -> np.ndarray:
    """The ratio of each pair of neighbouring processes, which side goes first in turns."""
    found = []
    for turn in range(args.rounds):
        sides = ("paribus", "trainer") if turn % 2 else ("trainer", "paribus")
        seconds = {side: alone(args, side) for side in sides}
        found.append(seconds["paribus"] / seconds["trainer"])
    return np.array(found)


def data_wait(args: argparse.Namespace, stream: Stream, folder: Path) -> float:
    """The share of a step that paribus waits for windows drawn from the store."""
    import json

    config = train_config(args)
    engine = build_engine(LaunchConfig(device="cpu", threads=args.threads), config)
    engine.prepare(build_model(Preset(name=args.preset), stream.vocab_size, WINDOW, 0))
    fit(engine, NextTokenLoss(), stream, Job(config, RunDir(folder), seed=0, bar=False), [], Quiet())
    lines = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()][2:]
    waited, stepped = (sum(line.get(name, 0.0) for line in lines) for name in ("data_s", "step_s"))
    return float(waited / (waited + stepped))


def matmul_peak() -> float:
    """FLOP/s of a large bf16 matrix product on this very device, the best of some: what MFU is a share of."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        torch.cuda.synchronize()
        began = now()
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()
        best = min(best, (now() - began) / 10)
    return 2 * 8192**3 / best


def flops_per_token(args: argparse.Namespace, vocab_size: int) -> float:
    """Forward and backward: 6 a weight of a matrix product, and 6 L d T for causal attention (Kaplan et al. 2020)."""
    model = build_model(Preset(name=args.preset), vocab_size, WINDOW, 0)
    embedding = model.get_input_embeddings().weight
    is_tied = embedding is model.get_output_embeddings().weight
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2) - (0 if is_tied else embedding.numel())
    return 6 * matrices + 6 * model.config.num_hidden_layers * model.config.hidden_size * WINDOW


def on_cuda(args: argparse.Namespace, stream: Stream, folder: Path) -> None:
    args = argparse.Namespace(**{**vars(args), "preset": "pythia-70m", "batch": 256})
    stream = stream._replace(vocab_size=50_254)
    blocks = [
        against_paribus(args, stream, folder, turn, precision="bf16", compile=True) for turn in range(args.rounds)
    ]
    rate = BLOCK * args.batch * WINDOW / float(np.median([seconds for ours, _ in blocks for seconds in ours]))
    share = rate * flops_per_token(args, stream.vocab_size) / matmul_peak()
    print(f"{torch.cuda.get_device_name()}: pythia-70m, bf16, torch.compile, batch {args.batch} x {WINDOW}")
    print(f"  {rate:,.0f} tokens/s, MFU {share:.1%} of the measured bf16 matrix peak")
    print(f"  paribus / hand-written loop: {shown(ratios(blocks))}")


def ratios(blocks: Iterable[Blocks]) -> np.ndarray:
    """Each round's ratio: the median over its pairs of neighbouring blocks."""
    return np.array([np.median(np.array(ours) / np.array(theirs)) for ours, theirs in blocks])


def shown(values: np.ndarray) -> str:
    return f"{values.mean():.3f} +- {2 * values.std(ddof=1) / len(values) ** 0.5:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="tiny-neox")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="of each round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument(
        "--alone", choices=["paribus", "trainer"], help="print the seconds of this side's step, no more"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.clock == "cpu":
        global now
        now = time.process_time
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = str(folder / "store")
        tokenizer = TrainBpe(vocab_size=VOCABULARY)
        prepare(CorpusConfig(name="sample", store=store, source=Sample(), tokenizer=tokenizer, min_tokens=WINDOW + 1))
        stream = build_stream(TextData(store=store, window=WINDOW), Seeds(), args.batch)
        if args.alone:
            steps = {"paribus": steps_of_paribus, "trainer": steps_of_trainer}[args.alone]
            print(np.median(np.diff(steps(args, stream, folder / "alone"))[3:]))
            return
        blocks = [against_paribus(args, stream, folder / "ours", turn) for turn in range(args.rounds)]
        ours = ratios(blocks)
        print(f"{args.preset}, batch {args.batch} x {WINDOW}, {args.threads} thread(s), fp32, {args.clock} clock")
        print(f"  bare loop: {np.median(blocks[0][1]) / BLOCK * 1e3:.1f} ms a step")
        print(f"  paribus / bare loop: {shown(ours)}")
        print(f"  data wait from the store: {data_wait(args, stream, folder / 'wait'):.2%} of a step")
        if importlib.util.find_spec("accelerate"):
            print(f"  paribus / Trainer, each in a process of its own: {shown(against_trainer(args))}")
        else:
            print("  Trainer: not measured, it needs `pip install accelerate`")
        if torch.cuda.is_available():
            on_cuda(args, stream, folder / "cuda")


if __name__ == "__main__":
    main()
