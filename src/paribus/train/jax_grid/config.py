"""The optimizers of the grid engine."""

from typing import Literal

from pydantic import Field

from paribus.config import Fraction, PositiveFloat, Section


class Sgd(Section):
    kind: Literal["sgd"] = "sgd"


class Adam(Section):
    """Adam (Kingma & Ba 2015) with its epsilon relative to the scale of the gradients at initialisation."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = Field(1e-8, description="times gamma x the width factor of the output: small at every gamma")
    layer_rates: Literal["per_layer", "sqrt_width"] = Field(
        "per_layer",
        description="muP only; sqrt_width: one rate ~ sqrt N for all layers, which the coordinate check rejects",
    )
