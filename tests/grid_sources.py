"""Small sources of supervised samples for the tests of the grid engine."""

from functools import partial

import numpy as np

from paribus.data.source import Source
from paribus.data.teachers import Samples


def fresh(input_dim: int = 6, outputs: int = 1, num_heldout: int = 50) -> Source:
    """y = (x . w)^2 for each output; sample i of the stream is a function of i."""
    weights = np.random.default_rng(0).standard_normal((input_dim, outputs)) / np.sqrt(input_dim)

    def rows(seed: int, first: int, count: int) -> Samples:
        x = np.stack([np.random.default_rng((seed, i)).standard_normal(input_dim) for i in range(first, first + count)])
        return Samples(x.astype(np.float32), ((x @ weights) ** 2).astype(np.float32))

    heldout = rows(2, 0, num_heldout)
    return Source(input_dim, outputs, None, heldout, partial(rows, 1), _not_here, _not_here)


def fixed(num_samples: int = 22, input_dim: int = 6, classes: int = 1) -> Source:
    """The first samples of `fresh`, in another order every epoch; one-hot labels by the signs of x_1 and x_2."""
    whole = fresh(input_dim)
    x, y = whole.rows(0, num_samples)
    heldout = whole.heldout
    if classes > 1:
        y, heldout = _one_hot(x, classes), Samples(heldout.x, _one_hot(heldout.x, classes))

    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((3, epoch)).permutation(num_samples).astype(np.int32)

    return Source(input_dim, max(classes, 1), num_samples, heldout, _not_here, lambda epoch: Samples(x, y), order)


def _one_hot(x: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[((x[:, 0] > 0) + 2 * (x[:, 1] > 0)) % classes]


def _not_here(*_: object) -> Samples:
    raise AssertionError("rows are of fresh data, samples and orders of fixed data")
