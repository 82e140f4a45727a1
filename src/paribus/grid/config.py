"""GridRun: everything that one run of the grid engine is. Runs that differ only in eta and gamma share a program."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from paribus.config import Section, parse
from paribus.data.supervised import LinearTeacher, SupervisedData, SupervisedSeeds
from paribus.mistakes import kinds, options
from paribus.models.config import Mlp, ModelConfig
from paribus.run_config import Name, Paths, names_folders
from paribus.train.jax_grid.config import GridLaunch, GridTrain, Record
from paribus.tree import Node


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
    def _batch_fits(self) -> "GridRun":
        size, there = self.train.batch_size, self.data.num_samples
        if there is not None and size > there:
            raise ValueError(f"train.batch_size: {size:,} is more than the data.num_samples: {there:,}; lower it")
        return self

    @model_validator(mode="after")
    def _loss_fits(self) -> "GridRun":
        if self.loss == "cross_entropy" and self.data.kind != "images":
            raise ValueError(f"loss: cross_entropy needs classes (data.kind: images), found {self.data.kind}")
        return self

    @model_validator(mode="after")
    def _rates_fit(self) -> "GridRun":
        optimizer, found = self.train.optimizer, self.model.parameterization
        if optimizer.kind == "adam" and optimizer.layer_rates != "per_layer" and found != "mup":
            raise ValueError(
                f"train.optimizer.layer_rates: {optimizer.layer_rates} is a choice of mup alone, found "
                f"model.parameterization: {found}"
            )
        return self

    @model_validator(mode="after")
    def _snapshots_fit(self) -> "GridRun":
        if self.record.snapshots and not isinstance(self.train.eta, float):
            raise ValueError(
                f"record.snapshots: a search ({self.train.eta.kind}) keeps no weights; say false, or give an eta"
            )
        return self

    @property
    def knows_population_loss(self) -> bool:
        """Whether the loss over the data's distribution has a closed form."""
        return isinstance(self.data, LinearTeacher) and (self.model.depth <= 2 or self.model.activation == "linear")


class _AnyModel(Section):
    """The part of a run that says of which kind it is."""

    model_config = ConfigDict(extra="ignore")
    model: Annotated[ModelConfig | Mlp, Field(discriminator="kind")]


def is_grid_run(tree: Node) -> bool:
    """Whether the tree of a run describes one of the grid engine's: a model of kind mlp says so.

    Raises ConfigError when its model says of no kind: nothing else can be judged then."""
    kind = tree.get("model").get("kind").value
    if kind not in kinds(options(ModelConfig | Mlp)) and isinstance(tree.value, dict):
        parse(tree, _AnyModel)
    return kind == "mlp"
