"""Where the samples of regression and classification come from: fresh ones forever, or a fixed set in an order an epoch."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Samples(NamedTuple):
    """Inputs with their labels, row by row."""

    x: NDArray[np.float32]  # (n, D)
    y: NDArray[np.float32]  # (n, C)


class Source(NamedTuple):
    """Samples as functions of a position or an epoch, never of what was read before.

    Step s of batch size B takes, fresh: rows(s B, B), so that sample i is the same for every B. Fixed, with
    E = num_samples // B steps an epoch: positions (s % E) B .. (s % E + 1) B of order(s // E) in samples(s // E)."""

    input_dim: int
    output_dim: int
    num_samples: int | None  # of fixed data; None: fresh samples forever
    heldout: Samples
    rows: Callable[[int, int], Samples]  # fresh only: first, count -> that part of the stream
    samples: Callable[[int], Samples]  # fixed only: epoch -> all of them; the same in every epoch unless resampled
    order: Callable[[int], NDArray[np.int32]]  # fixed only: epoch -> (num_samples,) a permutation
