"""How many runs to compute side by side: measured, since it depends on sizes and on the machine."""

import time
from collections.abc import Callable

CANDIDATES = (1, 4, 16, 64, 256)
ENOUGH_S = 0.03  # a measurement this long is not a matter of luck
WORTHWHILE_S = 5.0  # to compile another candidate takes about a second: below this much work none pays


def fastest_lanes(run: Callable[[int, int], None], num_runs: int, num_steps: int, steps_at_once: int) -> int:
    """The number of lanes with the least time per step of a run. Candidates grow until one brings nothing.

    run(lanes, steps) takes so many runs through so many steps, at most `steps_at_once`, and waits for them."""
    best, best_s = 1, _seconds(run, 1, steps_at_once)
    if best_s * num_runs * num_steps < WORTHWHILE_S:
        return best
    for lanes in (candidate for candidate in CANDIDATES[1:] if candidate <= num_runs):
        seconds = _seconds(run, lanes, steps_at_once)
        if seconds >= best_s:
            break
        best, best_s = lanes, seconds
    return best


def _seconds(run: Callable[[int, int], None], lanes: int, steps_at_once: int) -> float:
    """Per step of a run, the best of three."""
    run(lanes, 1)  # compiles
    steps, seconds = 1, 0.0
    while seconds < ENOUGH_S and steps < steps_at_once:
        steps = min(4 * steps, steps_at_once)
        seconds = _time(run, lanes, steps)
    return min(seconds or _time(run, lanes, steps), *(_time(run, lanes, steps) for _ in range(2))) / (steps * lanes)


def _time(run: Callable[[int, int], None], lanes: int, steps: int) -> float:
    began = time.perf_counter()
    run(lanes, steps)
    return time.perf_counter() - began
