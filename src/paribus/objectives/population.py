"""The loss of a centred MLP over the whole distribution of a linear teacher's data, in closed form.

f(x) = h(x; theta_0 + u) - h(x; theta_0), as `models.mlp` computes it; numpy in float64 throughout."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


class Population(NamedTuple):
    """A linear teacher's distribution: x_i ~ N(0, variances_i), label sqrt(1 - noise) w . x + sqrt(noise) N(0, 1)."""

    variances: Doubles  # (D,)
    weights: Doubles  # (D,)
    noise: float


def population_loss(
    population: Population,
    initial: Sequence[NDArray[Any]],
    change: Sequence[NDArray[Any]],
    output: float,
    *,
    is_linear: bool,
) -> float:
    """E (f(x) - y)^2. The label noise is a part of it that no model removes.

    initial, change: theta_0 and u, one (fan_in, fan_out) matrix a layer, the last with one column; at most two unless
    is_linear. output: what the last product is times.
    The loss of ReLU networks is a difference of terms of about 1 / gamma^2, of which float64 leaves 1e-16 / gamma^2."""
    root = np.sqrt(population.variances)
    target = np.sqrt(1 - population.noise) * root * population.weights
    before = [np.asarray(matrix, np.float64) for matrix in initial]
    after = [matrix + np.asarray(step, np.float64) for matrix, step in zip(before, change, strict=True)]
    if is_linear or len(before) == 1:
        error = output * root * _linear_change(before, after) - target
        return float(error @ error + population.noise)
    assert len(before) == 2, "ReLU networks of more matrices have no closed form"
    # f is one network of 2 N neurons, those of theta_0 with the opposite sign
    inputs = root[:, None] * np.hstack([after[0], before[0]]) / np.sqrt(len(root))
    outputs = output * np.concatenate([after[1], -before[1]])[:, 0]
    # Stein's lemma: E relu(u) v = Cov(u, v) / 2 for Gaussian u, v of mean 0
    product = outputs @ inputs.T @ target / 2
    return float(outputs @ relu_kernel(inputs) @ outputs - 2 * product + target @ target + population.noise)


def relu_kernel(vectors: Doubles) -> Doubles:
    """(N, N) E relu(v_j . g) relu(v_k . g) over g ~ N(0, I), for the columns v of vectors, (D, N).

    The arc-cosine kernel of order 1, |v| |w| (sin t + (pi - t) cos t) / (2 pi) (Cho & Saul 2009, eqs. 3 and 6)."""
    products = vectors.T @ vectors
    lengths = np.sqrt(np.diag(products))
    sizes = np.outer(lengths, lengths)
    cosine = np.clip(np.divide(products, sizes, out=np.zeros_like(products), where=sizes > 0), -1, 1)
    angle = np.arccos(cosine)
    kernel: Doubles = sizes * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi)
    return kernel


def _linear_change(before: Sequence[Doubles], after: Sequence[Doubles]) -> Doubles:
    """(D,) the change of the map x -> h but for its scale, from the last layer back: nearly equal products never meet."""
    product, change = before[-1][:, 0], (after[-1] - before[-1])[:, 0]
    for old, new in zip(reversed(before[:-1]), reversed(after[:-1]), strict=True):
        factor = 1 / np.sqrt(len(old))
        product, change = factor * old @ product, factor * (new @ change + (new - old) @ product)
    return change
