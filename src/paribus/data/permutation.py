"""A shuffle of range(size) that is never stored: any index can be asked for alone, at any size."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paribus.data.generators import key

_Words = NDArray[np.uint64]

# A Feistel network (Luby & Rackoff 1988) that adds modulo the sides of a grid instead of xor-ing bits (Black & Rogaway
# 2002): the grid exceeds the size by less than a row, so that walking a cycle back into the range is rarely needed.
# Under 8 rounds on sides >= 8 no order of up to seven, and no joint place of two among up to 130, is favoured
# (chi-square over 10^6 keys); under 6 rounds some are.
_ROUNDS = 8
_SIDE = np.uint64(8)
_ONE, _HALF = np.uint64(1), np.uint64(32)  # both sides stay below 2^32: a row or a column is half a word
# 2^64 / golden ratio, and the multipliers of SplitMix64 (Steele, Lea & Flood 2014)
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROUND_WORDS = np.array([i * _GOLDEN % 2**64 for i in range(_ROUNDS)], np.uint64)


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> NDArray[np.int64]:
    """Where a shuffle of range(size) puts each index: a bijection for each size and key.

    The three broadcast. size: 1 to 2^63 - 1; key: any 64 bits. The same on every machine."""
    words = [np.asarray(value).astype(np.uint64, copy=False) for value in (index, size, key)]
    shape = np.broadcast_shapes(*(word.shape for word in words))
    indices = np.broadcast_to(words[0], shape).ravel()
    # one size or key for all stays one: half the memory to pass through
    sizes, keys = (word.reshape(1) if word.size == 1 else np.broadcast_to(word, shape).ravel() for word in words[1:])
    assert np.all(indices < sizes), "an index outside range(size)"
    rows = np.maximum(np.sqrt(sizes.astype(np.float64)).astype(np.uint64) + _ONE, _SIDE)
    columns = np.maximum((sizes - _ONE) // rows + _ONE, _SIDE)
    places = _shuffled(indices, rows, columns, keys)
    while (outside := places >= sizes).any():
        some = (word if word.size == 1 else word[outside] for word in (rows, columns, keys))
        places[outside] = _shuffled(places[outside], *some)
    return places.astype(np.int64).reshape(shape)


def shuffle_key(seed: int, purpose: str, *counters: int) -> np.uint64:
    """A key for `permute` that depends on every argument."""
    return np.uint64(key(seed, purpose, *counters) % 2**64)


def nth_key(key: ArrayLike, number: ArrayLike) -> _Words:
    """The key of the number-th shuffle of a family, such as the epochs of a run (the output of SplitMix64)."""
    with np.errstate(over="ignore"):  # scalars warn of the overflow that arrays take for granted
        word = np.asarray(key).astype(np.uint64) + np.asarray(number).astype(np.uint64) * np.uint64(_GOLDEN)
        word = (word ^ word >> np.uint64(30)) * _MIX_1
        word = (word ^ word >> np.uint64(27)) * _MIX_2
        return np.asarray(word ^ word >> np.uint64(31))


def without_replacement(number: int, size: int, key: np.uint64) -> NDArray[np.int64]:
    """The first members of a shuffle of range(size), and of another one where they are used up."""
    rounds, rank = np.divmod(np.arange(number), size)
    return permute(rank, size, nth_key(key, rounds))


def _shuffled(index: _Words, rows: _Words, columns: _Words, key: _Words) -> _Words:
    """One pass of the network over a grid; sides and keys belong to each index, or one to all."""
    row = index // columns  # faster than divmod, which does not know that one divisor serves all
    column = index - row * columns
    for turn, word in enumerate(_ROUND_WORDS):
        if turn % 2:
            column = _moved(column, row, columns, key + word)
        else:
            row = _moved(row, column, rows, key + word)
    row *= columns
    row += column
    return row


def _moved(place: _Words, other: _Words, side: _Words, key: _Words) -> _Words:
    """(place + a hash of the other coordinate) modulo the side."""
    step: _Words = other + key
    step *= _MIX_1
    step ^= step >> _HALF
    step *= _MIX_2
    step >>= _HALF
    step *= side
    step >>= _HALF  # the hash as a fraction of 2^32, times the side
    step += place
    np.minimum(step, step - side, out=step)  # what falls below zero wraps around to the largest words
    return step
