"""Oracles: plain sums over the raw losses, the theory of cluster sampling, conservation between all views of one pass."""

import math

import numpy as np
import pytest

from paribus.data.generators import generator
from paribus.evals.matrix import (
    Losses,
    band_means,
    bands,
    category_losses,
    in_context,
    loss_matrix,
    over_categories,
    pooled,
    window_means,
)

NAMES = ("cs.AI", "cs.DS", "math.ST")


def make(num_windows: int = 60, length: int = 21, masked: float = 0.1) -> Losses:
    draw = generator(0, "test", num_windows, length)
    taken = draw.random((num_windows, length)) >= masked
    loss = draw.gamma(2.0, 1.5, (num_windows, length)).astype(np.float32)
    loss += draw.normal(0, 1, (num_windows, 1)).astype(np.float32)
    category = draw.integers(0, 3, num_windows).astype(np.int32)
    return Losses(np.where(taken, loss, 0).astype(np.float32), taken, category, NAMES)


def test_the_matrix_holds_every_prediction_once():
    losses = make()
    matrix = loss_matrix(losses)
    for category in range(3):
        for t in range(21):
            cell = [
                float(losses.values[n, t]) for n in range(60) if losses.category[n] == category and losses.taken[n, t]
            ]
            assert matrix.counts[category, t] == len(cell)
            assert matrix.sums[category, t] == pytest.approx(math.fsum(cell), rel=1e-12)
            assert matrix.squares[category, t] == pytest.approx(math.fsum(x * x for x in cell), rel=1e-12)


def test_all_views_of_one_pass_agree_on_the_mean():
    losses = make()
    matrix, parts = loss_matrix(losses), category_losses(losses)
    plain = losses.values[losses.taken].astype(np.float64).mean()
    by_position, _ = matrix.position_curve()
    by_cell, _ = matrix.category_curves()
    count_T, count_N = matrix.counts.sum(0), losses.taken.sum(1)
    assert matrix.mean == pytest.approx(plain, abs=1e-12)
    assert pooled(parts).mean == pytest.approx(plain, abs=1e-12)
    assert np.average(by_position, weights=count_T) == pytest.approx(plain, abs=1e-12)
    assert np.average(by_cell, weights=matrix.counts) == pytest.approx(plain, abs=1e-12)
    assert np.average(window_means(losses), weights=count_N) == pytest.approx(plain, abs=1e-6)
    assert pooled(parts).num == losses.taken.sum()
    assert over_categories(parts).mean == pytest.approx(np.mean([part.mean for part in parts]))


def test_the_matrix_is_additive_over_windows():
    losses = make()
    halves = [Losses(losses.values[s], losses.taken[s], losses.category[s], NAMES) for s in np.s_[:23, 23:]]
    for whole, first, second in zip(loss_matrix(losses), *map(loss_matrix, halves), strict=True):
        np.testing.assert_allclose(whole, first + second, rtol=1e-12)


def test_the_error_of_a_loss_counts_windows_not_tokens():
    """Tokens of a window share its difficulty: a token-wise error would be sqrt(50) times too small here."""
    draw = generator(1, "test")
    difficulty = draw.normal(3, 1, (2000, 1)).astype(np.float32)
    losses = Losses(difficulty.repeat(50, 1), np.ones((2000, 50), bool), np.zeros(2000, np.int32), ("all",))
    (part,) = category_losses(losses)
    assert part.error == pytest.approx(1 / math.sqrt(2000), rel=0.05)
    assert pooled([part]).error == pytest.approx(part.error)


def test_the_error_of_a_position_is_that_of_independent_windows():
    losses = make(masked=0)
    _, error_T = loss_matrix(losses).position_curve()
    np.testing.assert_allclose(error_T, losses.values.astype(np.float64).std(0, ddof=1) / math.sqrt(60), rtol=1e-9)


def test_the_error_of_unequal_windows_is_that_of_many_repetitions():
    draw = generator(2, "test")
    means, errors = [], []
    for _ in range(400):
        taken = np.arange(40) < draw.integers(5, 40, (50, 1))
        loss = (draw.normal(3, 1, (50, 1)) + draw.normal(0, 1, (50, 40))).astype(np.float32)
        (part,) = category_losses(Losses(loss, taken, np.zeros(50, np.int32), ("all",)))
        means.append(part.mean)
        errors.append(part.error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)


def test_the_in_context_score_pairs_positions_within_a_window():
    losses = make()
    for category, part in enumerate(in_context(losses, 4, 21)):
        rows = (losses.category == category) & losses.taken[:, 3] & losses.taken[:, 20]
        gains = losses.values[rows, 3].astype(np.float64) - losses.values[rows, 20]
        assert part.mean == pytest.approx(gains.mean())
        assert part.error == pytest.approx(gains.std(ddof=1) / math.sqrt(len(gains)))


def test_bands_cover_every_position_once():
    assert bands(100) == [(1, 1), (2, 4), (5, 16), (17, 64), (65, 100)]
    assert bands(1) == [(1, 1)]
    for length in range(1, 300):
        assert [t for first, last in bands(length) for t in range(first, last + 1)] == list(range(1, length + 1))


def test_band_means_recompose_into_window_means():
    losses = make()
    counts = np.stack([losses.taken[:, first - 1 : last].sum(1) for first, last in bands(21)], 1)
    total = np.where(counts, band_means(losses) * counts, 0).sum(1)
    np.testing.assert_allclose(total / losses.taken.sum(1), window_means(losses), rtol=1e-5)


def test_an_absent_category_and_a_single_window_claim_no_error():
    losses = Losses(np.ones((1, 4), np.float32), np.ones((1, 4), bool), np.array([1], np.int32), NAMES)
    parts = category_losses(losses)
    assert [part.num for part in parts] == [0, 4, 0]
    assert pooled(parts).mean == over_categories(parts).mean == 1.0
    assert math.isnan(pooled(parts).error)
