"""The loss of a centred MLP over the whole distribution of a linear teacher's data, in closed form.

f(x) = h(x; theta_0 + u) - h(x; theta_0), as models of kind mlp compute it; float64 throughout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paribus.data.supervised import LinearTeacher
from paribus.data.teachers import output_scale, spectrum
from paribus.errors import ConfigError
from paribus.models.config import Mlp

Doubles = NDArray[np.float64]


def population_loss(
    teacher: LinearTeacher, model: Mlp, initial: Sequence[NDArray[Any]], change: Sequence[NDArray[Any]]
) -> float:
    """E (f(x) - y)^2 with y = sqrt(1 - rho) w . x + sqrt(rho) e: the label noise rho is a part that no model removes.

    initial, change: theta_0 and u, one (fan_in, fan_out) matrix a layer, the last with one column. Raises ConfigError for
    ReLU networks of more than two matrices, which have no such form.
    The loss of ReLU networks is a difference of terms of about 1 / gamma^2, of which float64 leaves 1e-16 / gamma^2."""
    variances, target = spectrum(teacher)
    target = np.sqrt(1 - teacher.noise) * target
    before = [np.asarray(matrix, np.float64) for matrix in initial]
    after = [matrix + np.asarray(step, np.float64) for matrix, step in zip(before, change, strict=True)]
    scale = output_scale(model.parameterization, model.gamma, before[-1].shape[0])
    if model.depth == 1 or model.activation == "linear":
        error = scale * _linear_change(before, after) - target
        return float(np.sum(variances * error**2) + teacher.noise)
    if model.depth > 2:
        raise ConfigError(
            f"the population loss of a ReLU network of depth {model.depth} has no closed form; expected at most 2 matrices"
        )
    # f is one network of 2 N neurons, those of theta_0 with the opposite sign
    inputs = np.sqrt(variances)[:, None] * np.hstack([after[0], before[0]]) / np.sqrt(teacher.input_dim)
    outputs = scale * np.concatenate([after[1], -before[1]])[:, 0]
    square = outputs @ relu_kernel(inputs) @ outputs
    # Stein's lemma: E relu(u) v = Cov(u, v) / 2 for Gaussian u, v of mean 0
    product = outputs @ inputs.T @ (np.sqrt(variances) * target) / 2
    return float(square - 2 * product + np.sum(variances * target**2) + teacher.noise)


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
