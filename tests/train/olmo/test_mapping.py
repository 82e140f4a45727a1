"""OLMo-core's objects against transformers' model, our schedules and our own replay of its order."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from paribus.data.batches import Batch
from paribus.data.config import Seeds
from paribus.data.token_files import open_token_files
from paribus.data.token_rows import as_batch, token_stream
from paribus.errors import ConfigError
from paribus.models.config import Architecture
from paribus.models.hf import build_model
from paribus.train.config import Constant, Cosine, Linear, ReduceOnPlateau, WarmupStableDecay
from paribus.train.optim import lr_factor
from tiny_runs import token_run

pytestmark = [  # importing OLMo-core takes seconds, so it happens inside the tests
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("olmo_core") is None, reason="the extra `olmo` is not installed"),
]
OLMO2 = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def olmo2(**keys):
    return build_model(Architecture(model_type="olmo2", config={**OLMO2, **keys}), 40, 16, seed=3)


def shared(model):
    from paribus.train.olmo.mapping import as_transformer, share_weights

    own = as_transformer(model.config).build(init_device="cpu")
    own.init_weights(max_seq_len=16, device=torch.device("cpu"))
    return own, share_weights(model, own)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"},
        },
    ],
)
def test_both_models_give_the_same_logits_with_the_same_memory(keys):
    model = olmo2(**keys)
    own, parameters = shared(model)
    tokens = torch.randint(0, 40, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():  # norms at 1 and small weights would hide a swap
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
        expected, found = model(input_ids=tokens).logits, own(tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert {name: p.data_ptr() for name, p in parameters.items()} == {
        name: p.data_ptr() for name, p in model.named_parameters()
    }


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"attention_dropout": 0.1}, "attention_dropout"),
    ],
)
def test_what_its_olmo2_lacks_is_refused_by_name(keys, found):
    from paribus.train.olmo.mapping import as_transformer

    with pytest.raises(ConfigError, match=rf"model: {found}: .*found "):
        as_transformer(olmo2(**keys).config)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(),
        Constant(warmup_steps=7),
        Linear(warmup_steps=7, final_fraction=0.2),
        Linear(),
        Cosine(warmup_steps=7),
        Cosine(final_fraction=0.0),
        WarmupStableDecay(warmup_steps=7, decay_steps=20, final_fraction=0.1),
        WarmupStableDecay(decay_steps=40),
    ],
)
def test_its_schedules_take_our_rates_at_every_step(schedule):
    from paribus.train.olmo.mapping import as_schedule

    own = as_schedule(schedule, 3e-3)
    found = [own.get_lr(3e-3, step, 40) for step in range(1, 41)]
    np.testing.assert_allclose(
        found, [3e-3 * lr_factor(schedule, step, 40) for step in range(1, 41)], rtol=1e-12, atol=1e-18
    )


def test_a_schedule_that_it_lacks_is_refused():
    from paribus.train.olmo.mapping import as_schedule

    with pytest.raises(ConfigError, match="constant, linear, cosine and wsd, found plateau"):
        as_schedule(ReduceOnPlateau(evaluation="heldout"), 3e-3)


def marked(step, rows_BS):
    """Writes the step and the row into one token of every row."""
    rows_BS[:, 5] = (7 * step + np.arange(len(rows_BS))) % 40


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_ranks_loaders_give_the_planned_stream_over_three_epochs_and_after_a_resume(tmp_path, world):
    from paribus.train.olmo.loader import Feed, build_loader

    _, config = token_run(tmp_path, order={"kind": "olmo_core"})
    data, files = config.data, open_token_files(config.data, config.data.files)
    stream = token_stream(data, Seeds(order=9), 8, marked)
    feed = Feed(data, 9, marked, files)
    assert stream.windows_per_epoch == 40
    loaders = [build_loader(feed, 8, rank, world, tmp_path) for rank in range(world)]
    step = 0
    for epoch in (1, 2, 3):
        for loader in loaders:
            loader.reshuffle(epoch)
            loader.batches_processed = 2 if epoch == 1 else 0  # as after a resume
        step += 2 if epoch == 1 else 0
        for batches in zip(*loaders, strict=True):
            rows = torch.stack([batch["input_ids"] for batch in batches], dim=1).flatten(0, 1).numpy()
            index = torch.stack([batch["index"] for batch in batches], dim=1).flatten().numpy()
            found: Batch = as_batch(data, rows.astype(np.int32), files.positions(index))
            assert found.digest() == stream.batches(step).digest(), f"step {step}"
            step += 1
        for loader in loaders:
            loader.reset()
    assert step == 15
