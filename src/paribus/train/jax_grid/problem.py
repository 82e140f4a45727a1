"""What the runs of one program share, and the rates of their layers."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import generator
from paribus.models.config import Mlp
from paribus.models.mlp import fan_ins, initial_weights, output_scale
from paribus.objectives.population import Population
from paribus.objectives.regression import Loss
from paribus.train.jax_grid.config import Adam, Sgd

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """All but the data, eta and gamma."""

    model: Mlp  # its gamma is not read
    loss: Loss
    optimizer: Sgd | Adam
    batch_size: int
    steps: int  # of a whole run: bounds what is held in memory, changes no result
    scale_by_gamma: bool = True
    seed: int = 0  # of the initial weights
    population: Population | None = None  # None: the population loss is not known


def theta_0(problem: Problem, input_dim: int, output_dim: int) -> tuple[NDArray[np.float32], ...]:
    """The initial weights, which all runs of a program share: L matrices."""
    numbers = partial(generator, problem.seed, "weights of the MLP")
    return initial_weights(problem.model, input_dim, output_dim, numbers)


def learning_rates(problem: Problem, input_dim: int, etas: Doubles, gammas: Doubles) -> Doubles:
    """(R, L) lr_l = eta g(gamma) w_l for the weights of layer l.

    g: gamma^2 (SGD) or gamma (Adam) in the lazy regime, gamma <= 1; gamma^(2/L) or gamma^(1/L) in the rich one (Atanasov et
    al. 2024, arXiv 2410.04642). w: so that one eta means the same at every width (muP, Yang & Hu 2021), or 1 (NTK), or
    what makes it the rate of weights drawn from N(0, 1 / fan_in) (SP)."""
    fan_in = np.array(fan_ins(problem.model, input_dim), np.float64)
    is_adam = isinstance(problem.optimizer, Adam)
    power = 1 if is_adam else 2
    richness = np.where(gammas <= 1, gammas**power, gammas ** (power / problem.model.depth))
    rates = etas * richness if problem.scale_by_gamma else etas
    return rates[:, None] * _width_factors(problem, fan_in)


def _width_factors(problem: Problem, fan_in: Doubles) -> Doubles:
    """(L,) w_l."""
    match problem.model.parameterization, problem.optimizer:
        case "sp", Sgd():
            return fan_in
        case "sp", Adam():
            return np.sqrt(fan_in)
        case "mup", Sgd():
            return np.full_like(fan_in, fan_in[-1])
        case "mup", Adam(layer_rates="sqrt_width"):
            return np.full_like(fan_in, np.sqrt(fan_in[-1]))
        case "mup", Adam():
            is_hidden = (np.arange(len(fan_in)) > 0) & (np.arange(len(fan_in)) < len(fan_in) - 1)
            return np.where(is_hidden, 1 / np.sqrt(fan_in), 1.0)
        case _:
            return np.ones_like(fan_in)


def output_scales(problem: Problem, input_dim: int, gammas: Doubles) -> Doubles:
    """(R,) what the last product is times: 1 / (gamma N) in muP, else 1 / (gamma sqrt N)."""
    return output_scale(problem.model, input_dim) / gammas
