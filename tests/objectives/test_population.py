import itertools

import numpy as np
import pytest

from paribus.data.supervised import LinearTeacher
from paribus.data.teachers import draw, open_teacher, output_scale, spectrum
from paribus.models.config import Mlp
from paribus.objectives.population import Population, population_loss, relu_kernel

TEACHER = LinearTeacher(input_dim=6, alpha=0.8, noise=0.1)


def weights(model, teacher=TEACHER, size=1.0, seed=0):
    """Initial weights and a change of them."""
    numbers = np.random.default_rng(seed)
    widths = [teacher.input_dim, *[model.width] * (model.depth - 1), 1]
    initial = [numbers.standard_normal(shape).astype(np.float32) for shape in itertools.pairwise(widths)]
    return initial, [(size * numbers.standard_normal(matrix.shape)).astype(np.float32) for matrix in initial]


def output(model, matrices, x):
    """h(x), written from the definition."""
    h = x
    for matrix in matrices[:-1]:
        h = h @ matrix / np.sqrt(len(matrix))
        h = np.maximum(h, 0) if model.activation == "relu" else h
    return (h @ matrices[-1])[:, 0] * output_scale(model.parameterization, model.gamma, len(matrices[-1]))


def closed(teacher, model, initial, change):
    """The loss in closed form."""
    population = Population(*spectrum(teacher), teacher.noise)
    output = output_scale(model.parameterization, model.gamma, len(initial[-1]))
    return population_loss(population, initial, change, output, is_linear=model.activation == "linear")


def losses(model, initial, change, teacher=TEACHER, count=200_000):
    """(f(x) - y)^2 of many samples of the teacher."""
    x, y = draw(open_teacher(teacher, 0), 5, "samples", 0, count)
    before = [matrix.astype(np.float64) for matrix in initial]
    after = [matrix + step for matrix, step in zip(before, change, strict=True)]
    x = x.astype(np.float64)
    return (output(model, after, x) - output(model, before, x) - y[:, 0]) ** 2


@pytest.mark.parametrize(
    ("depth", "activation", "parameterization"),
    [(1, "relu", "mup"), (2, "relu", "sp"), (2, "relu", "mup"), (2, "linear", "ntk"), (4, "linear", "mup")],
)
def test_the_closed_form_is_what_samples_give_on_average(depth, activation, parameterization):
    model = Mlp(width=9, depth=depth, activation=activation, parameterization=parameterization, gamma=0.3)
    initial, change = weights(model)
    sampled = losses(model, initial, change)
    error = sampled.std() / np.sqrt(len(sampled))
    assert abs(closed(TEACHER, model, initial, change) - sampled.mean()) < 4 * error
    assert error < 0.03 * sampled.mean()


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("depth", [1, 2])
def test_before_training_the_loss_is_the_variance_of_the_labels(depth, activation):
    model = Mlp(width=9, depth=depth, activation=activation)
    initial, _ = weights(model)
    nothing = [np.zeros_like(matrix) for matrix in initial]
    for noise in (0.0, 0.1, 1.0):
        teacher = TEACHER.model_copy(update={"noise": noise})
        assert closed(teacher, model, initial, nothing) == pytest.approx(1, rel=1e-12)


def test_a_model_that_is_the_teacher_is_left_with_the_label_noise():
    target = np.sqrt(1 - TEACHER.noise) * spectrum(TEACHER).weights
    linear = Mlp(depth=1, gamma=2.0, parameterization="ntk")
    exact = [target[:, None] * 2 * np.sqrt(6)]
    assert closed(TEACHER, linear, [np.zeros((6, 1))], exact) == pytest.approx(0.1, rel=1e-12)
    # relu(v . x) - relu(-v . x) = v . x
    relu = Mlp(width=2, depth=2, parameterization="mup")
    initial = [np.ones((6, 2)), np.zeros((2, 1))]
    change = [np.stack([target, -target], 1) * np.sqrt(6) - 1, np.array([[2.0], [-2.0]])]
    assert closed(TEACHER, relu, initial, change) == pytest.approx(0.1, rel=1e-12)


def test_the_kernel_is_exact_where_angles_are_known():
    vectors = np.array([[1.0, 0, -2, 3, 0], [0, 1, 0, 0, 0]])
    # parallel: |v| |w| / 2; opposite: 0; at right angles: |v| |w| / (2 pi); of the zero vector: 0
    kernel = relu_kernel(vectors)
    right = 1 / (2 * np.pi)
    expected = [[0.5, right, 0, 1.5, 0], [right, 0.5, 2 * right, 3 * right, 0]]
    np.testing.assert_allclose(kernel[:2], expected, atol=1e-15)
    np.testing.assert_allclose(kernel[2:4, 2:4], [[2, 0], [0, 4.5]], atol=1e-15)
    assert not kernel[4].any()


def test_in_one_dimension_the_loss_is_that_of_both_half_lines():
    teacher = LinearTeacher(input_dim=1)
    model = Mlp(width=5, depth=2, gamma=0.5)
    initial, change = weights(model, teacher)
    # without bias all is piecewise linear with a kink at 0: E (f - x)^2 = ((f(1) - 1)^2 + (f(-1) + 1)^2) / 2
    initial, change = ([matrix.astype(np.float64) for matrix in matrices] for matrices in (initial, change))
    after = [matrix + step for matrix, step in zip(initial, change, strict=True)]
    ends = np.array([[1.0], [-1.0]])
    error = output(model, after, ends) - output(model, initial, ends) - ends[:, 0]
    assert closed(teacher, model, initial, change) == pytest.approx(np.mean(error**2), rel=1e-12)


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_lazy_models_lose_no_more_digits_than_stated(activation):
    """f tends to a limit as gamma -> 0 with u ~ gamma; ReLU networks keep 1e-16 / gamma^2."""
    found = []
    for gamma in (1e-3, 1e-4, 1e-5):
        model = Mlp(width=8, depth=2, gamma=gamma, activation=activation)
        initial, direction = weights(model)
        found.append(closed(TEACHER, model, initial, [gamma * step.astype(np.float64) for step in direction]))
    assert found[1] == pytest.approx(found[2], rel=1e-3)
    assert found[0] == pytest.approx(found[2], rel=1e-2)
