"""Any transformers causal language model, from a preset, an architecture and its keys, or a folder or hub id."""

import dataclasses
import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from paribus.errors import ConfigError, ParibusError
from paribus.models import olmo
from paribus.models.config import Architecture, ModelConfig, Preset, Pretrained
from paribus.models.origin import locate
from paribus.models.presets import PRESETS, Shape
from paribus.models.quiet import without_bars

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def build_model(config: ModelConfig, vocab_size: int, window: int, seed: int) -> PreTrainedModel:
    """Build the causal LM of a `model:` section, fp32, on the CPU.

    Deterministic: the same seed gives the same bits, and PyTorch's global random state is neither read nor changed.
    vocab_size: ids of the data; window: tokens a forward pass. Scratch models get at least so many of both.
    Raises ConfigError when the architecture, a key of it, or the folder or hub id cannot be used as asked."""
    with _keyed_rng(seed):
        match config:
            case Preset(name=name):
                model = _scratch(_new_config(PRESETS[name], _padded(vocab_size, config.vocab_multiple), window))
            case Architecture():
                shape = Shape(config.model_type, _checked_keys(config.model_type, config.config))
                model = _scratch(_new_config(shape, _padded(vocab_size, config.vocab_multiple), window))
            case Pretrained():
                model = _pretrained(config, vocab_size, window)
        _refuse_leaks(model, window)
    model.config.use_cache = False  # a key-value cache is of no use to whole windows
    return model


@contextmanager
def _keyed_rng(seed: int) -> Iterator[None]:
    """Random numbers of this block come from the weight seed; the CPU generator's state is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _padded(vocab_size: int, multiple: int) -> int:
    return -(-vocab_size // multiple) * multiple


def _scratch(config: PreTrainedConfig) -> PreTrainedModel:
    try:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # whatever an architecture's constructor raises is about the keys it was given
        raise ConfigError(f"model: {config.model_type} cannot be built from these keys: {_one_line(error)}") from error


def _new_config(shape: Shape, vocab_size: int, window: int) -> PreTrainedConfig:
    """The architecture's config with the data's vocabulary; special tokens are the tokenizer's affair, not the model's:
    a default pad id would leave one embedding untrained."""
    keys = {**dict.fromkeys(SPECIAL_TOKENS), **shape.config, "vocab_size": vocab_size}
    try:
        config = AutoConfig.for_model(shape.model_type, **keys)
    except Exception as error:  # strict dataclasses and hand-written checks raise types of their own
        raise ConfigError(f"model.config: {shape.model_type} refuses these keys: {_one_line(error)}") from error
    _fit_positions(config, window, grow=True, given=shape.config)
    return config


def _fit_positions(
    config: PreTrainedConfig, window: int, *, grow: bool, given: Mapping[str, Any] | None = None
) -> None:
    """Give a scratch model room for the window; a limit that was asked for, or trained, is not overruled."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit >= window:
        return
    name = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    if grow and not {name, "max_position_embeddings"} & set(given or {}):
        config.max_position_embeddings = window
        return
    raise ConfigError(
        f"model: {name} is {limit}, but a window has {window} tokens; shorten data.window or raise {name}"
    )


def _checked_keys(model_type: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what transformers would silently accept: an unknown architecture, an unknown key, a vocabulary of its own."""
    if model_type not in CONFIG_MAPPING or model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what = "is no causal language model" if model_type in CONFIG_MAPPING else "is unknown to transformers"
        raise ConfigError(
            f"model.model_type: {model_type!r} {what}{_near(model_type, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
        )
    config_class = CONFIG_MAPPING[model_type]
    known = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    for name in keys:
        if name == "vocab_size":
            raise ConfigError("model.config.vocab_size: the vocabulary comes from the data; remove this key")
        if name not in known:
            raise ConfigError(f"model.config.{name}: {model_type} has no such key{_near(name, known)}")
    return dict(keys)


def _pretrained(config: Pretrained, vocab_size: int, window: int) -> PreTrainedModel:
    where, origin = f"model.path: {config.path}", locate(config)
    source, is_folder = origin.folder or config.path, origin.folder is not None
    with _loading(where, is_folder):
        if origin.kind == "olmo" and origin.folder is not None:
            found = olmo.read_config(origin.folder)
        else:
            found = AutoConfig.from_pretrained(source, revision=config.revision)
    if found.vocab_size < vocab_size:
        raise ConfigError(f"{where}: its vocabulary has {found.vocab_size} entries, but the data has {vocab_size} ids")
    _fit_positions(found, window, grow=config.init == "scratch")
    if config.init == "scratch":
        return _scratch(found)
    with _loading(where, is_folder):
        if origin.kind == "olmo" and origin.folder is not None:
            return olmo.read_model(origin.folder)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            revision=config.revision,
            dtype=torch.float32,
            use_safetensors=True,  # no pickle is ever loaded
            output_loading_info=True,
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ConfigError(f"{where}: {len(missing)} weights are missing, the first is {missing[0]}")
    return model


@contextmanager
def _loading(where: str, is_folder: bool) -> Iterator[None]:
    """Turn whatever a folder or the hub raises into one line; what the hub says of its attempts is left out."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with without_bars():
            yield
    except ParibusError:
        raise
    except Exception as error:  # OSError, ValueError, safetensors' and huggingface_hub's own: all mean "not loadable"
        hint = "" if is_folder else "; not a local folder, and the hub did not give it (offline, misspelt or private?)"
        raise ConfigError(f"{where}: cannot be loaded{hint}: {_one_line(error)}") from error
    finally:
        hub.setLevel(level)


@torch.no_grad()
def _refuse_leaks(model: PreTrainedModel, window: int) -> None:
    """Refuse a model whose logits at a position depend on later tokens: it would learn to copy the answer.

    Logits of equal prefixes are equal up to rounding (1e-5 of their size); attention that looks ahead moves them by 1e-2."""
    length = min(window, 8)
    tokens_BT = torch.arange(2 * length).view(2, length) % model.config.vocab_size
    tokens_BT[1, : length // 2] = tokens_BT[0, : length // 2]
    was_training = model.training
    try:
        logits_BTV = model.eval()(input_ids=tokens_BT, use_cache=False).logits
    except Exception as error:  # an architecture that cannot run a plain forward pass cannot be trained here
        raise ConfigError(f"model: {model.config.model_type} fails its first pass: {_one_line(error)}") from error
    finally:
        model.train(was_training)
    change = (logits_BTV[0, : length // 2] - logits_BTV[1, : length // 2]).abs()
    if length > 1 and not change.max() <= 1e-5 * logits_BTV.abs().max():
        raise ConfigError(
            f"model: {model.config.model_type} is not causal: altering later tokens changes earlier logits"
            " (an encoder may need `is_decoder: true` in model.config)"
        )


def _near(word: str, known: Any) -> str:
    matches = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""


def _one_line(error: Exception) -> str:
    """The error's first 200 characters on one line; some libraries write paragraphs."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
