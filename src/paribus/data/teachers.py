"""Teachers: labels that are known functions of Gaussian inputs. Sample i of a stream depends on (seed, i) alone."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import generator
from paribus.data.supervised import LinearTeacher, MlpTeacher, Polynomial

BLOCK = 1024  # samples drawn together: large enough that the key costs nothing, small enough to throw some away

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Samples(NamedTuple):
    """Inputs with their labels, row by row."""

    x: Floats  # (n, D)
    y: Floats  # (n, C)


class Teacher(NamedTuple):
    """What gives inputs their scales and labels."""

    deviations: Floats  # (D,) of the inputs, which are independent with mean 0
    label: Callable[[Doubles], Doubles]  # (n, D) -> (n,)
    noise: float = 0.0  # rho: labels are sqrt(1 - rho) y + sqrt(rho) N(0, 1)


class Spectrum(NamedTuple):
    """A linear teacher in the coordinates in which its inputs are independent."""

    variances: Doubles  # (D,) of the inputs
    weights: Doubles  # (D,)


def open_teacher(config: Polynomial | MlpTeacher | LinearTeacher, seed: int) -> Teacher:
    """The teacher that `seed` draws; that of a linear teacher is known without."""
    match config:
        case Polynomial(input_dim=dim, degree=degree):
            weights = generator(seed, "teacher").standard_normal(dim) / np.sqrt(dim)
            return Teacher(np.ones(dim, np.float32), lambda x: (x @ weights) ** degree)
        case MlpTeacher():
            return Teacher(np.ones(config.input_dim, np.float32), _mlp(config, seed))
        case LinearTeacher():
            variances, weights = spectrum(config)
            return Teacher(np.sqrt(variances).astype(np.float32), lambda x: x @ weights, config.noise)


def spectrum(config: LinearTeacher) -> Spectrum:
    """x_i ~ N(0, i^-alpha) and w_i ~ i^-theta, theta = 1/2 + alpha (beta - 1) / 2, scaled to Var(w . x) = 1.

    So w_i^2 Var(x_i) falls as i^-(1 + alpha beta): the source and capacity conditions of kernel regression with labels
    of exponent beta (Bordelon, Atanasov & Pehlevan 2024, arXiv 2402.01092)."""
    index = np.arange(1, config.input_dim + 1, dtype=np.float64)
    variances = index**-config.alpha
    weights = index ** -(0.5 + config.alpha * (config.beta - 1) / 2)
    return Spectrum(variances, weights / np.sqrt(np.sum(weights**2 * variances)))


def output_scale(parameterization: str, gamma: float, fan_in: int) -> float:
    """What the last product of an MLP with N(0, 1) weights is times: 1 / (gamma N) in muP, else 1 / (gamma sqrt N)."""
    return 1 / (gamma * (fan_in if parameterization == "mup" else math.sqrt(fan_in)))


def draw(teacher: Teacher, seed: int, purpose: str, first: int, count: int) -> Samples:
    """Samples first .. first + count of the stream that (seed, purpose) names: any range is that part of the whole.

    Labels are computed in float64 from the float32 inputs, and then rounded. The inputs are the same for every noise."""
    dim = len(teacher.deviations)
    x, y = np.empty((count, dim), np.float32), np.empty((count, 1), np.float32)
    for block in range(first // BLOCK, -(-(first + count) // BLOCK)):
        start = max(first, block * BLOCK)
        stop = min(first + count, (block + 1) * BLOCK)
        inside = slice(start - block * BLOCK, stop - block * BLOCK)
        whole = _block(teacher, seed, purpose, block)
        x[start - first : stop - first], y[start - first : stop - first] = whole.x[inside], whole.y[inside]
    return Samples(x, y)


def _block(teacher: Teacher, seed: int, purpose: str, block: int) -> Samples:
    """Always a whole one: the last bits of a product of matrices depend on their shapes."""
    numbers = generator(seed, purpose, block)
    x = numbers.standard_normal((BLOCK, len(teacher.deviations)), np.float32) * teacher.deviations
    y = teacher.label(x.astype(np.float64))
    if teacher.noise:
        y = np.sqrt(1 - teacher.noise) * y + np.sqrt(teacher.noise) * numbers.standard_normal(BLOCK)
    return Samples(x, y[:, None].astype(np.float32))


def _mlp(config: MlpTeacher, seed: int) -> Callable[[Doubles], Doubles]:
    """A bias-free ReLU MLP, all weights N(0, 1): h <- relu(h W / sqrt(fan_in)), then h W times the output's scale."""
    widths = [config.input_dim, *[config.width] * (config.depth - 1), 1]
    numbers = generator(seed, "teacher")
    *hidden, last = (numbers.standard_normal(shape) for shape in pairwise(widths))
    scale = output_scale(config.parameterization, config.gamma, widths[-2])

    def label(x: Doubles) -> Doubles:
        for weights in hidden:
            x = np.maximum(x @ weights / np.sqrt(len(weights)), 0)
        y: Doubles = (x @ last)[:, 0] * scale
        return y

    return label
