"""From our settings to OLMo-core's own objects: the model, its optimizer, its schedule. What has no counterpart is refused.

Written against ai2-olmo-core 3.0.0."""

import math
from collections.abc import Mapping

from olmo_core.config import DType
from olmo_core.nn.attention import AttentionBackendName
from olmo_core.nn.conversion.state_mapping import TemplatePlaceholder
from olmo_core.nn.feed_forward import FeedForwardConfig
from olmo_core.nn.hf.convert import get_converter_from_hf
from olmo_core.nn.transformer import Transformer, TransformerBlockType, TransformerConfig
from olmo_core.optim import AdamWConfig, OptimGroupOverride
from olmo_core.optim.scheduler import WSD, ConstantWithWarmup, CosWithWarmup, LinearWithWarmup, Scheduler
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from paribus.errors import ConfigError
from paribus.train.config import AdamW, Constant, Cosine, Linear, Schedule, WarmupStableDecay

NO_CLIPPING = math.inf  # OLMo-core measures the gradient only where it clips


def as_transformer(config: PreTrainedConfig) -> TransformerConfig:
    """OLMo-core's settings of the very model that transformers calls olmo2.

    Raises ConfigError for another architecture, and for what OLMo-core's OLMo-2 does not have."""
    if config.model_type != "olmo2":
        raise ConfigError(f"model: launch.engine: olmo_core trains olmo2, found {config.model_type}")
    rope = config.rope_parameters
    expected = {
        "tie_word_embeddings": (config.tie_word_embeddings, False),
        "attention_bias": (config.attention_bias, False),
        "attention_dropout": (config.attention_dropout, 0.0),
        "hidden_act": (config.hidden_act, "silu"),
        "rope_parameters.rope_type": (rope["rope_type"], "default"),
    }
    for key, (found, wanted) in expected.items():
        if found != wanted:
            raise ConfigError(f"model: {key}: launch.engine: olmo_core trains with {wanted}, found {found}")
    return TransformerConfig.llama_like(
        d_model=config.hidden_size,
        vocab_size=config.vocab_size,
        n_layers=config.num_hidden_layers,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        feed_forward=FeedForwardConfig(hidden_size=config.intermediate_size, bias=False, dtype=DType.float32),
        block_name=TransformerBlockType.reordered_norm,
        qk_norm=True,
        layer_norm_eps=config.rms_norm_eps,
        rope_theta=rope["rope_theta"],
        attn_backend=AttentionBackendName.torch,
    )


def share_weights(source: PreTrainedModel, model: Transformer) -> dict[str, nn.Parameter]:
    """Let OLMo-core's model compute with the memory of the transformers model: what trains one, trains the other.

    Returns OLMo-core's parameters under their transformers names; every parameter has exactly one counterpart."""
    given, own = dict(source.named_parameters()), dict(model.named_parameters())
    bounds = {TemplatePlaceholder.LAYER: source.config.num_hidden_layers}
    mappings = get_converter_from_hf("olmo2").get_mappings(given, bounds)
    names: Mapping[str, str] = {mapping.source_keys[0]: mapping.dest_keys[0] for mapping in mappings}
    assert set(names) == set(given)
    assert sorted(names.values()) == sorted(own)
    for name, counterpart in names.items():
        assert own[counterpart].shape == given[name].shape, name
        own[counterpart].data = given[name].data
    return {name: own[counterpart] for name, counterpart in names.items()}


def as_optimizer(config: AdamW, model: Transformer) -> AdamWConfig:
    """AdamW with our groups: matrices and embeddings are decayed, vectors are not."""
    vectors = [name for name, parameter in model.named_parameters() if parameter.ndim < 2]
    return AdamWConfig(
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
        group_overrides=[OptimGroupOverride(params=vectors, opts={"weight_decay": 0.0})],
    )


def as_schedule(schedule: Schedule, lr: float) -> Scheduler:
    """The scheduler that takes the rates of `optim.lr_factor`, to rounding. Raises ConfigError where there is none."""
    warmup = schedule.warmup_steps
    match schedule:
        case Constant():
            return ConstantWithWarmup(warmup=warmup)
        case Linear(final_fraction=floor):
            return LinearWithWarmup(warmup=warmup, alpha_f=floor)
        case Cosine(final_fraction=floor):
            return CosWithWarmup(warmup=warmup, alpha_f=floor)
        case WarmupStableDecay(final_fraction=floor, decay_steps=decay):
            return WSD(warmup=warmup, decay=decay, decay_fraction=None, decay_min_lr=floor * lr)
        case _:
            raise ConfigError(f"train.schedule: OLMo-core has constant, linear, cosine and wsd, found {schedule.kind}")
