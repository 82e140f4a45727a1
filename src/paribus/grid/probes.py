"""What is measured of runs on the way besides losses, on the held-out samples: how far they moved, sharpness, noise."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from paribus.evals.hessian import top_eigenvalues
from paribus.models.mlp import changes, output_and_pullback
from paribus.objectives.regression import mean_loss, sample_losses
from paribus.train.jax_grid.heldout import Heldout
from paribus.train.jax_grid.kernel import Chunk, Leaves, Rule, compiled
from paribus.train.jax_grid.program import Program
from paribus.train.jax_grid.state import State

Doubles = NDArray[np.float64]

Probe = Literal["coordinates", "weight_change", "sharpness", "noise_scale", "noise_scale_exact"]

SMALL_BATCH = 16  # of the two-batch estimator; the big batch is all of them


def probe(program: Program, state: State, names: Sequence[Probe]) -> dict[str, Doubles]:
    """(R,) of each metric: coordinates/h1 .. coordinates/f, weight_change/W1 .., sharpness, noise_scale,
    noise_scale_exact."""
    metrics: dict[str, Doubles] = {}
    for name in names:
        metrics |= _measured(program, state, name)
    return metrics


def _measured(program: Program, state: State, name: Probe) -> dict[str, Doubles]:
    match name:
        case "coordinates":
            return _coordinates(program, state)
        case "weight_change":
            return _weight_change(program, state)
        case "sharpness":
            return {name: np.array(program.measure(state, partial(sharpness, program.rule)), np.float64)}
        case "noise_scale":
            return {name: _noise_scale(program, state, min(SMALL_BATCH, max(program.num_heldout // 2, 1)))}
        case "noise_scale_exact":
            return {name: _noise_scale(program, state, 1)}


def _coordinates(program: Program, state: State) -> dict[str, Doubles]:
    sizes = np.array(program.measure(state, partial(coordinate_changes, program.rule)), np.float64)
    layers = [*(f"h{layer}" for layer in range(1, sizes.shape[1])), "f"]
    return {f"coordinates/{layer}": sizes[:, index] for index, layer in enumerate(layers)}


def _weight_change(program: Program, state: State) -> dict[str, Doubles]:
    """The Frobenius norm of each layer's change over that of its initial weights."""
    return {
        f"weight_change/W{layer}": np.linalg.norm(u.astype(np.float64), axis=(1, 2)) / np.linalg.norm(W)
        for layer, (u, W) in enumerate(zip(state.u, program.theta_0, strict=True), start=1)
    }


def _noise_scale(program: Program, state: State, small: int) -> Doubles:
    measure = partial(noise_scale, program.rule, small, program.num_heldout)
    return np.array(program.measure(state, measure), np.float64)


@partial(compiled, static_argnames="rule")
def coordinate_changes(rule: Rule, heldout: Heldout, u: Leaves, output: Array) -> tuple[Array, ...]:
    """Of each layer: the root of the mean square, over samples and units, of what changed since step 0."""

    def of_block(block: tuple[Chunk, Array]) -> tuple[Array, ...]:
        (x, _, zs), is_sample = block
        *hidden, last = changes(heldout.weights, u, x, zs, is_linear=rule.is_linear)
        return tuple(jnp.sum(jnp.mean(dh**2, axis=1) * is_sample) for dh in (*hidden, last * output))

    sums = lax.map(of_block, (heldout.blocks, heldout.is_sample))
    return tuple(jnp.sqrt(part.sum() / heldout.is_sample.sum()) for part in sums)


@partial(compiled, static_argnames="rule")
def sharpness(rule: Rule, heldout: Heldout, u: Leaves, output: Array) -> Array:
    """The largest eigenvalue, to 1e-3, of the Hessian of the held-out loss in u."""

    def of_block(u: Leaves, block: tuple[Chunk, Array]) -> Array:
        (x, y, zs), is_sample = block
        f = changes(heldout.weights, u, x, zs, is_linear=rule.is_linear)[-1] * output
        return jnp.sum(sample_losses(rule.loss, f, y) * is_sample)

    def loss(u: Leaves) -> Array:
        return jnp.sum(lax.map(partial(of_block, u), (heldout.blocks, heldout.is_sample))) / heldout.is_sample.sum()

    return top_eigenvalues(loss, u, key=jax.random.key(0)).values[0]


@partial(compiled, static_argnames=("rule", "small", "count"))
def noise_scale(rule: Rule, small: int, count: int, heldout: Heldout, u: Leaves, output: Array) -> Array:
    """tr(Sigma) / |G|^2 of the gradient in u, from batches of `small` samples and one of all `count` (McCandlish et al.
    2018, arXiv 1812.06162, appendix A.1); small = 1 is the value of per-sample gradients. Infinite where the estimate of
    |G|^2 is not positive."""
    num_batches = count // small

    def batched(rows: Array) -> Array:
        return rows.reshape(-1, rows.shape[-1])[: num_batches * small].reshape(num_batches, small, -1)

    def gradient(batch: Chunk) -> Leaves:
        last, pullback = output_and_pullback(heldout.weights, u, batch.x, batch.zs, is_linear=rule.is_linear)
        return pullback(jax.grad(partial(mean_loss, rule.loss))(last * output, batch.y))

    def add(sums: tuple[Leaves, Array], batch: Chunk) -> tuple[tuple[Leaves, Array], None]:
        found = gradient(batch)
        return (jax.tree.map(jnp.add, sums[0], found), sums[1] + _squared(found)), None

    zeros = (jax.tree.map(jnp.zeros_like, u), jnp.float32(0))
    (total, squares), _ = lax.scan(add, zeros, jax.tree.map(batched, heldout.blocks))
    of_small, of_big = squares / num_batches, _squared(total) / num_batches**2
    big = num_batches * small
    signal = (big * of_big - small * of_small) / (big - small)
    noise = (of_small - of_big) / (1 / small - 1 / big)
    return jnp.where(signal > 0, noise / signal, jnp.inf)


def _squared(leaves: Leaves) -> Array:
    return jnp.asarray(sum(jnp.sum(leaf**2) for leaf in leaves))
