"""Runs as a file for other programs: one row a run, a step or a measurement, as Parquet or CSV."""

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from paribus.directories import tell_unreadable, trouble
from paribus.errors import ConfigError, RunError
from paribus.grid import results
from paribus.report.collect import load_runs
from paribus.rundir import disk_error, write_bytes
from paribus.tree import did_you_mean

_OF_PROGRAMS = {"losses": results.losses, "evaluations": results.evaluations, "searches": results.searches}
TABLES = ("runs", *_OF_PROGRAMS)


def write_table(paths: Sequence[Path], out: Path, what: str = "runs") -> pl.DataFrame:
    """Write the table of the runs below the paths, by the suffix of `out`: .parquet or .csv; it is whole or absent.

    what: runs, of both engines; or losses (of every step), evaluations and searches of the grid engine's.
    Raises ConfigError for another suffix or table, RunError for a path that holds no run."""
    if what not in TABLES:
        raise ConfigError(f"--what {what}: expected one of {', '.join(TABLES)}{did_you_mean(what, TABLES)}")
    if out.suffix not in (".parquet", ".csv"):
        raise ConfigError(f"{out}: expected a name that ends with .parquet or .csv")
    frame = load_runs(*paths) if what == "runs" else _of_programs(paths, what)
    tell_unreadable(*paths)
    content = io.BytesIO()
    if out.suffix == ".parquet":
        frame.write_parquet(content)
    else:
        frame.write_csv(content)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    write_bytes(out, content.getvalue())
    return frame


def _of_programs(paths: Sequence[Path], what: str) -> pl.DataFrame:
    """A table of what the grid engine's programs below the paths hold, without those that cannot be read."""
    for path in paths:
        if not results.programs_below(path):
            raise RunError(f"{path}: no program of the grid engine here; {what} are of its runs alone")
    found = results.programs_below(*paths)
    readable = [path for path in found if not trouble(path)]
    if not readable:
        raise RunError(f"{found[0]}: {trouble(found[0])}")
    return _OF_PROGRAMS[what](*readable)
