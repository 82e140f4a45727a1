"""The windows of a run are numbered from 0, step after step: random numbers belong to a window, never to a batch."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import key

_PER_COUNT = 4  # numbers that one count of Philox gives (Salmon et al. 2011)


def uniform(seed: int, purpose: str, first: int, stop: int, num_draws: int) -> NDArray[np.float64]:
    """Numbers of [0, 1) for the windows first .. stop - 1: (windows, num_draws), whichever are asked for together.

    Window n has the numbers n * num_draws .. (n + 1) * num_draws - 1 of one sequence."""
    count, skipped = divmod(first * num_draws, _PER_COUNT)
    generator = np.random.Generator(np.random.Philox(key=key(seed, purpose), counter=count))
    return generator.random(skipped + (stop - first) * num_draws)[skipped:].reshape(-1, num_draws)


def by_step(
    rows: Callable[[int, int], NDArray[Any]], batch_size: int, windows_at_once: int
) -> Callable[[int], NDArray[Any]]:
    """From a function of the windows [first, stop) to one of the step, which must not be written to.

    It stays pure: it only makes the rows of neighbouring steps together and remembers them, since numpy takes as long
    for a hundred windows as for ten thousand."""
    num_steps = max(1, windows_at_once // batch_size)

    @lru_cache(maxsize=2)
    def block(number: int) -> NDArray[Any]:
        first = number * num_steps * batch_size
        made = rows(first, first + num_steps * batch_size)
        return made.reshape(num_steps, batch_size, *made.shape[1:])

    def of_step(step: int) -> NDArray[Any]:
        number, index = divmod(step, num_steps)
        return block(number)[index]  # type: ignore[no-any-return]

    return of_step
