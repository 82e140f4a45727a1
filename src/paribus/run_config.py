"""RunConfig: everything that one run is, each part in its own section."""

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from paribus.config import Section
from paribus.data.config import DataConfig, OlmoCoreOrder, Seeds, TokenFilesData
from paribus.evals.config import EvalConfig, LossEval
from paribus.insertions.config import InsertionsConfig
from paribus.insertions.dynamic import Dynamic
from paribus.models.config import Architecture, ModelConfig, Pretrained
from paribus.objectives.config import NextToken, ObjectiveConfig
from paribus.track.config import TrackConfig
from paribus.train.config import LaunchConfig, ReduceOnPlateau, StartConfig, TrainConfig


class Paths(Section):
    runs: str = Field("runs", description="the folder that holds STUDY/NAME-ID/")


def names_folders(value: str) -> str:
    if any(part.startswith(".") or not part.strip() for part in value.split("/")) or "\0" in value:
        raise ValueError("it names a folder: no empty part, and none that begins with a dot, is expected")
    return value


def _names_a_folder(value: str) -> str:
    if "/" in value:
        raise ValueError("it names a folder: no slash is expected")
    return names_folders(value)


Name = Annotated[str, AfterValidator(_names_a_folder)]


class RunConfig(Section):
    """One run: what it trains on, what it trains, and how it is judged."""

    study: Annotated[str, AfterValidator(names_folders)] = Field(
        "runs", description="the folder of the run below paths.runs"
    )
    name: Name
    seeds: Seeds = Seeds()
    data: DataConfig
    model: ModelConfig
    start: StartConfig = StartConfig()
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
        names = ", ".join(self.insertions.watermarks) if self.insertions else ""
        if names and self.train.compile:
            raise ValueError(
                f"train.compile: found true, but a compiled model keeps the noise of a watermark ({names}) out; say false"
            )
        return self

    @model_validator(mode="after")
    def _olmo_core_can(self) -> "RunConfig":
        refused = olmo_core_refusal(self) if self.launch.engine == "olmo_core" else None
        if refused is not None:
            raise ValueError(f"launch.engine: olmo_core: {refused}")
        return self

    @model_validator(mode="after")
    def _there_is_something_to_continue(self) -> "RunConfig":
        has_weights = isinstance(self.model, Pretrained) and self.model.init == "weights"
        for key in () if has_weights else self.start.continued:
            raise ValueError(f"start.{key}: continued needs the weights of a `model` of kind pretrained, found none")
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


def olmo_core_refusal(config: RunConfig) -> str | None:
    """The first setting that OLMo-core's trainer could not follow, with what it could; None where it can do it all."""
    data, model, train = config.data, config.model, config.train
    rows = train.batch_size // config.launch.num_processes
    if config.insertions and config.insertions.watermarks:
        names = ", ".join(config.insertions.watermarks)
        return f"its trainer has no place for the noise of a watermark ({names}); use single, ddp or fsdp2"
    if not isinstance(data, TokenFilesData) or not isinstance(data.order, OlmoCoreOrder):
        return (
            "it reads its own files in its own order: data: {kind: token_files, order: {kind: olmo_core}} is expected"
        )
    if data.mask_separators:
        return "it takes the loss of every token: data.mask_separators: false is expected"
    if not (isinstance(model, Pretrained) or (isinstance(model, Architecture) and model.model_type == "olmo2")):
        found = model.model_type if isinstance(model, Architecture) else model.name
        return f"it trains an architecture of model_type olmo2, or a pretrained one; found {found}"
    if isinstance(train.schedule, ReduceOnPlateau):
        return "train.schedule: it has constant, linear, cosine and wsd, found plateau"
    if train.precision == "fp16":
        return "train.precision: it has fp32 and bf16, found fp16"
    if train.gradient_checkpointing or train.compile:
        return "train.gradient_checkpointing and train.compile: false is expected"
    inserted = config.insertions.writers if config.insertions and not config.insertions.control else {}
    if any(isinstance(one, Dynamic) for one in inserted.values()):
        return "its loader reads ahead of the controllers: no insertions of kind dynamic are expected"
    if config.start.continued:
        return f"it begins anew: start.{config.start.continued[0]}: restarted or fresh is expected"
    if rows % min(train.micro_batch_size or rows, rows):
        return (
            f"train.micro_batch_size: a divisor of a rank's {rows} windows is expected, found {train.micro_batch_size}"
        )
    return None
