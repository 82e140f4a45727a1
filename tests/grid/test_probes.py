"""Probes against plain networks in float64 and the dense Hessian."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from grid_sources import fresh
from paribus.grid.probes import probe
from paribus.models.config import Mlp
from paribus.train.jax_grid.config import Sgd
from paribus.train.jax_grid.problem import Problem
from paribus.train.jax_grid.program import Program
from paribus.train.jax_grid.state import State

STEPS = 40
PROBLEM = Problem(Mlp(width=8, depth=3), "mse", Sgd(), batch_size=16, steps=STEPS)
GAMMAS = np.array([0.5, 4.0])


def plain(weights, x):
    """Activations of every layer in muP, gamma left out."""
    h, found = x, []
    for layer, W in enumerate(weights):
        h = h @ W / (len(W) if layer == 2 else np.sqrt(len(W)))
        h = jnp.where(h > 0, h, 0) if layer < 2 else h
        found.append(h)
    return found


@pytest.fixture(scope="module")
def source():
    return fresh(num_heldout=1500)  # more than a block, and no multiple of one


@pytest.fixture(scope="module")
def trained(source) -> tuple[Program, State]:
    program = Program(PROBLEM, source, GAMMAS, lanes=1)
    state, _ = program.advance(program.begin(), np.array([0.2, 0.2]), STEPS)
    return program, state


def losses(program: Program, run: int, u, x, y):
    """(n,) of the plain network that u makes."""
    after = plain([W + du for W, du in zip(program.theta_0, u, strict=True)], x)[-1]
    return (((after - plain(program.theta_0, x)[-1]) / GAMMAS[run] - y) ** 2).mean(axis=1)


def u_of(state: State, run: int):
    return tuple(jnp.asarray(leaf[run]) for leaf in state.u)


def test_coordinates_and_weight_changes_are_those_of_a_plain_network(trained, source):
    program, state = trained
    found = probe(program, state, ["coordinates", "weight_change"])
    for run, gamma in enumerate(GAMMAS):
        u = [leaf[run].astype(np.float64) for leaf in state.u]
        x = source.heldout.x.astype(np.float64)
        before = plain([W.astype(np.float64) for W in program.theta_0], x)
        after = plain([W + du for W, du in zip(program.theta_0, u, strict=True)], x)
        for layer, name in enumerate(("h1", "h2", "f")):
            change = (np.asarray(after[layer]) - before[layer]) / (gamma if name == "f" else 1)
            np.testing.assert_allclose(found[f"coordinates/{name}"][run], np.sqrt((change**2).mean()), rtol=1e-3)
            norms = np.linalg.norm(u[layer]) / np.linalg.norm(program.theta_0[layer])
            np.testing.assert_allclose(found[f"weight_change/W{layer + 1}"][run], norms, rtol=1e-5)


def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(trained, source):
    program, state = trained
    found = probe(program, state, ["sharpness"])["sharpness"]
    for run in range(2):
        flat, as_tree = ravel_pytree(u_of(state, run))
        dense = jax.hessian(lambda v, r=run, t=as_tree: losses(program, r, t(v), *source.heldout).mean())(flat)
        np.testing.assert_allclose(found[run], np.linalg.eigvalsh(np.asarray(dense, np.float64))[-1], rtol=1e-3)


def test_sharpness_times_gamma_squared_is_constant_in_the_lazy_regime(source):
    gammas = np.array([1e-4, 1e-3, 1e-2])
    program = Program(PROBLEM, source, gammas, lanes=1)
    state, _ = program.advance(program.begin(), np.full(3, 0.1), STEPS)
    scaled = probe(program, state, ["sharpness"])["sharpness"] * gammas**2
    np.testing.assert_allclose(scaled, scaled[1], rtol=5e-3)


def test_the_exact_noise_scale_is_that_of_per_sample_gradients(trained, source):
    program, state = trained
    found = probe(program, state, ["noise_scale_exact"])["noise_scale_exact"]
    for run in range(2):
        jacobian = jax.jacrev(lambda u, r=run: losses(program, r, u, *source.heldout))(u_of(state, run))
        each = np.concatenate([np.asarray(part).reshape(1500, -1) for part in jacobian], axis=1).astype(np.float64)
        trace = each.var(axis=0, ddof=1).sum()
        signal = (each.mean(axis=0) ** 2).sum() - trace / len(each)
        np.testing.assert_allclose(found[run], trace / signal, rtol=2e-4)


@pytest.mark.parametrize("steps", [0, STEPS])
def test_the_two_batch_estimate_is_close_to_the_exact_noise_scale(source, steps):
    program = Program(replace(PROBLEM, model=Mlp(width=32, depth=3)), source, GAMMAS, lanes=1)
    state, _ = program.advance(program.begin(), np.array([0.1, 0.1]), steps)
    found = probe(program, state, ["noise_scale", "noise_scale_exact"])
    np.testing.assert_allclose(found["noise_scale"], found["noise_scale_exact"], rtol=0.15)
