"""Loss by category and position on frozen windows, in one pass; perplexity, bits a byte and the in-context score."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paribus.data.batches import IGNORE, Batch
from paribus.data.windows import FrozenWindows
from paribus.errors import Diverged
from paribus.evals.config import LossEval
from paribus.evals.matrix import (
    Estimate,
    Losses,
    LossMatrix,
    band_means,
    bands,
    category_losses,
    in_context,
    loss_matrix,
    over_categories,
    pooled,
    window_means,
)
from paribus.evals.results import EvalResult, WindowTable
from paribus.evals.scoring import EvalContext, score, token_losses


def loss(config: LossEval, model: nn.Module, windows: FrozenWindows, context: EvalContext) -> EvalResult:
    """Score every prediction of the windows once and read everything off. Raises Diverged if a loss is not finite."""
    targets_NT = torch.from_numpy(windows.batch.targets)

    def measure(logits_BTV: Tensor, rows: slice) -> Tensor:
        return token_losses(logits_BTV, targets_NT[rows].to(logits_BTV.device, non_blocking=True).long())

    loss_NT = score(model, windows.batch.tokens, config.batch_size, measure, context)
    refuse_non_finite(loss_NT, windows.batch)
    taken_NT = windows.batch.targets != IGNORE
    losses = Losses(loss_NT.astype(np.float32), taken_NT, windows.category, windows.categories)
    return EvalResult(record(config, losses, windows, context), table(losses, windows))


def refuse_non_finite(loss_NT: NDArray[np.floating], batch: Batch) -> None:
    """Raise Diverged, with the windows, if any number is nan or infinite."""
    bad = np.flatnonzero(~np.isfinite(loss_NT).reshape(len(loss_NT), -1).all(1))
    if len(bad):
        shown = ", ".join(map(str, batch.window_ids[bad[:5]])) + (", ..." if len(bad) > 5 else "")
        raise Diverged(f"the evaluation's loss is not finite in {len(bad)} of {len(loss_NT)} windows: ids {shown}")


def record(config: LossEval, losses: Losses, windows: FrozenWindows, context: EvalContext) -> dict[str, Any]:
    """The JSON-able result. Losses are nats a prediction, errors standard errors, null where there is none;
    counts are predictions; lists follow `categories` or positions 1..T; `loss` weights every prediction alike,
    `category_mean` every category."""
    matrix, parts = loss_matrix(losses), category_losses(losses)
    total, equal = pooled(parts), over_categories(parts)
    bytes_C = _bytes(losses, windows)
    mean_T, error_T = matrix.position_curve()
    context_score = _in_context(config, losses)
    summary = {"loss": matrix.mean, "perplexity": perplexity(matrix.mean), "category_mean": equal.mean}
    if bytes_C is not None:
        summary["bits_per_byte"] = float(matrix.sums.sum() / bytes_C.sum() / math.log(2))
    if context_score is not None:
        summary["in_context"] = context_score["mean"]
    summary |= {f"loss/{name}": part.mean for name, part in zip(losses.categories, parts, strict=True) if part.num}
    return {
        "kind": "loss",
        "version": 1,
        "config": config.model_dump(mode="json"),
        "summary": summary,
        "precision": context.precision,
        "windows": {
            "count": len(windows.category),
            "predictions": losses.values.shape[1],
            "fingerprint": windows.batch.digest().hex(),
        },
        "categories": list(losses.categories),
        "loss": {"mean": matrix.mean, "error": _number(total.error), "count": total.num},
        "perplexity": summary["perplexity"],
        "bits_per_byte": summary.get("bits_per_byte"),
        "category_mean": {"mean": equal.mean, "error": _number(equal.error)},
        "by_category": _by_category(parts, matrix, bytes_C) | {"windows": _windows(losses)},
        "by_position": {"mean": _numbers(mean_T), "error": _numbers(error_T), "count": matrix.counts.sum(0).tolist()},
        "in_context": context_score,
        "bands": [list(band) for band in bands(losses.values.shape[1])],
        "matrix": {
            "count": matrix.counts.tolist(),
            "sum": matrix.sums.tolist(),
            "square": matrix.squares.tolist(),
        },
    }


def _by_category(parts: list[Estimate], matrix: LossMatrix, bytes_C: NDArray[np.float64] | None) -> dict[str, Any]:
    bits = None
    if bytes_C is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            bits = _numbers(matrix.sums.sum(1) / bytes_C / math.log(2))
    return {
        "mean": _numbers(part.mean for part in parts),
        "error": _numbers(part.error for part in parts),
        "count": [part.num for part in parts],
        "perplexity": _numbers(perplexity(part.mean) for part in parts),
        "bits_per_byte": bits,
    }


def _windows(losses: Losses) -> list[int]:
    return [int(count) for count in np.bincount(losses.category, minlength=len(losses.categories))]


def _in_context(config: LossEval, losses: Losses) -> dict[str, Any] | None:
    """L(a) - L(b) with its error, null for windows of one prediction."""
    last = losses.values.shape[1]
    a, b = config.in_context or (max(1, last // 5), last)
    if a >= b:
        return None
    parts = in_context(losses, a, b)
    total = pooled(parts)
    if not total.num:
        return None
    return {
        "a": a,
        "b": b,
        "mean": total.mean,
        "error": _number(total.error),
        "by_category": {
            "mean": _numbers(part.mean for part in parts),
            "error": _numbers(part.error for part in parts),
        },
    }


def table(losses: Losses, windows: FrozenWindows) -> WindowTable:
    means_NG = band_means(losses)
    names = [str(first) if first == last else f"{first}-{last}" for first, last in bands(losses.values.shape[1])]
    columns = {name: np.ascontiguousarray(means_NG[:, band]) for band, name in enumerate(names)}
    category_N = np.array(losses.categories, np.str_)[losses.category]
    return WindowTable(windows.batch.window_ids, category_N, window_means(losses), columns)


def perplexity(nats: float) -> float:
    """exp(loss), at most the largest number there is."""
    return math.exp(min(nats, 709.0))


def _bytes(losses: Losses, windows: FrozenWindows) -> NDArray[np.float64] | None:
    """(C,) UTF-8 bytes of the targets that were scored; None: they are not known."""
    if windows.target_bytes is None:
        return None
    taken_N = np.where(losses.taken, windows.target_bytes, 0).sum(1, dtype=np.float64)
    return np.bincount(losses.category, taken_N, len(losses.categories)).astype(np.float64)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Iterable[float]) -> list[float | None]:
    return [_number(value) for value in values]
