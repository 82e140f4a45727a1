"""Budgets: exactly floor(budget / what a step takes)."""

import pytest
from counting_runs import counting, settings

from paribus.errors import ConfigError
from paribus.train.budget import num_steps
from paribus.train.config import Budget, Constant, Cosine


def steps(epoch: int | None = None, **budget: float) -> int:
    """Of 8 windows of 16 predictions: 128 tokens a step."""
    config = settings(budget=Budget.model_validate(budget), schedule=Constant())
    return num_steps(config, counting(windows_per_epoch=epoch))


def test_a_budget_gives_another_number_of_steps() -> None:
    assert steps(steps=7) == 7
    assert [steps(tokens=tokens) for tokens in (128, 255, 256, 2_600_000_000)] == [1, 1, 2, 20_312_500]
    assert [steps(epochs=epochs, epoch=500) for epochs in (1.0, 2.0, 3.0, 0.5)] == [62, 125, 187, 31]


def test_epochs_are_rounded_in_binary() -> None:
    """100 epochs of 23 windows in steps of 10, 2.3 of 80 in steps of 8: whole in decimals, a hair less in binary."""
    config = settings(budget=Budget(epochs=100), schedule=Constant(), batch_size=10)
    assert num_steps(config, counting(windows_per_epoch=23)) == 230
    assert steps(epochs=2.3, epoch=80) == 23


def test_a_budget_below_one_step_or_without_epochs_is_accepted() -> None:
    with pytest.raises(ConfigError, match="127 is less than one step's 128 tokens"):
        steps(tokens=127)
    with pytest.raises(ConfigError, match="less than one step of 8 windows"):
        steps(epochs=0.01, epoch=500)
    with pytest.raises(ConfigError, match="have no epochs"):
        steps(epochs=1.0)
    with pytest.raises(ConfigError, match="do not fit into the run's 2"):
        num_steps(settings(budget=Budget(tokens=256), schedule=Cosine(warmup_steps=2)), counting())
