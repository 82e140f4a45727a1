"""The centred MLP in JAX: f = (h(theta) - h(theta_0)) times an output scale, computed as one difference.

B batch, D inputs, N width, C outputs, L weight matrices. Layers: z_1 = x W_1 / sqrt(D), h_l = act(z_l),
z_{l+1} = h_l W_{l+1} / sqrt(N), and the last product h W_L unscaled. What is trained is u = theta - theta_0; beside the
frozen z_l the change dz_l is propagated, so that float32 keeps its precision however small the change is: subtracting two
outputs loses all of it at gamma ~ 1e-6. Where the output is not magnified, at gamma >= 1, subtracting is as exact as the
output itself, and saves one product a layer.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from paribus.models.config import Mlp

Weights = Sequence[Array]  # L matrices (fan_in, fan_out)


def fan_ins(model: Mlp, input_dim: int) -> list[int]:
    """(L,) the rows of each weight matrix."""
    return [input_dim, *[model.width] * (model.depth - 1)]


def output_scale(model: Mlp, input_dim: int) -> float:
    """What the last product is times, apart from 1 / gamma: 1 / N in muP, else 1 / sqrt N, with N its fan-in."""
    fan_in = fan_ins(model, input_dim)[-1]
    return float(1 / fan_in if model.parameterization == "mup" else fan_in**-0.5)


def initial_weights(
    model: Mlp, input_dim: int, output_dim: int, numbers: Callable[[int], np.random.Generator]
) -> tuple[NDArray[np.float32], ...]:
    """theta_0: L matrices of N(0, 1), each from the generator that `numbers` gives for its layer."""
    widths = [*fan_ins(model, input_dim), output_dim]
    return tuple(numbers(layer).standard_normal(shape, np.float32) for layer, shape in enumerate(pairwise(widths)))


def frozen(weights: Weights, x_BD: Array, *, is_linear: bool) -> tuple[Array, ...]:
    """L arrays at theta_0: the pre-activations of the hidden layers (B, N), and the last product (B, C)."""
    zs: list[Array] = []
    h = x_BD
    for W in weights[:-1]:
        zs.append(_product(h, W) * _scale(W))
        h = _activation(zs[-1], is_linear)
    return (*zs, _product(h, weights[-1]))


def changes(weights: Weights, u: Weights, x_BD: Array, zs: Sequence[Array], *, is_linear: bool) -> list[Array]:
    """dh_1 .. dh_{L-1}, each (B, N), and the change of the last product (B, C), when theta_0 + u replaces theta_0.

    Differentiable as often as one likes; `output_and_pullback` is the same with its first derivative written out."""
    h, dh = x_BD, None
    found = []
    for W, du, z in zip(weights[:-1], u[:-1], zs[:-1], strict=True):
        dz = _change(h, dh, W, du) * _scale(W)
        h, dh = _activation(z, is_linear), _activation_change(z, dz, is_linear)
        found.append(dh)
    return [*found, _change(h, dh, weights[-1], u[-1])]


def output_and_pullback(
    weights: Weights, u: Weights, x_BD: Array, zs: Sequence[Array], *, is_linear: bool, subtracts: bool = False
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """The change of the last product (B, C), and the function that takes a gradient in it to those in u.

    subtracts: take the change of the last product as the difference of two, of which one is frozen: a product less in each
    layer but the first, and an error in the last bits of the whole product.
    Autodiff would differentiate h_0 u and dh (W + u) separately and double the products for the weights' gradients."""
    inside, h, dh = x_BD, x_BD, None
    seen = []  # of each layer: its input, its weights, and where the activation lets the gradient through
    for layer, (W, du, z) in enumerate(zip(weights, u, zs, strict=True)):
        is_last = layer == len(weights) - 1
        scale = 1.0 if is_last else _scale(W)
        if subtracts and layer:
            after = _product(inside, W + du) * scale
            dz = after - z
        else:
            dz = _change(h, dh, W, du) * scale
            after = z + dz
        seen.append((inside, W + du, None if is_last else after > 0))
        if not is_last:
            h, dh = _activation(z, is_linear), _activation_change(z, dz, is_linear)
            inside = _activation(after, is_linear) if subtracts else h + dh

    def pullback(g_BC: Array) -> tuple[Array, ...]:
        g, gradients = g_BC, []
        for layer, (inside, W, is_open) in reversed(list(enumerate(seen))):
            if is_open is not None:
                g = (g if is_linear else jnp.where(is_open, g, 0)) * _scale(W)
            gradients.append(_product(inside.T, g))
            if layer:
                g = _product(g, W.T)
        return tuple(reversed(gradients))

    return dz, pullback


def _change(h: Array, dh: Array | None, W: Array, du: Array) -> Array:
    """(h + dh) (W + du) - h W, without the difference of two large numbers."""
    return _product(h, du) if dh is None else _product(h, du) + _product(dh, W + du)


def _activation(z: Array, is_linear: bool) -> Array:
    return z if is_linear else jnp.where(z > 0, z, 0)


def _activation_change(z: Array, dz: Array, is_linear: bool) -> Array:
    """relu(z + dz) - relu(z), exact also where dz is far below the last bit of z."""
    if is_linear:
        return dz
    return jnp.where(z > 0, jnp.where(z + dz > 0, dz, -z), jnp.where(z + dz > 0, z + dz, 0))


def _scale(W: Array) -> float:
    return float(W.shape[-2] ** -0.5)


def _product(a: Array, b: Array) -> Array:
    """float32 also on a GPU, which would round the factors to 10 bits."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
