"""The centred MLP against a plain network in float64, and its written-out derivative against autodiff."""

from functools import partial

import jax
import numpy as np
import pytest

from paribus.models.config import Mlp
from paribus.models.mlp import changes, frozen, initial_weights, output_and_pullback, output_scale


def numbers(layer: int) -> np.random.Generator:
    return np.random.default_rng(layer)


def plain(weights: list[np.ndarray], x: np.ndarray, is_linear: bool) -> list[np.ndarray]:
    """Activations of every layer in float64, the last product unscaled."""
    found, h = [], x.astype(np.float64)
    for layer, W in enumerate(weights):
        h = h @ W.astype(np.float64)
        if layer < len(weights) - 1:
            h = h / np.sqrt(len(W))
            h = h if is_linear else np.maximum(h, 0)
        found.append(h)
    return found


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_changes_are_those_of_a_plain_network(depth, activation, size):
    model = Mlp(width=32, depth=depth, activation=activation)
    is_linear = activation == "linear"
    weights = initial_weights(model, 5, 3, numbers)
    u = tuple((size * np.random.default_rng(9).standard_normal(W.shape)).astype(np.float32) for W in weights)
    x = np.random.default_rng(8).standard_normal((40, 5)).astype(np.float32)
    zs = frozen(weights, x, is_linear=is_linear)

    after = plain([W.astype(np.float64) + du for W, du in zip(weights, u, strict=True)], x, is_linear)
    before = plain(list(weights), x, is_linear)
    found = changes(weights, u, x, zs, is_linear=is_linear)
    for one, new, old in zip(found, after, before, strict=True):
        np.testing.assert_allclose(one, new - old, rtol=0, atol=3e-6 * np.abs(new - old).max())


@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_the_written_out_derivative_is_that_of_autodiff(depth, activation, subtracts):
    model = Mlp(width=16, depth=depth, activation=activation)
    is_linear = activation == "linear"
    weights = initial_weights(model, 5, 3, numbers)
    u = tuple(np.random.default_rng(9).standard_normal(W.shape).astype(np.float32) for W in weights)
    x = np.random.default_rng(8).standard_normal((40, 5)).astype(np.float32)
    zs = frozen(weights, x, is_linear=is_linear)
    g = np.random.default_rng(7).standard_normal((40, 3)).astype(np.float32)

    output = partial(changes, weights, x_BD=x, zs=zs, is_linear=is_linear)
    expected, pullback = jax.vjp(lambda u: output(u)[-1], u)
    found, own = output_and_pullback(weights, u, x, zs, is_linear=is_linear, subtracts=subtracts)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
    for one, other in zip(own(g), pullback(g)[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_nothing_has_changed_at_the_first_step():
    model = Mlp(width=16, depth=3)
    weights = initial_weights(model, 5, 1, numbers)
    x = np.random.default_rng(8).standard_normal((40, 5)).astype(np.float32)
    u = tuple(np.zeros_like(W) for W in weights)
    for change in changes(weights, u, x, frozen(weights, x, is_linear=False), is_linear=False):
        assert not np.any(change)


def test_the_output_scale_of_each_parameterization():
    assert output_scale(Mlp(width=16, depth=3, parameterization="mup"), 5) == 1 / 16
    assert output_scale(Mlp(width=16, depth=3, parameterization="ntk"), 5) == 1 / 4
    assert output_scale(Mlp(width=16, depth=1, parameterization="sp"), 4) == 1 / 2
