"""What every report owes its readers about its runs: how each went, what differed, what was equal, how to repeat them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from paribus.report import collect, program_rows
from paribus.report.blocks import Block, Code, Column, Details, Section, Table, Tile
from paribus.report.cells import number
from paribus.report.tables import of_grid
from paribus.rundir import WHERE_AND_HOW

_MAX_RECORDS = 40  # beyond, a page would carry more provenance than results
_CODE = ("provenance/commit", "provenance/command")
_LOSS = Column("final/loss", "Last training loss", ".4f")
_MEASURED = (
    Column("final/tokens", "Tokens"),
    Column("data/unique_tokens", "Unique tokens"),
    Column("data/passes", "Passes", ".2f"),
    Column("time/total_s", "Wall time", kind="seconds"),
)


def appendix(runs: pl.DataFrame, commands: Sequence[str] = (), columns: Sequence[Column] = ()) -> list[Section]:
    """The foot of a report: all runs, or programs where they are folded; the keys that differ and those that are
    equal, provenance, and the commands.

    `columns` of the table of runs come after the loss, before the step."""
    reproduce: list[Block] = [
        "Each run resumes where it stopped and is skipped when it is done, so that the same command is safe to repeat.",
        Code("\n".join(commands)),
    ]
    return [
        Section("Runs", [*run_tables(runs, columns), *problems(runs)]),
        Section("What differed, what was equal", settings(runs)),
        Section("Provenance", provenance(runs)),
        *([Section("How to reproduce", reproduce)] if commands else []),
    ]


def study_appendix(runs: Mapping[str, Sequence[Path]], command: str) -> list[Section]:
    """The foot of a study's report, each run beside its sweep; nothing before the first run is done.

    runs: sweep -> run directories. command: what a reader types to make them again."""
    paths = [path for found in runs.values() for path in found]
    if not paths:
        return []
    table = collect.load_runs(*paths)
    table = table.with_columns(pl.col("study").str.split("/").list.last().alias("study/sweep"))
    return appendix(program_rows.folded(table), [command], [Column("study/sweep", "Sweep")])


def run_tables(runs: pl.DataFrame, columns: Sequence[Column] = ()) -> list[Block]:
    """The runs of a folded table, and its programs apart: they have other columns."""
    parts = ((run_table, runs.filter(~of_grid(runs))), (program_rows.program_table, runs.filter(of_grid(runs))))
    return [table(part, columns) for table, part in parts if len(part)]


def run_table(runs: pl.DataFrame, columns: Sequence[Column] = ()) -> Table:
    """One row a run: name, state, loss, the study's own columns, steps, tokens, wall time; the first fit a phone."""
    shown = [Column("name", "Run"), Column("state", "State", kind="badge"), _LOSS, *columns, Column("step", "Steps")]
    shown += [*_MEASURED, Column("id", "Identity", kind="code")]
    known = [column for column in shown if column.field in runs.columns]
    return Table(runs, known, "Every run behind this report.")


def problems(runs: pl.DataFrame) -> list[Block]:
    """Why runs are not done, in their own words, and which evaluations failed; nothing when all is well."""
    return [*_not_done(runs), *_failed(runs)]


def _failed(runs: pl.DataFrame) -> list[Block]:
    failed = runs.filter(pl.col("failures").is_not_null()) if "failures" in runs.columns else runs.clear()
    columns = [Column("name", "Run"), Column("failures", "What failed")]
    return [] if failed.is_empty() else [Table(failed, columns, "Evaluations by a script that failed.")]


def _not_done(runs: pl.DataFrame) -> list[Block]:
    broken = runs.filter((pl.col("state") != "done") & (pl.col("reason").fill_null("") != ""))
    if broken.is_empty():
        return []
    return [
        Table(
            broken,
            [Column("name", "Run"), Column("state", "State", kind="badge"), Column("reason", "Reason")],
            "Why runs are not done.",
        )
    ]


def settings(runs: pl.DataFrame) -> list[Block]:
    """The settings that decide a run: those that differ as a table, the equal ones folded, and folded apart where and how
    the runs ran. Kinds of runs are kept apart."""
    blocks: list[Block] = []
    for kind, group in _kinds(runs):
        keys = [key for key in collect.config_keys(group) if group[key].null_count() < len(group)]
        decisive = [key for key in keys if key.split(".")[0] not in WHERE_AND_HOW]
        differing = [key for key in decisive if group[key].n_unique() > 1]
        equal = [key for key in decisive if key not in differing]
        count = f"{len(decisive)} settings that decide a run"
        if differing:
            caption = f"{kind}: of the {count}, the {len(differing)} that differ."
            blocks.append(
                Table(group, [Column("name", "Run"), *(Column(key, f"`{key}`") for key in differing)], caption)
            )
            folded = f"{kind}: of the {count}, the {len(equal)} that are equal"
        elif len(group) > 1:
            folded = f"{kind}: all {count} are equal"
        else:
            folded = f"`{group['name'][0]}`: the {count}"
        blocks.append(Details(folded, [Code(_listing(group, equal))]))
        if where_and_how := [key for key in keys if key not in decisive]:
            folded = f"{kind}: where and how, {len(where_and_how)} settings that decide no result"
            blocks.append(Details(folded, [Code(_listing(group, where_and_how))]))
    return blocks


def provenance(runs: pl.DataFrame) -> list[Block]:
    """Where each run was made and by which code; the packages that all runs share are listed once."""
    facts = [f"provenance/{fact}" for fact in collect.ORIGIN]
    columns = [
        Column(name, name.removeprefix("provenance/").capitalize(), kind="code" if name in _CODE else "plain")
        for name in facts
        if name in runs.columns and runs[name].null_count() < len(runs)
    ]
    origin = Table(runs, [Column("name", "Run"), *columns], "The code and the machine of each run's last attempt.")
    records = {str(row["name"]): collect.provenance(row["path"]) for row in runs.iter_rows(named=True)}
    return [origin, *_packages(records), *_records(records)]


def tiles(runs: pl.DataFrame) -> list[Tile]:
    """How many runs, how many are done, on how many tokens."""
    done = int((runs["state"] == "done").sum())
    found = [Tile("Runs", number(len(runs)), "all done" if done == len(runs) else f"{done} done")]
    if "final/tokens" in runs.columns:
        found.append(Tile("Tokens trained on", _short(float(runs["final/tokens"].sum())), "in all runs together"))
    return found


def _kinds(runs: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Runs that share a kind of data, named by it: their settings can be compared key by key."""
    if "data.kind" not in runs.columns:
        return [("Runs", runs)]
    groups = runs.partition_by("data.kind", maintain_order=True)
    return [(f"Runs on {str(group['data.kind'][0]).replace('_', ' ')} data", group) for group in groups]


def _packages(records: Mapping[str, dict[str, Any]]) -> list[Block]:
    """The versions that all runs share, and those that differ."""
    attempts = {name: (record.get("attempts") or [record])[-1] for name, record in records.items()}
    installed = {name: attempt.get("packages", {}) for name, attempt in attempts.items()}
    names = sorted({name for versions in installed.values() for name in versions}, key=str.lower)
    rows = {name: [versions.get(name) for versions in installed.values()] for name in names}
    shared = [f"{name}=={found[0]}" for name, found in rows.items() if len(set(found)) == 1]
    differing = {name: found for name, found in rows.items() if len(set(found)) > 1}
    blocks: list[Block] = []
    if shared:
        blocks.append(Details(f"Packages that every run shares ({len(shared)})", [Code("\n".join(shared))]))
    if differing:
        versions = {run: [found[i] for found in differing.values()] for i, run in enumerate(installed)}
        frame = pl.DataFrame({"package": list(differing)} | versions)
        columns: list[Column | str] = [Column("package", "Package"), *installed]
        blocks.append(Details(f"Packages whose versions differ ({len(differing)})", [Table(frame, columns)]))
    return blocks


def _records(records: Mapping[str, dict[str, Any]]) -> list[Block]:
    """provenance.json of each run, without what is long and told elsewhere."""
    if len(records) > _MAX_RECORDS:
        return ["The full record of each run is `provenance.json` in its directory."]
    folded = [Details(f"`{name}`", [Code(_indented(_without(record)))]) for name, record in records.items() if record]
    return [Details("The full record of each run", folded)] if folded else []


def _without(value: Any) -> Any:
    """A record without its lists of packages and of a program's points, and the text of the diff, whose hash stays."""
    if isinstance(value, dict):
        return {key: _without(child) for key, child in value.items() if key not in ("packages", "points", "diff")}
    return [_without(child) for child in value] if isinstance(value, list) else value


def _indented(record: Any) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False)


def _listing(group: pl.DataFrame, keys: Sequence[str]) -> str:
    """One line a key, with each value that any of the runs has."""
    return "\n".join(f"{key}: {', '.join(map(_plain, group[key].unique(maintain_order=True)))}" for key in keys)


def _plain(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(value: float) -> str:
    """1,234,567 -> 1.23 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"
