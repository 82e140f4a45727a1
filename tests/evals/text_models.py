"""Texts, a store with a byte-level tokenizer, and tiny models for evaluations that read files."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from paribus.data.config import TextData
from paribus.evals.build import EvalContext
from paribus.models.config import Architecture
from paribus.models.hf import build_model

SHAPES = {
    "llama": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4},
    "gpt_neox": {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
}


def context(store, **settings) -> EvalContext:
    return EvalContext(TextData(store=str(store), **({"window": 32} | settings)))


def model(kind="llama", seed=0, positions=160, sharpness=8.0):
    """A random transformer of 280 entries whose predictions are far from uniform."""
    built = build_model(Architecture(model_type=kind, config=SHAPES[kind]), 280, positions, seed)
    with torch.no_grad():
        built.get_output_embeddings().weight.mul_(sharpness)
    return built


def write_lines(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


class Bigrams(nn.Module):
    """A model whose next-token probabilities are those of a table, whatever came before the last token."""

    def __init__(self, probability_VV) -> None:
        super().__init__()
        self.register_buffer("logits", torch.tensor(np.log(probability_VV)))

    def forward(self, input_ids, use_cache=False, past_key_values=None):
        return SimpleNamespace(logits=self.logits[input_ids], past_key_values=())


def bigrams(probabilities) -> np.ndarray:
    """(V, V): (last token, next token) -> p as given; the other tokens of such a row share the rest evenly."""
    table_VV = np.full((280, 280), 1 / 280)
    for last in {last for last, _ in probabilities}:
        named = {after: p for (before, after), p in probabilities.items() if before == last}
        table_VV[last] = (1 - sum(named.values())) / (280 - len(named))
        table_VV[last, list(named)] = list(named.values())
    return table_VV


def one_by_one(model, given, scored) -> float:
    """ln P(scored | given): the text alone in a plain pass, in float64."""
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([(given + scored)[:-1]])).logits[0].double()
    losses = torch.log_softmax(logits, -1)[range(len(given) - 1, len(given) + len(scored) - 1), scored]
    return float(losses.sum())
