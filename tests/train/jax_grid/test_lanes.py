"""The number of lanes, on a clock that is a formula."""

import pytest

from paribus.train.jax_grid.lanes import CANDIDATES, fastest_lanes


class Machine:
    """Runs cost `cost(lanes)` seconds a step each; every call may add the time that another process takes."""

    def __init__(self, cost, interruptions=()):
        self.now, self._cost, self._interruptions, self.calls = 0.0, cost, list(interruptions), []

    def run(self, lanes: int, steps: int) -> None:
        assert steps <= 50
        self.calls.append(lanes)
        self.now += lanes * steps * self._cost(lanes) + (self._interruptions.pop(0) if self._interruptions else 0)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize("best", CANDIDATES)
def test_the_lanes_of_the_least_time_are_found(best):
    machine = Machine(lambda lanes: 1e-3 * (1 + abs(CANDIDATES.index(lanes) - CANDIDATES.index(best))))
    assert fastest_lanes(machine.run, machine.clock, 1000, 1000, 50) == best


def test_no_more_lanes_than_runs():
    machine = Machine(lambda lanes: 1 / lanes)
    assert fastest_lanes(machine.run, machine.clock, 20, 1000, 50) == 16


def test_little_work_is_not_worth_a_second_compilation():
    machine = Machine(lambda lanes: 1e-3 / lanes)
    assert fastest_lanes(machine.run, machine.clock, 100, 10, 50) == 1
    assert set(machine.calls) == {1}


def test_a_gain_of_a_few_per_cent_is_not_taken_for_one():
    machine = Machine(lambda lanes: 1e-3 * (0.95 if lanes > 1 else 1))
    assert fastest_lanes(machine.run, machine.clock, 1000, 1000, 50) == 1


def test_one_interruption_does_not_decide():
    machine = Machine(lambda lanes: 1e-3 / lanes, interruptions=[0, 0, 0, 0, 0, 9.0])
    assert fastest_lanes(machine.run, machine.clock, 1000, 1000, 50) == 256
