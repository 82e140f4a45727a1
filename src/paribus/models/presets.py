"""Named architectures: what a preset is made of, as keys of the architecture's own transformers config."""

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """A transformers `model_type` and the keys of its config, without the vocabulary."""

    model_type: str
    config: dict[str, Any]


def _neox(layers: int, width: int, heads: int, **more: Any) -> Shape:
    """A GPT-NeoX: parallel residual, rotary over a quarter of each head, feed-forward four times as wide."""
    keys = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return Shape("gpt_neox", {**keys, "intermediate_size": 4 * width, "tie_word_embeddings": False, **more})


def _llama(layers: int, width: int, heads: int, feed_forward: int) -> Shape:
    """A Llama with tied embeddings; `feed_forward` is about 8/3 of the width, as its three matrices want (Shazeer 2020)."""
    keys = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return Shape("llama", {**keys, "intermediate_size": feed_forward, "tie_word_embeddings": True})


# Pythia: Biderman et al. 2023, table 1 and the published configs. With the NeoX vocabulary padded to 50,304 they hold
# 14,067,712, 70,426,624 and 162,322,944 parameters. decoder-13m with 32,000 entries: 13,012,224.
PRESETS: dict[str, Shape] = {
    "pythia-14m": _neox(6, 128, 4),
    "pythia-70m": _neox(6, 512, 8),
    "pythia-160m": _neox(12, 768, 12),
    "decoder-13m": _llama(6, 256, 4, 704),
    "tiny-neox": _neox(3, 128, 4, tie_word_embeddings=True),
    "tiny-llama": _llama(3, 128, 4, 352),
    "micro-neox": _neox(2, 64, 4),
}
