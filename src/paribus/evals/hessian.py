"""The Hessian of any scalar loss of a pytree, through products with vectors; all in JAX, to be compiled by the caller."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

Tree: TypeAlias = Any  # a pytree of float arrays
Loss = Callable[[Tree], Array]
Product = Callable[[Array], Array]  # (n,) -> (n,): with a symmetric matrix


class Eigenvalues(NamedTuple):
    """The largest ones, the largest first."""

    values: Array  # (k,)
    errors: Array  # (k,) bounds: an eigenvalue lies within this distance of each value
    num_products: Array


class Estimate(NamedTuple):
    value: Array
    standard_error: Array


class Tridiagonal(NamedTuple):
    """What m steps of Lanczos make of a symmetric matrix."""

    basis: Array  # (m, n) orthonormal rows; zero beyond the last step
    diagonal: Array  # (m,)
    beside: Array  # (m,) beside[j] couples rows j and j + 1; the last is what is left over


def hvp(loss: Loss, params: Tree, vector: Tree) -> Tree:
    """H v, forward over reverse; about four evaluations of the loss."""
    _, product = jax.jvp(jax.grad(loss), (params,), (vector,))
    return product


def top_eigenvalues(
    loss: Loss, params: Tree, k: int = 1, *, key: Array, tolerance: float = 1e-3, max_products: int = 128
) -> Eigenvalues:
    """The k largest eigenvalues, by Lanczos until the bounds of all are below `tolerance` times the first.

    One of several vectors may count once; NaN where the start's products with H do not span k dimensions. `errors` says
    where `max_products` did not suffice."""
    flat, product = _product(loss, params)
    size = min(max_products, len(flat))
    tridiagonal, count = _start(flat, size, key), jnp.int32(0)

    def found(tridiagonal: Tridiagonal, count: Array) -> Eigenvalues:
        # what is not filled yet stands below every eigenvalue (Gershgorin), so that it is not among the largest
        is_filled = jnp.arange(size) < count
        above = jnp.pad(tridiagonal.beside, (1, 0))[:-1]
        lowest = jnp.min(jnp.where(is_filled, tridiagonal.diagonal - abs(above) - abs(tridiagonal.beside), jnp.inf))
        diagonal = jnp.where(is_filled, tridiagonal.diagonal, lowest)
        beside = jnp.where(jnp.arange(size) < count - 1, tridiagonal.beside, 0)[:-1]
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
        errors = abs(tridiagonal.beside[count - 1] * vectors[count - 1])
        return Eigenvalues(values[::-1][:k], errors[::-1][:k], count)

    def goes_on(carry: tuple[Tridiagonal, Eigenvalues]) -> Array:
        values, errors, count = carry[1]
        is_exhausted = (count > 0) & (carry[0].beside[count - 1] == 0)
        is_close = (errors <= tolerance * abs(values[0])).all() & (count >= k)
        return (count < size) & ~is_exhausted & ~is_close

    def extend(carry: tuple[Tridiagonal, Eigenvalues]) -> tuple[Tridiagonal, Eigenvalues]:
        tridiagonal = _extend(product, carry[0], carry[1].num_products)
        return tridiagonal, found(tridiagonal, carry[1].num_products + 1)

    nothing = Eigenvalues(jnp.zeros(k, flat.dtype), jnp.full(k, jnp.inf, flat.dtype), count)
    _, (values, errors, count) = lax.while_loop(goes_on, extend, (tridiagonal, nothing))
    is_there = jnp.arange(k) < count
    return Eigenvalues(jnp.where(is_there, values, jnp.nan), jnp.where(is_there, errors, jnp.nan), count)


def hutchinson_trace(loss: Loss, params: Tree, num_probes: int, *, key: Array) -> Estimate:
    """tr H = E v . H v over v of independent signs (Hutchinson 1990), independent in every leaf too."""
    flat, product = _product(loss, params)

    def one(key: Array) -> Array:
        v = jax.random.rademacher(key, flat.shape, flat.dtype)
        return jnp.vdot(v, product(v))

    samples = lax.map(one, jax.random.split(key, num_probes))
    return Estimate(samples.mean(), samples.std(ddof=1) / jnp.sqrt(num_probes))


def stochastic_lanczos(
    loss: Loss, params: Tree, grid: Array, *, key: Array, width: float, num_probes: int = 8, num_steps: int = 64
) -> Array:
    """The density of eigenvalues at the points of `grid`, of integral 1, each eigenvalue as a Gaussian of that width.

    Quadrature of Lanczos from random vectors (Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019)."""
    flat, product = _product(loss, params)
    size = min(num_steps, len(flat))

    def one(key: Array) -> Array:
        tridiagonal = lax.fori_loop(0, size, lambda j, t: _extend(product, t, j), _start(flat, size, key))
        beside = tridiagonal.beside[:-1]
        nodes, vectors = jnp.linalg.eigh(jnp.diag(tridiagonal.diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
        bumps = jnp.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        return jnp.matmul(bumps, vectors[0] ** 2)

    densities: Array = lax.map(one, jax.random.split(key, num_probes))
    return densities.mean(axis=0)


def _product(loss: Loss, params: Tree) -> tuple[Array, Product]:
    """The parameters as one vector, and the Hessian there as a function of such vectors."""
    flat, as_tree = ravel_pytree(params)

    def product(vector: Array) -> Array:
        image, _ = ravel_pytree(hvp(loss, params, as_tree(vector)))
        return image

    return flat, product


def _start(flat: Array, size: int, key: Array) -> Tridiagonal:
    first = jax.random.normal(key, flat.shape, flat.dtype)
    basis = jnp.zeros((size, len(flat)), flat.dtype).at[0].set(first / jnp.linalg.norm(first))
    return Tridiagonal(basis, jnp.zeros(size, flat.dtype), jnp.zeros(size, flat.dtype))


def _extend(product: Product, tridiagonal: Tridiagonal, j: Array) -> Tridiagonal:
    """Row j is there; find what it couples to, and row j + 1 if there is room and something is left over."""
    basis, diagonal, beside = tridiagonal
    image = product(basis[j])
    alpha = basis[j] @ image
    rest = image
    for _ in range(2):  # once is not enough in float32 (Parlett 1998, section 6.9)
        rest = rest - basis.T @ (basis @ rest)
    beta = jnp.linalg.norm(rest)
    # below the rounding of the product nothing is left, and the row after it would not be orthogonal to the others
    beta = jnp.where(beta > 4 * float(np.finfo(rest.dtype).eps) * jnp.linalg.norm(image), beta, 0)
    following = jnp.where(beta > 0, rest / jnp.where(beta > 0, beta, 1), 0)
    basis = basis.at[j + 1].set(following, mode="drop")
    return Tridiagonal(basis, diagonal.at[j].set(alpha), beside.at[j].set(beta))
