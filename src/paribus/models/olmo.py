"""OLMo's own checkpoints and their Hugging Face form: the same tensors under other names, exact in both directions.

Names and structure: olmo/model.py of ai2-olmo 0.6.0 (OLMoSequentialBlock); Olmo2ForCausalLM for the blocks that
normalise after attention and feed-forward, OlmoForCausalLM for those that normalise before without any weight."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoConfig,
    OlmoForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from paribus.errors import ConfigError
from paribus.models.olmo_files import read_tensors, write_tensors
from paribus.models.origin import OLMO_CONFIG, OPTIMIZER_FILES, olmo_model
from paribus.models.quiet import without_bars
from paribus.rundir import write_text

# what a key must be for the Hugging Face architecture to compute the same, and ai2-olmo's default where it is absent
_EITHER = {
    "activation_type": ("swiglu", "swiglu"),
    "block_type": ("sequential", "sequential"),
    "block_group_size": (1, 1),
    "alibi": (False, False),
    "rope": (True, False),
    "include_bias": (False, True),
    "embedding_layer_norm": (False, False),
    "scale_logits": (False, False),
    "residual_dropout": (0.0, 0.1),
    "embedding_dropout": (0.0, 0.1),
}
_OLMO2 = {
    "norm_after": (True, False),
    "attention_layer_norm": (True, False),
    "attention_layer_norm_with_affine": (True, True),
    "layer_norm_type": ("rms", "default"),
    "layer_norm_with_affine": (True, True),
    "clip_qkv": (None, None),
}
_OLMO1 = {
    "norm_after": (False, False),
    "attention_layer_norm": (False, False),
    "layer_norm_type": ("default", "default"),
    "layer_norm_with_affine": (False, True),
    "layer_norm_eps": (1e-5, 1e-5),  # OlmoLayerNorm has no other
}


class _Part(NamedTuple):
    """A tensor of the Hugging Face model, as rows of a native one."""

    name: str
    rows: int


def read_config(folder: Path) -> PreTrainedConfig:
    """The Hugging Face config of an OLMo folder. Raises ConfigError for an architecture that has no such form."""
    path = folder / OLMO_CONFIG
    try:
        found = dict(yaml.safe_load(path.read_text())["model"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: not the config of an OLMo checkpoint: a mapping with `model` is expected"
        ) from error
    _refuse_other(found, _EITHER, path)
    is_olmo2 = bool(found.get("norm_after", False))
    _refuse_other(found, _OLMO2 if is_olmo2 else _OLMO1, path)
    if (bias := found.get("bias_for_layer_norm")) not in (None, False):
        raise ConfigError(f"{path}: model.bias_for_layer_norm is {bias}; False is expected")
    heads = found.get("n_heads", 12)
    width = found.get("d_model", 768)
    hidden = found.get("mlp_hidden_size") or found.get("mlp_ratio", 4) * width
    keys = {
        "vocab_size": found.get("embedding_size", 50304) or found.get("vocab_size", 50257),
        "hidden_size": width,
        "intermediate_size": hidden // 2,  # SwiGLU halves it
        "num_hidden_layers": found.get("n_layers", 12),
        "num_attention_heads": heads,
        "num_key_value_heads": found.get("n_kv_heads") or (1 if found.get("multi_query_attention") else heads),
        "max_position_embeddings": found.get("max_sequence_length", 1024),
        "tie_word_embeddings": found.get("weight_tying", True),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(found.get("rope_theta", 10_000))},
        "attention_dropout": found.get("attention_dropout", 0.1),
        "initializer_range": found.get("init_std", 0.02),
        "eos_token_id": found.get("eos_token_id", 50256),
        "pad_token_id": None,  # its embedding would never be trained
    }
    if is_olmo2:
        return Olmo2Config(**keys, rms_norm_eps=found.get("layer_norm_eps", 1e-5))
    return OlmoConfig(**keys, clip_qkv=found.get("clip_qkv"))


def read_model(folder: Path) -> PreTrainedModel:
    """The model of an OLMo folder in its Hugging Face form, fp32, on the CPU."""
    config, path = read_config(folder), olmo_model(folder)
    tensors = to_hf(_clean(read_tensors(path)), config, path)
    kind = Olmo2ForCausalLM if isinstance(config, Olmo2Config) else OlmoForCausalLM
    with without_bars():
        model: PreTrainedModel = kind.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    return model


def to_hf(native: Mapping[str, Tensor], config: PreTrainedConfig, where: Path) -> dict[str, Tensor]:
    """Tensors under OLMo's names -> the same ones under those of transformers: fused ones are split into rows.

    Weights, and moments of the optimizer alike. Raises ConfigError, naming the tensor, when the two do not match."""
    layout = dict(_layout(config))
    if differing := sorted(layout.keys() ^ native.keys()):
        what = "is missing" if differing[0] in layout else "has no place in the model that config.yaml describes"
        raise ConfigError(f"{where}: {differing[0]} {what} ({len(differing)} tensors differ)")
    found: dict[str, Tensor] = {}
    for name, parts in layout.items():
        rows = sum(part.rows for part in parts)
        if len(native[name]) != rows:
            raise ConfigError(f"{where}: {name} has {len(native[name])} rows, config.yaml says {rows}")
        pieces = torch.split(native[name], [part.rows for part in parts])
        # memory of their own: the pieces of one tensor would be saved as one
        found |= {part.name: piece.clone() for part, piece in zip(parts, pieces, strict=True)}
    return found


def from_hf(tensors: Mapping[str, Tensor], config: PreTrainedConfig) -> dict[str, Tensor]:
    """The inverse of `to_hf`; the tensors of a whole state dict, of which a tied head is left out."""
    return {name: torch.cat([tensors[part.name] for part in parts]) for name, parts in _layout(config)}


def write_native(model: PreTrainedModel, folder: Path) -> None:
    """Write an Olmo2 or Olmo model as the trainer of ai2-olmo 0.6.0 reads it (`load_state_dict`): weights and config.

    Name the folder step<N>-unsharded; it must not exist. Raises ConfigError for another architecture."""
    if model.config.model_type not in ("olmo2", "olmo"):
        raise ConfigError(f"{folder}: a model of type {model.config.model_type} has no native OLMo form")
    folder.mkdir(parents=True)
    write_tensors(from_hf(model.state_dict(), model.config), folder / "model.safetensors")
    write_text(folder / OLMO_CONFIG, yaml.safe_dump({"model": _native_config(model.config)}, sort_keys=False))


def write_training_state(source: Path, folder: Path) -> None:
    """Write an OLMo folder's weights and optimizer state as the checkpoint of a run holds them."""
    model = read_model(source)
    path = next(source / name for name in OPTIMIZER_FILES if (source / name).is_file())
    states = _states(read_tensors(path), path)
    tensors: dict[str, Tensor] = {}
    for part in ("exp_avg", "exp_avg_sq"):
        native = {name: state[part] for name, state in states.items() if part in state}
        tensors |= {
            f"{part}/{name}": moment.to(torch.float32) for name, moment in to_hf(native, model.config, path).items()
        }
    for name, parts in _layout(model.config):
        step = torch.as_tensor(states[name]["step"], dtype=torch.float32).reshape(())
        tensors |= {f"step/{part.name}": step.clone() for part in parts}
    with without_bars():
        model.save_pretrained(folder)
    save_file(tensors, folder / "optimizer.safetensors")


def _states(found: Mapping[str, Any], path: Path) -> dict[str, Mapping[str, Any]]:
    """The optimizer's state by parameter; DDP numbers the parameters and names them in the groups."""
    try:
        names = {
            number: name
            for group in found["param_groups"]
            for number, name in zip(group["params"], group["param_names"], strict=True)
        }
        return _clean({names.get(key, key): state for key, state in found["state"].items()})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}: not the optimizer state of an OLMo checkpoint: {error!r}") from error


def _clean(named: Mapping[str, Any]) -> dict[str, Any]:
    """Without what FSDP and DDP put into names."""
    return {name.replace("_fsdp_wrapped_module.", "").removeprefix("module."): value for name, value in named.items()}


def _layout(config: PreTrainedConfig) -> Iterator[tuple[str, list[_Part]]]:
    """Every native tensor, and the parts of it that have names of their own in transformers, in the order of its rows."""
    width, hidden = config.hidden_size, config.intermediate_size
    shared = width // config.num_attention_heads * config.num_key_value_heads
    yield "transformer.wte.weight", [_Part("model.embed_tokens.weight", config.vocab_size)]
    for layer in range(config.num_hidden_layers):
        native, ours = f"transformer.blocks.{layer}", f"model.layers.{layer}"
        attention = [("q_proj", width), ("k_proj", shared), ("v_proj", shared)]
        yield f"{native}.att_proj.weight", [_Part(f"{ours}.self_attn.{name}.weight", rows) for name, rows in attention]
        yield f"{native}.attn_out.weight", [_Part(f"{ours}.self_attn.o_proj.weight", width)]
        # SwiGLU of olmo/model.py multiplies its first half by the SiLU of its second
        gated = [_Part(f"{ours}.mlp.{name}_proj.weight", hidden) for name in ("up", "gate")]
        yield f"{native}.ff_proj.weight", gated
        yield f"{native}.ff_out.weight", [_Part(f"{ours}.mlp.down_proj.weight", width)]
        if config.model_type == "olmo2":
            yield f"{native}.q_norm.weight", [_Part(f"{ours}.self_attn.q_norm.weight", width)]
            yield f"{native}.k_norm.weight", [_Part(f"{ours}.self_attn.k_norm.weight", shared)]
            yield f"{native}.attn_norm.weight", [_Part(f"{ours}.post_attention_layernorm.weight", width)]
            yield f"{native}.ff_norm.weight", [_Part(f"{ours}.post_feedforward_layernorm.weight", width)]
    if config.model_type == "olmo2":
        yield "transformer.ln_f.weight", [_Part("model.norm.weight", width)]
    if not config.tie_word_embeddings:
        yield "transformer.ff_out.weight", [_Part("lm_head.weight", config.vocab_size)]


def _native_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The `model` section of OLMo's config."""
    fixed = {
        key: value for key, (value, _) in {**_EITHER, **(_OLMO2 if config.model_type == "olmo2" else _OLMO1)}.items()
    }
    return {
        **fixed,
        "d_model": config.hidden_size,
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "mlp_hidden_size": 2 * config.intermediate_size,
        "rope_theta": int(config.rope_parameters["rope_theta"]),
        "attention_dropout": config.attention_dropout,
        "bias_for_layer_norm": False,
        "layer_norm_eps": config.rms_norm_eps if config.model_type == "olmo2" else 1e-5,
        "clip_qkv": getattr(config, "clip_qkv", None),
        "max_sequence_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "embedding_size": config.vocab_size,
        "weight_tying": config.tie_word_embeddings,
        "init_std": config.initializer_range,
        "eos_token_id": config.eos_token_id if isinstance(config.eos_token_id, int) else 0,
        "pad_token_id": config.pad_token_id if isinstance(config.pad_token_id, int) else 0,
    }


def _refuse_other(found: Mapping[str, Any], expected: Mapping[str, tuple[Any, Any]], path: Path) -> None:
    for key, (value, default) in expected.items():
        if (given := found.get(key, default)) != value:
            raise ConfigError(
                f"{path}: model.{key} is {given}, but the Hugging Face form of OLMo knows only {value}: not convertible"
            )
