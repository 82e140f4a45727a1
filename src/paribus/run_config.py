"""RunConfig: everything that one run is, each part in its own section."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from paribus.config import Section
from paribus.data.config import DataConfig, Seeds
from paribus.evals.config import EvalConfig, LossEval
from paribus.insertions.config import InsertionsConfig
from paribus.models.config import ModelConfig
from paribus.objectives.config import NextToken, ObjectiveConfig
from paribus.track.config import TrackConfig
from paribus.train.config import LaunchConfig, ReduceOnPlateau, TrainConfig


class Paths(Section):
    runs: str = Field("runs", description="the folder that holds STUDY/NAME-ID/")


def _names_folders(value: str) -> str:
    if any(part.startswith(".") or not part.strip() for part in value.split("/")) or "\0" in value:
        raise ValueError("it names a folder: no empty part, and none that begins with a dot, is expected")
    return value


def _names_a_folder(value: str) -> str:
    if "/" in value:
        raise ValueError("it names a folder: no slash is expected")
    return _names_folders(value)


Name = Annotated[str, AfterValidator(_names_a_folder)]


class RunConfig(Section):
    """One run: what it trains on, what it trains, and how it is judged."""

    study: Annotated[str, AfterValidator(_names_folders)] = Field(
        "runs", description="the folder of the run below paths.runs"
    )
    name: Name
    seeds: Seeds = Seeds()
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig = NextToken()
    train: TrainConfig
    insertions: InsertionsConfig | None = Field(None, description="what is written over the stream; null: nothing")
    evals: dict[Name, EvalConfig] = {}
    # where and how: no part of the run's identity
    track: TrackConfig = TrackConfig()
    launch: LaunchConfig = LaunchConfig()
    paths: Paths = Paths()

    @model_validator(mode="after")
    def _ranks_share_the_batch(self) -> "RunConfig":
        ranks, size = self.launch.num_processes, self.train.batch_size
        if size % ranks:
            raise ValueError(
                f"train.batch_size: {size} windows cannot be cut evenly over launch.num_processes: {ranks}"
            )
        return self

    @model_validator(mode="after")
    def _noise_reaches_the_model(self) -> "RunConfig":
        if self.train.compile and self.insertions and self.insertions.watermarks:
            names = ", ".join(self.insertions.watermarks)
            raise ValueError(
                f"train.compile: found true, but a compiled model keeps the noise of a watermark ({names}) out; say false"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_exist(self) -> "RunConfig":
        train = self.train
        followed = {"train.checkpoints.best_evaluation": train.checkpoints.best_evaluation}
        if train.early_stopping is not None:
            followed["train.early_stopping.evaluation"] = train.early_stopping.evaluation
        if isinstance(train.schedule, ReduceOnPlateau):
            followed["train.schedule.evaluation"] = train.schedule.evaluation
        for key, name in followed.items():
            evaluation = self.evals.get(name) if name is not None else None
            if name is not None and not (isinstance(evaluation, LossEval) and evaluation.every is not None):
                usable = [n for n, e in self.evals.items() if isinstance(e, LossEval) and e.every is not None]
                raise ValueError(
                    f"{key}: {name} is no evaluation of kind loss with `every`; those are: {usable or 'none'}"
                )
        return self
