"""`paribus report`: a page about any runs, from whatever their directories hold."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from paribus.directories import UNREADABLE
from paribus.grid import results
from paribus.report import audits, charts, collect, losses, plots, program_rows, runs
from paribus.report.blocks import Block, Column, Details, Figure, Report, Section, Table, Tiles, Verdict, Verdicts
from paribus.report.charts import Axis, Kinds
from paribus.report.page import write_report
from paribus.report.tables import Tables, grid_runs
from paribus.words import counted

NATS = "Loss, nats a token"
_STEP = Axis("step", "Step", format=",")
_POSITION = Axis("position", "Position in the window", format=",")
_TRAINING = {"loss": "Training loss", "lr": "Learning rate", "grad_norm": "Norm of the gradient"}
_CAPTIONS = {
    "loss": "On the batch of each logged step, before its update.",
    "lr": "As the schedule set it at each logged step.",
    "grad_norm": "Of the whole gradient, before clipping.",
}
_NUMBERS = {"kl": "KL to Bayes", "kl_max": "KL, worst position", "bayes_loss": "Loss of Bayes", "is_leak": "Leak"}
_MAX_POINTS = 12_000  # of all curves of a figure

Records = Mapping[str, Mapping[str, Any]]  # a run's name -> its record of one evaluation


def generic_report(paths: Sequence[Path | str], out: Path | str) -> Path:
    """Write one page about every run below the paths. Raises RunError for a path that holds none."""
    table = collect.load_runs(*paths)
    listed = labelled(program_rows.folded(table))
    read = listed.filter(pl.col("state") != UNREADABLE)
    commands = [*_commands(read), shlex.join(["paribus", "report", *map(str, paths), "-o", str(out)])]
    sections = [
        Section("Overview", [Tiles(runs.tiles(table)), *runs.run_tables(listed), *runs.problems(listed)]),
        *(measured(read) if len(read) else ()),
        *grids(table),
        *(runs.appendix(read, commands)[1:] if len(read) else ()),
    ]
    studies = ", ".join(f"*{name}*" for name in table["study"].drop_nulls().unique(maintain_order=True))
    title = str(table["name"][0]) if len(table) == 1 else counted(len(table), "run")
    subtitle = f"What {studies or 'they'} measured, read from the run directories."
    return write_report(Report(title, subtitle, sections), Path(out))


def measured(listed: pl.DataFrame) -> list[Section]:
    """What runs logged, how they were evaluated and audited; `listed`: with programs folded, which have none of it."""
    return [
        *training(listed),
        *(evaluation(listed, name) for name in evaluation_names(listed)),
        *audits.sections(dict(zip(listed["name"], map(Path, listed["path"]), strict=True))),
    ]


def labelled(table: pl.DataFrame) -> pl.DataFrame:
    """Names that two runs share get their identity behind them: a name then tells one run."""
    name = pl.col("name")
    return table.with_columns(name=pl.when(name.is_duplicated()).then(pl.format("{} ({})", name, "id")).otherwise(name))


def _commands(table: pl.DataFrame) -> list[str]:
    """What was typed to make the runs, each command once."""
    if "provenance/command" not in table.columns:
        return []
    return list(dict.fromkeys(table["provenance/command"].drop_nulls()))


def evaluation_names(table: pl.DataFrame) -> list[str]:
    """The evaluations that any run has made, in the order of the configs; those made later come last."""
    made = dict.fromkeys(name.split("/")[1] for name in table.columns if name.startswith("evaluation/"))
    configured = dict.fromkeys(key.split(".")[1] for key in table.columns if key.startswith("evals."))
    return [*(name for name in configured if name in made), *(name for name in made if name not in configured)]


def training(table: pl.DataFrame) -> list[Section]:
    """The curves that training logged, and those of the evaluations made on the way; nothing before the second point."""
    on_the_way = {f"evaluation/{name}/loss": f"Loss in `{name}`" for name in evaluation_names(table)}
    points = collect.curves_of(table, [*_TRAINING, *on_the_way]).drop("id")
    blocks: list[Block] = []
    for metric, title in (_TRAINING | on_the_way).items():
        logged = points.filter(pl.col("metric") == metric).drop("metric")
        if logged["step"].n_unique() > 1 and logged["value"].n_unique() > 1:
            unit = NATS if metric.endswith("loss") else ""
            caption = _CAPTIONS.get(metric, "On the windows that the evaluation froze.")
            chart, note = _curve(logged, unit)
            blocks.append(Figure(f"training-{metric.replace('/', '-')}", chart, title, caption + note))
    return [Section("Training", blocks)] if blocks else []


def grids(table: pl.DataFrame) -> list[Section]:
    """What the searches of the grid engine's runs found, and every plot that its runs have something for."""
    found = grid_runs(table)
    paths = found["path"].unique(maintain_order=True).to_list() if len(found) else []
    searches = list(program_rows.search_tables(*paths))
    figures = plots.plot(Tables(table, results.losses(*paths), results.evaluations(*paths))) if paths else []
    return [*([Section("Searches", searches)] if searches else []), *([Section("Grids", figures)] if figures else [])]


def evaluation(table: pl.DataFrame, name: str) -> Section:
    """The newest result of one evaluation of every run: its numbers as a table, and the figures of its kind."""
    made = [row for row in table.iter_rows(named=True) if name in collect.evaluations(row["path"])]
    records = {row["name"]: collect.evaluation(row["path"], name) for row in made}
    prefix = f"evaluation/{name}/"
    keys = [key for key in table.columns if key.startswith(prefix) and key.count("/") == 2]
    metrics = [(key, key.removeprefix(prefix)) for key in keys]
    columns = [Column(key, _NUMBERS.get(metric, metric.replace("_", " ").capitalize())) for key, metric in metrics]
    numbers = table.filter(pl.col("name").is_in(list(records)))
    blocks: list[Block] = [
        Table(numbers, [Column("name", "Run"), *columns], f"The numbers of `{name}`, each run's newest.")
    ]
    match {record["kind"] for record in records.values()}.pop():
        case "loss":
            blocks += _loss_blocks(name, records)
        case "bayes":
            blocks += _bayes_blocks(name, records)
        case "causality":
            blocks = _causality_blocks(records)
    return Section(name.replace("_", " ").capitalize(), blocks)


def _curve(logged: pl.DataFrame, unit: str) -> tuple[alt.Chart, str]:
    """The curves of all runs, and what a caption must add when they were thinned."""
    value = Axis("value", unit)
    shown = collect.thinned(logged, ["name"], max(50, min(300, _MAX_POINTS // logged["name"].n_unique())))
    if shown.height == logged.height:
        return charts.curves(logged, _STEP, value, "name"), ""
    note = f" A point is the mean of about {logged.height / shown.height:.0f} logged steps, the band their extremes."
    return charts.curves(shown, _STEP, value, "name", ("low", "high")), note


def _loss_blocks(name: str, records: Records) -> list[Block]:
    curve = losses.by_position(records)
    if len(records) > charts.MAX_NAMED:
        lines = charts.curves(curve.drop("low", "high"), _POSITION, Axis("loss", NATS), "run")
    else:
        lines = charts.curves(curve, _POSITION, Axis("loss", NATS), "run", ("low", "high"))
    heat = charts.heat_map(losses.matrix(list(records.values())), _POSITION, "category", Axis("loss", NATS))
    of = "this run" if len(records) == 1 else f"all {len(records)} runs"
    return [
        Figure(f"{name}-position", lines, "Loss by position", "Means over all windows, with 95 % limits."),
        Figure(f"{name}-matrix", heat, "Loss by category and position", f"Means over all windows of {of}."),
        Details("Loss of every category", [_category_table(records)]),
    ]


def _category_table(records: Records) -> Table:
    frame = losses.by_category(records)
    columns = [
        Column("run", "Run"),
        Column("category", "Category"),
        Column("windows", "Windows"),
        Column("loss", "Loss", ".4f", ("low", "high")),
        Column("perplexity", "Perplexity"),
        *([Column("bits_per_byte", "Bits a byte")] if frame["bits_per_byte"].null_count() < len(frame) else []),
    ]
    return Table(frame, columns, "Nats a token; in brackets 95 % limits over windows.")


def _bayes_blocks(name: str, records: Records) -> list[Block]:
    both = charts.curves(
        losses.against_bayes(records),
        _POSITION,
        Axis("loss", "Loss, nats a symbol"),
        "run",
        kinds=Kinds("kind", beneath="Bayes"),
    )
    kl = Axis("kl", "KL from the model to Bayes, nats", format=".2e")
    lost = charts.curves(losses.divergence(records), _POSITION, kl, "run", ("low", "high"))
    return [
        Figure(
            f"{name}-loss",
            both,
            "Trained and optimal",
            "The broad line: the Bayes predictor of the source on the same sequences; the thin line on it: the model.",
        ),
        Figure(f"{name}-kl", lost, "What is lost against Bayes", "Means over sequences, with 95 % limits."),
    ]


def _causality_blocks(records: Records) -> list[Block]:
    looking = [run for run, record in records.items() if not record["summary"]["is_causal"]]
    evidence = (
        f"{len(records) - len(looking)} of {counted(len(records), 'model')}: altered tokens changed no earlier logit"
    )
    if looking:
        evidence += f"; not so: {', '.join(looking)}"
    return [Verdicts([Verdict("Every model is causal", "fails" if looking else "holds", evidence)])]
