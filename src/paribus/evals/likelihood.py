"""Log-likelihoods of texts of any length, batched.

Dimension key: N rows in all, B rows of one forward pass, T positions, V entries of the vocabulary."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paribus.data.batches import IGNORE
from paribus.errors import DataError, Diverged
from paribus.evals.scoring import EvalContext, score, token_losses
from paribus.evals.texts import Row


def log_likelihoods(
    model: nn.Module, rows: Sequence[Row], batch_size: int, context: EvalContext
) -> NDArray[np.float64]:
    """(N,) ln P(scored | given), nats, by an fp32 log-softmax.

    Rows are padded on the right, where a causal model does not look; those of like length share a pass.
    Raises DataError, with file and line, for a row that the model has no room for, Diverged if a number is not finite."""
    if not rows:
        return np.zeros(0)
    lengths_N = np.array([len(row.given) + len(row.scored) - 1 for row in rows])
    refuse_long(model, [row.where for row in rows], lengths_N)
    order_N = np.argsort(-lengths_N, kind="stable")
    lengths_N = lengths_N[order_N]
    tokens_NT = np.zeros((len(rows), lengths_N.max()), np.int32)
    targets_NT = np.full(tokens_NT.shape, IGNORE, np.int32)
    for place, index in enumerate(order_N):
        ids, first = [*rows[index].given, *rows[index].scored], len(rows[index].given) - 1
        tokens_NT[place, : len(ids) - 1] = ids[:-1]
        targets_NT[place, first : len(ids) - 1] = rows[index].scored

    def measure(logits_BTV: Tensor, rows: slice) -> Tensor:
        targets_BT = torch.from_numpy(np.ascontiguousarray(targets_NT[rows, : logits_BTV.shape[1]]))
        return -token_losses(logits_BTV, targets_BT.to(logits_BTV.device).long()).double().sum(1)

    found_N = np.empty(len(rows))
    found_N[order_N] = score(model, tokens_NT, batch_size, measure, context, lengths_N)
    bad = np.flatnonzero(~np.isfinite(found_N))
    if len(bad):
        raise Diverged(f"{rows[bad[0]].where}: the likelihood is not finite, as of {len(bad)} of {len(rows)} texts")
    return found_N


def room(model: nn.Module) -> int | None:
    """How many positions the model has; None: no limit that it tells."""
    limit = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None


def refuse_long(model: nn.Module, where: Sequence[str], lengths_N: NDArray[np.int64]) -> None:
    """Raise DataError, with file and line, for the first text of more tokens than the model has positions."""
    limit = room(model)
    if limit is not None and (long := np.flatnonzero(lengths_N > limit)).size:
        raise DataError(
            f"{where[long[0]]}: {lengths_N[long[0]]} tokens, but the model has {limit} positions; shorten it"
        )
