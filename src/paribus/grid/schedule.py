"""When a program is evaluated, when its weights are kept, and when it ends."""

from typing import NamedTuple

from paribus.data.source import Source
from paribus.grid.config import GridRun
from paribus.train.jax_grid.stream import check_batch_size


class Schedule(NamedTuple):
    """When a program of so many steps is evaluated, and when its weights are kept."""

    num_steps: int
    epoch_steps: int | None  # None: fresh samples, which have no epochs
    evaluate_every: int | None
    snapshots: bool

    def is_evaluated(self, step: int) -> bool:
        every = self.evaluate_every
        return step in (0, self.num_steps) or self.epoch(step) is not None or (every is not None and step % every == 0)

    def epoch(self, step: int) -> int | None:
        """The epoch that ends with this step, counted from 1."""
        return step // self.epoch_steps if self.epoch_steps and step and step % self.epoch_steps == 0 else None

    def is_kept(self, step: int) -> bool:
        """Step 0 and {1, 2, 5} x 10^k."""
        return self.snapshots and (step == 0 or str(step).rstrip("0") in ("1", "2", "5"))

    def border(self, step: int) -> int:
        """The next step at which something happens."""
        every = [size for size in (self.evaluate_every, self.epoch_steps) if size]
        borders = [self.num_steps, *((step // size + 1) * size for size in every)]
        if self.snapshots:
            scale = 10 ** len(str(step))
            borders += [kept * scale // 10 for kept in (1, 2, 5, 10) if kept * scale // 10 > step]
        return min(borders)


def schedule_of(config: GridRun, source: Source) -> Schedule:
    """Raises ConfigError when a batch is larger than the data."""
    size, budget = config.train.batch_size, config.train.budget
    check_batch_size(source, size)
    epoch_steps = None
    if source.num_samples is not None:
        epoch_steps = source.num_samples // size
    num_steps = budget.steps if budget.steps is not None else (budget.epochs or 0) * (epoch_steps or 0)
    return Schedule(num_steps, epoch_steps, config.record.evaluate_every, config.record.snapshots)
