import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paribus.data.generators import generator
from paribus.data.supervised import LinearTeacher, MlpTeacher, Polynomial
from paribus.data.teachers import BLOCK, draw, open_teacher, output_scale, spectrum

LINEAR = LinearTeacher(input_dim=7, noise=0.25)


def stream(config, count=50 * BLOCK, seed=0, teacher=0):
    return draw(open_teacher(config, teacher), seed, "samples", 0, count)


WHOLE = stream(LINEAR, 5 * BLOCK)  # as far as any range below reaches


@given(st.integers(0, 3 * BLOCK), st.integers(1, BLOCK + 3))
@settings(max_examples=40, deadline=None)
def test_any_range_is_that_part_of_the_whole_stream(first, count):
    part = draw(open_teacher(LINEAR, 0), 0, "samples", first, count)
    assert part.x.dtype == part.y.dtype == np.float32
    assert np.array_equal(part.x, WHOLE.x[first : first + count])
    assert np.array_equal(part.y, WHOLE.y[first : first + count])


def test_blocks_seeds_and_purposes_share_no_sample():
    teacher = open_teacher(LINEAR, 0)
    other = [draw(teacher, 1, "samples", 0, BLOCK), draw(teacher, 0, "held-out samples", 0, BLOCK)]
    first = np.concatenate([WHOLE.x, *(samples.x for samples in other)])[:, 0]
    assert len(np.unique(first)) > 0.999 * len(first)


def test_inputs_do_not_depend_on_the_noise_nor_on_the_teacher():
    assert np.array_equal(WHOLE.x, stream(LINEAR.model_copy(update={"noise": 0.0}), len(WHOLE.x)).x)
    a, b = (stream(Polynomial(), 100, teacher=teacher) for teacher in (0, 1))
    assert np.array_equal(a.x, b.x)
    assert not np.allclose(a.y, b.y)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_polynomial_has_the_moments_of_a_power_of_a_normal(degree):
    samples = stream(Polynomial(input_dim=20, degree=degree))
    weights, *_ = np.linalg.lstsq(
        stream(Polynomial(degree=1), 1000).x, stream(Polynomial(degree=1), 1000).y, rcond=None
    )
    np.testing.assert_allclose(samples.y, (samples.x @ weights) ** degree, rtol=1e-3, atol=1e-4)
    # E[(s g)^(2k)] = s^(2k) (2k - 1)!!, within five standard errors
    moment = np.linalg.norm(weights) ** (2 * degree) * np.prod(np.arange(2 * degree - 1, 0, -2))
    squares = samples.y.astype(np.float64) ** 2
    assert abs(squares.mean() - moment) < 5 * squares.std() / np.sqrt(len(squares))


def test_the_polynomials_weights_have_variance_one_over_the_input_dimension():
    x = np.eye(2000)
    weights = open_teacher(Polynomial(input_dim=2000, degree=1), 3).label(x)
    assert abs(np.sum(weights**2) - 1) < 5 * np.sqrt(2 / 2000)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.5), (1.5, 0.7)])
def test_the_linear_teacher_has_power_law_spectra_and_unit_variance(alpha, beta):
    config = LinearTeacher(input_dim=100, alpha=alpha, beta=beta)
    variances, weights = spectrum(config)
    index = np.log(np.arange(1, 101))
    np.testing.assert_allclose(np.polyfit(index, np.log(variances), 1)[0], -alpha)
    np.testing.assert_allclose(np.polyfit(index, np.log(weights**2 * variances), 1)[0], -(1 + alpha * beta))
    np.testing.assert_allclose(np.sum(weights**2 * variances), 1)
    samples = stream(config)
    errors = np.sqrt(2 / len(samples.x))
    assert np.all(np.abs(samples.x.astype(np.float64).var(0) / variances - 1) < 5 * errors)
    assert abs(samples.y.astype(np.float64).var() - 1) < 5 * errors
    correlations = np.corrcoef(samples.x[:, :10].T) - np.eye(10)
    assert np.abs(correlations).max() < 5 / np.sqrt(len(samples.x))
    np.testing.assert_allclose(samples.y[:, 0], samples.x @ weights, atol=1e-5)


def test_label_noise_has_its_share_of_a_variance_that_stays_one():
    samples = stream(LINEAR)
    clean = samples.x.astype(np.float64) @ spectrum(LINEAR).weights
    rest = samples.y[:, 0] - np.sqrt(0.75) * clean
    errors = np.sqrt(2 / len(rest))
    assert abs(rest.var() / 0.25 - 1) < 5 * errors
    assert abs(samples.y.astype(np.float64).var() - 1) < 5 * errors
    assert abs(np.corrcoef(rest, clean)[0, 1]) < 5 / np.sqrt(len(rest))


@pytest.mark.parametrize("parameterization", ["sp", "ntk", "mup"])
def test_the_mlp_teacher_is_homogeneous_and_has_the_variance_of_its_infinite_width(parameterization):
    config = MlpTeacher(input_dim=5, width=1024, depth=2, gamma=2.0, parameterization=parameterization)
    # E[y^2 | W] -> E[relu(g)^2] / gamma^2 = 1 / 2 / gamma^2 in NTK form, over N more in muP; 1 / sqrt(width) off
    second = np.mean(stream(config, 4 * BLOCK).y.astype(np.float64) ** 2)
    expected = 0.5 / 4 / (1024 if parameterization == "mup" else 1)
    draws = [np.mean(stream(config, BLOCK, teacher=t).y.astype(np.float64) ** 2) for t in range(12)]
    assert abs(np.mean(draws) / expected - 1) < 5 * np.std(draws) / np.sqrt(len(draws)) / expected + 0.05
    assert second > 0
    label = open_teacher(config, 0).label
    x = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(label(2 * x), 2 * label(x), rtol=1e-12)
    assert not np.allclose(label(-x), -label(x))


def test_a_teacher_of_one_matrix_is_linear_and_knows_its_fan_in():
    config = MlpTeacher(input_dim=900, depth=1, parameterization="mup", gamma=0.5)
    weights = open_teacher(config, 0).label(np.eye(900)) / output_scale("mup", 0.5, 900)
    assert abs(weights.var() - 1) < 5 * np.sqrt(2 / 900)
    assert output_scale("mup", 0.5, 900) == pytest.approx(2 / 900)
    assert output_scale("ntk", 0.5, 900) == output_scale("sp", 0.5, 900) == pytest.approx(2 / 30)


def test_a_deep_teacher_is_the_composition_of_its_layers():
    narrow = MlpTeacher(input_dim=3, width=3, depth=4)
    x = np.random.default_rng(1).normal(size=(50, 3))
    numbers = generator(5, "teacher")
    h = x
    for _ in range(3):
        h = np.maximum(h @ numbers.standard_normal((3, 3)) / np.sqrt(3), 0)
    expected = h @ numbers.standard_normal((3, 1)) / 3
    np.testing.assert_allclose(open_teacher(narrow, 5).label(x), expected[:, 0])
