"""Fit c + a t^-b to a curve of loss against position. NumPy only."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paribus.evals.statistics import Interval

_EXPONENTS = 0.01, 10.0  # where b is looked for: beyond, the curve is a logarithm or one step
_WIDEST = 1.0  # limits of b, as a multiple of b, that still determine it: from half of it to one and a half
_NORMAL_95 = 1.959963984540054


class PowerLaw(NamedTuple):
    """loss(t) = c + a t^-b with 95 % limits.

    `is_determined` is false when the limits of b are further apart than b itself, so that no exponent can be read off, or
    when b ran to an end of [.01, 10]."""

    c: Interval
    a: Interval
    b: Interval
    misfit: float  # chi-squared a degree of freedom: about 1 when the law holds, within the errors given
    is_determined: bool

    def at(self, position: ArrayLike) -> NDArray[np.float64]:
        return self.c.mean + self.a.mean * np.asarray(position, np.float64) ** -self.b.mean


def fit_power_law(position: ArrayLike, loss: ArrayLike, error: ArrayLike) -> PowerLaw:
    """Least squares weighted by 1 / error^2: linear in (c, a) for a given b, ever finer scans over b.

    position: (T,) >= 1. loss: (T,). error: (T,) > 0, standard errors of the losses. T >= 4.
    The limits are those of the delta method, widened by sqrt(misfit) where the law does not hold. They take the errors
    of different positions as independent; windows make them positively correlated, which moves c more than b, so that
    the spread over seeds remains the last word."""
    t, y, e = (np.asarray(values, np.float64) for values in (position, loss, error))
    if not (t.shape == y.shape == e.shape and t.ndim == 1 and len(t) >= 4 and (t >= 1).all() and (e > 0).all()):
        raise ValueError("expected at least 4 positions >= 1, each with a loss and a positive standard error")
    weight = e**-2
    b = _best_exponent(t, y, weight)
    c, a, squares = (float(value[0]) for value in _linear(t, y, weight, np.array([b])))
    misfit = squares / (len(t) - 3)
    half = _NORMAL_95 * math.sqrt(max(misfit, 1)) * _deviations(t, weight, a, b)
    limits = [Interval(x, float(x - h), float(x + h)) for x, h in zip((c, a, b), half, strict=True)]
    is_inside = _EXPONENTS[0] * 1.001 < b < _EXPONENTS[1] / 1.001 and bool(np.isfinite(half).all())
    return PowerLaw(limits[0], limits[1], limits[2], misfit, is_inside and 2 * float(half[2]) <= _WIDEST * b)


def _linear(
    t: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64], b_n: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(c, a, weighted sum of squares) of the best c + a t^-b for each b."""
    share = weight / weight.sum()
    x_nT = t ** -b_n[:, None]
    x_n, y_mean = x_nT @ share, y @ share
    x_nT = x_nT - x_n[:, None]
    a_n = (x_nT @ (weight * (y - y_mean))) / (x_nT**2 @ weight)
    squares_n = (y - y_mean - a_n[:, None] * x_nT) ** 2 @ weight
    return y_mean - a_n * x_n, a_n, squares_n


def _best_exponent(t: NDArray[np.float64], y: NDArray[np.float64], weight: NDArray[np.float64]) -> float:
    """The b with the smallest sum of squares: scan, then scan again between the neighbours of the best."""
    low, high = _EXPONENTS
    for _ in range(7):  # 60 steps over a factor 1000, each round 30 times finer: to 1e-10 of b
        b_n = np.geomspace(low, high, 61)
        best = int(np.argmin(_linear(t, y, weight, b_n)[2]))
        low, high = float(b_n[max(best - 1, 0)]), float(b_n[min(best + 1, 60)])
    return float(b_n[best])


def _deviations(t: NDArray[np.float64], weight: NDArray[np.float64], a: float, b: float) -> NDArray[np.float64]:
    """Standard deviations of (c, a, b) by the delta method; nan where the curve does not determine them."""
    slope_T3 = np.stack([np.ones_like(t), t**-b, -a * t**-b * np.log(t)], -1)
    information = slope_T3.T @ (weight[:, None] * slope_T3)
    scale = np.sqrt(np.diag(information))
    if not (scale > 0).all():
        return np.full(3, math.nan)
    normed = information / np.outer(scale, scale)
    if np.linalg.cond(normed) > 1e13:
        return np.full(3, math.nan)
    deviations: NDArray[np.float64] = np.sqrt(np.diag(np.linalg.inv(normed))) / scale
    return deviations
