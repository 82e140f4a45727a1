"""Losses of supervised runs, in JAX: mean squared error and cross-entropy."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

Loss = Literal["mse", "cross_entropy"]


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
