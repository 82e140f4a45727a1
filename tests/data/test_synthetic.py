import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus.data.config import CoinsData, HiddenMarkovData, MarkovData, Seeds
from paribus.data.synthetic import coins, hidden_markov, markov, stationary, synthetic_source, synthetic_stream, windows

CONFIGS = [
    CoinsData(num_components=5, window=12),
    MarkovData(num_components=3, num_symbols=4, window=12),
    HiddenMarkovData(num_components=2, num_states=3, num_symbols=2, window=12),
]


def test_the_coins_are_those_of_the_study():
    source = synthetic_source(CoinsData(num_components=3, window=5))
    np.testing.assert_allclose(source.emission[:, 0, 1], [0.25, 0.5, 0.75])


def test_bayes_predicts_a_coin_from_its_count_of_ones():
    """The closed form: p^ = sum p^(m+1) (1-p)^(n-m) / sum p^m (1-p)^(n-m)."""
    p = np.arange(1, 6) / 6
    symbols = np.random.default_rng(0).integers(0, 2, (50, 20))
    predicted = coins(p).predict(symbols)[..., 1]
    for t in range(20):
        ones = symbols[:, :t].sum(1)[:, None]
        likelihood = p**ones * (1 - p) ** (t - ones)
        np.testing.assert_allclose(predicted[:, t], (likelihood * p).sum(1) / likelihood.sum(1), rtol=1e-12)


def test_a_markov_mixture_predicts_by_log_weights():
    """l_c = ln w_c + ln P_c(x_1..t); the prediction is sum_c softmax(l)_c T_c[x_t]."""
    draw = np.random.default_rng(1)
    tables, weights = draw.dirichlet(np.ones(4), (3, 4)), draw.dirichlet(np.ones(3))
    source = markov(tables, weights)
    x = draw.integers(0, 4, 30)
    starts = np.stack([stationary(table) for table in tables])
    np.testing.assert_allclose(source.predict(x[None])[0, 0], weights @ starts, rtol=1e-12)
    l_C = np.log(weights) + np.log(starts[:, x[0]])
    for t in range(1, 30):
        w = np.exp(l_C - l_C.max())
        np.testing.assert_allclose(source.predict(x[None])[0, t], w / w.sum() @ tables[:, x[t - 1]], rtol=1e-9)
        l_C += np.log(tables[:, x[t - 1], x[t]])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), num_components=st.integers(1, 3), num_states=st.integers(1, 3))
def test_the_forward_algorithm_is_the_sum_over_hidden_paths(seed, num_components, num_states):
    draw = np.random.default_rng(seed)
    tables = draw.dirichlet(np.ones(num_states), (num_components, num_states))
    emission = draw.dirichlet(np.ones(2), (num_components, num_states))
    source = hidden_markov(tables, emission)
    x = draw.integers(0, 2, 4)
    predicted = source.predict(x[None])[0]

    def probability(prefix):  # brute force over components and paths
        total = 0.0
        for c in range(num_components):
            for path in np.ndindex(*[num_states] * len(prefix)):
                p = source.weights[c]
                for t, (state, symbol) in enumerate(zip(path, prefix, strict=True)):
                    p *= source.start[c, state] if t == 0 else tables[c, path[t - 1], state]
                    p *= emission[c, state, symbol]
                total += p
        return total

    for t in range(4):
        together = probability([*x[:t], 1]) / (probability(x[:t]) if t else 1.0)
        assert predicted[t, 1] == pytest.approx(together, abs=1e-12)


def test_predictions_of_a_thousand_symbols_stay_finite_and_sum_to_one():
    source = synthetic_source(CONFIGS[1])
    symbols, _ = source.sample(np.random.default_rng(0), 3, 1000)
    predicted = source.predict(symbols)
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted.sum(-1), 1, atol=1e-12)


def test_an_impossible_sequence_is_refused_and_not_divided_by_zero():
    with pytest.raises(ValueError, match="impossible under every component"):
        coins(np.array([0.0])).predict(np.array([[1, 1]]))


def test_samples_have_the_frequencies_of_their_component():
    """11 coins, 20,000 draws each of 8: the mean of each within five standard errors."""
    source = synthetic_source(CoinsData(num_components=11, window=8))
    symbols, component = source.sample(np.random.default_rng(0), 60_000, 8)
    for c, p in enumerate(source.emission[:, 0, 1]):
        ones = symbols[component == c]
        assert abs(ones.mean() - p) < 5 * np.sqrt(p * (1 - p) / ones.size)
    shares = np.bincount(component, minlength=11) / len(component)
    assert np.abs(shares - 1 / 11).max() < 5 * np.sqrt(10) / 11 / np.sqrt(len(component))


def test_the_stationary_distribution_is_kept_by_its_chain():
    table = np.random.default_rng(0).dirichlet(np.ones(7), 7)
    np.testing.assert_allclose(stationary(table) @ table, stationary(table), atol=1e-14)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_batch_is_a_function_of_the_step_alone(config):
    forwards, backwards = synthetic_stream(config, Seeds(), 8), synthetic_stream(config, Seeds(), 8)
    steps = [0, 1, 700, 2]
    seen = {step: forwards.batches(step) for step in steps}
    for step in reversed(steps):
        for a, b in zip(seen[step], backwards.batches(step), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_the_batch_size_never_changes_which_windows_come(config):
    one, two = synthetic_stream(config, Seeds(), 6), synthetic_stream(config, Seeds(), 4)
    a = np.concatenate([one.batches(step).targets for step in range(2)])
    b = np.concatenate([two.batches(step).targets for step in range(3)])
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_window_can_be_made_again_from_its_id_with_its_component(config):
    stream = synthetic_stream(config, Seeds(order=3), 8)
    batch = stream.batches(5)
    first, last = int(batch.window_ids[0]), int(batch.window_ids[-1])
    symbols, component = windows(config, Seeds(order=3))(first, last + 1)
    np.testing.assert_array_equal(symbols, batch.targets)
    assert component.min() >= 0
    assert component.max() < config.num_components


def test_every_symbol_is_a_target_and_the_first_follows_the_start_token():
    batch = synthetic_stream(CONFIGS[1], Seeds(), 8).batches(0)
    assert (batch.tokens[:, 0] == 4).all()
    np.testing.assert_array_equal(batch.tokens[:, 1:], batch.targets[:, :-1])
    assert batch.targets.max() < 4


def test_the_order_seed_changes_the_windows_and_the_tables_seed_the_source():
    base = MarkovData(num_components=3, num_symbols=4, window=12)
    other = base.model_copy(update={"tables_seed": 1})
    a, b = synthetic_stream(base, Seeds(), 8).batches(0), synthetic_stream(base, Seeds(order=1), 8).batches(0)
    assert (a.targets != b.targets).any()
    assert np.abs(synthetic_source(base).transition - synthetic_source(other).transition).max() > 0.1


@pytest.mark.parametrize("others", [[], [0.5]])
def test_a_component_that_a_thousand_symbols_spoke_against_can_come_back(others):
    """500 ones and 499 zeros: the coins .1 and .9 are as likely as after a single one; .5 is e^500 times likelier."""
    p = np.array([0.1, 0.9, *others])
    symbols = np.repeat([[1, 0]], [500, 500], axis=1)
    log_likelihood = 500 * np.log(p) + 499 * np.log(1 - p)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    expected = posterior @ p / posterior.sum()
    assert coins(p).predict(symbols)[0, 999, 1] == pytest.approx(expected, rel=1e-9)
    chains = np.stack([[[q, 1 - q], [1 - q, q]] for q in p])
    path = np.append(0, np.cumsum(1 - symbols) % 2)[None]  # a one: the chain stays
    assert markov(chains).predict(path)[0, 1000, path[0, 999]] == pytest.approx(expected, rel=1e-9)


RECORDED = ["1f67a6fb6a4f50d2", "431eadc1b767b362", "2853e4cb56768ee1"]


@pytest.mark.parametrize(("config", "recorded"), list(zip(CONFIGS, RECORDED, strict=True)))
def test_the_windows_of_a_recorded_config_stay(config, recorded):
    """Made by printing the left side. A change means that published configs give other sequences: in ours, or in how
    numpy draws from a Dirichlet distribution."""
    assert synthetic_stream(config, Seeds(order=1), 8).batches(5).digest().hex() == recorded
