"""Where the samples of regression and classification come from: fresh ones forever, or a fixed set in an order an epoch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from paribus.data.images import Pictures, check_images, idx_files, npz_file, read_images
from paribus.data.permutation import permute, shuffle_key
from paribus.data.supervised import Idx, Images, Npz, SupervisedData, SupervisedSeeds
from paribus.data.teachers import Samples, draw, open_teacher
from paribus.errors import DataError

_COUNTED_AT_ONCE = 2**24  # pixels; numpy counts in 8 bytes each


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


def open_source(config: SupervisedData, seeds: SupervisedSeeds) -> Source:
    """Open teachers or images. Raises DataError, with its key, for a file that cannot be used and for more samples
    than there are; MissingExtra when images need a library that is not installed."""
    if isinstance(config, Images):
        return _images(config, seeds.data)
    teacher = open_teacher(config, seeds.teacher)
    stream = partial(draw, teacher, seeds.data, "samples")
    heldout = draw(teacher, seeds.data, "held-out samples", 0, config.num_heldout)
    if config.num_samples is None:
        return Source(config.input_dim, 1, None, heldout, stream, _not_here, _not_here)
    fixed = stream(0, config.num_samples)
    return _fixed(config.num_samples, heldout, lambda _epoch: fixed, seeds.data)


def source_files(config: SupervisedData) -> list[Path]:
    """The files whose content, in this order, is part of what a run is. Raises DataError for one that is missing."""
    match config:
        case Images(source=Npz() as source):
            return [npz_file(source)]
        case Images(source=Idx() as source):
            return idx_files(source)
        case _:
            return []


def check_source(config: SupervisedData) -> None:
    """Look at the files of data without reading all of them. Raises DataError, with its key, for one that cannot be used."""
    if isinstance(config, Images):
        check_images(config.source)


def _fixed(num_samples: int, heldout: Samples, samples: Callable[[int], Samples], seed: int) -> Source:
    def order(epoch: int) -> NDArray[np.int32]:
        return permute(np.arange(num_samples), num_samples, shuffle_key(seed, "order of samples", epoch)).astype(
            np.int32
        )

    return Source(heldout.x.shape[1], heldout.y.shape[1], num_samples, heldout, _not_here, samples, order)


def _not_here(*_: Any) -> NoReturn:
    raise AssertionError("rows are of fresh data, samples and orders of fixed data")


# --- images ------------------------------------------------------------------------------------------------------------


def _images(config: Images, seed: int) -> Source:
    pictures = read_images(config.source)
    count, there = config.num_samples, len(pictures.x_train)
    if config.num_heldout is not None and config.num_heldout > len(pictures.x_test):
        raise DataError(f"data.num_heldout: {config.num_heldout:,}, but there are {len(pictures.x_test):,} test images")
    if count is not None and count > there:
        raise DataError(f"data.num_samples: {count:,}, but there are {there:,} training images")
    levels = _standardised(pictures.x_train)
    heldout = _samples(pictures.x_test[: config.num_heldout], pictures.y_test[: config.num_heldout], pictures, levels)

    def subset(epoch: int) -> Samples:
        if count is None:
            return _samples(pictures.x_train, pictures.y_train, pictures, levels)
        chosen = stratified(pictures.y_train, count, seed, epoch)
        return _samples(pictures.x_train[chosen], pictures.y_train[chosen], pictures, levels)

    first = subset(0)
    return _fixed(len(first.x), heldout, subset if config.resample else lambda _epoch: first, seed)


def stratified(labels: NDArray[np.int64], count: int, seed: int, draw: int = 0) -> NDArray[np.int64]:
    """(count,) indices, ascending, with equal shares of the classes; what is left over goes to the first, one each.

    Within a seed and draw, a smaller choice is part of a larger one. Raises DataError when a class has too few."""
    sizes = np.bincount(labels)
    shares = count // len(sizes) + (np.arange(len(sizes)) < count % len(sizes))
    if short := [f"{label} has {sizes[label]:,}" for label in np.flatnonzero(sizes < shares)]:
        raise DataError(f"data.num_samples: {count:,} take {shares[0]:,} of each class, but class {', '.join(short)}")
    chosen = []
    for label, (size, share) in enumerate(zip(sizes.tolist(), shares.tolist(), strict=True)):
        key = shuffle_key(seed, "subset of a class", draw, label)
        chosen.append(np.flatnonzero(labels == label)[permute(np.arange(share), size, key)])
    return np.sort(np.concatenate(chosen))


def _standardised(x: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(256,) what each grey level becomes, so that the pixels of x have mean 0 and variance 1; exact by counting."""
    counts = np.zeros(256, np.int64)
    rows = max(_COUNTED_AT_ONCE // x.shape[1], 1)
    for first in range(0, len(x), rows):
        counts += np.bincount(x[first : first + rows].ravel(), minlength=256)
    levels = np.arange(256, dtype=np.float64)
    levels -= np.average(levels, weights=counts)
    deviation = np.sqrt(np.average(levels**2, weights=counts))
    if deviation == 0:
        raise DataError("data.source: all pixels of the training images are the same; expected images")
    standardised: NDArray[np.float32] = (levels / deviation).astype(np.float32)
    return standardised


def _samples(
    x: NDArray[np.uint8], labels: NDArray[np.int64], pictures: Pictures, levels: NDArray[np.float32]
) -> Samples:
    y = np.zeros((len(labels), pictures.num_classes), np.float32)
    y[np.arange(len(labels)), labels] = 1
    return Samples(levels[x], y)
