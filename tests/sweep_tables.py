"""Tables of a fabricated sweep, as the grid engine's runs give them: every number from a formula that tests can invert."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

INITIAL = 1.0


class Tables(NamedTuple):
    runs: pl.DataFrame
    losses: pl.DataFrame
    evaluations: pl.DataFrame


def eta_max(gamma: float, batch_size: int) -> float:
    """The largest eta that does not diverge; that of a catapult is above half of it."""
    return 2.0 * max(1.0, gamma) ** 0.5 * min(1.0, batch_size / 8)


def sweep(
    batch_sizes: Sequence[int] = (1, 4, 16, 64),
    etas: Sequence[float] = tuple(2.0**e for e in range(-6, 4)),
    gammas: Sequence[float] = (1.0,),
    widths: Sequence[int] = (64,),
    seeds: Sequence[int] = (0,),
    steps: int = 200,
    num_samples: int | None = None,
    noise: float = 0.02,
) -> Tables:
    """Runs of every combination; the loss falls as 1 / (1 + eta step / 8) to a floor of eta / B / 50."""
    runs, losses, evaluations = [], [], []
    grid = itertools.product(gammas, widths, batch_sizes, etas, seeds)
    for number, (gamma, width, batch_size, eta, seed) in enumerate(grid):
        curve = _curve(gamma, batch_size, eta, steps, noise, number)
        row = _row(f"{number:08x}", gamma, width, batch_size, eta, seed, curve, steps, num_samples)
        runs.append(row)
        losses.append(pl.DataFrame({"id": row["id"], "step": np.arange(len(curve)), "loss": curve}))
        for layer in ("h1", "h2", "f"):
            value = 0.1 * eta * (1 + width ** (-0.5 if layer == "f" else 0.0))
            point = {"id": row["id"], "step": len(curve), "epoch": 1.0, "metric": f"coordinates/{layer}"}
            evaluations.append(point | {"value": value})
    return Tables(pl.DataFrame(runs, infer_schema_length=None), pl.concat(losses), pl.DataFrame(evaluations))


def _curve(gamma: float, batch_size: int, eta: float, steps: int, noise: float, number: int) -> np.ndarray:
    """(T,) losses; those of a run that diverges end where they pass a million."""
    step_T = np.arange(steps)
    highest = eta_max(gamma, batch_size)
    if eta > highest:
        return INITIAL * 10.0 ** np.arange(8)
    loss_T = INITIAL / (1 + eta * step_T / 8) + eta / batch_size / 50
    if eta > highest / 2:
        loss_T += 20 * np.exp(-(((step_T - 12) / 4.0) ** 2))
    loss_T *= 1 + noise * np.random.default_rng(number).normal(size=steps)
    return loss_T


def _row(
    identity: str,
    gamma: float,
    width: int,
    batch_size: int,
    eta: float,
    seed: int,
    curve: np.ndarray,
    steps: int,
    num_samples: int | None,
) -> dict[str, Any]:
    has_diverged = eta > eta_max(gamma, batch_size)
    final = None if has_diverged else float(curve[-10:].mean())
    label = "diverged" if has_diverged else "catapult" if curve.max() > 5 * INITIAL else "stable"
    return {
        "id": identity,
        "name": f"run-{identity}",
        "study": "batch_size",
        "state": "diverged" if has_diverged else "done",
        "reason": f"loss > 1e6 x the initial loss at step {len(curve) - 1}" if has_diverged else None,
        "step": len(curve),
        "data.kind": "polynomial",
        "data.num_samples": num_samples,
        "model.gamma": gamma,
        "model.width": width,
        "model.depth": 3,
        "model.parameterization": "mup",
        "train.eta": eta,
        "train.batch_size": batch_size,
        "train.budget.steps": steps,
        "train.optimizer.kind": "sgd",
        "seeds.data": seed,
        "label": label,
        "initial/loss": INITIAL,
        "final/loss": final,
        "final/heldout_loss": final,
        "peak/loss": float(curve.max()),
        "path": f"runs/batch_size/program-{identity}",
    }
