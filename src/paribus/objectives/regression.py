"""Losses of supervised runs, in JAX: mean squared error and cross-entropy, and the population loss of a linear teacher."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

Loss = Literal["mse", "cross_entropy"]
Doubles = NDArray[np.float64]


def sample_losses(loss: Loss, f_BC: Array, y_BC: Array) -> Array:
    """(B,) of each sample: (f - y)^2 averaged over outputs, or the cross-entropy in nats with y as probabilities."""
    if loss == "mse":
        return jnp.mean((f_BC - y_BC) ** 2, axis=-1)
    return -jnp.sum(y_BC * jax.nn.log_softmax(f_BC), axis=-1)


def mean_loss(loss: Loss, f_BC: Array, y_BC: Array) -> Array:
    """The mean over the batch."""
    return jnp.mean(sample_losses(loss, f_BC, y_BC))


def are_correct(f_BC: Array, y_BC: Array) -> Array:
    """(B,) whether the largest output is the label's class; of equal outputs the first counts."""
    return jnp.argmax(f_BC, axis=-1) == jnp.argmax(y_BC, axis=-1)


def loss_of_zero(loss: Loss, y_nC: NDArray[np.float32]) -> float:
    """The mean loss of f = 0: what a centred model starts from."""
    return float(np.mean(y_nC.astype(np.float64) ** 2)) if loss == "mse" else float(np.log(y_nC.shape[1]))


class Population(NamedTuple):
    """A linear teacher's distribution: x_i ~ N(0, variances_i), label sqrt(1 - noise) w . x + sqrt(noise) N(0, 1)."""

    variances: Doubles  # (D,)
    weights: Doubles  # (D,)
    noise: float


def population_loss(population: Population, units_Dn: Doubles, outer_n: Doubles | None) -> float:
    """E (f - y)^2 in closed form for f(x) = sum_j outer_j relu(units_j . x), or f(x) = units . x where outer is None.

    With covariances k = a . b, E relu(a) relu(b) = |a| |b| (sin t + (pi - t) cos t) / (2 pi), t their angle (Cho & Saul
    2009, eq. 6), and E relu(a) b = k / 2."""
    root = np.sqrt(population.variances)
    teacher = np.sqrt(1 - population.noise) * root * population.weights
    units = root[:, None] * units_Dn
    if outer_n is None:
        return float(np.sum((units[:, 0] - teacher) ** 2) + population.noise)
    norms = np.linalg.norm(units, axis=0)
    outer_norms = np.outer(norms, norms)
    cosines = np.clip(units.T @ units / np.where(outer_norms > 0, outer_norms, 1), -1, 1)
    angles = np.arccos(cosines)
    second = outer_norms * (np.sin(angles) + (np.pi - angles) * cosines) / (2 * np.pi)
    return float(outer_n @ second @ outer_n - outer_n @ (units.T @ teacher) + teacher @ teacher + population.noise)
