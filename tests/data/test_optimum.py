import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus.data import optimum as exact
from paribus.data.optimum import optimum
from paribus.data.synthetic import coins, hidden_markov, markov


def test_two_coins_have_the_curve_worked_out_by_hand():
    """p = 1/3, 2/3: h_0 = ln 2; after one toss the other side has probability 4/9: H_b(5/9)."""
    curve = optimum(coins(np.array([1, 2]) / 3), 2)
    assert curve is not None
    entropy = -(5 / 9 * math.log(5 / 9) + 4 / 9 * math.log(4 / 9))
    np.testing.assert_allclose(curve.loss, [math.log(2), entropy], atol=1e-12)
    assert entropy == pytest.approx(0.686962, abs=1e-6)


def test_eleven_coins_have_the_published_curve():
    curve = optimum(coins(np.arange(1, 12) / 12), 65)
    assert curve is not None
    np.testing.assert_allclose(curve.loss[[0, 1, 8, 64]], [0.69315, 0.65405, 0.58035, 0.54549], atol=1e-5)


def test_two_symmetric_chains_cost_ln_2_over_their_rate():
    """p_stay = .9 and .1: the loss falls to the rate H_b(.1), and all that is lost on the way is the name of the chain."""
    stay = np.array([[0.9, 0.1], [0.1, 0.9]])
    curve = optimum(markov(np.stack([stay, stay[::-1]])), 100)
    assert curve is not None
    np.testing.assert_allclose(curve.loss[:6], [0.693147, 0.693147, 0.471393, 0.408491, 0.366340, 0.349323], atol=1e-6)
    rate = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert rate == pytest.approx(0.325083, abs=1e-6)
    assert (curve.loss[1:] - rate).sum() == pytest.approx(math.log(2), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32), num_components=st.integers(1, 4), kind=st.sampled_from(["coins", "chains", "hidden"])
)
def test_the_excess_sums_to_the_information_about_the_component(seed, num_components, kind):
    draw = np.random.default_rng(seed)
    weights = draw.dirichlet(np.ones(num_components))
    match kind:
        case "coins":
            source = coins(draw.random(num_components), weights)
        case "chains":
            source = markov(draw.dirichlet(np.ones(2), (num_components, 2)), weights)
        case _:
            tables = draw.dirichlet(np.ones(3), (num_components, 3))
            source = hidden_markov(tables, draw.dirichlet(np.ones(2), (num_components, 3)), weights)
    curve = optimum(source, 8)
    assert curve is not None
    assert curve.excess.min() > -1e-12
    np.testing.assert_allclose(np.cumsum(curve.excess), curve.posterior[0] - curve.posterior[1:], atol=1e-12)
    assert curve.posterior[0] == pytest.approx(-(weights * np.log(weights)).sum(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), num_components=st.integers(1, 3), has_zeros=st.booleans())
def test_classes_of_prefixes_give_what_enumeration_gives(seed, num_components, has_zeros):
    draw = np.random.default_rng(seed)
    tables = draw.dirichlet(np.ones(2), (num_components, 2))
    if has_zeros:
        tables[0] = [[1, 0], [0.5, 0.5]]
    for source in (markov(tables), coins(draw.random(num_components))):
        by_class = optimum(source, 7)
        assert by_class is not None
        log_weights = np.log(source.weights)
        rows = [exact._expect(exact._all_prefixes(source, t), log_weights, source.weights) for t in range(8)]
        loss, known, posterior = np.array(rows).T
        np.testing.assert_allclose(by_class.loss, loss[:-1], atol=1e-12)
        np.testing.assert_allclose(by_class.known, known[:-1], atol=1e-12)
        np.testing.assert_allclose(by_class.posterior, posterior, atol=1e-12)


def test_one_corpus_split_into_identical_components_costs_nothing():
    chain = np.array([[0.7, 0.3], [0.2, 0.8]])
    curve = optimum(markov(np.repeat(chain[None], 4, axis=0)), 30)
    assert curve is not None
    np.testing.assert_allclose(curve.excess, 0, atol=1e-12)
    assert curve.posterior[-1] == pytest.approx(math.log(4))


def test_bayes_predictor_reaches_the_exact_optimum_on_samples():
    draw = np.random.default_rng(0)
    source = hidden_markov(draw.dirichlet(np.ones(3), (2, 3)), draw.dirichlet(np.ones(2), (2, 3)))
    curve = optimum(source, 10)
    assert curve is not None
    symbols, _ = source.sample(np.random.default_rng(1), 20_000, 10)
    chosen = np.take_along_axis(source.predict(symbols), symbols[..., None].astype(np.int64), -1)[..., 0]
    losses = -np.log(chosen)
    assert (np.abs(losses.mean(0) - curve.loss) < 5 * losses.std(0) / np.sqrt(len(losses))).all()


def test_where_only_sampling_could_tell_there_is_no_curve():
    draw = np.random.default_rng(0)
    assert optimum(markov(draw.dirichlet(np.ones(8), (2, 8))), 64) is None
