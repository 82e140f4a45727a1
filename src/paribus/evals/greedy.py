"""Greedy decoding, batched, with a key-value cache.

Dimension key: N prompts in all, B prompts of one batch, T positions, V entries of the vocabulary, L tokens decoded."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paribus.evals.likelihood import refuse_long
from paribus.evals.scoring import EvalContext, in_batches, refuse_unfit
from paribus.evals.texts import Prompt


def continuations(
    model: nn.Module, prompts: Sequence[Prompt], batch_size: int, context: EvalContext
) -> list[list[int]]:
    """The `num_tokens` most likely next tokens of each prompt, one after another; of equal ones the first id.

    The prompts of a batch start together, cut to the shortest; a longer one is fed its own tokens first. So there is no
    padding, no mask, and no position but the true ones, whatever the architecture. Nothing ends early: an end-of-text
    token is a token. Raises DataError, with file and line, for a prompt that the model has no room for."""
    lengths_N = np.array([len(prompt.tokens) for prompt in prompts])
    refuse_long(model, [prompt.where for prompt in prompts], lengths_N + [prompt.num_tokens for prompt in prompts] - 1)
    order_N = np.array(sorted(range(len(prompts)), key=lambda i: (prompts[i].num_tokens, lengths_N[i])))
    lengths_N = lengths_N[order_N]
    num_tokens_N = np.array([prompts[index].num_tokens for index in order_N])
    tokens_NT = np.zeros((len(prompts), lengths_N.max()), np.int32)
    for place, index in enumerate(order_N):
        tokens_NT[place, : lengths_N[place]] = prompts[index].tokens
    refuse_unfit(model, tokens_NT)
    most = int(num_tokens_N.max())

    def one(rows: slice) -> Tensor:
        # All ranks take as many steps in a turn as the longest of their batches needs: sharded models need every rank.
        share = batch_size * context.world
        turn = slice(rows.start // share * share, rows.start // share * share + share)
        first = int(lengths_N[turn].min())
        stop = int((lengths_N[turn] + num_tokens_N[turn]).max())
        return decode(model, tokens_NT[rows], lengths_N[rows], (first, stop, most), context)

    found_NL = in_batches(model, len(prompts), batch_size, one, context)
    decoded: list[list[int]] = [[]] * len(prompts)
    for place, index in enumerate(order_N):
        decoded[index] = found_NL[place, : num_tokens_N[place]].tolist()
    return decoded


def decode(
    model: nn.Module,
    tokens_BT: NDArray[np.int32],
    lengths_B: NDArray[np.int64],
    span: tuple[int, int, int],
    context: EvalContext,
) -> Tensor:
    """(B, L) the tokens after each prompt, as far as they were decoded.

    span: the length of the shortest prompt, that of the longest text, and L."""
    first, stop, most = span
    width = stop + most  # room for what a row decodes beyond its own need
    text = torch.zeros((len(tokens_BT), width), dtype=torch.long)
    text[:, : min(tokens_BT.shape[1], width)] = torch.from_numpy(tokens_BT[:, :width]).long()
    text = text.to(context.device)
    lengths = torch.from_numpy(lengths_B).to(context.device)
    cache = None
    for position in range(first, stop):
        fed = text[:, :first] if cache is None else text[:, position - 1 : position]
        output = model(input_ids=fed, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        likeliest_B = output.logits[:, -1].float().argmax(-1)
        text[:, position] = torch.where(lengths > position, text[:, position], likeliest_B)
    places = lengths[:, None] + torch.arange(most, device=text.device)
    return text.gather(1, places)
