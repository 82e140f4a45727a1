"""Tiny models: real transformers architectures with random weights."""

import pytest
import torch

import tiny_runs
from paribus.models.config import Architecture, Preset
from paribus.models.hf import build_model

TINY = {
    "gpt_neox": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4},
    "llama": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "olmo2": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
}


@pytest.fixture(scope="session")
def tiny_models():
    """model_type -> a model with 40 entries (padded to 128) and windows of up to 24 tokens."""
    return {kind: build_model(Architecture(model_type=kind, config=keys), 40, 24, 0) for kind, keys in TINY.items()}


@pytest.fixture
def micro():
    """A micro-neox for symbols of a coin: ids 0, 1 and the start token 2."""
    return build_model(Preset(name="micro-neox"), 3, 24, 0)


@pytest.fixture
def one_thread():
    """Sums in one order, so that numbers can be compared bit for bit with those of other processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def text_store_path(tmp_path_factory):
    """A small text store with a byte-level tokenizer of 280 entries; its start token is 0."""
    return tiny_runs.text_store(tmp_path_factory.mktemp("texts") / "store")
