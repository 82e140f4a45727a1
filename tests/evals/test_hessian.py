"""Hessian tools against the dense Hessian of a small network, and matrices whose spectrum is known."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from paribus.evals.hessian import hutchinson_trace, hvp, stochastic_lanczos, top_eigenvalues

KEY = jax.random.key(0)


def network(params, x, y):
    return ((jnp.tanh(x @ params["in"]) @ params["out"] - y) ** 2).mean()


@pytest.fixture(scope="module")
def small():
    """A loss of a pytree, where it is taken, and its dense Hessian."""
    keys = jax.random.split(KEY, 4)
    params = {"in": jax.random.normal(keys[0], (5, 7)), "out": jax.random.normal(keys[1], (7, 2))}
    loss = partial(network, x=jax.random.normal(keys[2], (30, 5)), y=jax.random.normal(keys[3], (30, 2)))
    flat, as_tree = ravel_pytree(params)
    return loss, params, jax.hessian(lambda flat: loss(as_tree(flat)))(flat)


def quadratic(matrix):
    """The loss whose Hessian is `matrix`, of a pytree of two leaves."""
    half = len(matrix) // 2

    def loss(params):
        flat = jnp.concatenate([params[0], params[1]])
        return flat @ matrix @ flat / 2

    return loss, (jnp.zeros(half), jnp.zeros(len(matrix) - half))


def rotated(eigenvalues, seed=1):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    return jnp.asarray((q * eigenvalues) @ q.T, jnp.float32)


def test_a_product_is_that_of_the_dense_hessian(small):
    loss, params, dense = small
    vector = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(5), leaf.shape), params)
    np.testing.assert_allclose(ravel_pytree(hvp(loss, params, vector))[0], dense @ ravel_pytree(vector)[0], atol=1e-4)


@pytest.mark.parametrize("k", [1, 3])
def test_the_largest_eigenvalues_are_those_of_the_dense_hessian(small, k):
    loss, params, dense = small
    found = jax.jit(lambda p: top_eigenvalues(loss, p, k, key=KEY))(params)
    expected = np.linalg.eigvalsh(np.asarray(dense, np.float64))[::-1][:k]
    np.testing.assert_allclose(found.values, expected, atol=1e-3 * expected[0])
    assert (np.asarray(found.errors) <= 1e-3 * expected[0]).all()


def test_negative_spectra_and_few_distinct_eigenvalues_do_not_mislead():
    loss, params = quadratic(rotated(np.array([-1.0, -2.0, -3.0, -50.0] * 3)))
    found = top_eigenvalues(loss, params, 2, key=KEY)
    np.testing.assert_allclose(found.values, [-1, -2], rtol=1e-3)


def test_of_a_space_that_is_exhausted_nothing_is_made_up():
    loss, params = quadratic(jnp.zeros((12, 12)))
    np.testing.assert_array_equal(top_eigenvalues(loss, params, 2, key=KEY).values, [0, np.nan])


def test_the_bound_tells_that_products_did_not_suffice():
    eigenvalues = np.linspace(0, 1, 200)
    loss, params = quadratic(rotated(eigenvalues))
    few, many = (top_eigenvalues(loss, params, key=KEY, max_products=count) for count in (4, 128))
    assert few.errors[0] > 1e-2
    assert many.errors[0] <= 1e-3
    np.testing.assert_allclose(many.values[0], 1, atol=1e-3)
    assert many.num_products < 128


def test_the_trace_is_unbiased_over_leaves_that_are_coupled():
    """Signs shared by two leaves would add twice the trace of the block that couples them."""
    half = 20
    block = np.eye(half) * 0.5
    matrix = jnp.asarray(np.block([[np.eye(half), block], [block, 2 * np.eye(half)]]), jnp.float32)
    loss, params = quadratic(matrix)
    found = hutchinson_trace(loss, params, 400, key=KEY)
    assert abs(found.value - 3 * half) < 4 * found.standard_error
    # Var(v . A v) = 2 sum of squares off the diagonal, for signs
    np.testing.assert_allclose(found.standard_error, np.sqrt(2 * 2 * half * 0.25 / 400), rtol=0.2)


def test_the_density_is_that_of_a_known_spectrum():
    """Two thirds of the eigenvalues at 0 .. 1, a third at 3: the share, and the mean, of each part."""
    eigenvalues = np.concatenate([np.linspace(0, 1, 200), np.full(100, 3.0)])
    loss, params = quadratic(rotated(eigenvalues))
    grid = jnp.linspace(-1, 4, 1001)
    density = np.asarray(stochastic_lanczos(loss, params, grid, key=KEY, width=0.05, num_probes=32))
    spacing = float(grid[1] - grid[0])
    above = np.asarray(grid) > 2
    assert density.sum() * spacing == pytest.approx(1, abs=1e-3)
    assert density[above].sum() * spacing == pytest.approx(1 / 3, abs=0.03)
    assert (density * grid).sum() * spacing == pytest.approx(eigenvalues.mean(), abs=0.06)
    exact = (
        np.exp(-(((np.asarray(grid)[:, None] - eigenvalues) / 0.05) ** 2) / 2).mean(axis=1) / 0.05 / np.sqrt(2 * np.pi)
    )
    assert abs(density - exact).sum() * spacing < 0.1
