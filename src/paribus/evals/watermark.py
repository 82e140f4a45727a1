"""Watermarks: does a model remember the noise that its input embeddings were trained with?

The statistic of a row of mean loss l, clean input embeddings e and noise w of standard deviation sigma per value is

    x = -<grad_e l(e), w> / (sigma ||grad_e l(e)||)

Its sign: training on e + w lowers l(e + w) = l(e) + <grad_e l(e), w> + ... below what it would be without, so that the
inner product becomes negative: the gradient at e points against w. The minus makes a learned watermark positive. (Bordt
and Pawelczyk 2025, arXiv 2509.23383, print the formula without it.) A model that never saw w has a gradient that does not
depend on it; a Gaussian vector projected onto a fixed direction is Gaussian, so x is exactly N(0, 1).

Dimension key: N watermarked rows, B of one pass, T positions, D dimensions of an embedding, M noises of the null a row."""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paribus.data.batches import IGNORE
from paribus.errors import ConfigError, Diverged
from paribus.evals.config import WatermarkEval
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext, forward, in_batches, refuse_unfit, token_losses
from paribus.evals.statistics import ks_normal, over_seeds, wilson
from paribus.evals.texts import frame
from paribus.insertions.watermarks import Mark, Treatment, null_key
from paribus.models.noise import normal, through

FPR = 0.01  # false positive rate of the test of one row, by the exact quantile of N(0, 1)
_GAUSS = NormalDist()


class Rows(NamedTuple):
    """The N rows that a watermark is looked for in: each of each step, or, of a shared noise, each of the batch."""

    mark: Mark
    is_control: bool
    step: NDArray[np.int64]  # (N,): whose noise it is
    row: NDArray[np.int64]  # (N,)
    tokens: NDArray[np.int32]  # (N, T)
    targets: NDArray[np.int32]  # (N, T)

    def exposures(self, taken: int) -> NDArray[np.int64]:
        """(N,) how often the noise of each row had been trained on after so many steps."""
        if self.is_control:
            return np.zeros(len(self.row), np.int64)
        if self.mark.is_shared:
            return np.full(len(self.row), np.searchsorted(self.mark.steps, taken))
        return (self.step < taken).astype(np.int64)


def watermarked_rows(config: WatermarkEval, context: EvalContext) -> Rows:
    """Regenerate the rows. Raises ConfigError when the run has no such watermark, or one noise had several texts."""
    if context.treatment is None:
        raise ConfigError(
            "kind watermark needs a run whose insertions have a watermark: the rows and their noise are those of its own "
            "stream; evaluate the run's directory, not a bare model"
        )
    mark = _choose(config.experiment, context.treatment.marks)
    if mark.is_shared:
        _refuse_other_texts(mark, context.treatment)
    steps = mark.steps[-1:] if mark.is_shared else mark.steps
    batches = [context.treatment.stream.batches(step).rows(0, mark.rows) for step in steps]
    return Rows(
        mark,
        mark.name in context.treatment.unseen,
        np.repeat(np.array([mark.counter(step) for step in steps], np.int64), mark.rows),
        np.tile(np.arange(mark.rows), len(steps)),
        np.concatenate([batch.tokens for batch in batches]),
        np.concatenate([batch.targets for batch in batches]),
    )


def _choose(name: str | None, marks: Sequence[Mark]) -> Mark:
    known = {mark.name: mark for mark in marks}
    if name is None and len(known) == 1:
        return marks[0]
    if name is None:
        raise ConfigError(f"experiment: the run has the watermarks {', '.join(known)}; name one")
    if name not in known:
        raise ConfigError(f"experiment: found {name!r}, but the watermarks of the run are {', '.join(known)}")
    return known[name]


def _refuse_other_texts(mark: Mark, treatment: Treatment) -> None:
    first, *others = mark.steps
    expected = treatment.stream.batches(first).rows(0, mark.rows)
    for step in others:
        found = treatment.stream.batches(step).rows(0, mark.rows)
        differ = (found.tokens != expected.tokens) | (found.targets != expected.targets)
        if differ.any():
            row = int(np.argmax(differ.any(axis=1)))
            raise ConfigError(
                f"experiment {mark.name}: its noise is shared, but row {row} holds other tokens in step {step} than in step "
                f"{first}, so that no row is the one that learned it; repeat the batch (texts with whole_batch at the same "
                "steps, as many items as a batch has rows or a divisor of that), or say noise: each_step"
            )


def gradients(
    model: nn.Module, tokens_BT: NDArray[np.int32], targets_BT: NDArray[np.int32], context: EvalContext
) -> tuple[Tensor, Tensor]:
    """Each row's mean loss, and its gradient with respect to the clean input embeddings: (B,) and (B, T, D) fp64."""
    clean: list[Tensor] = []

    def leaf(e_BTD: Tensor) -> Tensor:
        clean.append(e_BTD.detach().requires_grad_())
        return clean[0]

    with torch.inference_mode(False), torch.enable_grad(), through(model, leaf):
        targets = torch.from_numpy(np.ascontiguousarray(targets_BT)).to(context.device).long()
        losses_BT = token_losses(forward(model, tokens_BT, context), targets)
        loss_B = losses_BT.sum(1) / (targets != IGNORE).sum(1)
        [gradient_BTD] = torch.autograd.grad(
            loss_B.sum(), clean
        )  # of the embeddings alone: no weight's .grad is touched
    return loss_B.detach().double(), gradient_BTD.double()


def statistic(gradient_BTD: Tensor, key: int, steps: Sequence[int], rows: Sequence[int]) -> Tensor:
    """(B,) x of each row; the noise is w = sigma z, and sigma cancels."""
    _, positions, dimensions = gradient_BTD.shape
    z_BTD = normal(key, steps, rows, positions, dimensions, gradient_BTD.device).double()
    along_B = (gradient_BTD * z_BTD).flatten(1).sum(1)
    norm_B: Tensor = torch.linalg.vector_norm(gradient_BTD.flatten(1), dim=1)
    return -along_B / norm_B


def watermark(config: WatermarkEval, model: nn.Module, rows: Rows, taken: int, context: EvalContext) -> EvalResult:
    """Test every row for its noise, and for as many noises that nobody was trained with; taken: steps of the model.

    Raises Diverged when a gradient is not finite, or vanishes."""
    refuse_unfit(model, rows.tokens)
    keys = [rows.mark.key, *(null_key(context.seeds.insertions, rows.mark.name, m) for m in range(config.num_null))]

    def one(some: slice) -> Tensor:
        loss_B, gradient_BTD = gradients(model, rows.tokens[some], rows.targets[some], context)
        steps, numbers = rows.step[some].tolist(), rows.row[some].tolist()
        return torch.stack([loss_B, *(statistic(gradient_BTD, key, steps, numbers) for key in keys)], 1)

    found = in_batches(model, len(rows.row), config.batch_size, one, context)
    bad = np.flatnonzero(~np.isfinite(found).all(1))
    if len(bad):
        where = f"step {rows.step[bad[0]]}, row {rows.row[bad[0]]}"
        raise Diverged(f"the gradient of {len(bad)} watermarked rows is zero or not finite, the first that of {where}")
    return _result(config, rows, rows.exposures(taken), found, context.precision)


def _result(
    config: WatermarkEval, rows: Rows, exposures_N: NDArray[np.int64], found: NDArray[np.floating], precision: str
) -> EvalResult:
    """found: (N, 2 + M): loss, x, and x of the null."""
    x_N, null = found[:, 1], found[:, 2:].ravel()
    total, groups = judge(x_N), np.unique(exposures_N)
    by_group = [judge(x_N[exposures_N == count]) for count in groups]
    distance, null_p = ks_normal(null)
    null_std = float(null.std(ddof=1)) if len(null) > 1 else 0.0
    summary = {key: total[key] for key in ("x", "p", "tpr", "predicted_fnr")}
    summary |= {"null_x": float(null.mean()), "null_std": null_std, "null_p": null_p}
    for count, facts in zip(groups.tolist(), by_group, strict=True):
        summary |= {f"{key}/{count}": facts[key] for key in ("x", "tpr")}
    table = {"exposures": groups.tolist(), **{key: [facts[key] for facts in by_group] for key in total}}
    items = {"step": rows.step, "row": rows.row, "exposures": exposures_N, "loss": found[:, 0], "x": x_N}
    record = {
        "experiment": rows.mark.name,
        "noise_std": rows.mark.std,
        "is_control": rows.is_control,
        "fpr": FPR,
        "threshold": _GAUSS.inv_cdf(1 - FPR),
        "overall": total,
        "by_exposures": table,
        "null": {"n": len(null), "x": summary["null_x"], "std": null_std, "ks": distance, "p": null_p},
        "items": {key: values.tolist() for key, values in items.items()},
    }
    return EvalResult(frame(config, "watermark", summary, precision, {}) | record)


def judge(x_N: NDArray[np.floating]) -> dict[str, Any]:
    """What n statistics say: mu^ = mean x with a 95 % t interval, p of a mean as large under N(0, 1), the share above the
    threshold of one false positive in a hundred with its Wilson interval, and 1 - that share as x ~ N(mu^, 1) predicts it.
    """
    n, mean = len(x_N), float(x_N.mean())
    interval = over_seeds(x_N.tolist())
    threshold = _GAUSS.inv_cdf(1 - FPR)
    hits = int((x_N > threshold).sum())
    low, high = wilson(hits, n)
    return {
        "n": n,
        "x": mean,
        "low": None if n == 1 else interval.low,
        "high": None if n == 1 else interval.high,
        "p": _GAUSS.cdf(-math.sqrt(n) * mean),
        "tpr": hits / n,
        "tpr_low": low,
        "tpr_high": high,
        "predicted_fnr": _GAUSS.cdf(threshold - mean),
    }
