"""Oracles: architectures known to be causal, and models that are made to look ahead in one single place."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from paribus.data.config import CoinsData
from paribus.data.generators import generator
from paribus.errors import RunFailed
from paribus.evals.causality import alter, alteration_points, causality
from paribus.evals.config import CausalityEval
from paribus.evals.scoring import EvalContext

CONTEXT = EvalContext(CoinsData(num_components=2, window=24))


class Peeking(nn.Module):
    """A causal model whose logits at one position get a trace of the next token."""

    def __init__(self, model, position, size):
        super().__init__()
        self.model, self.position, self.size = model, position, size

    def forward(self, input_ids, use_cache):
        logits = self.model(input_ids=input_ids, use_cache=use_cache).logits
        logits[:, self.position, 0] += self.size * input_ids[:, self.position + 1]
        return CausalLMOutput(logits=logits)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["gpt_neox", "gpt2", "llama", "olmo2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_causal_architectures_change_by_exactly_nothing(tiny_models, kind, attention, precision):
    model = tiny_models[kind]
    model.set_attn_implementation(attention)
    record = causality(CausalityEval(), model, 40, CONTEXT._replace(precision=precision)).record
    assert record["is_causal"] is True
    assert record["summary"] == {"is_causal": 1.0, "max_change": 0.0}
    assert min(record["change_after"]) > 0  # the altered tokens are really seen
    assert len(record["altered_from"]) == len(record["change_before"])


@pytest.mark.parametrize("position", [0, 11, 22])
def test_a_peek_at_one_next_token_is_found(tiny_models, position):
    record = causality(CausalityEval(), Peeking(tiny_models["gpt_neox"], position, 1e-5), 40, CONTEXT).record
    assert record["is_causal"] is False
    assert record["summary"]["is_causal"] == 0.0
    assert record["summary"]["max_change"] > 1e-6


def test_a_model_that_is_not_finite_is_not_called_causal(tiny_models):
    with pytest.raises(RunFailed, match="not finite"):
        causality(CausalityEval(), Peeking(tiny_models["gpt_neox"], 5, float("inf")), 40, CONTEXT)


def test_altering_changes_every_token_from_t_on_and_none_before():
    draw = generator(0, "test")
    tokens, shift = draw.integers(0, 3, (9, 24), dtype=np.int32), draw.integers(1, 3, (9, 24), dtype=np.int32)
    altered = alter(tokens, shift, 7, 3)
    assert (altered[:, :7] == tokens[:, :7]).all()
    assert (altered[:, 7:] != tokens[:, 7:]).all()
    assert altered.min() >= 0
    assert altered.max() < 3


def test_alteration_points_lie_inside_the_window():
    assert alteration_points(24) == [1, 2, 4, 8, 12, 16, 23]
    for length in range(2, 200):
        points = alteration_points(length)
        assert points[0] == 1
        assert points[-1] == length - 1
    assert alteration_points(1) == []


def test_the_check_leaves_the_model_training(tiny_models):
    model = tiny_models["gpt2"].train()
    state = torch.get_rng_state()
    causality(CausalityEval(), model, 40, CONTEXT)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
