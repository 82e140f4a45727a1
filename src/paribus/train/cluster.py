"""What a run asks of a cluster: where it executes under Slurm and under Ray. No part of its identity."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from paribus.config import Count, PositiveCount, PositiveFloat, Section

# Flags of sbatch that have a key of their own, or that the launcher needs for itself.
_KEYS = {
    "partition": "launch.slurm.partition",
    "account": "launch.slurm.account",
    "qos": "launch.slurm.qos",
    "time": "launch.slurm.time_limit_min",
    "mem": "launch.slurm.memory_gib",
    "cpus-per-task": "launch.slurm.cpus",
    "gpus-per-node": "launch.slurm.gpus",
    "array": "launch.slurm.max_parallel",
    "signal": "launch.slurm.stop_before_s",
}
_OWN = ("job-name", "output", "error", "open-mode", "requeue", "no-requeue", "chdir", "nodes", "ntasks", "dependency")


class SlurmConfig(Section):
    """A job of `paribus sweep --on slurm`: one node, given back to the queue at the time limit and on preemption."""

    partition: str | None = Field(None, description="null: the cluster's default")
    account: str | None = None
    qos: str | None = None
    time_limit_min: PositiveCount = Field(
        60, description="minutes; a longer run goes on from its checkpoint in a new turn"
    )
    stop_before_s: PositiveCount = Field(
        120, description="so long before the limit a run writes its checkpoint; Slurm may ask up to 60 s earlier"
    )
    memory_gib: PositiveFloat | None = Field(None, description="of the node; null: the cluster's default")
    cpus: PositiveCount | None = Field(
        None, description="null: the threads of all ranks, one each where they do not say"
    )
    gpus: Count | None = Field(None, description="null: one a rank where launch.device is cuda, else none")
    max_parallel: PositiveCount | None = Field(None, description="runs at once; --max-parallel overrules it")
    extra: dict[str, str | int | bool] = Field(
        {}, description="further flags of sbatch, e.g. {constraint: a100}; true: no value"
    )
    setup: list[str] = Field([], description="shell lines before the run, e.g. `module load cuda`")

    @field_validator("extra")
    @classmethod
    def _are_further(cls, extra: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for flag, value in extra.items():
            name = flag.replace("_", "-").removeprefix("--")
            if name in _KEYS:
                raise ValueError(f"{flag}: {_KEYS[name]} sets it")
            if name in _OWN:
                raise ValueError(f"{flag}: the launcher sets it")
            if value is False or name != flag.replace("_", "-"):
                raise ValueError(
                    f"{flag}: the name of a flag, without dashes before it, and a value or true are expected"
                )
        return extra

    @model_validator(mode="after")
    def _leaves_time(self) -> "SlurmConfig":
        if self.stop_before_s >= 60 * self.time_limit_min:
            raise ValueError(
                f"stop_before_s: found {self.stop_before_s}, but time_limit_min: {self.time_limit_min} "
                f"is only {60 * self.time_limit_min} s"
            )
        return self


class RayConfig(Section):
    """A task of `paribus sweep --on ray`."""

    address: str | None = Field(
        None, description="`auto` or ray://HOST:PORT; null: a cluster on this machine, for this sweep"
    )
    cpus: PositiveCount | None = Field(
        None, description="null: the threads of all ranks, one each where they do not say"
    )
    gpus: Annotated[float, Field(ge=0)] | None = Field(
        None, description="null: one a rank where launch.device is cuda, else none"
    )
    memory_gib: PositiveFloat | None = Field(None, description="null: not asked for")
