"""The coordinate check: how far activations move in a few steps, against the width (Yang et al. 2022, appendix D.1)."""

import math

import numpy as np
import polars as pl

from paribus.studies.batch_size.laws.law import Law, judged, resting_on, slope
from paribus.studies.batch_size.laws.settings import ETA, WIDTH, alike, by_seed, is_only, log2, measured, told, values

NAME = "coordinate check"
_PREFIX = "coordinates/"
_STAYS = 0.06  # |slope| of a coordinate that keeps its scale over five doublings of the width
_NTK = (-0.6, -0.45)  # hidden activations move as N^-1/2, and a little faster at widths this small
_REJECTED = 0.3  # a parameterization with such a slope does not transfer


def coordinate_check(runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Law]:
    """The slope of log2 change against log2 width, of each layer whose limit theory knows.

    runs: several widths at one eta, with the probe `coordinates`; the last step at which it was taken counts."""
    laws = []
    layers = sorted({metric for metric in evaluations["metric"].unique() if metric.startswith(_PREFIX)}, key=_depth)
    for group in alike(runs, WIDTH):
        widths = values(group, WIDTH)
        if len(widths) < 3 or group[ETA].n_unique() > 1 or not layers:
            continue
        moved = {layer: _moved(group, evaluations, layer) for layer in layers}
        moved = {layer: rows for layer, rows in moved.items() if np.isfinite(rows).any()}
        if is_only(group, "train.optimizer.layer_rates", "sqrt_width"):
            laws += _largest(group, moved)
            continue
        for layer, rows in moved.items():
            for theory, bounds in _expected(group, layer):
                quantity = f"log2 slope of Δ{layer.removeprefix(_PREFIX)} in N, {told(group)}"
                evidence = resting_on(rows, "widths", len(widths))
                laws.append(judged(NAME, quantity, slope(log2(widths), rows), theory, bounds, evidence))
    return laws


def _depth(layer: str) -> tuple[bool, str]:
    return layer.endswith("/f"), layer


def _moved(group: pl.DataFrame, evaluations: pl.DataFrame, layer: str) -> list[list[float]]:
    last = measured(evaluations, group, layer).sort("at").group_by("id", maintain_order=True).last()
    change = last.filter(pl.col("value") > 0).with_columns(pl.col("value").log(2))
    rows = group.join(change.select("id", "value"), on="id", maintain_order="left")
    return by_seed(rows, WIDTH, lambda runs: float(runs["value"].mean()))  # type: ignore[arg-type]


def _expected(group: pl.DataFrame, layer: str) -> list[tuple[float, tuple[float, float]]]:
    """Theory and bounds of a layer's slope; none where the limit is not pinned down."""
    if is_only(group, "model.parameterization", "mup"):
        return [(0.0, (-_STAYS, _STAYS))]
    is_ntk_sgd = is_only(group, "model.parameterization", "ntk") and is_only(group, "train.optimizer.kind", "sgd")
    return [(-0.5, _NTK)] if is_ntk_sgd and not layer.endswith("/f") else []


def _largest(group: pl.DataFrame, moved: dict[str, list[list[float]]]) -> list[Law]:
    """The control: a wrong table of rates must fail the check, in the layer that moves most with the width."""
    widths = values(group, WIDTH)
    slopes = {layer: slope(log2(widths), rows) for layer, rows in moved.items()}
    steepest = max(slopes, key=lambda layer: slopes[layer].mean, default=None)
    if steepest is None:
        return []
    shown = steepest.removeprefix(_PREFIX)
    quantity = f"log2 slope of Δ{shown} in N, the steepest, {told(group)}: to be rejected"
    evidence = resting_on(moved[steepest], "widths", len(widths))
    return [judged(NAME, quantity, slopes[steepest], math.nan, (_REJECTED, math.inf), evidence)]
