"""Tables of runs and evaluations as finished sweeps leave them, with losses from formulas: the oracles of the laws."""

from itertools import product

import numpy as np
import polars as pl

INITIAL = 1.0
BASE = {
    "study": "s",
    "reason": None,
    "step": 1000,
    "data.kind": "polynomial",
    "data.num_samples": None,
    "model.depth": 3,
    "model.width": 64,
    "model.gamma": 1.0,
    "model.parameterization": "mup",
    "loss": "mse",
    "train.batch_size": 64,
    "train.eta": 1.0,
    "train.budget.steps": 1000,
    "train.budget.epochs": None,
    "train.optimizer.kind": "sgd",
    "train.optimizer.layer_rates": None,
    "train.scale_by_gamma": True,
    "seeds.data": 0,
    "seeds.teacher": 0,
    "seeds.weights": 0,
    "initial/loss": INITIAL,
}
FIXED = {"data.num_samples": 65536, "train.budget.steps": None, "train.budget.epochs": 1}


def sweep(outcome, num_seeds=4, **varied):
    """Runs over all combinations of `varied` (dots as double underscores) and seeds.

    outcome: (settings, seed) -> the final held-out loss; infinite: the run diverged; above the initial one: it rose."""
    keys = [key.replace("__", ".") for key in varied]
    rows = []
    for seed, point in product(range(num_seeds), product(*varied.values())):
        settings = BASE | dict(zip(keys, point, strict=True))
        settings |= {"seeds.data": seed, "seeds.teacher": seed, "seeds.weights": seed}
        loss = outcome(settings, seed)
        settings["final/heldout_loss"] = loss if np.isfinite(loss) else None
        settings["state"] = "done" if np.isfinite(loss) else "diverged"
        settings["label"] = "diverged" if not np.isfinite(loss) else "risen" if loss > INITIAL else "stable"
        rows.append({"id": f"{len(rows):08d}", "name": f"r{len(rows)}"} | settings)
    return pl.DataFrame(rows, infer_schema_length=None)


def evaluated(runs, **metrics):
    """(id, step, epoch, metric, value) of every run: `metrics` maps a name to (row -> {step: value})."""
    rows = [
        {"id": row["id"], "step": step, "epoch": None, "metric": metric.replace("__", "/"), "value": float(value)}
        for row in runs.iter_rows(named=True)
        for metric, measure in metrics.items()
        for step, value in measure(row).items()
    ]
    schema = {"id": pl.String, "step": pl.Int64, "epoch": pl.Int64, "metric": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema)


def valley(log2_eta, log2_star, log2_max, curvature=0.02):
    """A loss that is lowest at log2_star, of a curvature like that of the study's runs, infinite from log2_max on."""
    return np.inf if log2_eta >= log2_max else 0.05 * np.exp(curvature * (log2_eta - log2_star) ** 2)
