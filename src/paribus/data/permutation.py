"""A shuffle of range(size) that is never stored: any index can be asked for alone, at any size."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from paribus.data.generators import key

_Words = NDArray[np.uint64]

# A Feistel network (Luby & Rackoff 1988) that adds modulo the sides of a grid instead of xor-ing bits (Black & Rogaway
# 2002): the grid exceeds the size by less than a row, so that walking a cycle back into the range is rarely needed.
# 8 rounds on sides >= 8 make all 720 orders of six equally likely (chi-square over 120,000 keys); 6 rounds, or sides
# close to the square root of six, do not.
_ROUNDS = 8
_SIDE = np.uint64(8)
_ONE, _HALF = np.uint64(1), np.uint64(32)  # both sides stay below 2^32: a row or a column is half a word
# 2^64 / golden ratio, and the multipliers of SplitMix64 (Steele, Lea & Flood 2014)
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ROUND_WORDS = [np.uint64(i * _GOLDEN % 2**64) for i in range(_ROUNDS)]


def permute(index: ArrayLike, size: ArrayLike, key: ArrayLike) -> NDArray[np.int64]:
    """Where a shuffle of range(size) puts each index: a bijection for each size and key.

    The three broadcast. size: 1 to 2^63 - 1; key: any 64 bits. The same on every machine."""
    words = np.broadcast_arrays(*(np.asarray(value).astype(np.uint64) for value in (index, size, key)))
    indices, sizes, keys = (word.ravel() for word in words)
    assert np.all(indices < sizes), "an index outside range(size)"
    rows = np.maximum(np.sqrt(sizes.astype(np.float64)).astype(np.uint64) + _ONE, _SIDE)
    columns = np.maximum((sizes - _ONE) // rows + _ONE, _SIDE)
    places = _shuffled(indices, rows, columns, keys)
    while (outside := places >= sizes).any():
        places[outside] = _shuffled(places[outside], rows[outside], columns[outside], keys[outside])
    return places.astype(np.int64).reshape(words[0].shape)


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


def _shuffled(index: _Words, rows: _Words, columns: _Words, key: _Words) -> _Words:
    row, column = np.divmod(index, columns)
    for turn, word in enumerate(_ROUND_WORDS):
        if turn % 2:
            column = _moved(column, row, columns, key + word)
        else:
            row = _moved(row, column, rows, key + word)
    return row * columns + column


def _moved(place: _Words, other: _Words, side: _Words, key: _Words) -> _Words:
    """(place + a hash of the other coordinate) modulo the side."""
    step = (other + key) * _MIX_1
    step ^= step >> _HALF
    step *= _MIX_2
    step >>= _HALF
    step *= side
    step >>= _HALF  # the hash as a fraction of 2^32, times the side
    step += place
    moved: _Words = np.minimum(step, step - side)  # what falls below zero wraps around to the largest words
    return moved
