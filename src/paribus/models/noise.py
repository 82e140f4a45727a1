"""Gaussian noise that is never stored, and the way into a model's input embeddings.

Every value is a function of (key, step, row, position, dimension) alone, whatever is generated beside it.
Dimension key: B rows, T positions, D dimensions of an embedding."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_WORD = 2**64 - 1
# 2^64 / golden ratio, and the multipliers of SplitMix64 (Steele, Lea & Flood 2014)
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_HALF = 2**32 - 1


def normal(
    key: int, steps: Sequence[int], rows: Sequence[int], positions: int, dimensions: int, device: torch.device
) -> Tensor:
    """(B, T, D) fp32 standard normal numbers for B pairs of a step and a row. key: 64 bits.

    A chain of SplitMix64 outputs, a counter each, ends in one word a value; its halves are the radius and the angle of
    Box & Muller (1958), in fp64. A radius of 32 bits reaches to 6.8 standard deviations. Rounding to fp32 hides where
    the logarithms and cosines of two devices differ in their last bits."""
    position_T = torch.arange(positions, device=device)
    dimension_D = torch.arange(dimensions, device=device)
    made = torch.empty(len(rows), positions, dimensions, device=device)
    for number, (step, row) in enumerate(
        zip(steps, rows, strict=True)
    ):  # one by one: the words take five times as much
        start = mixed(mixed(key, step), row)
        position_T1 = _mixed(torch.full_like(position_T, _signed(start)), position_T).view(-1, 1)
        made[number] = _box_muller(_mixed(position_T1, dimension_D))
    return made


def mixed(word: int, counter: int) -> int:
    """The counter-th output of SplitMix64 that was started with a word."""
    word = word + (counter + 1) * _GOLDEN & _WORD
    word = (word ^ word >> 30) * _MIX_1 & _WORD
    word = (word ^ word >> 27) * _MIX_2 & _WORD
    return word ^ word >> 31


def _mixed(word: Tensor, counter: Tensor) -> Tensor:
    """`mixed` of tensors. Their int64 holds the same 64 bits: sums and products wrap, shifts must not keep the sign."""
    word = word + (counter + 1) * _signed(_GOLDEN)
    word = (word ^ _shifted(word, 30)) * _signed(_MIX_1)
    word = (word ^ _shifted(word, 27)) * _signed(_MIX_2)
    return word ^ _shifted(word, 31)


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def _shifted(word: Tensor, bits: int) -> Tensor:
    """A logical shift to the right."""
    return (word >> bits) & ((1 << 64 - bits) - 1)


def _box_muller(word: Tensor) -> Tensor:
    radius = (((_shifted(word, 32).double() + 0.5) * 2.0**-32).log() * -2).sqrt()
    angle = (word & _HALF).double() * (2 * math.pi * 2.0**-32)
    return (radius * angle.cos()).float()


@contextlib.contextmanager
def through(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, every forward pass goes on with change(e_BTD) in place of the output e_BTD of the input embeddings.

    model: a transformers model, wrapped in DistributedDataParallel or not, sharded or not."""
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    embeddings = inner.get_input_embeddings()  # type: ignore[operator]
    handle = embeddings.register_forward_hook(lambda module, inputs, output: change(output))
    try:
        yield
    finally:
        handle.remove()
