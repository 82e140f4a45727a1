"""Held-out samples in blocks, and what is measured on them of one run."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from paribus.data.teachers import Samples
from paribus.models.mlp import changes
from paribus.objectives.regression import are_correct, sample_losses
from paribus.train.jax_grid.kernel import Chunk, Leaves, Rule, compiled, freeze

BLOCK = 1024  # samples at a time: bounds memory at large widths


class Heldout(NamedTuple):
    """What is measured on, and what it is measured against; on one device."""

    weights: Leaves  # theta_0
    blocks: Chunk  # (blocks, BLOCK, .); the last block is filled up
    is_sample: Array  # (blocks, BLOCK) float32: 1, and 0 for what fills the last block


def hold_out(weights: Leaves, samples: Samples, *, is_linear: bool) -> Heldout:
    """Lay the samples out in blocks, with what is frozen for them."""
    count = len(samples.x)
    size = min(BLOCK, count)
    blocks = -(-count // size)

    def laid_out(rows: NDArray[np.float32]) -> Array:
        padded = np.pad(rows, ((0, blocks * size - count), (0, 0)))
        return jnp.asarray(padded.reshape(blocks, size, -1))

    weights, x, y = jax.tree.map(jnp.asarray, weights), laid_out(samples.x), laid_out(samples.y)
    zs = freeze(weights, x, np.int32(blocks), is_linear)
    return Heldout(weights, Chunk(x, y, zs), laid_out(np.ones((count, 1), np.float32))[..., 0])


@partial(compiled, static_argnames="rule")
def losses_and_hits(rule: Rule, heldout: Heldout, u: Leaves, output: Array) -> tuple[Array, Array]:
    """(blocks,) the summed losses and the number of samples whose largest output is the label's class."""

    def of_block(block: tuple[Chunk, Array]) -> tuple[Array, Array]:
        (x, y, zs), is_sample = block
        f = changes(heldout.weights, u, x, zs, is_linear=rule.is_linear)[-1] * output
        return jnp.sum(sample_losses(rule.loss, f, y) * is_sample), jnp.sum(are_correct(f, y) * is_sample)

    losses, hits = lax.map(of_block, (heldout.blocks, heldout.is_sample))
    return losses, hits
