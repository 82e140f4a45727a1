"""How many runs to compute side by side: measured, since it depends on sizes and on the machine."""

from collections.abc import Callable
from functools import partial

CANDIDATES = (1, 4, 16, 64, 256)
ENOUGH_S = 0.03  # a measurement this long is not a matter of luck
GAIN = 1.1  # lanes that gain less are not worth the memory, and may owe it to luck
WORTHWHILE_S = 5.0  # to compile another candidate takes about a second: below this much work none pays


def fastest_lanes(
    run: Callable[[int, int], None], clock: Callable[[], float], num_runs: int, num_steps: int, steps_at_once: int
) -> int:
    """The number of lanes with the least time per step of a run. Candidates grow until one brings nothing.

    run(lanes, steps) takes so many runs through so many steps, at most `steps_at_once`, and waits for them; clock tells
    seconds: of the processor's time if that is what computes, so that other processes do not count."""
    seconds_of = partial(_seconds, run, clock, steps_at_once)
    best, best_s = 1, seconds_of(1)
    if best_s * num_runs * num_steps < WORTHWHILE_S:
        return best
    for lanes in (candidate for candidate in CANDIDATES[1:] if candidate <= num_runs):
        seconds = seconds_of(lanes)
        if seconds * GAIN >= best_s:
            break
        best, best_s = lanes, seconds
    return best


def _seconds(run: Callable[[int, int], None], clock: Callable[[], float], steps_at_once: int, lanes: int) -> float:
    """Per step of a run, the best of three."""
    run(lanes, 1)  # compiles

    def measured(steps: int) -> float:
        began = clock()
        run(lanes, steps)
        return clock() - began

    steps = 1
    while measured(steps) < ENOUGH_S and steps < steps_at_once:
        steps = min(4 * steps, steps_at_once)
    return min(measured(steps) for _ in range(3)) / (steps * lanes)
