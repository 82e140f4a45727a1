"""The compiled part: a loop over the steps of a chunk for a few runs side by side, each ending where it diverges.

A kernel is compiled once per shape: rates, output scales, weights, data and how far to go are arguments. Which kernel a run
goes through depends on the run alone, so that its bits depend neither on the other runs, nor on where chunks begin and end,
nor on which device it is computed. Only the number of lanes changes the last bits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from paribus.models.mlp import frozen, output_and_pullback
from paribus.objectives.regression import Loss, mean_loss
from paribus.train.jax_grid.config import Adam, Sgd

# one thread a program: runs are what is computed in parallel, and sums keep their order whatever the machine
OPTIONS = {"xla_cpu_multi_thread_eigen": False}
compiled: Callable[..., Any] = partial(jax.jit, compiler_options=OPTIONS)

Numbers: TypeAlias = Any  # a JAX array inside a kernel, a numpy array on the host
Leaves = tuple[Numbers, ...]


class Rule(NamedTuple):
    """What a kernel is compiled for, besides the shapes of its arguments."""

    is_linear: bool
    loss: Loss
    optimizer: Sgd | Adam
    subtracts: bool = False  # centre by subtraction: see `mlp.output_and_pullback`


class Chunk(NamedTuple):
    """A stretch of steps, shared by all runs: T steps of batches and of what is frozen for them."""

    x: Numbers  # (T, B, D)
    y: Numbers  # (T, B, C)
    zs: Leaves  # L arrays (T, B, N or C), see `mlp.frozen`


class Lanes(NamedTuple):
    """Runs side by side: every leaf has a leading axis of lanes."""

    u: Leaves
    moments: tuple[Leaves, ...]
    ended: Numbers  # int32, -1: alive


class Scales(NamedTuple):
    """The numbers of each run, in float32, with a leading axis of lanes."""

    rates: Numbers  # (L,) what the gradient in the last product's scale, or Adam's direction, is times
    output: Numbers  # () what the last product is times


@partial(compiled, static_argnames="is_linear")
def freeze(weights: Leaves, x_TBD: Array, count: Array, is_linear: bool) -> Leaves:
    """What is frozen for the first `count` batches. Batch by batch: bits then do not depend on how many."""
    zs: Leaves = tuple(jnp.zeros((*x_TBD.shape[:2], W.shape[1]), jnp.float32) for W in weights)

    def body(t: Array, zs: Leaves) -> Leaves:
        found = frozen(weights, x_TBD[t], is_linear=is_linear)
        return tuple(z.at[t].set(new) for z, new in zip(zs, found, strict=True))

    frozen_TBN: Leaves = lax.fori_loop(0, count, body, zs)
    return frozen_TBN


@partial(compiled, static_argnames=("rule", "num_lanes"))
def train(
    rule: Rule, num_lanes: int, weights: Leaves, chunk: Chunk, lanes: Lanes, scales: Scales, span: Array, limit: Array
) -> tuple[Lanes, Array]:
    """Steps span[1] .. span[2] of the chunk, whose first step is step span[0] of the runs.

    Returns the lanes and the losses (num_lanes, T), each before its update; NaN where a run did not take the step. A run
    whose loss is not finite or above `limit` keeps that loss, takes no further update and ends."""
    first, start, stop = span[0], span[1], span[2]
    is_alone = num_lanes == 1  # then without the axis: a plain loop over steps, in its bits and its time

    def one(t: Array, lanes: Lanes, scales: Scales) -> tuple[Lanes, Array]:
        batch = Chunk(chunk.x[t], chunk.y[t], tuple(z[t] for z in chunk.zs))
        return step(rule, weights, batch, lanes, scales, first + t, limit)

    def body(carry: tuple[Array, Lanes, Array]) -> tuple[Array, Lanes, Array]:
        t, lanes, losses = carry
        lanes, loss = (one if is_alone else jax.vmap(one, (None, 0, 0)))(t, lanes, scales)
        return t + 1, lanes, lax.dynamic_update_index_in_dim(losses, loss, t, -1)

    def goes_on(carry: tuple[Array, Lanes, Array]) -> Array:
        return (carry[0] < stop) & jnp.any(carry[1].ended < 0)

    losses = jnp.full((num_lanes, len(chunk.x)), jnp.nan, jnp.float32)
    if is_alone:
        lanes, scales, losses = jax.tree.map(lambda leaf: leaf[0], (lanes, scales, losses))
    _, lanes, losses = lax.while_loop(goes_on, body, (start, lanes, losses))
    if is_alone:
        lanes, losses = jax.tree.map(lambda leaf: leaf[None], (lanes, losses))
    return lanes, losses


def step(
    rule: Rule, weights: Leaves, batch: Chunk, run: Lanes, scales: Scales, number: Array, limit: Array
) -> tuple[Lanes, Array]:
    """One step of one run, without axes of steps and lanes: the run after it, and its loss before it."""
    output, pullback = output_and_pullback(
        weights, run.u, batch.x, batch.zs, is_linear=rule.is_linear, subtracts=rule.subtracts
    )
    loss, g = jax.value_and_grad(partial(mean_loss, rule.loss))(output * scales.output, batch.y)
    gradients = pullback(g)
    is_alive = run.ended < 0
    is_fine = jnp.isfinite(loss) & (loss <= limit)
    directions, moments = _directions(rule.optimizer, gradients, run, number)
    goes_on = is_alive & is_fine

    def kept(new: Array, old: Array) -> Array:
        return jnp.where(goes_on, new, old)

    u = tuple(kept(u - scales.rates[layer] * d, u) for layer, (u, d) in enumerate(zip(run.u, directions, strict=True)))
    ended = jnp.where(is_alive & ~is_fine, number, run.ended)
    return Lanes(u, jax.tree.map(kept, moments, run.moments), ended), jnp.where(is_alive, loss, jnp.nan)


def _directions(
    optimizer: Sgd | Adam, gradients: Leaves, run: Lanes, number: Array
) -> tuple[Leaves, tuple[Leaves, ...]]:
    """What the rates are multiplied with, and the moments."""
    if isinstance(optimizer, Sgd):
        return gradients, ()
    adam = optax.scale_by_adam(*optimizer.betas, eps=optimizer.eps)
    first, second = run.moments
    directions, state = adam.update(gradients, optax.ScaleByAdamState(number, first, second))
    return directions, (state.mu, state.nu)
