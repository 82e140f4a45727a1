"""What evaluations decide about the run: early stopping, and the reductions of a plateau schedule. Frozen states."""

from typing import NamedTuple

from paribus.train.config import ReduceOnPlateau


class Patience(NamedTuple):
    """The best loss so far, and how many evaluations in a row brought no improvement on it."""

    best: float | None = None
    waited: int = 0

    def after(self, loss: float, delta: float) -> "Patience":
        """An improvement is a loss below best - delta; a loss that is not finite is none."""
        if self.best is None or loss < self.best - delta:
            return Patience(loss, 0)
        return Patience(self.best, self.waited + 1)


class Plateau(NamedTuple):
    """How often a plateau schedule has reduced the rate."""

    reductions: int = 0
    best: float | None = None
    waited: int = 0

    def after(self, loss: float, config: ReduceOnPlateau) -> "Plateau":
        """Reduce when more than `patience` evaluations in a row brought nothing; then wait anew."""
        best, waited = Patience(self.best, self.waited).after(loss, config.delta)
        if waited > config.patience:
            return Plateau(self.reductions + 1, best, 0)
        return Plateau(self.reductions, best, waited)

    def factor(self, config: ReduceOnPlateau) -> float:
        return float(max(config.factor**self.reductions, config.min_fraction))
