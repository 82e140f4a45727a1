"""GridRun: everything that one run of the grid engine is. Runs that differ only in eta and gamma share a program."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from paribus.config import PositiveCount, PositiveFloat, Section
from paribus.data.supervised import LinearTeacher, SupervisedData, SupervisedSeeds
from paribus.models.config import Mlp
from paribus.run_config import Name, Paths, names_folders
from paribus.train.jax_grid.config import Adam, Sgd


class Bisection(Section):
    """Find eta_max, the largest stable eta, by bisection in log eta."""

    kind: Literal["bisection"] = "bisection"
    low: PositiveFloat = 2.0**-12
    high: PositiveFloat = 2.0**12
    tolerance_log2: PositiveFloat = 0.125


class GoldenSection(Section):
    """Find eta*, that of the lowest final loss, by golden-section search in log eta."""

    kind: Literal["golden_section"] = "golden_section"
    low: PositiveFloat = 2.0**-12
    high: PositiveFloat = 2.0**12
    tolerance_log2: PositiveFloat = 0.25


class Descending(Section):
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
    probes: list[Literal["coordinates", "weight_change", "sharpness", "noise_scale"]] = Field(
        [], description="what else is measured at these steps and at the first"
    )
    snapshots: bool = Field(
        False, description="keep weights at steps 0 and {1, 2, 5} x 10^k, as differences from step 0"
    )


class GridLaunch(Section):
    """Where and how a program executes: no part of any run's identity."""

    devices: PositiveCount | None = Field(
        None, description="host devices that share the runs; null: its share of the cores"
    )
    lanes: PositiveCount | None = Field(
        None, description="runs computed side by side (vmap); the last bits depend on it; null: measured, then kept"
    )
    checkpoint_every_s: PositiveFloat = 10.0
    progress: bool = Field(True, description="progress bars on stderr")


class GridRun(Section):
    """One run of the grid engine: a small MLP on supervised data."""

    study: Annotated[str, AfterValidator(names_folders)] = Field(
        "runs", description="the folder of the program below paths.runs"
    )
    name: Name
    seeds: SupervisedSeeds = SupervisedSeeds()
    data: SupervisedData
    model: Mlp
    loss: Literal["mse", "cross_entropy"] = "mse"
    train: GridTrain
    record: Record = Record()
    launch: GridLaunch = GridLaunch()
    paths: Paths = Paths()

    @model_validator(mode="after")
    def _budget_fits(self) -> "GridRun":
        is_fresh = self.data.kind != "images" and self.data.num_samples is None
        if is_fresh and self.train.budget.epochs is not None:
            raise ValueError("train.budget.epochs: fresh samples have no epochs; give steps, or data.num_samples")
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> "GridRun":
        if self.loss == "cross_entropy" and self.data.kind != "images":
            raise ValueError(f"loss: cross_entropy needs classes (data.kind: images), found {self.data.kind}")
        return self

    @property
    def knows_population_loss(self) -> bool:
        """Whether the loss over the data's distribution has a closed form."""
        return isinstance(self.data, LinearTeacher) and (self.model.depth <= 2 or self.model.activation == "linear")
