"""The settings of the evaluations."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paribus.config import Count, PositiveCount, Section


class _Scheduled(Section):
    every: PositiveCount | None = Field(None, description="steps between evaluations; null: only after the last step")
    at_start: bool = Field(False, description="also before the first step")


class LossEval(_Scheduled):
    """Loss by category and position on frozen windows: one pass; also perplexity, bits a byte, in-context score.

    Of a synthetic source it scores frozen sequences, by component; `store` and `split` are then of no concern."""

    kind: Literal["loss"] = "loss"
    store: str | None = Field(None, description="null: the run's own store")
    split: str = "validation"
    categories: Literal["active", "all"] | list[str] = Field(
        "active", description="those the run trains on, all, or a list"
    )
    windows_per_category: PositiveCount = 1024
    window: PositiveCount | None = Field(None, description="predictions a window; null: the run's own")
    batch_size: PositiveCount = 64
    seed: Count = Field(0, description="draws the windows; models that share it are scored on the same ones")
    in_context: tuple[PositiveCount, PositiveCount] | None = Field(
        None, description="positions a < b of the in-context score L(a) - L(b); null: 1/5 and all of the window"
    )

    @model_validator(mode="after")
    def _says_what_it_means(self) -> "LossEval":
        if self.in_context is not None and self.in_context[0] >= self.in_context[1]:
            raise ValueError(f"in_context: positions a < b are expected, found {list(self.in_context)}")
        if isinstance(self.categories, list) and len(set(self.categories)) != max(1, len(self.categories)):
            raise ValueError(f"categories: at least one name, each once, is expected, found {self.categories}")
        return self


class BayesEval(_Scheduled):
    """Trained against optimal: KL(Bayes || model) by position on frozen sequences of a synthetic source."""

    kind: Literal["bayes"] = "bayes"
    sequences: PositiveCount = Field(4096, description="in all, the same number of each component")
    batch_size: PositiveCount = 256
    seed: Count = 0


class CausalityEval(_Scheduled):
    """Alter tokens >= t: no logit before t may change."""

    kind: Literal["causality"] = "causality"
    sequences: PositiveCount = 4
    seed: Count = 0


EvalConfig = Annotated[LossEval | BayesEval | CausalityEval, Field(discriminator="kind")]
