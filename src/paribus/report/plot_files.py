"""`paribus plot`: one plot of any runs of the grid engine as files, SVG, PNG or PDF."""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from paribus.directories import tell_unreadable
from paribus.errors import ConfigError, RunError
from paribus.grid import results
from paribus.report.collect import load_runs
from paribus.report.left_out import left_out
from paribus.report.page import write_figure
from paribus.report.plots import check_names, plot
from paribus.report.tables import Tables, grid_runs
from paribus.tree import did_you_mean
from paribus.words import counted
from paribus.yaml12 import typed


def plot_files(name: str, paths: Sequence[Path], out: Path, where: Sequence[str] = ()) -> list[Path]:
    """Draw the runs below the paths; `where` keeps those of some settings, such as `model.gamma=1`.

    Returns the files: `out`, or where runs of fixed time and fixed data are there one of each, the protocol in its name.
    A line on stderr counts the runs that it leaves out, and says why.
    Raises ConfigError for a name that no plot has, a key or a value that no run has; RunError where nothing can be drawn."""
    check_names([name])
    tell_unreadable(*paths)
    runs = chosen(load_runs(*paths), where)
    programs = grid_runs(runs)["path"].unique(maintain_order=True)
    figures = plot(Tables(runs, results.losses(*programs), results.evaluations(*programs)), [name])
    if not figures:
        told = ", ".join(map(str, paths))
        raise RunError(
            f"{told}: {len(runs):,} runs, but nothing for the plot {name}; other settings or more runs may have it"
        )
    shown = [run for figure in figures for run in figure.runs or ()]
    if shown and (missing := left_out(runs, shown)):
        print(f"paribus: {name}: left out of {counted(len(runs), 'run')}: {missing}", file=sys.stderr)
    names = [out if len(figures) == 1 else out.with_name(f"{out.stem}-{figure.name}{out.suffix}") for figure in figures]
    return [write_figure(figure.chart, path) for figure, path in zip(figures, names, strict=True)]


def chosen(runs: pl.DataFrame, where: Sequence[str]) -> pl.DataFrame:
    """The runs that have each of these settings. Raises ConfigError, saying which values there are."""
    for word in where:
        key, _, text = word.partition("=")
        if key not in runs.columns:
            raise ConfigError(f"--where {word}: no run has the key {key}{did_you_mean(key, runs.columns)}")
        value = typed(text)
        is_comparable = runs[key].dtype.is_numeric() == (isinstance(value, int | float) and not isinstance(value, bool))
        kept = runs.filter(pl.col(key) == pl.lit(value)) if is_comparable else runs.clear()
        if kept.is_empty():
            there = ", ".join(map(str, runs[key].unique().sort().to_list()[:12]))
            raise ConfigError(f"--where {word}: no run has this value; found {there}")
        runs = kept
    return runs
