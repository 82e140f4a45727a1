"""The grid engine against loops in Python over jitted steps, in steps x runs per CPU-second; both in one call.

    python benchmarks/grid_engine.py [--only wide small portrait sharding]

Peers, all of naive centring with f(theta_0) computed at every step:
  lean      the engine's own one-thread option, batches as numpy arrays, no look at a loss before the end
  jitted    a jitted step an iteration as one writes it first: data as one JAX array, of which x[t], y[t] are the batch
  synced    rows sliced by start and stop, one jitted update, then op by op: isfinite of the loss, the loss read on the host
  original  the same with the progress bar that the original study's loop redraws with the loss after every step
            (stan257/batch_size_studies, trainer.py); left out are its checkpoints, and that it compiles its step anew for
            every run, which makes runs of 1,000 steps a third slower

Needs an idle machine: "sharding" compares wall times of one and two devices.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from paribus.data.source import open_source
from paribus.data.supervised import Polynomial, SupervisedSeeds
from paribus.models.config import Mlp
from paribus.train.jax_grid.config import Sgd
from paribus.train.jax_grid.kernel import OPTIONS
from paribus.train.jax_grid.problem import Problem, theta_0
from paribus.train.jax_grid.program import Program

SOURCE = open_source(Polynomial(), SupervisedSeeds())
ETA = 0.02  # small enough for every run to last


class Case(NamedTuple):
    """One comparison, and the ratios the project holds itself to."""

    problem: Problem
    runs: int
    peer_steps: int
    least: dict[str, float]


CASES = {
    "wide": Case(Problem(Mlp(width=128, depth=3), "mse", Sgd(), 64, 1000), 64, 1000, {"jitted": 3, "original": 10}),
    "small": Case(
        Problem(Mlp(width=100, depth=2), "mse", Sgd(), 1, 20_000), 64, 10_000, {"jitted": 50, "original": 500}
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*CASES, "portrait", "sharding"])
    chosen = parser.parse_args().only or [*CASES, "portrait", "sharding"]
    for name in chosen:
        if name in CASES:
            compare(name, CASES[name])
    if "portrait" in chosen:
        portrait()
    if "sharding" in chosen:
        sharding()
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:,.0f} MB")


def compare(name: str, case: Case) -> None:
    """The engine and each peer; what is compiled is compiled before."""
    problem = case.problem
    program = Program(problem, SOURCE, np.ones(case.runs), devices=1)
    etas = np.full(case.runs, ETA)
    program.advance(program.begin(), etas, 1)
    cpu_s, _ = timed(lambda: program.advance(program.begin(), etas, problem.steps))
    rate = case.runs * problem.steps / cpu_s
    model = problem.model
    print(
        f"{name}: N={model.width} L={model.depth} B={problem.batch_size}, {case.runs} runs of {problem.steps:,} steps, "
        f"{program.lanes} side by side: {rate:,.0f} steps x runs per CPU-second"
    )
    for peer, loop in (("lean", lean), ("jitted", indexed), ("synced", synced), ("original", original)):
        peer_rate = case.peer_steps / loop(problem, case.peer_steps)
        wanted = f" (at least {case.least[peer]:g} wanted)" if peer in case.least else ""
        print(f"  {peer:8} {peer_rate:10,.0f}   ratio {rate / peer_rate:,.1f}{wanted}")


def portrait() -> None:
    """gamma 10^-5 .. 10^5 by half decades x 15 etas around the edge of stability, N = 64, B = 64, compilation included."""
    problem = Problem(Mlp(width=64, depth=3), "mse", Sgd(), 64, 1000, scale_by_gamma=False)
    edge = [10 ** (exponent * (2 if exponent < 0 else 2 / 3)) for exponent in np.arange(-5, 5.1, 0.5)]
    gammas, etas = np.repeat(10 ** np.arange(-5, 5.1, 0.5), 15), np.ravel(np.outer(edge, 10 ** np.linspace(-5, 2, 15)))

    def whole() -> int:
        program = Program(problem, SOURCE, gammas, devices=1)
        state, _ = program.advance(program.begin(), etas, problem.steps)
        program.evaluate(state)
        return int((state.ended >= 0).sum())

    cpu_s, diverged = timed(whole)
    print(f"portrait: 315 runs, {diverged} diverged: {cpu_s:.1f} CPU-seconds with compilation (at most 15 wanted)")


def sharding() -> None:
    """Wall time of one device and of two; a third of the runs end early, and lie together."""
    problem, runs = CASES["wide"].problem, 48
    etas = np.where(np.arange(runs) < runs // 3, 1e6, ETA)
    wall_s = []
    for devices in (1, 2):
        program = Program(problem, SOURCE, np.ones(runs), devices=devices, lanes=1)
        program.advance(program.begin(), etas, 1)
        began = time.perf_counter()
        program.advance(program.begin(), etas, problem.steps)
        wall_s.append(time.perf_counter() - began)
    one, two = wall_s
    print(f"sharding: {one:.2f} s on one device, {two:.2f} s on two: ratio {one / two:.2f} (at least 1.8 wanted)")


Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


# --- peers ---------------------------------------------------------------------------------------------------------------


def loss_and_gradient(weights, theta_0, x, y):  # type: ignore[no-untyped-def]
    """The mean square of the centred output; muP with gamma = 1."""

    def output(weights):  # type: ignore[no-untyped-def]
        h = x
        for W in weights[:-1]:
            h = jax.nn.relu(h @ W / np.sqrt(len(W)))
        return h @ weights[-1] / len(weights[-1])

    f_0 = output(theta_0)
    return jax.value_and_grad(lambda weights: jnp.mean((output(weights) - f_0 - y) ** 2))(weights)


def step(weights, theta_0, x, y, rate):  # type: ignore[no-untyped-def]
    """A whole step of SGD."""
    loss, gradient = loss_and_gradient(weights, theta_0, x, y)
    return [W - rate * g for W, g in zip(weights, gradient, strict=True)], loss


def lean(problem: Problem, steps: int) -> float:
    """CPU-seconds of a loop that costs as little as such a loop can."""
    compiled = jax.jit(step, compiler_options=OPTIONS)
    batches, start, rate = data(problem, steps)
    compiled(start, start, batches[0][0], batches[1][0], rate)

    def loop() -> list[float]:
        weights, losses = start, []
        for x, y in zip(*batches, strict=True):
            weights, loss = compiled(weights, start, x, y, rate)
            losses.append(loss)
        return jax.device_get(losses)

    return timed(loop)[0]


def indexed(problem: Problem, steps: int) -> float:
    """CPU-seconds of a loop that takes its batches out of arrays on the device."""
    compiled = jax.jit(step)
    (xs, ys), start, rate = data(problem, steps)
    xs, ys = jnp.asarray(xs), jnp.asarray(ys)
    compiled(start, start, xs[0], ys[0], rate)

    def loop() -> list[float]:
        weights, losses = start, []
        for t in range(steps):
            weights, loss = compiled(weights, start, xs[t], ys[t], rate)
            losses.append(loss)
        return jax.device_get(losses)

    return timed(loop)[0]


def original(problem: Problem, steps: int) -> float:
    with Path(os.devnull).open("w") as nowhere:
        return synced(problem, steps, nowhere)


def synced(problem: Problem, steps: int, nowhere: TextIO | None = None) -> float:
    """CPU-seconds of a loop that waits for every step, and slices and looks at the loss op by op."""
    size, base, with_bar = problem.batch_size, optax.identity(), nowhere is not None
    (xs, ys), start, rate = data(problem, steps)
    xs, ys = jnp.asarray(xs.reshape(steps * size, -1)), jnp.asarray(ys.reshape(steps * size, -1))

    @jax.jit
    def update(weights, state, theta_0, x, y, rate):  # type: ignore[no-untyped-def]
        optimizer = optax.chain(base, optax.scale(-rate))
        loss, gradient = loss_and_gradient(weights, theta_0, x, y)
        updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    def loop(steps: int) -> list[float]:
        weights, state, losses = start, (base.init(start), optax.EmptyState()), []
        bar = tqdm(total=1, file=nowhere, disable=not with_bar)
        for t in range(steps):
            x, y = xs[t * size : (t + 1) * size], ys[t * size : (t + 1) * size]
            weights, state, loss = update(weights, state, start, x, y, rate)
            if not jnp.isfinite(loss):
                break
            losses.append(loss.item())
            if with_bar:
                bar.set_postfix(loss=f"{loss.item():.4f}", step=f"{t + 1}/{steps}")
        return losses

    loop(2)
    return timed(lambda: loop(steps))[0]


def data(problem: Problem, steps: int) -> tuple[tuple[np.ndarray, np.ndarray], list[jax.Array], float]:
    rows = SOURCE.rows(0, steps * problem.batch_size)
    x, y = (part.reshape(steps, problem.batch_size, -1) for part in rows)
    weights = [jnp.asarray(W) for W in theta_0(problem, SOURCE.input_dim, SOURCE.output_dim)]
    return (x, y), weights, ETA * problem.model.width


if __name__ == "__main__":
    main()
