"""The category x position matrix of losses, and everything that is read off it and off the windows. NumPy only.

Dimension key: N windows, C categories, T positions, G bands of positions."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BAND_GROWTH = 4  # bands 1, 2-4, 5-16, 17-64, ...: as wide in log t, the scale on which losses fall


class Losses(NamedTuple):
    """The loss of every prediction of N windows, in nats."""

    values: NDArray[np.float32]  # (N, T)
    taken: NDArray[np.bool_]  # (N, T): false where no loss is taken
    category: NDArray[np.int32]  # (N,): indices into `categories`
    categories: tuple[str, ...]


class LossMatrix(NamedTuple):
    """Counts, sums and sums of squares by category and position: additive over windows."""

    counts: NDArray[np.int64]  # (C, T)
    sums: NDArray[np.float64]  # (C, T)
    squares: NDArray[np.float64]  # (C, T)

    @property
    def mean(self) -> float:
        """Nats a prediction: the reported loss."""
        return float(self.sums.sum() / self.counts.sum())

    def position_curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(mean_T, standard error_T) over all categories; the errors take the windows as one sample, not stratified."""
        return _moments(self.counts.sum(0), self.sums.sum(0), self.squares.sum(0))

    def category_curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(mean_CT, standard error_CT)."""
        return _moments(self.counts, self.sums, self.squares)


class Estimate(NamedTuple):
    """A mean with its standard error (nan from a single window) and the number of predictions or windows under it."""

    mean: float
    error: float
    num: int


def loss_matrix(losses: Losses) -> LossMatrix:
    """Add the windows up in float64, in their own order: the batch size of the evaluation leaves no trace."""
    shape = len(losses.categories), losses.values.shape[1]
    matrix = LossMatrix(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape))
    for category in range(shape[0]):
        rows = losses.category == category
        loss_nT = np.where(losses.taken[rows], losses.values[rows], 0).astype(np.float64)
        matrix.counts[category] = losses.taken[rows].sum(0)
        matrix.sums[category] = loss_nT.sum(0)
        matrix.squares[category] = (loss_nT**2).sum(0)
    return matrix


def _moments(
    count: NDArray[np.int64], total: NDArray[np.float64], square: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        variance = np.maximum(square / count - mean**2, 0) * count / (count - 1)
        return mean, np.where(count > 1, np.sqrt(variance / count), math.nan)


def category_losses(losses: Losses) -> list[Estimate]:
    """Each category's loss; the errors treat a window as one observation, since its tokens go together."""
    total_N, count_N = _window_totals(losses)
    return [_ratio(total_N[rows], count_N[rows]) for rows in _by_category(losses)]


def pooled(parts: list[Estimate]) -> Estimate:
    """The count-weighted mean of independent estimates."""
    count = sum(part.num for part in parts)
    shares = [(part.num / count, part) for part in parts if part.num]
    return Estimate(
        math.fsum(share * part.mean for share, part in shares),
        math.sqrt(math.fsum((share * part.error) ** 2 for share, part in shares)),
        count,
    )


def over_categories(parts: list[Estimate]) -> Estimate:
    """The mean in which every category counts the same."""
    present = [part for part in parts if part.num]
    mean = math.fsum(part.mean for part in present) / len(present)
    error = math.sqrt(math.fsum(part.error**2 for part in present)) / len(present)
    return Estimate(mean, error, sum(part.num for part in present))


def in_context(losses: Losses, a: int, b: int) -> list[Estimate]:
    """Each category's L(a) - L(b), positions counted from 1, paired within the windows that have both."""
    both_N = losses.taken[:, a - 1] & losses.taken[:, b - 1]
    gain_N = losses.values[:, a - 1].astype(np.float64) - losses.values[:, b - 1]
    return [_ratio(gain_N[rows & both_N], np.ones((rows & both_N).sum())) for rows in _by_category(losses)]


def bands(num_positions: int) -> list[tuple[int, int]]:
    """Bands of positions (first, last), counted from 1: 1, 2-4, 5-16, 17-64, ... up to the window."""
    found, last = [], 0
    while last < num_positions:
        first, last = last + 1, min(max(last * _BAND_GROWTH, 1), num_positions)
        found.append((first, last))
    return found


def window_means(losses: Losses) -> NDArray[np.float32]:
    """(N,) mean loss of each window; nan where no loss is taken at all."""
    total_N, count_N = _window_totals(losses)
    return _divide(total_N, count_N)


def band_means(losses: Losses) -> NDArray[np.float32]:
    """(N, G) mean loss of each window in each band."""
    starts = [first - 1 for first, _ in bands(losses.values.shape[1])]
    total_NG = np.add.reduceat(np.where(losses.taken, losses.values, 0), starts, axis=1, dtype=np.float64)
    return _divide(total_NG, np.add.reduceat(losses.taken, starts, axis=1, dtype=np.float64))


def _divide(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(invalid="ignore"):
        return (total / count).astype(np.float32)


def _window_totals(losses: Losses) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    total_N = np.where(losses.taken, losses.values, 0).sum(1, dtype=np.float64)
    return total_N, losses.taken.sum(1, dtype=np.float64)


def _by_category(losses: Losses) -> list[NDArray[np.bool_]]:
    return [losses.category == category for category in range(len(losses.categories))]


def _ratio(total_n: NDArray[np.float64], count_n: NDArray[np.float64]) -> Estimate:
    """sum(total) / sum(count) over windows, with the linearised error of a ratio (Cochran 1977, section 6.3)."""
    windows, count = len(total_n), float(count_n.sum())
    if not count:
        return Estimate(math.nan, math.nan, 0)
    mean = float(total_n.sum()) / count
    if windows == 1:
        return Estimate(mean, math.nan, int(count))
    squares = float(((total_n - mean * count_n) ** 2).sum())
    return Estimate(mean, math.sqrt(squares * windows / (windows - 1)) / count, int(count))
