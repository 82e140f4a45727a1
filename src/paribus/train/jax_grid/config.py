"""The settings of a grid's training: optimizer, eta or the search for it, budget, what is measured, devices."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from paribus.config import PositiveCount, PositiveFloat, Section
from paribus.train.cluster import RayConfig, SlurmConfig

Decay = Annotated[float, Field(ge=0, lt=1)]


class Sgd(Section):
    kind: Literal["sgd"] = "sgd"


class Adam(Section):
    """Adam (Kingma & Ba 2015) with its epsilon relative to the scale of the gradients at initialisation."""

    kind: Literal["adam"] = "adam"
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = Field(
        1e-8,
        description="of gradients in the last product before it is scaled, in which all gammas and widths are alike; of the "
        "true gradient it is eps / (gamma N) under muP",
    )
    layer_rates: Literal["per_layer", "sqrt_width"] = Field(
        "per_layer",
        description="muP only; sqrt_width: one rate ~ sqrt N for all layers, which the coordinate check rejects",
    )


class _Searched(Section):
    """Where a search looks."""

    low: PositiveFloat
    high: PositiveFloat

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g} is not below high: {self.high:g}")
        return self


class Bisection(_Searched):
    """Find eta_max, the largest stable eta, by bisection in log eta."""

    kind: Literal["bisection"] = "bisection"
    low: PositiveFloat = 2.0**-12
    high: PositiveFloat = 2.0**12
    tolerance_log2: PositiveFloat = 0.125


class GoldenSection(_Searched):
    """Find eta*, that of the lowest final loss, by golden-section search in log eta."""

    kind: Literal["golden_section"] = "golden_section"
    low: PositiveFloat = 2.0**-12
    high: PositiveFloat = 2.0**12
    tolerance_log2: PositiveFloat = 0.25


class Descending(_Searched):
    """Try etas from `high` down; below the first stable one go on for `decades`, or until `depth` in a row were stable."""

    kind: Literal["descending"] = "descending"
    high: PositiveFloat = 1e13
    low: PositiveFloat = 1e-13
    per_decade: PositiveCount = 2
    decades: PositiveFloat | None = 3.0
    depth: PositiveCount | None = Field(None, description="stable etas in a row after which to stop; null: no limit")


Search = Annotated[Bisection | GoldenSection | Descending, Field(discriminator="kind")]


class GridBudget(Section):
    """How long to train: exactly one of the two."""

    steps: PositiveCount | None = None
    epochs: PositiveCount | None = Field(None, description="passes over fixed data; what fills no batch is left out")

    @model_validator(mode="after")
    def _exactly_one(self) -> "GridBudget":
        if (self.steps is None) == (self.epochs is None):
            found = "none" if self.steps is None else "both"
            raise ValueError(f"exactly one of steps and epochs is expected, found {found}")
        return self


class GridTrain(Section):
    eta: PositiveFloat | Search = Field(description="the rate before scaling, or how to search for it")
    batch_size: PositiveCount
    budget: GridBudget
    optimizer: Annotated[Sgd | Adam, Field(discriminator="kind")] = Sgd()
    scale_by_gamma: bool = Field(
        True, description="lr = eta g(gamma) w(width); false: without g, as portraits over (gamma, eta) want it"
    )


class Record(Section):
    """What is measured on the way. The training loss of every step always is."""

    evaluate_every: PositiveCount | None = Field(
        None, description="steps between held-out losses; null: at the end, and at the end of every epoch"
    )
    probes: list[Literal["coordinates", "weight_change", "sharpness", "noise_scale", "noise_scale_exact"]] = Field(
        [], description="what else is measured at these steps and at the first"
    )
    snapshots: bool = Field(
        False, description="keep weights at steps 0 and {1, 2, 5} x 10^k, as differences from step 0"
    )


class GridLaunch(Section):
    """Where and how a program executes: no part of any run's identity."""

    devices: PositiveCount | None = Field(
        None,
        description="that share the runs: threads of a CPU (null: its share of the cores), or accelerators (null: all)",
    )
    lanes: PositiveCount | Literal["auto"] = Field(
        1,
        description="runs computed side by side (vmap), faster for tiny models; the last bits depend on it. auto: the "
        "fastest, measured when the program begins and kept from then on",
    )
    checkpoint_every_s: PositiveFloat = 10.0
    progress: bool = Field(True, description="progress bars on stderr")
    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()
