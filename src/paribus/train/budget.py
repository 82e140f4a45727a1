"""From a budget of tokens, steps or epochs to the number of optimizer steps."""

from fractions import Fraction

from paribus.data.batches import Stream
from paribus.errors import ConfigError
from paribus.train.config import TrainConfig
from paribus.train.optim import check_schedule


def num_steps(config: TrainConfig, stream: Stream, before: int = 0) -> int:
    """The optimizer steps of a run: exactly floor(budget / what one step takes), whatever else is configured.

    before: steps taken earlier that the schedule counts.

    Raises ConfigError when the budget is less than one step, counts epochs of a stream that has none, or is too short
    for the schedule."""
    budget = config.budget
    tokens_per_step = config.batch_size * stream.window
    if budget.steps is not None:
        steps = budget.steps
    elif budget.tokens is not None:
        steps = budget.tokens // tokens_per_step
        if steps < 1:
            raise ConfigError(f"train.budget.tokens: {budget.tokens} is less than one step's {tokens_per_step} tokens")
    else:
        assert budget.epochs is not None  # Budget holds exactly one of the three
        if stream.windows_per_epoch is None:
            raise ConfigError("train.budget.epochs: windows drawn independently have no epochs; use steps or tokens")
        # exact: 2.3 epochs are 23/10, not the nearest binary fraction
        steps = int(Fraction(str(budget.epochs)) * stream.windows_per_epoch / config.batch_size)
        if steps < 1:
            raise ConfigError(
                f"train.budget.epochs: {budget.epochs} is less than one step of {config.batch_size} windows"
            )
    check_schedule(config.schedule, before + steps)
    return steps
