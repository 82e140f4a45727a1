"""What became of a run: diverged, risen, catapult or stable, by its losses alone."""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

CATAPULT = 5.0  # times the initial loss, at least, at the peak (Lewkowycz et al. 2020 describe the mechanism)
SMOOTHED_SAMPLES = 64  # that a point of a smoothed curve averages over: a batch of one sample says nothing by itself
FINAL_FRACTION = 0.05  # of the steps, whose mean is the final training loss

Label = Literal["stable", "catapult", "risen", "diverged"]


class Judged(NamedTuple):
    label: Label
    final: float  # mean training loss over the last steps; that of the last step before the end of one that diverged
    peak: float  # highest smoothed training loss


def judge(
    losses_T: NDArray[np.float32], initial: float, *, batch_size: int, has_diverged: bool, heldout: float | None
) -> Judged:
    """Label a run by its curve.

    losses_T: the training loss of each step. initial: the loss of the centred network, 0, over the held-out data.
    heldout: the held-out loss at the end, which decides where it is there: it has no noise of a batch.
    A run that ends above its initial loss is never called stable."""
    window = min(len(losses_T), math.ceil(SMOOTHED_SAMPLES / batch_size))
    finite_T = losses_T[np.isfinite(losses_T)].astype(np.float64)
    if len(finite_T) == 0:
        return Judged("diverged", math.inf, math.inf)
    peak = float(_smoothed(finite_T, min(window, len(finite_T))).max())
    if has_diverged:
        return Judged("diverged", float(losses_T[-1]), peak)
    last = max(window, math.ceil(FINAL_FRACTION * len(losses_T)))
    final = float(finite_T[-last:].mean())
    if not (final if heldout is None else heldout) <= initial:  # one that is not a number is no lower either
        return Judged("risen", final, peak)
    return Judged("catapult" if peak > CATAPULT * initial else "stable", final, peak)


def _smoothed(losses_T: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    sums = np.concatenate([[0.0], np.cumsum(losses_T)])
    return np.asarray((sums[window:] - sums[:-window]) / window)
