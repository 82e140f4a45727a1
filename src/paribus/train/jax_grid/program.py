"""Program: R runs that differ in eta and gamma, in memory. Who keeps directories and checkpoints stands above it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from paribus.data.source import Source
from paribus.objectives.population import population_loss
from paribus.objectives.regression import loss_of_zero
from paribus.train.jax_grid.config import Adam
from paribus.train.jax_grid.devices import run_all, workers
from paribus.train.jax_grid.heldout import Heldout, hold_out, losses_and_hits
from paribus.train.jax_grid.kernel import Chunk, Lanes, Leaves, Rule, Scales, freeze, train
from paribus.train.jax_grid.lanes import fastest_lanes
from paribus.train.jax_grid.problem import Problem, learning_rates, output_scales, theta_0
from paribus.train.jax_grid.state import State
from paribus.train.jax_grid.stream import batches, check_batch_size

CHUNK_BYTES = 64 * 2**20  # of one stretch of the stream, on every device
DIVERGED = 1e6  # times the initial loss
SUBTRACTED_FROM = 1.0  # gamma: below it the output is magnified, and float32's error of a difference with it

Group = NDArray[np.int64]  # the runs that a kernel computes side by side

Result = TypeVar("Result")


class Program:
    """One compiled program and its data. Every result is the same, bit for bit, however advance is cut into pieces, whatever
    the devices are, and whichever other runs there are; `lanes` alone changes last bits, so keep it with what it made."""

    def __init__(
        self,
        problem: Problem,
        source: Source,
        gammas: Sequence[float],
        *,
        devices: int | None = None,
        threads: int = 1,
        lanes: int | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """lanes: None measures what is fastest. Raises ConfigError for a batch that the data cannot fill, and for devices
        that are not there."""
        check_batch_size(source, problem.batch_size)
        self.num_heldout = len(source.heldout.x)
        self.initial_loss = loss_of_zero(problem.loss, source.heldout.y)
        self._problem, self._source = problem, source
        self._gammas = np.asarray(gammas, np.float64)
        # what is measured is centred as one difference, whichever way the run trains
        self.rule = Rule(problem.model.activation == "linear", problem.loss, problem.optimizer)
        self._subtracts = self._gammas >= SUBTRACTED_FROM
        self._devices = workers(devices, threads)
        self.theta_0 = theta_0(problem, source.input_dim, source.output_dim)
        samples = hold_out(self.theta_0, source.heldout, is_linear=self.rule.is_linear)
        self._heldout = {device: jax.device_put(samples, device) for device in set(self._devices)}
        self._chunk_steps = _steps_of(chunk_bytes, problem, source)
        self._chunk: tuple[int, dict[jax.Device, tuple[Leaves, Chunk]]] | None = None  # the last one, with its number
        if lanes is None:
            clock = time.process_time if self._devices[0].platform == "cpu" else time.perf_counter
            most = max(self._subtracts.sum(), (~self._subtracts).sum())  # runs of one rule, which alone share a kernel
            lanes = fastest_lanes(self._rehearse, clock, int(most), problem.steps, self._chunk_steps)
        self.lanes = lanes

    def begin(self) -> State:
        """Every run before its first step."""
        return self._begin(len(self._gammas))

    def _begin(self, runs: int) -> State:
        zeros = tuple(np.zeros((runs, *W.shape), np.float32) for W in self.theta_0)
        is_adam = isinstance(self._problem.optimizer, Adam)
        return State(0, np.full(runs, -1, np.int32), zeros, (zeros, zeros) if is_adam else ())

    def advance(
        self,
        state: State,
        etas: NDArray[np.float64],
        until: int,
    ) -> tuple[State, NDArray[np.float32]]:
        """Train to `until`: the state then, and the losses (R, until - state.step) of the steps, each before its update; NaN
        after a run's end."""
        assert state.step <= until <= self._problem.steps
        first, runs = state.step, len(self._gammas)
        losses = np.full((runs, until - first), np.nan, np.float32)
        state = replace(_copy(state), step=until)
        scales = self._scales(np.asarray(etas, np.float64))
        for chunk in range(first // self._chunk_steps, -(-until // self._chunk_steps)):
            start = chunk * self._chunk_steps
            span = np.array([start, max(first - start, 0), min(until - start, self._chunk_steps)], np.int32)
            alive = np.flatnonzero(state.ended < 0)
            data = self._data(chunk) if len(alive) else {}
            work = partial(self._train, state, scales, data, span)
            for group, (lanes, found) in run_all(self._groups(alive), self._devices, work):
                _put(state, group, lanes)
                losses[group, start + span[1] - first : start + span[2] - first] = found
        return state, losses

    def evaluate(self, state: State) -> dict[str, NDArray[np.float64]]:
        """(R,) each: heldout_loss; heldout_accuracy where there are classes; population_loss where it has a closed form."""
        sums = self.measure(state, partial(losses_and_hits, self.rule))
        losses, hits = (
            np.array([part.sum(dtype=np.float64) / self.num_heldout for part in parts])
            for parts in zip(*sums, strict=True)
        )
        metrics = {"heldout_loss": losses}
        if self._source.output_dim > 1:
            metrics["heldout_accuracy"] = hits
        if self._problem.population is not None:
            known = partial(population_loss, self._problem.population, self.theta_0, is_linear=self.rule.is_linear)
            output = output_scales(self._problem, self._source.input_dim, self._gammas)
            metrics["population_loss"] = np.array(
                [known([leaf[run] for leaf in state.u], output=output[run]) for run in range(len(output))]
            )
        return metrics

    def measure(self, state: State, function: Callable[[Heldout, Leaves, Array], Result]) -> list[Result]:
        """(R,) function(held-out samples, u of a run, its output scale) as numpy; compile it with `kernel.compiled`."""
        found: dict[int, Result] = {}
        output = output_scales(self._problem, self._source.input_dim, self._gammas).astype(np.float32)

        def of_run(run: int, device: jax.Device) -> Result:
            its_u = tuple(leaf[run] for leaf in state.u)
            measured: Result = jax.tree.map(np.asarray, function(self._heldout[device], its_u, output[run]))
            return measured

        found.update(run_all(range(len(output)), self._devices, of_run))
        return [found[run] for run in range(len(output))]

    def _train(
        self,
        state: State,
        scales: Scales,
        data: dict[jax.Device, tuple[Leaves, Chunk]],
        span: NDArray[np.int32],
        group: Group,
        device: jax.Device,
    ) -> tuple[Lanes, NDArray[np.float32]]:
        """Take a group through a span of a chunk: what becomes of its runs, and their losses, on the host."""
        padded = np.pad(group, (0, self.lanes - len(group)), mode="edge")
        runs = Lanes(state.u, state.moments, state.ended)
        lanes, its_scales = jax.tree.map(lambda leaf: leaf[padded], (runs, scales))
        limit = np.float32(DIVERGED * self.initial_loss)
        done = train(self._rule_of(group[0]), self.lanes, *data[device], lanes, its_scales, span, limit)
        lanes, losses = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(group)], done)
        return lanes, losses[:, span[1] : span[2]]

    def _rehearse(self, lanes: int, steps: int) -> None:
        """Take `lanes` runs through the first steps at a rate of 0: it costs what training does."""
        start = self._begin(lanes)
        at_rest = Scales(np.zeros((lanes, self._problem.model.depth), np.float32), np.ones(lanes, np.float32))
        runs = Lanes(start.u, start.moments, start.ended)
        span = np.array([0, 0, steps], np.int32)
        data = self._data(0)[self._devices[0]]
        rule = self.rule._replace(subtracts=bool(2 * self._subtracts.sum() > len(self._subtracts)))
        _, losses = train(rule, lanes, *data, runs, at_rest, span, np.float32(np.inf))
        losses.block_until_ready()

    def _rule_of(self, run: int) -> Rule:
        return self.rule._replace(subtracts=bool(self._subtracts[run]))

    def _groups(self, runs: NDArray[np.int64]) -> list[Group]:
        """Runs of one rule each."""
        alike = [runs[self._subtracts[runs] == subtracts] for subtracts in (False, True)]
        return [part[first : first + self.lanes] for part in alike for first in range(0, len(part), self.lanes)]

    def _data(self, number: int) -> dict[jax.Device, tuple[Leaves, Chunk]]:
        """A chunk of the stream and the initial weights on every device. The last one asked for is kept: searches, and
        evaluations every few steps, come back to it."""
        if self._chunk is None or self._chunk[0] != number:
            self._chunk = None  # before the next is made: only one is held
            self._chunk = (number, self._make_chunk(number))
        return self._chunk[1]

    def _make_chunk(self, number: int) -> dict[jax.Device, tuple[Leaves, Chunk]]:
        first = number * self._chunk_steps
        count = min(self._chunk_steps, self._problem.steps - first)
        found = batches(self._source, self._problem.batch_size, first, count)
        rest = ((0, self._chunk_steps - count), (0, 0), (0, 0))  # the shapes of every chunk are the same
        x, y = (np.pad(part, rest) if rest[0][1] else part for part in found)
        weights, x, y = jax.device_put((self.theta_0, x, y), self._devices[0])
        zs = freeze(weights, x, np.int32(count), self.rule.is_linear)
        return {device: jax.device_put((weights, Chunk(x, y, zs)), device) for device in set(self._devices)}

    def _scales(self, etas: NDArray[np.float64]) -> Scales:
        """SGD's gradient is that of the scaled output; Adam's, of the last product as it is: its directions do not depend on
        the scale, but its epsilon would."""
        output = output_scales(self._problem, self._source.input_dim, self._gammas)
        rates = learning_rates(self._problem, self._source.input_dim, etas, self._gammas)
        if not isinstance(self._problem.optimizer, Adam):
            rates = rates * output[:, None]
        return Scales(rates.astype(np.float32), output.astype(np.float32))


def _steps_of(chunk_bytes: int, problem: Problem, source: Source) -> int:
    """How many steps of data, and of what is frozen for them, that many bytes hold; at least one."""
    numbers = source.input_dim + 2 * source.output_dim + (problem.model.depth - 1) * problem.model.width
    return min(max(chunk_bytes // (4 * problem.batch_size * numbers), 1), problem.steps)


def _copy(state: State) -> State:
    u, moments, ended = jax.tree.map(np.copy, (state.u, state.moments, state.ended))
    return State(state.step, ended, u, moments)


def _put(state: State, group: Group, lanes: Lanes) -> None:
    state.ended[group] = lanes.ended
    for leaf, new in zip(
        jax.tree.leaves((state.u, state.moments)), jax.tree.leaves((lanes.u, lanes.moments)), strict=True
    ):
        leaf[group] = new
