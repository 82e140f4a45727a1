"""What a program leaves: append-only Parquet parts of losses and evaluations, and at its end one table of its runs.

results/losses-<round>-<step>.parquet        run, round, first, losses: of the steps first, first + 1, ... before <step>
results/evaluations-<round>-<step>.parquet   run, round, step, epoch, metric, value
results/runs.parquet                 one row for each eta that was trained
results/searches.parquet             one row a search: what it found
A plain grid has one round, a search one for each eta that it tries. A part is whole or absent.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paribus.errors import RunError
from paribus.grid.programs import IDS, ids_of
from paribus.rundir import write_bytes

LOSSES: dict[str, Any] = {"run": pl.Int32, "round": pl.Int32, "first": pl.Int64, "losses": pl.List(pl.Float32)}
EVALUATIONS: dict[str, Any] = {
    "run": pl.Int32,
    "round": pl.Int32,
    "step": pl.Int64,
    "epoch": pl.Int64,
    "metric": pl.String,
    "value": pl.Float64,
}
_KINDS = ("losses", "evaluations")


class Results:
    """The results folder of one program that is being trained: what is new is kept in memory until `write`."""

    def __init__(self, folder: Path, number: int = 0, step: int = 0) -> None:
        """number, step: of the checkpoint that is gone on from; parts of a later one are removed."""
        self._folder = folder
        self._losses: list[pl.DataFrame] = []
        self._evaluations: list[pl.DataFrame] = []
        for path in folder.glob("*.parquet"):
            kind, *place = path.stem.split("-")
            if kind not in _KINDS or [int(part) for part in place] > [number, step]:
                path.unlink()

    def add_losses(self, number: int, first: int, losses_RT: NDArray[np.float32], taken_R: NDArray[np.int64]) -> None:
        """Keep the losses of the steps from `first` on: of each run the first `taken_R`, its end included."""
        rows = [int(run) for run in np.flatnonzero(taken_R)]
        columns = {
            "run": rows,
            "round": [number] * len(rows),
            "first": [first] * len(rows),
            "losses": [losses_RT[run, : taken_R[run]] for run in rows],
        }
        self._losses.append(pl.DataFrame(columns, schema=LOSSES))

    def add_evaluations(
        self, number: int, step: int, epoch: int | None, metrics: Mapping[str, NDArray[Any]], alive_R: NDArray[np.bool_]
    ) -> None:
        """Keep what was measured after `step` updates, of the runs that have not ended."""
        rows = np.flatnonzero(alive_R)
        frames = [
            pl.DataFrame({"run": rows, "metric": name, "value": np.asarray(values_R, np.float64)[rows]})
            for name, values_R in metrics.items()
        ]
        made = pl.concat(frames).with_columns(
            round=pl.lit(number), step=pl.lit(step), epoch=pl.lit(epoch, dtype=pl.Int64)
        )
        self._evaluations.append(made.select(pl.col(name).cast(dtype) for name, dtype in EVALUATIONS.items()))

    def write(self, number: int, step: int) -> None:
        """Write what is new as parts of the checkpoint after `step` updates of a round."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for kind, frames in zip(_KINDS, (self._losses, self._evaluations), strict=True):
            if frames:
                write_frame(self._folder / f"{kind}-{number:04d}-{step:09d}.parquet", pl.concat(frames))
                frames.clear()


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """A Parquet file that is whole or absent."""
    content = io.BytesIO()
    frame.write_parquet(content, compression="zstd", compression_level=1)
    write_bytes(path, content.getvalue())


def read_parts(program: Path, kind: str) -> pl.DataFrame:
    """All parts of a kind, in the order in which they were written."""
    paths = sorted((program / "results").glob(f"{kind}-*.parquet"))
    schema = LOSSES if kind == "losses" else EVALUATIONS
    return pl.concat([_read(path) for path in paths]) if paths else pl.DataFrame(schema=schema)


def read_runs(program: Path) -> pl.DataFrame:
    """The runs of a program that is done; an empty table before."""
    return _table(program, "runs")


def read_searches(program: Path) -> pl.DataFrame:
    """What the searches of a program found; an empty table where there were none."""
    return _table(program, "searches")


def _table(program: Path, name: str) -> pl.DataFrame:
    path = program / "results" / f"{name}.parquet"
    return _read(path) if path.exists() else pl.DataFrame()


def _read(path: Path) -> pl.DataFrame:
    """Raises RunError for a file that is no Parquet file, or one with a damaged part."""
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        why = " ".join(str(error).split())
        raise RunError(f"{path}: damaged ({why}); bring it back as it was, or train its program again") from error


def searches(*paths: Path | str) -> pl.DataFrame:
    """What every search below the paths found: id, name, kind, model.gamma, trials, eta, low, high, is_bracketed.

    eta is null where no trial was stable; is_bracketed tells whether it was found inside of what was searched."""
    found = [read_searches(program).drop("run", strict=False) for program in programs_below(*paths)]
    return pl.concat([table for table in found if len(table)] or [pl.DataFrame()], how="diagonal_relaxed")


def programs_below(*paths: Path | str) -> list[Path]:
    """Every program directory at or below the paths, which exist. Raises RunError for one that does not."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            told = "expected one with programs of the grid engine, whose runs the column `id` tells apart"
            raise RunError(f"{path}: no such folder; {told}")
        found |= dict.fromkeys(sorted(file.parent for file in path.rglob(IDS)))
    return list(found)


def losses(*paths: Path | str) -> pl.DataFrame:
    """The training loss of every step of every run below the paths: id, step (from 0), loss before the step's update."""
    frames = []
    for program in programs_below(*paths):
        parts = read_parts(program, "losses")
        steps = pl.int_ranges("first", pl.col("first") + pl.col("losses").list.len()).alias("step")
        long = parts.with_columns(steps).explode("step", "losses").rename({"losses": "loss"})
        frames.append(_with_ids(program, long, ["step", "loss"]))
    schema = {"id": pl.String, "step": pl.Int64, "loss": pl.Float32}
    return pl.concat(frames) if frames else pl.DataFrame(schema=schema)


def evaluations(*paths: Path | str) -> pl.DataFrame:
    """Held-out losses and probes of every run below the paths: id, step (updates made), epoch, metric, value."""
    columns = ["step", "epoch", "metric", "value"]
    found = [_with_ids(program, read_parts(program, "evaluations"), columns) for program in programs_below(*paths)]
    schema: dict[str, Any] = {"id": pl.String} | {name: EVALUATIONS[name] for name in columns}
    return pl.concat(found) if found else pl.DataFrame(schema=schema)


def _with_ids(program: Path, parts: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Put each run's identity in place of its number: of a search, that of the eta that was trained in its round."""
    runs = read_runs(program)
    if len(runs):
        known = runs.select("run", "round", "id")
    else:  # under way: the points themselves
        ids = ids_of(program)
        known = pl.DataFrame({"run": range(len(ids)), "round": 0, "id": ids})
    known = known.cast({"run": pl.Int32, "round": pl.Int32})
    return parts.join(known, on=["run", "round"], maintain_order="left").select("id", *columns)


def runs_frame(rows: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), infer_schema_length=None)
