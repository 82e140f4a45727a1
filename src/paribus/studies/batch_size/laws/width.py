"""Does the best eta of a narrow network serve a wide one? (Yang et al. 2022)"""

import math

import numpy as np
import polars as pl

from paribus.studies.batch_size.laws.law import Law, judged, over_replicates, resting_on
from paribus.studies.batch_size.laws.optimum import eta_star, loss_star
from paribus.studies.batch_size.laws.settings import WIDTH, alike, by_seed, is_fixed, is_only, is_swept, told, values

_STAYS, _MOVES = 0.5, 1.5  # in log2: half a factor of two, and nearly three


def width_transfer(runs: pl.DataFrame) -> list[Law]:
    """The range of log2 eta* over widths: small under muP, where the best loss must not rise either, large under SP."""
    laws = []
    for group in alike(runs, WIDTH):
        widths = values(group, WIDTH)
        if len(widths) < 3 or not is_swept(group, WIDTH) or is_fixed(group):
            continue
        span = f"N = {widths[0]:g} to {widths[-1]:g}, {told(group)}"
        best = by_seed(group, WIDTH, eta_star)
        moved = over_replicates(best, lambda mean: float(np.ptp(mean)))
        evidence = resting_on(best, "widths", len(widths))
        quantity = f"range of log2 η⋆, {span}"
        if is_only(group, "model.parameterization", "sp"):
            laws.append(judged("width: SP moves", quantity, moved, math.nan, (_MOVES, math.inf), evidence))
        elif is_only(group, "model.parameterization", "mup"):
            laws.append(judged("width: transfer", quantity, moved, 0.0, (-math.inf, _STAYS), evidence))
            losses = by_seed(group, WIDTH, loss_star)
            risen = over_replicates(losses, lambda mean: float(np.max(mean[1:] / mean[:-1]) - 1))
            evidence = resting_on(losses, "widths", len(widths))
            quantity = f"largest rise of the best loss from a width to the next, {span}"
            laws.append(judged("width: wider is better", quantity, risen, math.nan, (-math.inf, 0.0), evidence))
    return laws
