"""Run a model over frozen rows without leaving a trace on it: no gradient, no dropout, no random number drawn.

Dimension key: N rows in all, B rows of one forward pass, T positions, V entries of the vocabulary."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from paribus.data.config import DataConfig, Seeds
from paribus.errors import DataError
from paribus.insertions.watermarks import Treatment

IGNORE_INDEX = -100
# Logits whose log-softmax is taken at once: on a CPU what stays in the cache and below the size from which the allocator
# maps fresh pages for every call (three times as fast as 2**18 or all at once, measured),
# on a GPU as much as keeps the fp32 copy small against the logits themselves.
_LOGITS_AT_ONCE = {"cpu": 2**17, "cuda": 2**27}

Measure = Callable[[Tensor, slice], Tensor]  # logits_BTV and the rows they belong to -> (B, ...) numbers to keep


class EvalContext(NamedTuple):
    """Where and on whose behalf an evaluation runs."""

    data: DataConfig
    seeds: Seeds = Seeds()
    device: str = "cpu"
    # fp32 whatever the training used: a loss that models share should not depend on how each of them was trained.
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    rank: int = 0  # of the default process group; the ranks share the batches and every rank gets the whole result
    world: int = 1
    console: Console | None = None  # where the progress bar goes; None: no bar
    treatment: Treatment | None = None  # of the run that is judged; None: a bare model, or a run without watermarks


@contextlib.contextmanager
def scoring(model: nn.Module, context: EvalContext) -> Iterator[None]:
    """Put the model into evaluation mode without gradients; afterwards every module is in the mode it was in."""
    was_training = [(module, module.training) for module in model.modules()]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[context.precision]
    device = torch.device(context.device).type
    # FSDP2 keeps the buffers it gathers parameters into: made in inference mode, they could not be trained on.
    is_sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    without_gradients = torch.no_grad() if is_sharded else torch.inference_mode()
    model.eval()
    try:
        with without_gradients, torch.autocast(device, dtype, enabled=context.precision != "fp32"):
            yield
    finally:
        for module, training in was_training:
            module.training = training


def forward(model: nn.Module, tokens_BT: NDArray[np.int32], context: EvalContext) -> Tensor:
    """logits_BTV of a transformers causal LM."""
    tokens = torch.from_numpy(np.ascontiguousarray(tokens_BT)).to(context.device, non_blocking=True).long()
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def score(
    model: nn.Module,
    tokens_NT: NDArray[np.int32],
    batch_size: int,
    measure: Measure,
    context: EvalContext,
    lengths_N: NDArray[np.int64] | None = None,
) -> NDArray[np.floating]:
    """(N, ...) what `measure` keeps of each row's logits, in the order of the rows, the same on every rank.

    lengths_N: of rows that are padded on the right; a pass is as wide as its longest row, and so are its logits.
    Raises DataError if the rows do not fit the model."""
    refuse_unfit(model, tokens_NT)

    def one(rows: slice) -> Tensor:
        width = tokens_NT.shape[1] if lengths_N is None else int(lengths_N[rows].max())
        return measure(forward(model, tokens_NT[rows, :width], context), rows)

    return in_batches(model, len(tokens_NT), batch_size, one, context)


def in_batches(
    model: nn.Module, num_rows: int, batch_size: int, one: Callable[[slice], Tensor], context: EvalContext
) -> NDArray[np.floating]:
    """(N, ...) what `one` gives for the rows of each batch, put together on every rank.

    Batch i goes to rank i mod world, so that a batch holds the same rows, and gives the same numbers, at any world
    size. Results stay on the device until the end: a pass never waits for the one before."""
    starts = range(0, num_rows, batch_size)
    rounds = -(-len(starts) // context.world)
    kept: list[Tensor] = []
    with scoring(model, context), _progress(context, rounds) as advance:
        for turn in range(rounds):
            # A rank without a batch of its own in the last round repeats one: sharded models need every rank.
            start = starts[min(turn * context.world + context.rank, len(starts) - 1)]
            kept.append(one(slice(start, min(start + batch_size, num_rows))))
            advance()
    return _gather(kept, min(batch_size, num_rows), len(starts), context)[:num_rows]


def refuse_unfit(model: nn.Module, tokens_NT: NDArray[np.int32]) -> None:
    """Raise DataError for ids beyond the model's vocabulary and windows beyond its positions: both would be garbage."""
    config = getattr(model, "config", None)
    vocab_size, positions = (getattr(config, key, None) for key in ("vocab_size", "max_position_embeddings"))
    if vocab_size is not None and tokens_NT.max(initial=0) >= vocab_size:
        raise DataError(
            f"evaluation: token id {tokens_NT.max()} is beyond the model's vocabulary of {vocab_size}; "
            "score it on data of its own tokenizer"
        )
    if positions is not None and tokens_NT.shape[1] > positions:
        raise DataError(
            f"evaluation: a window of {tokens_NT.shape[1]} predictions, but the model has {positions} positions; "
            "choose a shorter `window`"
        )


def _gather(kept: list[Tensor], rows: int, num_batches: int, context: EvalContext) -> NDArray[np.floating]:
    """Put the batches of all ranks, `rows` each save the very last, in their order."""
    if context.world == 1:
        return torch.cat(kept).cpu().numpy()
    import torch.distributed as dist

    mine = torch.stack([torch.cat([part, part.new_zeros(rows - len(part), *part.shape[1:])]) for part in kept])
    everyone = [torch.empty_like(mine) for _ in range(context.world)]
    dist.all_gather(everyone, mine)
    batches = torch.stack(everyone, 1).flatten(0, 1)[:num_batches]
    return batches.flatten(0, 1).cpu().numpy()


def token_losses(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """(B, T) cross-entropy in nats, float32; 0 where the target is IGNORE.

    Takes the log-softmax of a few rows at a time: an fp32 copy of all logits never exists."""
    logits, targets = logits_BTV.flatten(0, 1), targets_BT.flatten()
    rows = max(1, _LOGITS_AT_ONCE.get(logits.device.type, 2**27) // logits.shape[-1])
    parts = zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    losses = [F.cross_entropy(x.float(), y, ignore_index=IGNORE_INDEX, reduction="none") for x, y in parts]
    return torch.cat(losses).view_as(targets_BT)


@contextlib.contextmanager
def _progress(context: EvalContext, total: int) -> Iterator[Callable[[], None]]:
    if context.console is None or context.rank:
        yield lambda: None
        return
    with Progress(console=context.console, transient=True, disable=not context.console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=total)
        yield lambda: bar.advance(task)
