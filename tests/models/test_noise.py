"""Noise that is a function of its counters. Oracles: the published SplitMix64, Box and Muller in Python, N(0, 1)."""

import math

import numpy as np
import pytest
import torch

from paribus.evals.statistics import ks_normal
from paribus.models.config import Preset
from paribus.models.hf import build_model
from paribus.models.noise import mixed, normal, through

CPU = torch.device("cpu")
KEY = 0xF00DFACE12345678  # its top bit is set: a shift that keeps the sign gives other numbers


def slow(key, step, row, position, dimension):
    """The same value in Python integers and floats."""
    word = key
    for counter in (step, row, position, dimension):
        word = (word + (counter + 1) * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ word // 2**30) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ word // 2**27) * 0x94D049BB133111EB % 2**64
        word ^= word // 2**31
    radius = math.sqrt(-2 * math.log((word // 2**32 + 0.5) / 2**32))
    return radius * math.cos(2 * math.pi * (word % 2**32) / 2**32)


def test_the_generator_is_not_splitmix64():
    """The first outputs for the seed 1234567, as its authors' code gives them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mixed(1234567, n) for n in range(4)] == expected


@pytest.mark.parametrize("key", [0, KEY, 2**64 - 1])
def test_a_value_is_another_than_its_counters_give(key):
    steps, rows = [3, 3, 10**6], [0, 5, 511]
    found = normal(key, steps, rows, 7, 9, CPU)
    assert found.shape == (3, 7, 9)
    assert found.dtype == torch.float32
    expected = [
        [[slow(key, step, row, t, d) for d in range(9)] for t in range(7)]
        for step, row in zip(steps, rows, strict=True)
    ]
    np.testing.assert_allclose(found, np.array(expected, np.float32), rtol=2e-7, atol=1e-9)


def test_a_block_depends_on_what_is_generated_beside_it():
    whole = normal(KEY, [4] * 6 + [5] * 6, [*range(6), *range(6)], 33, 65, CPU)
    for number, step, row in ((0, 4, 0), (5, 4, 5), (9, 5, 3)):
        assert torch.equal(normal(KEY, [step], [row], 33, 65, CPU)[0], whole[number])
        assert torch.equal(normal(KEY, [step], [row], 17, 8, CPU)[0], whole[number, :17, :8])
    threads = torch.get_num_threads()
    torch.set_num_threads(2 if threads == 1 else 1)
    again = normal(KEY, [4], [5], 33, 65, CPU)[0]
    torch.set_num_threads(threads)
    assert torch.equal(again, whole[5])


@pytest.fixture(scope="module")
def many():
    """(4 keys, 8 steps and rows, 64, 128): 262,144 values."""
    return torch.stack([normal(KEY + n, [*range(4)] * 2, [0] * 4 + [1] * 4, 64, 128, CPU) for n in range(4)]).double()


def test_values_are_not_standard_normal(many):
    n = many.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((many**power).mean() - expected) < 4 * math.sqrt(variance / n), power
    assert ks_normal(many.flatten())[1] > 0.001
    cells = np.bincount((torch.special.ndtr(many).flatten() * 100).long().clamp(max=99), minlength=100)
    chi_square = ((cells - n / 100) ** 2 / (n / 100)).sum()
    assert abs(chi_square - 99) < 4 * math.sqrt(2 * 99)
    assert many.abs().max() > 4.2  # one in 37,000 is expected beyond it


@pytest.mark.parametrize("axis", range(4))  # key, step or row, position, dimension
@pytest.mark.parametrize("lag", [1, 2])
def test_neighbours_are_correlated(many, axis, lag):
    one, other = many.narrow(axis, lag, many.shape[axis] - lag), many.narrow(axis, 0, many.shape[axis] - lag)
    for of in (lambda z: z, lambda z: z**2 - 1):
        a, b = of(one), of(other)
        correlation = (a * b).mean() / torch.sqrt((a**2).mean() * (b**2).mean())
        assert abs(correlation) < 4.5 / math.sqrt(a.numel())


def test_the_way_into_the_embeddings_stays_open():
    model = build_model(Preset(name="micro-neox"), 40, 16, 0)
    tokens = torch.arange(32).view(2, 16)
    with torch.no_grad():
        plain = model(input_ids=tokens).logits
        with through(model, lambda e_BTD: e_BTD + 1):
            shifted = model(input_ids=tokens).logits
        expected = model(inputs_embeds=model.get_input_embeddings()(tokens) + 1).logits
        assert torch.equal(shifted, expected)
        assert not torch.equal(shifted, plain)
        assert torch.equal(model(input_ids=tokens).logits, plain)
