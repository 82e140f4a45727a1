"""Patience and plateaus, step by step."""

import math

from paribus.train.config import ReduceOnPlateau
from paribus.train.stopping import Patience, Plateau


def test_patience_ignores_delta_or_a_loss_that_is_not_finite() -> None:
    state, waited = Patience(), []
    for loss in (3.0, 2.95, 2.85, math.nan, 2.8, 2.0):
        state = state.after(loss, delta=0.1)
        waited.append(state.waited)
    assert waited == [0, 1, 0, 1, 2, 0]
    assert state.best == 2.0


def test_a_plateau_reduces_too_early_or_below_its_floor() -> None:
    config = ReduceOnPlateau(evaluation="val", factor=0.5, patience=2, delta=0.0, min_fraction=0.2)
    state, factors = Plateau(), []
    for loss in (3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 2.9, 2.9, 2.9, 2.9):
        state = state.after(loss, config)
        factors.append(state.factor(config))
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2]


def test_no_patience_reduces_on_an_improvement() -> None:
    config = ReduceOnPlateau(evaluation="val", patience=0)
    state = Plateau().after(3.0, config).after(2.0, config)
    assert state.reductions == 0
    assert state.after(2.0, config).reductions == 1
