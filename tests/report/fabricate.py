"""Run directories like those that training leaves: the same files, numbers from a formula instead of a model."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paribus import config
from paribus.evals.results import EvalResult, WindowTable, write_result
from paribus.run_config import RunConfig
from paribus.rundir import RunDir, State, identity, write_json, write_text

CATEGORIES = ("cs.CV", "cs.DS", "math.GR", "math.ST", "cs.AI", "cs.CE", "cs.IT", "cs.NE", "cs.PL", "cs.SY", "math.AC")
WINDOWS = 50


class Fabricated(NamedTuple):
    """What a fabricated run is like; the rest is the same for all."""

    k: int = 1
    seed: int = 0
    state: State = "done"
    steps: int = 200
    window: int = 32


def fabricate(runs: Path, like: Fabricated) -> Path:
    """Write one run directory below `runs`; returns its path."""
    settings = config.from_mapping(_settings(like), RunConfig, "test")
    resolved = settings.model_dump(mode="json")
    run = RunDir(runs / settings.study / f"{settings.name}-{identity(resolved)}")
    run.path.mkdir(parents=True)
    write_text(run.config_path, config.dump(settings))
    write_json(run.provenance_path, _provenance(like))
    generator = np.random.default_rng([like.k, like.seed])
    _write_metrics(run, like, generator)
    if like.state == "done":
        for step in (like.steps // 2, like.steps):
            write_result(run.evals, "validation", step, loss_result(like, step, generator))
        causality = {
            "kind": "causality",
            "version": 1,
            "is_causal": True,
            "summary": {"is_causal": 1.0, "max_change": 0.0},
        }
        write_result(run.evals, "causality", like.steps, EvalResult(causality))
    run.set_status(
        like.state, "loss is nan at step 150: <windows 3, 7>" if like.state == "diverged" else "", step=like.steps
    )
    return run.path


def loss_result(like: Fabricated, step: int, generator: np.random.Generator) -> EvalResult:
    """A `loss` evaluation that follows c + a t^-b with noise, in the layout that `evals.loss` writes."""
    categories = CATEGORIES[: like.k]
    position_T = np.arange(1, like.window + 1)
    mean_T = 3 - 0.1 * np.log2(like.k) + 2 * position_T**-0.4 + 2 * np.exp(-step / 80)
    category_N = np.repeat(np.arange(like.k), WINDOWS)
    loss_NT = mean_T + 0.1 * category_N[:, None] + generator.normal(0, 0.5, (like.k * WINDOWS, like.window))
    sum_CT = np.stack([loss_NT[category_N == c].sum(0) for c in range(like.k)])
    square_CT = np.stack([(loss_NT[category_N == c] ** 2).sum(0) for c in range(like.k)])
    mean_C, mean = sum_CT.mean(1) / WINDOWS, float(loss_NT.mean())
    names = np.array(categories)[category_N]
    table = WindowTable(np.arange(len(names)), names, loss_NT.mean(1).astype(np.float32), {})
    error = float(loss_NT.mean(1).std() / len(names) ** 0.5)
    summary = {
        "loss": mean,
        "perplexity": float(np.exp(mean)),
        "category_mean": mean,
        "in_context": float(mean_T[5] - mean_T[-1]),
    }
    summary |= {f"loss/{name}": float(value) for name, value in zip(categories, mean_C, strict=True)}
    record: dict[str, Any] = {
        "kind": "loss",
        "version": 1,
        "summary": summary,
        "windows": {"count": len(names), "predictions": like.window, "fingerprint": "0" * 16},
        "categories": list(categories),
        "loss": {"mean": mean, "error": error, "count": len(names)},
        "by_category": {
            "mean": mean_C.tolist(),
            "error": [error] * like.k,
            "count": [WINDOWS] * like.k,
            "perplexity": np.exp(mean_C).tolist(),
            "bits_per_byte": None,
        },
        "by_position": {
            "mean": loss_NT.mean(0).tolist(),
            "error": (loss_NT.std(0) / len(names) ** 0.5).tolist(),
            "count": [len(names)] * like.window,
        },
        "in_context": {
            "a": 6,
            "b": like.window,
            "mean": summary["in_context"],
            "error": 0.05,
            "by_category": {"mean": [summary["in_context"]] * like.k, "error": [0.05] * like.k},
        },
        "matrix": {
            "count": np.full((like.k, like.window), WINDOWS).tolist(),
            "sum": sum_CT.tolist(),
            "square": square_CT.tolist(),
        },
    }
    return EvalResult(record, table)


def _settings(like: Fabricated) -> dict[str, Any]:
    return {
        "study": "ergodic",
        "name": f"k{like.k}-seed{like.seed}",
        "seeds": {"categories": like.seed, "weights": like.seed, "order": like.seed},
        "data": {
            "kind": "text",
            "store": "stores/sample",
            "window": like.window,
            "categories": {"kind": "nested", "k": like.k},
        },
        "model": {"kind": "preset", "name": "tiny-neox"},
        "train": {"batch_size": 16, "budget": {"steps": like.steps}, "optimizer": {"lr": 3e-4}},
        "evals": {"validation": {"kind": "loss", "every": like.steps // 2}, "causality": {"kind": "causality"}},
    }


def _provenance(like: Fabricated) -> dict[str, Any]:
    attempt = {
        "started": f"2026-11-20T10:0{like.seed}:00Z",
        "command": f"paribus sweep sweep.yaml seeds.order={like.seed}",
        "host": "node-1",
        "cores": 2,
        "code": {"commit": "0123456789abcdef", "dirty": False},
        "packages": {"numpy": "2.4.6", "torch": "2.13.0"},
    }
    total = like.steps * 16 * like.window
    data = {
        "total_tokens": total,
        "unique_tokens": 50_000,
        "passes": total / 50_000,
        "categories": CATEGORIES[: like.k],
    }
    return {"stores": {"data": "ab" * 32}, "data": data, "attempts": [attempt]}


def _write_metrics(run: RunDir, like: Fabricated, generator: np.random.Generator) -> None:
    last = {"done": like.steps, "diverged": 3 * like.steps // 4}.get(like.state, like.steps // 2)
    lines = []
    for step in range(1, last + 1):
        loss = 3 + 5 * np.exp(-step / 40) - 0.1 * np.log2(like.k) + generator.normal(0, 0.05)
        line = {"step": step, "loss": float(loss), "lr": 3e-4, "grad_norm": float(1 + generator.random())}
        lines.append(line | {"tokens": step * 16 * like.window})
        if step % (like.steps // 2) == 0:
            lines.append({"step": step, "evaluation/validation/loss": float(loss) + 0.1})
    timings = [
        {"step": step, "steps": 10, "tokens_per_s": 5e4, "data_s": 0.25, "step_s": 1.5}
        for step in range(10, last + 1, 10)
    ]
    run.timings_path.write_text("".join(json.dumps(line) + "\n" for line in timings))
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
