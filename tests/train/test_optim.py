"""Schedules at their exact ends and against PyTorch's; AdamW's groups and its update against the paper's formula."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paribus.errors import ConfigError
from paribus.train.config import AdamW, Constant, Cosine, Linear, ReduceOnPlateau, Schedule, WarmupStableDecay
from paribus.train.optim import build_optimizer, check_schedule, lr_factor


@pytest.mark.parametrize(
    ("schedule", "floor"),
    [
        (Linear(warmup_steps=100, final_fraction=0.2), 0.2),
        (Cosine(warmup_steps=100), 0.1),
        (WarmupStableDecay(warmup_steps=100, decay_steps=300, final_fraction=0.05), 0.05),
    ],
)
def test_a_schedule_misses_its_peak_at_100_or_its_floor_at_1000(schedule: Schedule, floor: float) -> None:
    rates = [lr_factor(schedule, step, 1000) for step in range(1, 1001)]
    assert rates[99] == max(rates) == 1.0
    assert rates[999] == min(rates[99:]) == floor
    assert rates[:100] == [step / 100 for step in range(1, 101)]
    assert all(before >= after for before, after in itertools.pairwise(rates[99:]))
    if not isinstance(schedule, WarmupStableDecay):
        assert rates[100] < 1.0


def test_a_schedule_has_another_shape() -> None:
    assert lr_factor(Linear(warmup_steps=100), 550, 1000) == pytest.approx(0.5)
    assert lr_factor(Cosine(warmup_steps=100), 550, 1000) == pytest.approx(0.55)
    assert lr_factor(Cosine(warmup_steps=100), 325, 1000) == pytest.approx(0.1 + 0.9 * (0.5 + 0.5 * math.sqrt(0.5)))
    stable = WarmupStableDecay(warmup_steps=100, decay_steps=300)
    assert [lr_factor(stable, step, 1000) for step in (100, 500, 700)] == [1.0, 1.0, 1.0]
    assert lr_factor(stable, 850, 1000) == pytest.approx(0.5)
    assert lr_factor(Constant(warmup_steps=10), 5, 1000) == 0.5
    assert lr_factor(ReduceOnPlateau(warmup_steps=10, evaluation="val"), 1000, 1000) == 1.0


@given(warmup=st.integers(0, 20), more=st.integers(1, 30), floor=st.floats(0, 1))
def test_a_rate_leaves_the_range_between_floor_and_peak(warmup: int, more: int, floor: float) -> None:
    for schedule in (
        Linear(warmup_steps=warmup, final_fraction=floor),
        Cosine(warmup_steps=warmup, final_fraction=floor),
    ):
        rates = [lr_factor(schedule, step, warmup + more) for step in range(1, warmup + more + 1)]
        assert rates[-1] == floor
        assert all(floor <= rate <= 1.0 for rate in rates[max(0, warmup - 1) :])
        assert all(rate > 0 for rate in rates[:warmup])


def test_a_schedule_that_does_not_fit_is_accepted() -> None:
    for schedule in (
        Cosine(warmup_steps=10),
        WarmupStableDecay(warmup_steps=4, decay_steps=7),
        Constant(warmup_steps=11),
    ):
        with pytest.raises(ConfigError, match="do not fit into the run's 10"):
            check_schedule(schedule, 10)
    check_schedule(WarmupStableDecay(warmup_steps=4, decay_steps=6), 10)
    check_schedule(Cosine(warmup_steps=9), 10)


def test_vectors_are_decayed_or_matrices_are_not() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    model[1].bias.requires_grad = False
    optimizer = build_optimizer(model, AdamW(lr=1.0, weight_decay=0.3))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {
        id(model[0].weight): 0.3,
        id(model[1].weight): 0.3,
        id(model[2].weight): 0.0,
        id(model[2].bias): 0.0,
    }


def test_the_update_differs_from_loshchilov_and_hutter() -> None:
    """Three steps of algorithm 2 in fp64, for a decayed matrix and an undecayed vector."""
    config = AdamW(lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    model = nn.Linear(3, 2)
    expected = [p.detach().double().clone() for p in model.parameters()]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in expected]
    optimizer = build_optimizer(model, config)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 4):
        for number, parameter in enumerate(model.parameters()):
            grad = torch.randn(parameter.shape, generator=generator)
            parameter.grad = grad
            m, v = moments[number]
            m = 0.9 * m + 0.1 * grad.double()
            v = 0.95 * v + 0.05 * grad.double() ** 2
            moments[number] = (m, v)
            expected[number] *= 1 - 0.01 * (0.1 if number == 0 else 0.0)
            expected[number] -= 0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
        optimizer.step()
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach().double(), value, rtol=1e-5, atol=1e-7)
