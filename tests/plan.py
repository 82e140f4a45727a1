"""A schema with one of everything, for the tests of the config."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paribus.config import Count, Fraction, PositiveCount, PositiveFloat, Section


class Round(Section):
    kind: Literal["round"] = "round"
    radius: PositiveFloat
    tags: Annotated[list[str], Field(min_length=1)] = ["a"]


class Square(Section):
    kind: Literal["square"] = "square"
    side: PositiveCount
    angle: Fraction = 0.25
    inner: "Shape | None" = None


Shape = Annotated[Round | Square, Field(discriminator="kind")]
Square.model_rebuild()


class Limits(Section):
    low: Count = 0
    high: Count = 9

    @model_validator(mode="after")
    def _in_order(self) -> "Limits":
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


class Plan(Section):
    name: str = Field(description="what it is called")
    num_steps: Count = 10
    rate: PositiveFloat = 1e-3
    is_loud: bool = False
    span: tuple[Count, Count] | None = None
    weights: Literal["equal", "by_size"] | dict[str, PositiveFloat] = "equal"
    shape: Shape = Round(radius=1)
    shapes: dict[str, Shape] = {}
    limits: Limits = Limits()
    extra: dict[str, Any] = {}
    color: Annotated[str, Field(pattern="^[a-z]+$")] = "red"


RUN = """
name: tiny
data: {kind: coins, num_components: 2, window: 8}
model: {kind: preset, name: micro-neox}
train: {batch_size: 4, budget: {steps: 5}, optimizer: {kind: adamw, lr: 1e-3}}
evals: {bayes: {kind: bayes, sequences: 16}}
"""
