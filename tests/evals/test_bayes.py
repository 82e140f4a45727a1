"""Oracles: the Bayes predictor in place of the model, exact curves, closed forms, and models that are made to leak."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from paribus.data.config import CoinsData, HiddenMarkovData, MarkovData
from paribus.data.generators import generator
from paribus.data.synthetic import coins
from paribus.errors import Diverged
from paribus.evals.bayes import Reference, bayes, divergences, leaks, reference, theory
from paribus.evals.config import BayesEval
from paribus.evals.frozen import source_sequences
from paribus.evals.scoring import EvalContext

COINS = CoinsData(num_components=11, window=32)


class Predictor(nn.Module):
    """Something with the face of a model: logits from the symbols seen, over the symbols, a start token and padding."""

    def __init__(self, probabilities, padding=5):
        super().__init__()
        self.probabilities, self.padding = probabilities, padding

    def forward(self, input_ids, use_cache):
        p = torch.from_numpy(self.probabilities(input_ids.numpy()))
        logits = torch.cat([p.log(), torch.full((*p.shape[:2], self.padding), -math.inf, dtype=p.dtype)], -1)
        return type("Output", (), {"logits": logits.float()})


def optimal(source):
    """Bayes' predictor, given tokens of which the last symbol is not yet seen."""

    def probabilities(tokens):
        symbols = np.concatenate([tokens[:, 1:], np.zeros((len(tokens), 1), tokens.dtype)], 1)
        return source.predict(symbols)

    return probabilities


@pytest.mark.parametrize(
    "data",
    [
        COINS,
        MarkovData(num_components=3, num_symbols=4, window=16),
        HiddenMarkovData(num_components=2, num_states=3, num_symbols=3, window=16),
    ],
)
def test_the_bayes_predictor_is_no_distance_from_itself(data):
    against = reference(BayesEval(sequences=300), data)
    record = bayes(BayesEval(batch_size=64), Predictor(optimal(against.source)), against, EvalContext(data)).record
    assert abs(record["summary"]["kl"]) < 1e-7
    assert record["kl"]["min"] > -1e-6
    assert abs(record["excess"]["mean"]) < 1e-6
    assert record["summary"]["loss"] == pytest.approx(record["summary"]["bayes_loss"], abs=1e-6)
    assert not record["leak"]["is_leak"]
    assert record["sequences"] % record["components"] == 0
    assert record["sequences"] >= 300


def test_the_loss_on_frozen_sequences_is_the_exact_curve_within_its_errors():
    against = reference(BayesEval(), COINS)
    record = bayes(BayesEval(), Predictor(optimal(against.source)), against, EvalContext(COINS)).record
    sampled, error, exact = (
        np.array(x)
        for x in (record["bayes_loss"]["by_position"], record["bayes_loss"]["error"], record["theory"]["loss"])
    )
    assert sampled[0] == pytest.approx(exact[0], abs=1e-12)  # the first toss is fair: no spread at all
    z = ((sampled - exact) / error)[1:]
    assert np.abs(z).max() < 4.5
    assert 0.5 < z.std() < 1.5
    assert exact[:2] == pytest.approx([0.69315, 0.65405], abs=1e-5)


def test_information_is_conserved_and_below_its_ceiling():
    record = reference(BayesEval(sequences=11), COINS).theory
    assert record["is_exact"]
    assert record["conservation"] == pytest.approx(0, abs=1e-9)
    assert record["information"] == pytest.approx(sum(record["excess"]), abs=1e-9)
    assert 0 < record["information"] < record["entropy"] == pytest.approx(math.log(11))
    assert record["ceiling"] == pytest.approx(math.log(11) / 32)


def test_information_without_exact_curves_is_that_of_the_sequences():
    """Enumerable, so that the exact value is known, and then with `optimum` blind to it: one symbol more."""
    two = coins(np.array([0.2, 0.7]))
    three = two._replace(emission=np.concatenate([two.emission, np.zeros((2, 1, 1))], -1))
    sequences = source_sequences(three, range(2), 4000, 40, 0)
    sampled, exact = theory(three, sequences, 1000), theory(two, sequences, 1000)
    assert (sampled["is_exact"], exact["is_exact"]) == (False, True)
    assert sampled["loss"] is None
    assert abs(sampled["information"] - exact["information"]) < 5 * sampled["information_error"]
    assert 0 < sampled["information_error"] < 0.01


def test_the_divergence_is_the_closed_form_and_wasted_probability_costs():
    """Bayes says (.2, .8); a model that is right among the symbols but wastes half its probability loses ln 2."""
    p = np.array([[[0.2, 0.8]]])
    tokens = np.array([[1]], np.int32)
    wasteful = torch.tensor([[[0.1, 0.4, 0.25, 0.25]]]).log()
    kl, model, best = divergences(wasteful, p, tokens)[0, 0].tolist()
    assert kl == pytest.approx(math.log(2), abs=1e-7)
    assert model == pytest.approx(-math.log(0.4), abs=1e-7)
    assert best == pytest.approx(-math.log(0.8), abs=1e-12)
    uniform = divergences(torch.zeros(1, 1, 2), p, tokens)[0, 0, 0].item()
    assert uniform == pytest.approx(0.2 * math.log(0.4) + 0.8 * math.log(1.6), abs=1e-12)


def test_a_symbol_that_bayes_excludes_costs_nothing():
    p = np.array([[[0.0, 1.0]]])
    kl = divergences(torch.tensor([[[-50.0, 0.0]]]), p, np.array([[1]], np.int32))[0, 0, 0].item()
    assert kl == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("share", [0.999, 0.05])
def test_a_model_that_sees_the_next_symbol_is_called_a_leak(share):
    """With chance `share` per position it knows; its KL is large, but its loss beats Bayes, which is what gives it away."""
    against = reference(BayesEval(), COINS)
    came = against.sequences.symbols
    honest = optimal(against.source)

    class Leaking(nn.Module):
        def forward(self, input_ids, use_cache):
            tokens = input_ids.numpy()
            rows = slice(self.row, self.row + len(tokens))
            self.row += len(tokens)
            p = (1 - share) * honest(tokens) + share * np.eye(2)[came[rows]]
            return type("Output", (), {"logits": torch.from_numpy(p).log()})

    model = Leaking()
    model.row = 0
    record = bayes(BayesEval(), model, against, EvalContext(COINS)).record
    assert record["leak"]["is_leak"]
    assert record["summary"]["is_leak"] == 1.0
    assert "sees what it should predict" in record["leak"]["warning"]
    assert record["kl"]["min"] >= -1e-6
    assert record["leak"]["gain"] > record["leak"]["threshold"]


def test_an_overconfident_model_on_rare_symbols_is_no_leak():
    """It is right on every sequence at hand, so a normal approximation would see a certain gain: there is none."""
    source = coins(np.array([1e-4, 1e-4]))
    sequences = source_sequences(source, range(2), 300, 20, 0)
    assert sequences.symbols.sum() <= 3
    against = Reference(source, sequences, {})
    sure = Predictor(lambda tokens: np.broadcast_to([1 - 1e-9, 1e-9], (*tokens.shape, 2)).copy())
    record = bayes(BayesEval(), sure, against, EvalContext(COINS)).record
    assert not record["leak"]["is_leak"]
    assert record["kl"]["min"] > 0


def test_honest_predictions_are_hardly_ever_called_a_leak():
    """Against sequences from the very model that is scored as the rival of Bayes: it cannot gain more than its luck."""
    alarms = 0
    for trial in range(200):
        draw = generator(trial, "test")
        best, rival = draw.dirichlet(np.ones(3), 2)
        came = draw.choice(3, 200, p=best)
        numbers = np.stack([np.zeros(200), -np.log(rival[came]), -np.log(best[came])], -1)[:, None]
        alarms += leaks(numbers, np.zeros(200, np.int32), np.ones(1))["is_leak"]
    assert alarms == 0


def test_predictions_that_are_no_probabilities_are_flagged():
    numbers = np.zeros((10, 4, 3))
    numbers[:, 2, 0] = -1e-5
    assert leaks(numbers, np.zeros(10, np.int32), np.ones(1))["positions"] == [3]


def test_components_count_by_their_weight_not_by_their_sequences():
    source = coins(np.array([0.1, 0.9]), weights=np.array([3.0, 1.0]))
    sequences = source_sequences(source, range(2), 2000, 1, 0)
    against = Reference(source, sequences, {})
    record = bayes(BayesEval(), Predictor(optimal(source)), against, EvalContext(COINS)).record
    p = 0.75 * 0.1 + 0.25 * 0.9
    truth = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert record["bayes_loss"]["by_position"][0] == pytest.approx(truth, abs=4 * record["bayes_loss"]["error"][0])


def test_a_model_that_is_not_finite_is_refused():
    against = reference(BayesEval(sequences=22), COINS)
    broken = Predictor(lambda tokens: np.full((*tokens.shape, 2), np.nan))
    with pytest.raises(Diverged, match="not finite"):
        bayes(BayesEval(), broken, against, EvalContext(COINS))
