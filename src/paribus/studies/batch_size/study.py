"""The report of the `batch_size` study: the fitted laws first, then the figures that each sweep's runs give."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from paribus.grid import results
from paribus.report import collect, plots
from paribus.report import runs as run_tables
from paribus.report.blocks import Block, Figure, Report, Section, Tile, Tiles
from paribus.report.cells import number
from paribus.report.laws import laws_table
from paribus.report.tables import Tables
from paribus.studies.batch_size import laws
from paribus.studies.batch_size.laws import Law
from paribus.studies.batch_size.laws.settings import BATCH, GAMMA, SEEDS, WIDTH, is_swept

FIGURES = tuple(plots.PLOTS)  # how the names of its figures begin
OVER_ETA = ("portrait", "heatmap_batch", "heatmap_temperature", "width_transfer")
BY_BATCH = ("losscurve_temp_samples", "losscurve_temp_eta_steps", "losscurve_grid", "collapse", "noise")


def build_report(title: str, subtitle: str, runs: Mapping[str, Sequence[Path]], command: str) -> Report:
    """Measure and draw what the finished programs of each sweep show; a sweep without any is left out.

    command: what a reader types to make them again."""
    tables, held, drawn = [], [], []
    for sweep, paths in runs.items():
        if paths:
            table, evaluations = collect.load_runs(*paths), results.evaluations(*paths)
            tables.append(table)
            held += laws.measure(table, evaluations)
            if figures := figures_of(sweep, table, evaluations):
                drawn.append(Section(sweep.replace("_", " ").capitalize(), figures))
    found = Section("What was found", [Tiles(tiles(tables, held)), *law_blocks(held)])
    return Report(title, subtitle, [found, *drawn, *run_tables.study_appendix(runs, command)])


def tiles(tables: Sequence[pl.DataFrame], held: Sequence[Law]) -> list[Tile]:
    """How much was run, and how the laws stand."""
    diverged = sum(int((runs["state"] == "diverged").sum()) for runs in tables)
    shown = [Tile("Runs", number(sum(map(len, tables))), f"{number(diverged)} of them diverged")]
    if held:
        counts = {state: sum(law.verdict == state for law in held) for state in ("holds", "fails", "inconclusive")}
        note = f"of {len(held)} measured; {counts['fails']} fail, {counts['inconclusive']} are inconclusive"
        shown.append(Tile("Laws that hold", number(counts["holds"]), note))
    return shown


def law_blocks(held: Sequence[Law]) -> list[Block]:
    """The table of the laws."""
    if not held:
        return ["No sweep of these runs varies what a law is about."]
    caption = (
        "A law holds where the whole interval lies within its bounds, fails where it misses them, and is inconclusive"
        " else. Intervals: Student's, about a bootstrap over replicate seeds; one seed has none, and decides nothing."
    )
    return [laws_table([law._asdict() for law in held], caption)]


def figures_of(sweep: str, runs: pl.DataFrame, evaluations: pl.DataFrame) -> list[Figure]:
    """What the runs of one sweep can show: maps over all seeds, curves of the first, which say how they look.

    Named PLOT-SWEEP, so that `--plots PLOT` finds each plot in every sweep."""
    keys = [key for key in SEEDS if key in runs.columns]
    first = runs.join(runs.select(keys).sort(keys).head(1), on=keys, how="semi", maintain_order="left")
    losses = results.losses(*first["path"].unique(maintain_order=True))
    is_map = all(is_swept(runs, key) for key in (GAMMA, BATCH, WIDTH))
    by_batch = BY_BATCH if runs[BATCH].n_unique() > 1 else ()
    figures = plots.plot(Tables(runs, losses, evaluations), [*(OVER_ETA if is_map else ()), "coordinate_check"])
    curves = plots.plot(Tables(first, losses, evaluations), [*by_batch, "catapults"])
    about = "" if len(first) == len(runs) else " Of the first seed alone."
    figures += [figure._replace(caption=f"{figure.caption}{about}") for figure in curves]
    return [figure._replace(name=f"{figure.name}-{sweep}") for figure in figures]
