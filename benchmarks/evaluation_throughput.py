"""Evaluation against the bare forward pass: tokens/s of both on the same windows and model, and their ratio (>= 0.9).

    python benchmarks/evaluation_throughput.py [--threads 1] [--rounds 15]

Peer: `model(input_ids=...).logits` over the same batches without gradients, nothing computed from them. The evaluation is
the whole of it: every prediction's loss, the category x position matrix, errors, window table, the JSON-able record.
Models and vocabularies are those of the studies that ship. Both sides alternate, and each is judged by its fastest round:
what is slower was slowed by something else. A CUDA device, when there is one, adds Pythia-70M in fp32 and bf16."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from paribus.data.batches import Batch
from paribus.data.config import TextData
from paribus.data.generators import generator
from paribus.data.windows import FrozenWindows
from paribus.evals.config import LossEval
from paribus.evals.loss import loss
from paribus.evals.scoring import EvalContext, forward, scoring
from paribus.models.config import Preset
from paribus.models.hf import build_model

CATEGORIES = ("cs.AI", "cs.DS", "math.GR", "math.ST")


def make_windows(per_category: int, window: int, vocab_size: int) -> FrozenWindows:
    """Random tokens: what a window holds does not change what it costs."""
    num = per_category * len(CATEGORIES)
    tokens = generator(0, "benchmark").integers(0, vocab_size, (num, window + 1), dtype=np.int32)
    batch = Batch(tokens[:, :-1].copy(), tokens[:, 1:].copy(), np.arange(num, dtype=np.int64))
    category = np.repeat(np.arange(len(CATEGORIES), dtype=np.int32), per_category)
    return FrozenWindows(batch, category, CATEGORIES, np.full(batch.targets.shape, 4, np.int32))


def bare(model: nn.Module, windows: FrozenWindows, batch_size: int, context: EvalContext) -> None:
    with scoring(model, context):
        for start in range(0, len(windows.category), batch_size):
            forward(model, windows.batch.tokens[start : start + batch_size], context)


def seconds(work: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(preset: str, vocab_size: int, windows: FrozenWindows, context: EvalContext, rounds: int) -> float:
    """Print one line; return the evaluation's tokens/s over the bare pass's."""
    config, window = LossEval(), windows.batch.tokens.shape[1]
    model = build_model(Preset(name=preset), vocab_size, window, 0).to(context.device)
    sides = (
        lambda: bare(model, windows, config.batch_size, context),
        lambda: loss(config, model, windows, context),
    )
    for side in sides:
        seconds(side, context.device)
    times = [[seconds(side, context.device) for side in sides] for _ in range(rounds)]
    forward_rate, rate = (windows.batch.tokens.size / min(column) for column in zip(*times, strict=True))
    ratio = rate / forward_rate
    print(
        f"{preset:12} {context.device} {context.precision} vocabulary {vocab_size:6,} window {window}: "
        f"evaluation {rate:11,.0f} tokens/s, bare forward {forward_rate:11,.0f}, ratio {ratio:.3f}",
        flush=True,
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    context = EvalContext(TextData(store="unused", window=100))
    ratios = [
        compare("tiny-neox", 2_048, make_windows(64, 100, 2_048), context, given.rounds),
        compare("decoder-13m", 32_000, make_windows(16, 100, 32_000), context, given.rounds),
    ]
    if torch.cuda.is_available():
        windows = make_windows(1024, 100, 50_254)
        for precision in ("fp32", "bf16"):
            cuda = context._replace(device="cuda", precision=precision)
            ratios.append(compare("pythia-70m", 50_254, windows, cuda, given.rounds))
    print(f"{given.threads} threads; the lowest ratio is {min(ratios):.3f}, required 0.9")


if __name__ == "__main__":
    main()
