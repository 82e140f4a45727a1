"""How long a checkpoint keeps training waiting, against the time of a training step, at 13 M parameters.

    python benchmarks/checkpoint_blocking.py [--preset decoder-13m --batch 32 --saves 5]

A checkpoint is weights, both moments, fsync, SHA-256 of each file and the rename; all of it happens between two steps. Both
times come from the run's own timings.jsonl, where a report finds them too.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from paribus.data.batches import Batch, Stream
from paribus.models.config import Preset
from paribus.models.hf import build_model
from paribus.objectives.next_token import NextTokenLoss
from paribus.rundir import RunDir
from paribus.train.config import AdamW, Budget, Checkpoints, LaunchConfig, TrainConfig
from paribus.train.engine import build_engine
from paribus.train.loop import Job, fit

WINDOW, VOCABULARY = 100, 32_000
INTERVALS = (100, 1_000, 10_000)  # steps; the original study saved every 10,000


class Quiet:
    """A mirror of metrics that keeps none."""

    def log(self, step: int, metrics: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="decoder-13m")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--saves", type=int, default=5)
    args = parser.parse_args()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (args.batch, WINDOW + 1), np.int32)
    batch = Batch(tokens[:, :-1], tokens[:, 1:], np.arange(args.batch))
    stream = Stream(lambda step: batch, WINDOW, WINDOW + 1, VOCABULARY, ("random",), None, None, {})
    config = TrainConfig(
        batch_size=args.batch,
        budget=Budget(steps=2 * args.saves),
        optimizer=AdamW(lr=1e-4),
        checkpoints=Checkpoints(every=2, keep_last=1),
        log_every=1,
    )
    engine = build_engine(LaunchConfig(), config)
    engine.prepare(build_model(Preset(name=args.preset), VOCABULARY, WINDOW, seed=0))
    with tempfile.TemporaryDirectory() as name:
        fit(engine, NextTokenLoss(), stream, Job(config, RunDir(name), seed=0), [], Quiet())
        lines = [json.loads(line) for line in (Path(name) / "timings.jsonl").read_text().splitlines()]
        size = sum(path.stat().st_size for path in Path(name).glob("checkpoints/*/*"))
    step_s = float(np.median([line["step_s"] for line in lines[1:] if "step_s" in line]))
    save_s = float(np.median([line["checkpoint_s"] for line in lines if "checkpoint_s" in line]))
    print(
        f"{args.preset}: {engine.model.num_parameters():,} parameters, batch {args.batch} x {WINDOW}, {engine.device.type},"
    )
    print(f"{torch.get_num_threads()} threads, {size / 1e6:.0f} MB a checkpoint")
    print(f"  a step takes {step_s:.2f} s, a checkpoint blocks for {save_s:.2f} s")
    print(f"  checkpoint / step: {save_s / step_s:.2f}")
    for every in INTERVALS:
        print(f"  every {every:,} steps: {save_s / (every * step_s):.3%} of the training time")


if __name__ == "__main__":
    main()
