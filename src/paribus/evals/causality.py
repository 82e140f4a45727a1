"""Is a model causal? Alter every token from position t on: no logit before t may change.

Dimension key: B sequences, T positions, V entries of the vocabulary."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paribus.data.generators import generator
from paribus.errors import RunFailed
from paribus.evals.config import CausalityEval
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext, forward, scoring


def causality(config: CausalityEval, model: nn.Module, vocab_size: int, context: EvalContext) -> EvalResult:
    """Compare the logits of random sequences with those of copies whose tokens from t on all differ.

    Both passes have the same shape and so the same kernels, which compute the prefix from the same numbers in the same
    order: a causal model changes by exactly 0, and no tolerance is granted. (Measured 0 for GPT-NeoX, GPT-2, Llama and
    OLMo-2, eager and fused attention, fp32 and bf16, on a CPU.)"""
    length = context.data.window
    draw = generator(config.seed, "causality")
    tokens_BT = draw.integers(0, vocab_size, (config.sequences, length), dtype=np.int32)
    shift_BT = draw.integers(1, vocab_size, (config.sequences, length), dtype=np.int32)
    altered_from = alteration_points(length)
    with scoring(model, context):
        logits_BTV = forward(model, tokens_BT, context).float()
        if not logits_BTV.isfinite().all():
            raise RunFailed("causality: the model's logits are not finite, so that nothing can be compared")
        before, after = [], []
        for t in altered_from:
            change_BTV = (forward(model, alter(tokens_BT, shift_BT, t, vocab_size), context).float() - logits_BTV).abs()
            # nan counts as a change: max() hands it on, and nan is not 0
            before.append(change_BTV[:, :t].max().item())
            after.append(change_BTV[:, t:].max().item())
    return EvalResult(record(config, altered_from, before, after))


def alteration_points(length: int) -> list[int]:
    """Positions, counted from 0, from which tokens are altered: 1, 2, 4, ..., the middle ones and the last."""
    points = {1, length // 3, length // 2, 2 * length // 3, length - 1} | {2**k for k in range(length.bit_length())}
    return sorted(point for point in points if 0 < point < length)


def alter(tokens_BT: NDArray[np.int32], shift_BT: NDArray[np.int32], t: int, vocab_size: int) -> NDArray[np.int32]:
    """Change every token from position t on into another one; shift_BT: in [1, vocab_size)."""
    altered_BT = tokens_BT.copy()
    altered_BT[:, t:] = (tokens_BT[:, t:] + shift_BT[:, t:]) % vocab_size
    return altered_BT


def record(config: CausalityEval, altered_from: list[int], before: list[float], after: list[float]) -> dict[str, Any]:
    """The result: changes are the largest absolute difference of a logit."""
    finite = [value if np.isfinite(value) else None for value in before]
    is_causal = all(value == 0 for value in before)
    return {
        "kind": "causality",
        "version": 1,
        "config": config.model_dump(mode="json"),
        "is_causal": is_causal,
        "altered_from": altered_from,
        "change_before": finite,
        "change_after": [value if np.isfinite(value) else None for value in after],
        "summary": {
            "is_causal": float(is_causal),
            "max_change": max((v for v in finite if v is not None), default=0.0),
        },
    }
