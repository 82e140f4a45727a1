"""The report of the `batch_size` study: the fitted laws first, then the figures that each sweep's runs give."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from paribus.grid.results import evaluations
from paribus.report import collect
from paribus.report import runs as run_tables
from paribus.report.blocks import Block, Column, Report, Section, Table, Tile, Tiles, Verdict, Verdicts
from paribus.report.cells import interval, number
from paribus.studies.batch_size import laws
from paribus.studies.batch_size.laws import Law


def build_report(title: str, subtitle: str, runs: Mapping[str, Sequence[Path]], command: str) -> Report:
    """Measure and draw what the finished programs of each sweep show; a section whose runs are missing is left out.

    command: what a reader types to make them again."""
    found = {sweep: paths for sweep, paths in runs.items() if paths}
    tables = {sweep: collect.load_runs(*paths) for sweep, paths in found.items()}
    held = [law for sweep, paths in found.items() for law in laws.measure(tables[sweep], evaluations(*paths))]
    sections = [Section("What was found", [Tiles(tiles(tables, held)), *law_blocks(held)])]
    return Report(title, subtitle, [*sections, *run_tables.study_appendix(runs, command)])


def tiles(tables: Mapping[str, pl.DataFrame], held: Sequence[Law]) -> list[Tile]:
    """How much was run, and how the laws stand."""
    all_runs = sum(map(len, tables.values()))
    diverged = sum(int((runs["state"] == "diverged").sum()) for runs in tables.values())
    shown = [Tile("Runs", number(all_runs), f"{number(diverged)} of them diverged")]
    if held:
        counts = {state: sum(law.verdict == state for law in held) for state in ("holds", "fails", "inconclusive")}
        note = f"of {len(held)} laws hold, {counts['fails']} fail, {counts['inconclusive']} are inconclusive"
        shown.append(Tile("Laws", number(counts["holds"]), note))
    return shown


def law_blocks(held: Sequence[Law]) -> list[Block]:
    """Each law as a claim with its state, and the table of the numbers."""
    if not held:
        return ["No sweep of these runs varies what a law is about."]
    verdicts = [Verdict(f"{law.name}: {law.quantity}", law.verdict, _evidence(law)) for law in held]
    rows = [law._asdict() | {"bounds": interval(*_shown_bounds(law), ".4g")} for law in held]
    columns = [Column("name", "Law"), Column("quantity", "Quantity")]
    columns += [Column("estimate", "Estimate", ".4g", ("low", "high")), Column("theory", "Theory", ".4g")]
    columns += [Column("bounds", "Holds within"), Column("verdict", "", kind="badge"), Column("evidence", "Rests on")]
    return [Verdicts(verdicts), Table(pl.DataFrame(rows, infer_schema_length=None), columns, "The fitted laws.")]


def _shown_bounds(law: Law) -> tuple[float, float]:
    return law.bounds


def _evidence(law: Law) -> str:
    return f"{number(law.estimate, '.4g')} {interval(law.low, law.high, '.4g')}; {law.evidence}"
