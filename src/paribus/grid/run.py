"""Train a program: the place where data, engine, searches and the program's directory meet."""

import contextlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from safetensors.numpy import save

from paribus import provenance, rundir
from paribus.data.source import open_source
from paribus.data.supervised import LinearTeacher
from paribus.data.teachers import spectrum
from paribus.errors import ParibusError
from paribus.grid import programs, search
from paribus.grid.config import GridRun
from paribus.grid.labels import judge
from paribus.grid.programs import ProgramConfig
from paribus.grid.results import Results, read_parts, runs_frame, write_frame
from paribus.grid.schedule import Schedule, schedule_of
from paribus.grid.search import Trial
from paribus.grid.state import Arrays, Position, load_state, save_state
from paribus.objectives.population import Population
from paribus.rundir import RunDir
from paribus.train.jax_grid.extra import require_jax
from paribus.train.jax_grid.state import State, from_numpy, to_numpy
from paribus.train.signals import Interrupts
from paribus.words import counted

if TYPE_CHECKING:
    from paribus.train.jax_grid.problem import Problem
    from paribus.train.jax_grid.program import Program

FIRST_STRIDE = 64  # steps between two looks at the clock; doubled and halved to keep within these seconds
STRIDE_S = (0.25, 2.0)


class Outcome(NamedTuple):
    state: Literal["done", "stopped"]
    step: int
    reason: str = ""
    signal: int = 0


def plan(directory: RunDir, config: ProgramConfig) -> list[str]:
    """What training the program would mean, in lines for a person; nothing is written."""
    schedule = schedule_of(config.run, open_source(config.run.data, config.run.seeds))
    state = "done" if directory.is_done else directory.status().get("state", "new")
    etas, size = config.points.etas, config.run.train.batch_size
    each = counted(len(set(etas)), "eta") if isinstance(etas, list) else f"etas by {etas.kind.replace('_', ' ')}"
    return [
        f"{directory.path} ({state})",
        f"  {counted(len(config), 'run')}: {counted(len(set(config.points.gammas)), 'gamma')}, {each}; "
        f"{counted(schedule.num_steps, 'step')} of {counted(size, 'sample')} each",
    ]


def run(directory: RunDir, config: ProgramConfig, threads: int = 1) -> Outcome:
    """Train the program that `directory` holds from its newest checkpoint to its end; the status tells how it ended.

    threads: of a CPU, where launch.devices does not say how many. A run that diverges ends alone.
    Raises RunError when another process holds the directory, MissingExtra without JAX."""
    require_jax()
    with directory.lock():
        if directory.is_done:
            return Outcome("done", directory.status().get("step", 0), "done already")
        is_new = not directory.config_path.exists()
        try:
            with Interrupts() as interrupts:
                outcome = _run(directory, config, threads, interrupts)
        except (Exception, KeyboardInterrupt) as error:
            if is_new and isinstance(error, ParibusError) and not (directory.path / "state").exists():
                _forget(directory)
            else:
                reason = str(error) if isinstance(error, ParibusError) else f"{type(error).__name__}: {error}"
                _end(directory, "failed", reason)
            raise
        _end(directory, outcome.state, outcome.reason, step=outcome.step)
        if outcome.state == "done":
            shutil.rmtree(directory.path / "state")
        return outcome


def _forget(directory: RunDir) -> None:
    shutil.rmtree(directory.path, ignore_errors=True)


def _end(directory: RunDir, state: rundir.State, reason: str, **facts: Any) -> None:
    kept = {
        key: value for key, value in directory.status().items() if key in ("num_steps", "num_runs", "step", "round")
    }
    directory.set_status(state, reason, **kept | facts)


def _run(directory: RunDir, config: ProgramConfig, threads: int, interrupts: Interrupts) -> Outcome:
    source = open_source(config.run.data, config.run.seeds)
    schedule = schedule_of(config.run, source)
    from paribus.train.jax_grid.program import Program

    launch, problem = config.run.launch, _problem(config.run, schedule)
    lanes = None if launch.lanes == "auto" else launch.lanes
    program = Program(problem, source, config.points.gammas, devices=launch.devices, threads=threads, lanes=lanes)
    if lanes is None:  # measured: kept from now on, since the last bits depend on it
        kept = launch.model_copy(update={"lanes": program.lanes})
        config = config.model_copy(update={"run": config.run.model_copy(update={"launch": kept})})
    programs.write(directory, config)
    _record_attempt(directory, config)
    directory.set_status("running", num_steps=schedule.num_steps, num_runs=len(config))
    return _Training(directory, config, program, schedule, interrupts).carry_out()


def _problem(config: GridRun, schedule: Schedule) -> "Problem":
    from paribus.train.jax_grid.problem import Problem

    train = config.train
    known = None
    if config.knows_population_loss:
        assert isinstance(config.data, LinearTeacher)
        known = Population(*spectrum(config.data), config.data.noise)
    return Problem(
        config.model,
        config.loss,
        train.optimizer,
        train.batch_size,
        schedule.num_steps,
        train.scale_by_gamma,
        config.seeds.weights,
        known,
    )


class _Training:
    """A program under way: its engine, where it is, and what it writes."""

    def __init__(
        self, directory: RunDir, config: ProgramConfig, program: "Program", schedule: Schedule, interrupts: Interrupts
    ) -> None:
        self._directory, self._config, self._program = directory, config, program
        self._schedule, self._interrupts = schedule, interrupts
        found = load_state(directory.path / "state")
        self._position = found[0] if found else Position()
        self._arrays: Arrays | None = found[1] if found else None
        self._results = Results(directory.path / "results", *self._position[:2])
        self._saved_s = time.monotonic()

    def carry_out(self) -> Outcome:
        """Round after round, until there is no eta left to train."""
        while (etas_R := self._etas()) is not None:
            if not self._round(etas_R):
                received = self._interrupts.received
                assert received is not None
                return Outcome("stopped", self._position.step, f"stopped by {received.name}", int(received))
        rows = runs_frame(self._position.rows)
        folder = self._directory.path / "results"
        write_frame(folder / "runs.parquet", rows)
        if searches := self._searches():
            write_frame(folder / "searches.parquet", runs_frame(searches))
        told = rows["label"].value_counts(sort=True, name="count")
        reason = ", ".join(f"{row['count']:,} {row['label']}" for row in told.iter_rows(named=True))
        if searches:
            inside = sum(found["is_bracketed"] for found in searches)
            reason += f"; {inside:,} of {len(searches):,} searches ended inside their range"
        return Outcome("done", self._schedule.num_steps, reason)

    def _etas(self) -> NDArray[np.float64] | None:
        """The etas of the round that is to be trained, nan where a point needs none; None when all is found."""
        etas = self._config.points.etas
        if isinstance(etas, list):
            return np.asarray(etas) if self._position.number == 0 else None
        following = [search.next_eta(etas, trials) for trials in self._trials()]
        found_R = np.asarray([np.nan if eta is None else eta for eta in following])
        return None if np.isnan(found_R).all() else found_R

    def _trials(self) -> list[list[Trial]]:
        """What the finished rounds say of each point."""
        trials: list[list[Trial]] = [[] for _ in range(len(self._config))]
        for row in self._position.rows:
            is_stable = row["label"] in ("stable", "catapult")
            loss = row["final/heldout_loss"] if is_stable else math.inf
            trials[row["run"]].append(Trial(row["train.eta"], is_stable, loss))
        return trials

    def _searches(self) -> list[dict[str, Any]]:
        etas = self._config.points.etas
        if isinstance(etas, list):
            return []
        ids = programs.ids_of(self._directory.path)
        names, gammas = self._config.points.names, self._config.points.gammas
        return [
            {
                "run": i,
                "id": ids[i],
                "name": names[i],
                "kind": etas.kind,
                "model.gamma": gammas[i],
                "trials": len(trials),
            }
            | search.outcome(etas, trials)._asdict()
            for i, trials in enumerate(self._trials())
        ]

    def _round(self, etas_R: NDArray[np.float64]) -> bool:
        """Train one eta a point to the end of the budget. False: a signal came first."""
        program, schedule, position = self._program, self._schedule, self._position
        is_active_R = ~np.isnan(etas_R)
        if position.step and self._arrays is not None:
            state = from_numpy(self._arrays)
        else:
            state = replace(program.begin(), ended=np.where(is_active_R, -1, 0).astype(np.int32))
            self._measure(state, 0)
            self._save(state)
        with _progress(self._config, schedule.num_steps) as show:
            stride = FIRST_STRIDE
            while self._position.step < schedule.num_steps and (state.ended < 0).any():
                began = time.monotonic()
                step = self._position.step
                until = min(step + stride, schedule.border(step))
                state, losses_RT = program.advance(state, etas_R, until)
                taken_R = np.clip(self._stop(state, until, is_active_R) - step, 0, until - step)
                self._results.add_losses(self._position.number, step, losses_RT, taken_R)
                self._position = self._position._replace(step=until)
                spent = time.monotonic() - began
                stride = stride * 2 if spent < STRIDE_S[0] else max(1, stride // 2) if spent > STRIDE_S[1] else stride
                self._measure(state, until)
                show(until, state.ended)
                if self._interrupts.received is not None:
                    self._save(state)
                    return False
                if time.monotonic() - self._saved_s > self._config.run.launch.checkpoint_every_s:
                    self._save(state)
        self._finish(state, etas_R)
        return True

    def _stop(self, state: State, until: int, is_active_R: NDArray[np.bool_]) -> NDArray[np.int64]:
        """So many steps each run has made by `until`, that of its divergence included."""
        ended_R = state.ended
        return np.where(is_active_R, np.where(ended_R < 0, until, ended_R + 1), 0).astype(np.int64)

    def _measure(self, state: State, step: int) -> None:
        """Evaluate and probe the runs that are alive, and keep their weights, where this step asks for it."""
        from paribus.grid.probes import probe

        program, record = self._program, self._config.run.record
        if self._schedule.is_kept(step):
            self._keep(state, step)
        is_alive_R = state.ended < 0
        if not self._schedule.is_evaluated(step) or not is_alive_R.any():
            return
        metrics = {**program.evaluate(state), **probe(program, state, record.probes)}
        self._results.add_evaluations(self._position.number, step, self._schedule.epoch(step), metrics, is_alive_R)

    def _keep(self, state: State, step: int) -> None:
        changes = {f"W{layer + 1}": leaf for layer, leaf in enumerate(state.u)}
        folder = self._directory.path / "weights"
        folder.mkdir(exist_ok=True)
        if step == 0:
            weights = {f"W{layer + 1}": leaf for layer, leaf in enumerate(self._program.theta_0)}
            rundir.write_bytes(folder / "initial.safetensors", save(weights))
        rundir.write_bytes(folder / f"step-{step:06d}.safetensors", save(changes))

    def _save(self, state: State) -> None:
        """Write what is new, then the checkpoint that says so."""
        position = self._position
        self._results.write(position.number, position.step)
        save_state(self._directory.path / "state", position, to_numpy(state))
        self._directory.set_status(
            "running",
            step=position.step,
            round=position.number,
            num_steps=self._schedule.num_steps,
            num_runs=len(self._config),
        )
        self._saved_s = time.monotonic()

    def _finish(self, state: State, etas_R: NDArray[np.float64]) -> None:
        """Judge the runs of a round that is over."""
        self._results.write(self._position.number, self._position.step)
        rows = self._judged(state, etas_R)
        following = Position(self._position.number + 1, 0, (*self._position.rows, *rows))
        self._position, self._arrays = following, None
        save_state(self._directory.path / "state", following, {})
        self._saved_s = time.monotonic()

    def _judged(self, state: State, etas_R: NDArray[np.float64]) -> Iterator[dict[str, Any]]:
        """The rows of results/runs.parquet for one round."""
        number, ended_R = self._position.number, state.ended
        losses = _curves(self._directory.path, number)
        evaluated = _evaluated(self._directory.path, number)
        points, is_search = self._config.points, not isinstance(self._config.points.etas, list)
        for i, eta in enumerate(etas_R.tolist()):
            if np.isnan(eta):
                continue
            first, last = evaluated[i]
            has_diverged = bool(ended_R[i] >= 0)
            judged = judge(
                losses[i],
                first["heldout_loss"],
                batch_size=self._config.run.train.batch_size,
                has_diverged=has_diverged,
                heldout=None if has_diverged else last["heldout_loss"],
            )
            name = f"{points.names[i]}-eta{eta:g}" if is_search else points.names[i]
            run = programs.at(self._config.run, name=name, gamma=points.gammas[i], eta=eta)
            finals = {f"final/{metric}": None if has_diverged else _finite(value) for metric, value in last.items()}
            yield {
                "run": i,
                "round": number,
                "id": programs.identity(run),
                "name": name,
                "model.gamma": points.gammas[i],
                "train.eta": eta,
                "state": "diverged" if has_diverged else "done",
                "reason": _reason(int(ended_R[i]), losses[i], first["heldout_loss"]) if has_diverged else "",
                "step": len(losses[i]),
                "label": judged.label,
                "initial/loss": first["heldout_loss"],
                "final/loss": _finite(judged.final),
                "peak/loss": _finite(judged.peak),
                **finals,
            }


def _curves(path: Path, number: int) -> dict[int, NDArray[np.float32]]:
    """Run -> the training losses of all its steps in a round."""
    parts = read_parts(path, "losses").filter(pl.col("round") == number).sort("run", "first")
    grouped = parts.explode("losses").group_by("run", maintain_order=True).agg("losses")
    return {run: np.asarray(found, np.float32) for run, found in grouped.iter_rows()}


def _evaluated(path: Path, number: int) -> dict[int, tuple[dict[str, float], dict[str, float]]]:
    """Run -> what was measured first and last in a round, metric by metric."""
    made = read_parts(path, "evaluations").filter(pl.col("round") == number).sort("run", "step")
    found: dict[int, tuple[dict[str, float], dict[str, float]]] = {}
    for run, metric, value in made.select("run", "metric", "value").iter_rows():
        first, last = found.setdefault(run, ({}, {}))
        first.setdefault(metric, value)
        last[metric] = value
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _reason(step: int, losses_T: NDArray[np.float32], initial: float) -> str:
    loss = float(losses_T[-1])
    if not np.isfinite(loss):
        return f"step {step}: the loss is not finite"
    return f"step {step}: the loss is {loss:.3g}, over {loss / initial:.0e} times the initial one"


@contextlib.contextmanager
def _progress(config: ProgramConfig, num_steps: int) -> Iterator[Callable[[int, NDArray[np.int32]], None]]:
    """A bar over the steps of a round, with the runs that are alive."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not (config.run.launch.progress and sys.stderr.isatty()):
        yield lambda _step, _ended_R: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(config.run.name, total=num_steps, facts="")

        def show(step: int, ended_R: NDArray[np.int32]) -> None:
            bar.update(task, completed=step, facts=f"{int((ended_R < 0).sum())} of {len(ended_R)} runs")

        yield show


def _record_attempt(directory: RunDir, config: ProgramConfig) -> None:
    """Add this process to provenance.json."""
    path = directory.provenance_path
    known = (
        json.loads(path.read_text()) if path.exists() else {"config": config.model_dump(mode="json"), "attempts": []}
    )
    rundir.write_json(path, {**known, "attempts": [*known["attempts"], provenance.attempt()]})
