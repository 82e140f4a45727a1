"""The settings of training: budget, optimizer, schedule, checkpoints, stopping, and the engine that runs it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paribus.config import Count, Fraction, PositiveCount, PositiveFloat, Section
from paribus.train.cluster import RayConfig, SlurmConfig


class Budget(Section):
    """How long to train: exactly one of the three."""

    steps: PositiveCount | None = None
    tokens: PositiveCount | None = Field(None, description="predicted tokens: floor(tokens / tokens a step) steps")
    epochs: PositiveFloat | None = Field(None, description="passes over the chunks; needs `windows: {kind: chunks}`")

    @model_validator(mode="after")
    def _exactly_one(self) -> "Budget":
        given = [name for name in ("steps", "tokens", "epochs") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)}; make the others null" if given else "none"
            raise ValueError(f"exactly one of steps, tokens, epochs is expected, found {found}")
        return self


class AdamW(Section):
    """AdamW (Loshchilov & Hutter 2019); biases, norms and other vectors are not decayed."""

    kind: Literal["adamw"] = "adamw"
    lr: PositiveFloat = Field(description="the peak learning rate")
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1


class Linear(Section):
    kind: Literal["linear"] = "linear"
    warmup_steps: Count = 0
    final_fraction: Fraction = Field(0.0, description="of the peak, reached at the last step")


class Cosine(Section):
    kind: Literal["cosine"] = "cosine"
    warmup_steps: Count = 0
    final_fraction: Fraction = Field(0.1, description="of the peak, reached at the last step")


class Constant(Section):
    kind: Literal["constant"] = "constant"
    warmup_steps: Count = 0


class WarmupStableDecay(Section):
    """Warm-up, plateau, then a linear decay over the last `decay_steps`."""

    kind: Literal["wsd"] = "wsd"
    warmup_steps: Count = 0
    decay_steps: PositiveCount
    final_fraction: Fraction = 0.0


class ReduceOnPlateau(Section):
    """Multiply the rate by `factor` when more than `patience` evaluations in a row bring no improvement of `delta`."""

    kind: Literal["plateau"] = "plateau"
    warmup_steps: Count = 0
    evaluation: str = Field(description="the name of a `loss` evaluation with `every`")
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Count = 2
    delta: Annotated[float, Field(ge=0)] = 0.0
    min_fraction: Fraction = Field(0.01, description="of the peak: the rate never falls below")


Schedule = Annotated[Linear | Cosine | Constant | WarmupStableDecay | ReduceOnPlateau, Field(discriminator="kind")]


class Checkpoints(Section):
    """When a checkpoint is written and which are kept. The final one is always written and kept."""

    every: PositiveCount | None = Field(None, description="steps between checkpoints; null: only the final one")
    keep_last: Count = Field(2, description="keep the newest so many of `every`; 0 keeps all")
    initial: bool = Field(False, description="keep step 0 too")
    best: Count = Field(0, description="keep the k best by the smoothed validation loss")
    best_evaluation: str | None = Field(None, description="the `loss` evaluation that `best` and `improvement` follow")
    best_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="of the exponential average, bias-corrected; 0: the raw loss"
    )
    improvement: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="keep a checkpoint whenever the smoothed loss fell below this factor of the last one's"
    )

    @model_validator(mode="after")
    def _names_its_evaluation(self) -> "Checkpoints":
        if (self.best or self.improvement) and self.best_evaluation is None:
            raise ValueError("`best` and `improvement` need `best_evaluation`: the name of a `loss` evaluation")
        return self


class EarlyStopping(Section):
    evaluation: str = Field(description="the name of a `loss` evaluation with `every`")
    patience: PositiveCount = 3
    delta: Annotated[float, Field(ge=0)] = 0.0


class TrainConfig(Section):
    batch_size: PositiveCount = Field(description="windows a step, over all ranks and micro-batches")
    micro_batch_size: PositiveCount | None = Field(
        None, description="windows a forward pass on one rank; null: the rank's share at once"
    )
    budget: Budget
    optimizer: AdamW
    schedule: Schedule = Constant()
    clip_norm: PositiveFloat | None = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the autocast; weights stay fp32")
    gradient_checkpointing: bool = False
    compile: bool = False
    checkpoints: Checkpoints = Checkpoints()
    early_stopping: EarlyStopping | None = None
    log_every: PositiveCount = 10


class StartConfig(Section):
    """How a run goes on from the weights of another one: what of it begins anew, and what is continued."""

    optimizer: Literal["fresh", "continued"] = Field("fresh", description="AdamW's moments and step counts")
    schedule: Literal["restarted", "continued"] = Field(
        "restarted", description="the learning rate; continued: the steps before count, warm-up and decay included"
    )
    data: Literal["restarted", "continued"] = Field(
        "restarted", description="continued: steps are numbered on, with the batch that comes next in training order"
    )

    @property
    def continued(self) -> list[str]:
        """The keys that say so."""
        return [key for key, value in self.model_dump().items() if value == "continued"]


class LaunchConfig(Section):
    """Where and how a run executes: no part of its identity, the data never depends on it."""

    engine: Literal["single", "ddp", "fsdp2", "olmo_core"] = "single"
    num_processes: PositiveCount = Field(1, description="ranks that `paribus train` starts through torchrun")
    retries: Count | None = Field(
        None, description="times that torchrun is started again after a crash; null: 10 for olmo_core, 0 for the others"
    )
    retry_wait_s: PositiveFloat = Field(
        10.0, description="before the first of them; doubled for each further one, and up to a quarter more at random"
    )
    threads: PositiveCount | None = Field(None, description="CPU threads a rank; null: PyTorch's own choice")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    progress: bool = Field(True, description="progress bars on stderr")
    slurm: SlurmConfig = SlurmConfig()
    ray: RayConfig = RayConfig()

    @property
    def uses_torchrun(self) -> bool:
        return self.num_processes > 1 or self.engine == "olmo_core"

    @model_validator(mode="after")
    def _can_be_retried(self) -> "LaunchConfig":
        if self.retries and not self.uses_torchrun:
            raise ValueError(
                f"retries: only ranks that torchrun starts are started again: several processes or engine: olmo_core, "
                f"found engine: {self.engine} with one"
            )
        return self
