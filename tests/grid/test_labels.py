"""Labels of curves whose fate is written down."""

import numpy as np
import pytest

from paribus.grid.labels import judge


def test_a_decaying_curve_is_stable_and_its_final_loss_is_the_mean_of_the_last_twentieth() -> None:
    losses_T = np.linspace(2.0, 0.1, 100, dtype=np.float32)
    judged = judge(losses_T, 2.0, batch_size=64, has_diverged=False, heldout=None)
    assert judged.label == "stable"
    assert judged.final == pytest.approx(losses_T[-5:].mean())
    assert judged.peak == pytest.approx(2.0)


@pytest.mark.parametrize(("peak", "label"), [(9.9, "stable"), (10.1, "catapult")])
def test_a_catapult_has_its_peak_above_five_times_the_initial_loss(peak: float, label: str) -> None:
    losses_T = np.asarray([2.0, 4.0, peak, 3.0, *[1.0] * 40], np.float32)
    assert judge(losses_T, 2.0, batch_size=64, has_diverged=False, heldout=0.9).label == label


def test_a_run_that_ends_above_its_initial_loss_is_never_stable() -> None:
    losses_T = np.asarray([2.0] * 20 + [30.0] * 20, np.float32)
    assert judge(losses_T, 2.0, batch_size=64, has_diverged=False, heldout=None).label == "risen"
    lucky = np.full(40, 1.0, np.float32)  # its batches were easy, the held-out data tell
    assert judge(lucky, 2.0, batch_size=64, has_diverged=False, heldout=2.1).label == "risen"


def test_single_samples_make_no_catapult() -> None:
    noisy_T = np.ones(2000, np.float32)
    noisy_T[::64] = 100.0  # one heavy sample now and then; their mean over 64 samples is 2.5
    assert judge(noisy_T, 3.0, batch_size=1, has_diverged=False, heldout=1.0).label == "stable"
    assert judge(noisy_T, 3.0, batch_size=64, has_diverged=False, heldout=1.0).label == "catapult"


def test_a_diverged_run_keeps_its_label_even_where_its_curve_ends_in_nan() -> None:
    losses_T = np.asarray([1.0, 10.0, np.nan], np.float32)
    judged = judge(losses_T, 1.0, batch_size=64, has_diverged=True, heldout=None)
    assert (judged.label, judged.peak) == ("diverged", 10.0)
    assert judge(losses_T[2:], 1.0, batch_size=64, has_diverged=True, heldout=None).label == "diverged"


@pytest.mark.parametrize("heldout", [float("nan"), float("inf")])
def test_a_held_out_loss_that_is_no_number_is_not_stable(heldout):
    losses_T = np.linspace(2.0, 0.1, 100, dtype=np.float32)
    assert judge(losses_T, 2.0, batch_size=64, has_diverged=False, heldout=heldout).label == "risen"
