"""Models: published sizes, bits under a seed, causality, and everything that transformers would silently accept."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from paribus.errors import ConfigError
from paribus.models.config import Architecture, ModelConfig, Preset, Pretrained
from paribus.models.hf import build_model
from paribus.models.presets import PRESETS

MICRO = Preset(name="micro-neox")
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "olmo2": LLAMA,
    "gpt_neox": LLAMA,
    "qwen3": {**LLAMA, "num_key_value_heads": 2},
    "opt": OPT,
    "bert": {**LLAMA, "is_decoder": True},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def refusal(config: ModelConfig, vocab_size: int = 100, window: int = 16) -> str:
    with pytest.raises(ConfigError) as caught:
        build_model(config, vocab_size, window, seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "vocab_size", "published"),
    [  # Biderman et al. 2023, table 1, and the checkpoints on the hub
        ("pythia-14m", 50304, 14_067_712),
        ("pythia-70m", 50304, 70_426_624),
        ("pythia-160m", 50304, 162_322_944),
        ("decoder-13m", 32000, 13_012_224),
    ],
)
def test_a_preset_has_another_size_than_published(name: str, vocab_size: int, published: int) -> None:
    shape = PRESETS[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(shape.model_type, vocab_size=vocab_size, **shape.config)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == published


def test_the_vocabulary_is_not_padded() -> None:
    model = build_model(Preset(name="pythia-14m"), 50254, 100, seed=0)  # the NeoX tokenizer's entries
    assert model.config.vocab_size == 50304
    assert model.num_parameters() == 14_067_712
    assert model.dtype == torch.float32
    assert not model.config.use_cache


def test_a_seed_gives_other_bits_or_touches_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(MICRO, 100, 16, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (build_model(MICRO, 100, 16, seed=seed).state_dict() for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["gpt_neox.embed_in.weight"], other["gpt_neox.embed_in.weight"])


PRESET_NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("pythia-70m", "pythia-160m") else []) for name in PRESETS
]


@pytest.mark.parametrize("name", [*PRESET_NAMES, *ARCHITECTURES])
def test_altering_tokens_from_t_on_changes_a_logit_before_t(name: str) -> None:
    config: ModelConfig
    if name in PRESETS:
        config = Preset.model_validate({"name": name})
    else:
        config = Architecture(model_type=name, config=ARCHITECTURES[name])
    model = build_model(config, 100, 12, seed=0).eval()
    original_T = torch.randint(0, 100, (12,), generator=torch.Generator().manual_seed(0))
    altered_BT = original_T.repeat(12, 1)
    for t in range(12):
        altered_BT[t, t:] = (altered_BT[t, t:] + 1) % 100
    with torch.no_grad():
        logits_TV, *logits_BTV = model(input_ids=torch.cat([original_T[None], altered_BT])).logits
    for t in range(12):
        torch.testing.assert_close(logits_BTV[t][:t], logits_TV[:t], rtol=0, atol=1e-6)
        assert not torch.allclose(logits_BTV[t][t], logits_TV[t], atol=1e-4), "an altered token has no effect at all"


def test_an_encoder_is_trained() -> None:
    assert "bert is not causal" in refusal(Architecture(model_type="bert", config=LLAMA))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Architecture(model_type="gtp2"), "model.model_type: 'gtp2' is unknown to transformers; did you mean gpt2?"),
        (Architecture(model_type="t5"), "model.model_type: 't5' is no causal language model"),
        (Architecture(model_type="gpt2", config={"n_heads": 2}), "gpt2 has no such key; did you mean n_head"),
        (Architecture(model_type="gpt2", config={"vocab_size": 9}), "the vocabulary comes from the data"),
        (Architecture(model_type="llama", config={"hidden_size": "x"}), "expected int, got str"),
        (Architecture(model_type="gpt_neox", config={**LLAMA, "num_attention_heads": 3}), "not divisible"),
        (Architecture(model_type="gpt2", config={**GPT2, "n_positions": 8}), "n_positions is 8, but a window has 16"),
        (Pretrained(path="/nowhere/at/all"), "model.path: /nowhere/at/all: no such folder"),
    ],
)
def test_a_mistake_is_accepted(config: ModelConfig, expected: str) -> None:
    assert expected in refusal(config)


def test_special_tokens_leave_an_embedding_untrained() -> None:
    model = build_model(Architecture(model_type="opt", config=OPT), 100, 16, seed=0)
    assert model.get_input_embeddings().padding_idx is None


def test_a_window_beyond_the_models_positions_is_cut() -> None:
    model = build_model(Architecture(model_type="gpt2", config=GPT2), 100, 1500, seed=0)
    assert model.config.n_positions == 1500
    assert model(input_ids=torch.zeros(1, 1500, dtype=torch.int64)).logits.shape == (1, 1500, 128)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    build_model(Architecture(model_type="gpt2", config=GPT2), 100, 16, seed=3).save_pretrained(folder)
    return folder


def test_a_folder_gives_other_weights_than_were_saved(saved: Path) -> None:
    loaded = build_model(Pretrained(path=str(saved)), 100, 16, seed=9).state_dict()
    original = build_model(Architecture(model_type="gpt2", config=GPT2), 100, 16, seed=3).state_dict()
    assert all(torch.equal(loaded[name], original[name]) for name in original)
    scratch = build_model(Pretrained(path=str(saved), init="scratch"), 100, 2000, seed=3)
    assert scratch.config.n_positions == 2000
    assert scratch.transformer.wpe.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_folder_that_does_not_fit_is_used(saved: Path, tmp_path: Path) -> None:
    assert "its vocabulary has 128 entries, but the data has 129 ids" in refusal(Pretrained(path=str(saved)), 129)
    assert "n_positions is 1024, but a window has 1025" in refusal(Pretrained(path=str(saved)), window=1025)
    assert "holds no config.json" in refusal(Pretrained(path=str(tmp_path)))


def test_missing_or_pickled_weights_are_made_up(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(saved, folder)
    weights = load_file(folder / "model.safetensors")
    missing = weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights are missing, the first is transformer.h.1.mlp.c_fc.weight" in refusal(
        Pretrained(path=str(folder))
    )
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "transformer.h.1.mlp.c_fc.weight": missing}, folder / "pytorch_model.bin")
    assert "cannot be loaded" in refusal(Pretrained(path=str(folder)))
