"""Program: bits that depend on nothing but the run, and training that is what the formulas say."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import optax
import pytest

from grid_sources import fixed, fresh
from paribus.errors import ConfigError
from paribus.models.config import Mlp
from paribus.models.mlp import frozen, output_and_pullback
from paribus.objectives.population import Population
from paribus.objectives.regression import mean_loss
from paribus.train.jax_grid.config import Adam, Sgd
from paribus.train.jax_grid.kernel import compiled, freeze
from paribus.train.jax_grid.problem import Problem, learning_rates, output_scales, theta_0
from paribus.train.jax_grid.program import Program
from paribus.train.jax_grid.state import State, from_numpy, to_numpy

STEPS = 30
PROBLEM = Problem(Mlp(width=16, depth=3), "mse", Sgd(), batch_size=4, steps=STEPS)
GAMMAS = np.array([0.1, 1.0, 10.0, 1.0, 0.1])
ETAS = np.array([0.1, 0.2, 0.3, 1e4, 1e5])  # the last two diverge


def trained(problem=PROBLEM, source=None, gammas=GAMMAS, etas=ETAS, cuts=(), **where) -> tuple[State, np.ndarray]:
    program = Program(problem, source or fresh(), gammas, **{"lanes": 1} | where)
    state, parts = program.begin(), []
    for until in (*cuts, problem.steps):
        state, losses = program.advance(state, etas, until)
        parts.append(losses)
    return state, np.concatenate(parts, axis=1)


def same(one: tuple[State, np.ndarray], other: tuple[State, np.ndarray], rows: slice = slice(None)) -> bool:
    """Bit for bit; `rows`: which runs of the first are those of the second."""
    ours, theirs = (
        jax.tree.leaves((one[0].u, one[0].moments, one[0].ended, one[1])),
        jax.tree.leaves((other[0].u, other[0].moments, other[0].ended, other[1])),
    )
    return all(a[rows].tobytes() == b.tobytes() for a, b in zip(ours, theirs, strict=True))


@pytest.fixture(scope="module")
def sgd() -> tuple[State, np.ndarray]:
    return trained()


# --- bits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.1, 1.0])
@pytest.mark.parametrize("optimizer", [Sgd(), Adam()], ids=["sgd", "adam"])
def test_a_run_is_a_loop_over_jitted_steps(optimizer, gamma):
    """Bit for bit with SGD. XLA fuses Adam's longer formulas differently in the two programs, and rounds them once less."""
    problem, source = replace(PROBLEM, optimizer=optimizer), fresh()
    weights = theta_0(problem, 6, 1)
    gammas, etas = np.array([gamma]), ETAS[:1]
    output = output_scales(problem, 6, gammas)
    rates = learning_rates(problem, 6, etas, gammas)[0] * (output[0] if optimizer == Sgd() else 1)
    adam = optax.scale_by_adam(0.9, 0.999, eps=1e-8)

    @compiled
    def step(u, moments, x, y, zs, rates, output):
        h, pullback = output_and_pullback(weights, u, x, zs, is_linear=False, subtracts=gamma >= 1)
        loss, g = jax.value_and_grad(partial(mean_loss, "mse"))(h * output, y)
        gradients = pullback(g)
        if optimizer != Sgd():
            gradients, moments = adam.update(gradients, moments)
        return tuple(w - rate * d for w, rate, d in zip(u, rates, gradients, strict=True)), moments, loss

    u = tuple(np.zeros_like(W) for W in weights)
    moments, losses = adam.init(u), []
    before = compiled(partial(frozen, weights, is_linear=False))
    for number in range(STEPS):
        x, y = source.rows(4 * number, 4)
        u, moments, loss = step(u, moments, x, y, before(x), rates.astype(np.float32), output.astype(np.float32)[0])
        losses.append(loss)
    state, found = trained(problem, gammas=gammas, etas=etas)
    np.testing.assert_allclose(found[0], losses, rtol=0 if optimizer == Sgd() else 1e-5)
    for ours, theirs in zip(state.u, u, strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=0, atol=0 if optimizer == Sgd() else 1e-5)


@pytest.mark.parametrize(
    "where",
    [{"cuts": (1, 7, 8, 20)}, {"chunk_bytes": 1}, {"chunk_bytes": 5000, "cuts": (11,)}, {"devices": 2}],
    ids=["borders", "chunks of one step", "chunks of several", "two devices"],
)
def test_no_bit_depends_on_where_training_is_cut_or_computed(sgd, where):
    assert same(sgd, trained(**where))


def test_no_bit_depends_on_where_training_with_adam_on_epochs_is_cut():
    problem = replace(PROBLEM, optimizer=Adam())
    assert same(trained(problem, fixed()), trained(problem, fixed(), cuts=(3, 13), chunk_bytes=5000, devices=2))


@pytest.mark.parametrize("lanes", [1, 2])
def test_no_bit_depends_on_the_other_runs_nor_on_their_divergence(sgd, lanes):
    whole = trained(lanes=lanes)
    for run in (0, 2, 3):
        assert same(whole, trained(gammas=GAMMAS[[run]], etas=ETAS[[run]], lanes=lanes), slice(run, run + 1))


def test_lanes_change_last_bits_only(sgd):
    np.testing.assert_allclose(trained(lanes=2)[1][:, :10], sgd[1][:, :10], rtol=1e-4)


def test_a_state_comes_back_from_its_file_in_the_order_of_the_runs():
    problem = replace(PROBLEM, optimizer=Adam())
    program = Program(problem, fresh(), GAMMAS, lanes=1)
    half, _ = program.advance(program.begin(), ETAS, 15)
    again, losses = program.advance(from_numpy(to_numpy(half)), ETAS, STEPS)
    state, expected = program.advance(half, ETAS, STEPS)
    assert same((state, expected), (again, losses))


def test_advance_leaves_the_state_it_was_given():
    program = Program(PROBLEM, fresh(), GAMMAS, lanes=1)
    start = program.begin()
    program.advance(start, ETAS, 5)
    assert not any(leaf.any() for leaf in start.u)


# --- divergence --------------------------------------------------------------------------------------------------------


def test_a_run_ends_at_the_first_loss_a_million_times_the_initial_one(sgd):
    state, losses = sgd
    program = Program(PROBLEM, fresh(), GAMMAS, lanes=1)
    limit = 1e6 * program.initial_loss
    assert state.ended[:3].tolist() == [-1, -1, -1]
    for run in (3, 4):
        end = state.ended[run]
        assert (losses[run, :end] <= limit).all()
        assert not losses[run, end] <= limit
        assert np.isnan(losses[run, end + 1 :]).all()
        before, _ = program.advance(program.begin(), ETAS, int(end))
        assert all((leaf[run] == its[run]).all() for leaf, its in zip(state.u, before.u, strict=True))


# --- training is what the formulas say -----------------------------------------------------------------------------------


def test_ntk_with_gamma_times_root_n_is_mup():
    steps, etas, gammas = 100, np.full(2, 0.05), np.array([0.5, 2.0])
    mup = replace(PROBLEM, steps=steps, scale_by_gamma=False)
    ntk = replace(mup, model=Mlp(width=16, depth=3, parameterization="ntk"))
    _, expected = trained(mup, etas=etas, gammas=gammas)
    _, found = trained(ntk, etas=16 * etas, gammas=4 * gammas)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def in_float64(problem: Problem, eta: float, gamma: float) -> list[float]:
    """The losses of SGD, by naive centring in float64."""
    source, weights = fresh(), [W.astype(np.float64) for W in theta_0(problem, 6, 1)]
    rates = learning_rates(problem, 6, np.array([eta]), np.array([gamma]))[0]
    output, first, losses = output_scales(problem, 6, np.array([gamma]))[0], [W.copy() for W in weights], []
    for number in range(problem.steps):
        x, y = (part.astype(np.float64) for part in source.rows(4 * number, 4))
        hs = [x]
        for W in weights[:-1]:
            hs.append(np.maximum(hs[-1] @ W / np.sqrt(len(W)), 0))
        start = x
        for W in first[:-1]:
            start = np.maximum(start @ W / np.sqrt(len(W)), 0)
        residual = (hs[-1] @ weights[-1] - start @ first[-1]) * output - y
        losses.append(float((residual**2).mean()))
        g = 2 * residual / residual.size * output
        for layer in reversed(range(len(weights))):
            gradient = hs[layer].T @ g
            g = g @ weights[layer].T
            if layer:
                g = np.where(hs[layer] > 0, g, 0) / np.sqrt(len(weights[layer - 1]))
            weights[layer] -= rates[layer] * gradient
    return losses


@pytest.mark.parametrize("gamma", [1e-6, 0.99, 1.0, 100.0])
def test_float32_follows_float64_also_in_the_lazy_limit_and_where_centring_is_by_subtraction(gamma):
    problem = replace(PROBLEM, steps=100)
    _, found = trained(problem, gammas=[gamma], etas=np.array([0.1]))
    np.testing.assert_allclose(found[0], in_float64(problem, 0.1, gamma), rtol=3e-6)


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize(("width", "batch_size"), [(16, 1), (16, 4), (256, 64)])
def test_the_output_is_exactly_zero_at_step_0(width, batch_size, subtracts, lanes):
    """Also where it is the difference of products that two kernels make."""
    weights = theta_0(replace(PROBLEM, model=Mlp(width=width, depth=3)), 6, 2)
    x = fresh().rows(0, 2 * batch_size).x.reshape(2, batch_size, 6)
    zs = tuple(z[1] for z in freeze(weights, x, np.int32(2), False))

    def output(u):
        return output_and_pullback(weights, u, x[1], zs, is_linear=False, subtracts=subtracts)[0]

    u = tuple(np.zeros((lanes, *W.shape), np.float32) for W in weights)
    assert not np.any(compiled(jax.vmap(output))(u))
    assert not np.any(compiled(output)(tuple(leaf[0] for leaf in u)))
    assert np.any(zs[-1])


@pytest.mark.parametrize("is_adam", [False, True])
def test_sp_is_a_plain_network_with_weights_of_variance_one_over_fan_in(is_adam):
    """W_l = V_l sqrt(fan_in): one rate for every V is what the rates per layer are for W."""
    model = Mlp(width=16, depth=3, parameterization="sp")
    problem = replace(PROBLEM, model=model, optimizer=Adam() if is_adam else Sgd())
    source, eta, gamma = fresh(), 0.01, 1.0
    start = [W / np.sqrt(len(W)) for W in theta_0(problem, 6, 1)]

    def plain(V, x):
        for layer, matrix in enumerate(V):
            x = x @ matrix
            x = jax.nn.relu(x) if layer < 2 else x
        return x

    @jax.jit
    @jax.value_and_grad
    def loss(V, x, y):
        return ((plain(V, x) - plain(start, x) - y) ** 2).mean()

    optimizer = optax.adam(eta) if is_adam else optax.sgd(eta)
    V, losses = start, []
    moments = optimizer.init(V)
    for number in range(STEPS):
        x, y = source.rows(4 * number, 4)
        value, gradient = loss(V, x, y)
        updates, moments = optimizer.update(gradient, moments)
        V = optax.apply_updates(V, updates)
        losses.append(float(value))
    _, found = trained(problem, gammas=[gamma], etas=np.array([eta]))
    np.testing.assert_allclose(found[0], losses, rtol=2e-4)


def test_adam_in_the_lazy_limit_does_not_feel_its_epsilon():
    """With g = gamma the function learned does not depend on gamma; an absolute epsilon would stop it at 1e6 already."""
    model = Mlp(width=16, depth=1)
    problem = replace(PROBLEM, model=model, optimizer=Adam(), scale_by_gamma=False)
    gammas = np.array([1e-6, 1.0, 1e8])
    _, losses = trained(problem, gammas=gammas, etas=0.01 * gammas)
    np.testing.assert_allclose(losses, losses[[1, 1, 1]], rtol=1e-5)


# --- held-out samples ----------------------------------------------------------------------------------------------------


def test_accuracy_counts_every_held_out_sample_once_and_the_loss_is_their_mean():
    source = fixed(classes=3)
    problem = replace(PROBLEM, loss="cross_entropy")
    program = Program(problem, source, [1.0], lanes=1)
    state, _ = program.advance(program.begin(), np.array([0.3]), STEPS)
    metrics = program.evaluate(state)
    x, y = source.heldout
    h, h_0 = x.astype(np.float64), x.astype(np.float64)
    for layer, (W, du) in enumerate(zip(theta_0(problem, 6, 3), state.u, strict=True)):
        h, h_0 = h @ (W + du[0].astype(np.float64)), h_0 @ W.astype(np.float64)
        if layer < 2:
            h, h_0 = np.maximum(h, 0) / np.sqrt(len(W)), np.maximum(h_0, 0) / np.sqrt(len(W))
    f = (h - h_0) / 16
    chances = np.exp(f) / np.exp(f).sum(axis=1, keepdims=True)
    assert metrics["heldout_accuracy"][0] == (f.argmax(axis=1) == y.argmax(axis=1)).mean()
    np.testing.assert_allclose(metrics["heldout_loss"][0], -np.log((chances * y).sum(axis=1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(program.evaluate(program.begin())["heldout_loss"][0], np.log(3), rtol=1e-6)


@pytest.mark.parametrize(("depth", "activation"), [(1, "relu"), (2, "relu"), (3, "linear")])
def test_the_population_loss_is_the_held_out_loss_of_infinitely_many_samples(depth, activation):
    variances, teacher = np.arange(1, 7.0) ** -1, np.ones(6)
    noise = np.random.default_rng(0).standard_normal((200_000, 7))
    x = noise[:, :6] * np.sqrt(variances)
    y = np.sqrt(0.9) * x @ teacher + np.sqrt(0.1) * noise[:, 6]
    source = fresh()._replace(heldout=type(fresh().heldout)(x.astype(np.float32), y.astype(np.float32)[:, None]))
    problem = replace(
        PROBLEM, model=Mlp(width=16, depth=depth, activation=activation), population=Population(variances, teacher, 0.1)
    )
    program = Program(problem, source, [1.0], lanes=1)
    state, _ = program.advance(program.begin(), np.array([0.1]), STEPS)
    metrics = program.evaluate(state)
    np.testing.assert_allclose(metrics["population_loss"], metrics["heldout_loss"], rtol=0.01)


def test_a_batch_that_the_data_cannot_fill_is_refused():
    with pytest.raises(ConfigError, match=r"train\.batch_size: 64 is more than the 22 samples"):
        Program(replace(PROBLEM, batch_size=64), fixed(), [1.0], lanes=1)
