"""A small run for the tests of training: a stream of noisy counting, and one call that trains on it or goes on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from paribus.data.batches import Batch, Stream
from paribus.data.generators import generator
from paribus.models.config import Architecture, ModelConfig
from paribus.models.hf import build_model
from paribus.objectives.next_token import NextTokenLoss
from paribus.objectives.objective import Objective
from paribus.rundir import RunDir
from paribus.train.config import AdamW, Budget, Cosine, LaunchConfig, TrainConfig
from paribus.train.engine import build_engine
from paribus.train.loop import Action, Job, Outcome, fit

VOCAB = 50
WITH_DROPOUT = Architecture(
    model_type="gpt2",
    config={"n_embd": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.2, "attn_pdrop": 0.1, "embd_pdrop": 0.1},
    vocab_multiple=1,
)


def counting(batch_size: int = 8, window: int = 16, seed: int = 0, windows_per_epoch: int | None = None) -> Stream:
    """Each window counts up from a random start, modulo VOCAB, with one token in ten replaced by noise."""

    def batches(step: int) -> Batch:
        draw = generator(seed, "counting", step)
        starts = draw.integers(0, VOCAB, batch_size)
        text = (starts[:, None] + np.arange(window + 1)) % VOCAB
        noise = draw.random(text.shape) < 0.1
        text = np.where(noise, draw.integers(0, VOCAB, text.shape), text).astype(np.int32)
        return Batch(text[:, :-1], text[:, 1:], starts.astype(np.int64) + step * 1000)

    return Stream(batches, window, window + 1, VOCAB, ("counting",), windows_per_epoch, None, {})


def settings(**changes: Any) -> TrainConfig:
    given = {"batch_size": 8, "budget": Budget(steps=10), "optimizer": AdamW(lr=1e-2), "log_every": 1}
    return TrainConfig(**{**given, "schedule": Cosine(warmup_steps=2), **changes})


@dataclass
class Logged:
    lines: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.lines.append((step, dict(metrics)))


def train(
    path: Path,
    *,
    model: ModelConfig = WITH_DROPOUT,
    stream: Stream | None = None,
    actions: Sequence[Action] = (),
    launch: LaunchConfig | None = None,
    objective: Objective | None = None,
    dies_after: int | None = None,
    leaves_eval_mode: bool = False,
    **changes: Any,
) -> Outcome:
    """Train to the end of the budget, or until the stream fails at the batch after `dies_after` steps.

    leaves_eval_mode: an action switches the model to evaluation after every step."""
    torch.set_num_threads(1)
    stream = stream or counting()
    if dies_after is not None:
        stream = stream._replace(batches=_failing(stream, dies_after))
    config = settings(**changes)
    engine = build_engine(launch or LaunchConfig(threads=1), config)
    engine.prepare(build_model(model, VOCAB, stream.window, seed=0))
    if leaves_eval_mode:
        actions = [Action(1, True, lambda step: {"mode": float(engine.model.eval().training)})]
    try:
        objective = objective or NextTokenLoss()
        return fit(engine, objective, stream, Job(config, RunDir(path), seed=0), actions, Logged())
    finally:
        engine.close()


def _failing(stream: Stream, dies_after: int) -> Any:
    def batches(step: int) -> Batch:
        if step == dies_after:
            raise RuntimeError("power cut")
        return stream.batches(step)

    return batches


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights_of(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def same_run(one: Path, other: Path) -> None:
    """Assert that two runs left the same bytes: metrics, stream, and every file of the same checkpoints."""
    folders = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (one, other)]
    assert folders[0] == folders[1]
    files = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
    names = ["metrics.jsonl", "stream.u64", *(f"checkpoints/{step}/{file}" for step in folders[0] for file in files)]
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
