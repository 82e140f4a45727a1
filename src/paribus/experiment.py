"""RunConfig and run(): the only place where the parts meet."""

from pydantic import Field

from paribus.config import Section
from paribus.data.config import DataConfig, Seeds
from paribus.evals.config import EvalConfig
from paribus.models.config import ModelConfig
from paribus.objectives.config import NextToken, ObjectiveConfig
from paribus.track.config import TrackConfig
from paribus.train.config import LaunchConfig, TrainConfig


class Paths(Section):
    runs: str = Field("runs", description="the folder that holds STUDY/NAME-ID/")


class RunConfig(Section):
    """One run: what it trains on, what it trains, and how it is judged."""

    study: str = "runs"
    name: str
    seeds: Seeds = Seeds()
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig = NextToken()
    train: TrainConfig
    evals: dict[str, EvalConfig] = {}
    # where and how: no part of the run's identity
    track: TrackConfig = TrackConfig()
    launch: LaunchConfig = LaunchConfig()
    paths: Paths = Paths()
