"""Programs of the grid engine in the tables of a report: a row for each, since a program may be hundreds of runs."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paribus.analysis.axes import ETA, GAMMA
from paribus.analysis.final import LABELS
from paribus.directories import common_folder
from paribus.grid import results
from paribus.report.blocks import Column, Table
from paribus.report.collect import table_of
from paribus.report.tables import of_grid, power

NUM_RUNS, LABEL_COUNTS = "program/runs", "program/labels"
_LOSS = "final/loss"
_SOUGHT = {
    "bisection": "η_max, by bisection",
    "descending": "η_max, from the top down",
    "golden_section": "η⋆, by golden section",
}


def folded(runs: pl.DataFrame) -> pl.DataFrame:
    """The table of runs with one row a program in place of the rows of its runs; others stay as they are.

    Of a program: its directory's name and id, `program/runs`, `program/labels`, the range of eta and of gamma as text, the
    lowest final loss, the most steps. What else was measured of single runs is null."""
    if runs.filter(of_grid(runs)).is_empty():
        return runs
    rows = []
    for group in runs.partition_by("path", maintain_order=True):
        is_program = not group.filter(of_grid(runs)).is_empty()
        rows += [_row(group)] if is_program else list(group.iter_rows(named=True))
    return table_of(rows)


def program_table(programs: pl.DataFrame, columns: Sequence[Column] = ()) -> Table:
    """One row a program of a folded table, and how to have its runs."""
    shown = [Column("name", "Program"), Column("state", "State", kind="badge"), *columns, Column(NUM_RUNS, "Runs")]
    shown += [Column(LABEL_COUNTS, "Ended as"), Column(ETA, "η"), Column(GAMMA, "γ")]
    shown += [
        Column(_LOSS, "Lowest training loss", ".4g"),
        Column("step", "Steps"),
        Column("id", "Identity", kind="code"),
    ]
    command = shlex.join(["paribus", "table", common_folder(programs["path"]), "-o", "runs.csv"])
    caption = (
        f"Every program behind this report: many runs each, which differ in η and γ alone. `{command}` has a row a run."
    )
    return Table(programs, [column for column in shown if column.field in programs.columns], caption)


def search_tables(*paths: Path | str) -> Iterator[Table]:
    """What the searches below the paths found, a row each; nothing where there were none."""
    found = results.searches(*paths)
    if found.is_empty():
        return
    frame = found.with_columns(pl.col("kind").replace(_SOUGHT))
    columns = [
        Column("name", "Search"),
        Column("kind", "Sought"),
        Column(GAMMA, "γ"),
        Column("eta", "η found [bracket]", ".4g", ("low", "high")),
        Column("is_bracketed", "Inside the range"),
        Column("trials", "Trials"),
    ]
    caption = (
        "What each search found. The bracket is what it narrowed η down to; where it did not end inside its range, the "
        "answer may lie beyond. No η: no trial was stable."
    )
    yield Table(frame, columns, caption)


def _row(group: pl.DataFrame) -> dict[str, Any]:
    """A program as a row. The settings are those that its runs share."""
    first, path = group.row(0, named=True), Path(group["path"][0])
    labels = group["label"].drop_nulls().to_list() if "label" in group.columns else []
    counts = {label: labels.count(label) for label in LABELS if label in labels}
    row: dict[str, Any] = {
        key: value for key, value in first.items() if "/" not in key or key.startswith("provenance/")
    }
    row |= {"study/sweep": first["study/sweep"]} if "study/sweep" in first else {}
    row |= {"name": path.name, "id": path.name.rsplit("-", 1)[-1], NUM_RUNS: len(group)}
    row |= {LABEL_COUNTS: ", ".join(f"{count:,} {label}" for label, count in counts.items()) or None}
    row |= {key: _range(group[key]) for key in (ETA, GAMMA) if key in group.columns}
    if labels:  # done, whatever became of its runs
        row |= {"state": "done", "reason": "", "label": None, "step": group["step"].max()}
    return row | ({_LOSS: group[_LOSS].min()} if labels and _LOSS in group.columns else {})


def _range(values: pl.Series) -> str | None:
    """`2⁻⁸ to 64 (8)`, with how many there are; None where a search has still to say."""
    known = values.drop_nulls().unique().sort()
    if known.is_empty():
        return None
    return power(known[0]) if len(known) == 1 else f"{power(known[0])} to {power(known[-1])} ({len(known):,})"
