"""Counter-based random numbers: a generator is a function of (seed, purpose, counters), never of what was drawn before."""

import hashlib

import numpy as np


def key(seed: int, purpose: str, *counters: int) -> int:
    """128 bits that depend on every argument, the same on every machine (BLAKE2b)."""
    text = "\x1f".join([str(seed), purpose, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A Philox generator (Salmon et al. 2011) keyed by the arguments; slot k of a step takes the k-th numbers it draws."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *counters)))
