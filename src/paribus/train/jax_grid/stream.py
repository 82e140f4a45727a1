"""The batches of a stretch of steps, as arrays: a function of the source, the batch size and the steps alone."""

import numpy as np

from paribus.data.source import Source
from paribus.data.teachers import Samples
from paribus.errors import ConfigError


def check_batch_size(source: Source, batch_size: int) -> None:
    """Raises ConfigError when not even one batch fits into fixed data."""
    if source.num_samples is not None and batch_size > source.num_samples:
        raise ConfigError(
            f"train.batch_size: {batch_size:,} is more than the {source.num_samples:,} samples there are; lower it"
        )


def batches(source: Source, batch_size: int, first: int, count: int) -> Samples:
    """Steps first .. first + count: x (count, B, D), y (count, B, C)."""
    if source.num_samples is None:
        rows = source.rows(first * batch_size, count * batch_size)
    else:
        parts = [
            _of_epoch(source, batch_size, *part) for part in _epochs(source.num_samples // batch_size, first, count)
        ]
        rows = Samples(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
    return Samples(rows.x.reshape(count, batch_size, -1), rows.y.reshape(count, batch_size, -1))


def _epochs(steps_an_epoch: int, first: int, count: int) -> list[tuple[int, int, int]]:
    """(epoch, first, stop) of each epoch that the steps touch, in steps of that epoch."""
    stop, parts = first + count, []
    for epoch in range(first // steps_an_epoch, -(-stop // steps_an_epoch)):
        start = epoch * steps_an_epoch
        parts.append((epoch, max(first - start, 0), min(stop - start, steps_an_epoch)))
    return parts


def _of_epoch(source: Source, batch_size: int, epoch: int, first: int, stop: int) -> Samples:
    chosen = source.order(epoch)[first * batch_size : stop * batch_size]
    samples = source.samples(epoch)
    return Samples(samples.x[chosen], samples.y[chosen])
