"""Oracles: transformers' own generate(), prompt by prompt, without a batch; and a table whose likeliest walk is known."""

import numpy as np
import pytest
import torch

from evals.text_models import Bigrams, bigrams, context, model
from paribus.data.generators import generator
from paribus.errors import DataError
from paribus.evals.greedy import continuations
from paribus.evals.texts import Prompt


def prompts(num=20, most=40):
    draw = generator(0, "test")
    lengths, counts = draw.integers(1, 60, num), draw.integers(1, most, num)
    return [
        Prompt(f"f:{i}", draw.integers(1, 280, length).tolist(), int(count))
        for i, (length, count) in enumerate(zip(lengths, counts, strict=True))
    ]


def generated(model, prompt) -> list[int]:
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    given = torch.tensor([prompt.tokens])
    whole = model.generate(
        given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=prompt.num_tokens
    )
    return whole[0, len(prompt.tokens) :].tolist()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_decoding_in_batches_is_generate_one_by_one(text_store_path, kind, batch_size):
    tiny, asked = model(kind).eval(), prompts()
    decoded = continuations(tiny, asked, batch_size, context(text_store_path))
    assert decoded == [generated(tiny, prompt) for prompt in asked]
    assert len({token for ids in decoded for token in ids}) > 10  # no constant answer that any decoder would give


def test_decoding_follows_the_likeliest_walk_through_a_table(text_store_path):
    """From 1 on the walk goes 1 -> 2 -> 3 -> 1; prompts of other lengths in the same batch do not shift it."""
    table = bigrams({(1, 2): 0.9, (2, 3): 0.4, (3, 1): 0.2})
    asked = [Prompt("a", [1], 4), Prompt("b", [7, 7, 7, 2], 5), Prompt("c", [3, 3], 1), Prompt("d", [1, 3], 7)]
    assert continuations(Bigrams(table), asked, 4, context(text_store_path)) == [
        [2, 3, 1, 2],
        [3, 1, 2, 3, 1],
        [1],
        [1, 2, 3, 1, 2, 3, 1],
    ]


def test_of_equally_likely_tokens_the_first_is_taken(text_store_path):
    uniform = Bigrams(np.full((280, 280), 1 / 280))
    assert continuations(uniform, [Prompt("a", [5], 3)], 1, context(text_store_path)) == [[0, 0, 0]]


def test_decoding_uses_all_positions_and_not_one_more(text_store_path):
    tiny = model("gpt2")
    full = Prompt("file:1", [3] * 1000, 25)  # the last of the 25 is never fed
    assert len(continuations(tiny, [full], 1, context(text_store_path))[0]) == 25
    with pytest.raises(DataError, match="file:1: 1025 tokens, but the model has 1024 positions"):
        continuations(tiny, [full._replace(num_tokens=26)], 1, context(text_store_path))


def test_decoding_leaves_the_model_and_the_random_state_as_they_were(text_store_path):
    tiny = model().train()
    before, state = {k: v.clone() for k, v in tiny.state_dict().items()}, torch.random.get_rng_state()
    continuations(tiny, prompts(3), 2, context(text_store_path))
    assert tiny.training
    assert tiny.config.use_cache is False
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())
