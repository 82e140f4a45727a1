"""The report of the `ergodic` study: loss against K, by position, paired, and against theory's exact optimum."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from paribus.report import collect, losses
from paribus.report import runs as run_tables
from paribus.report.blocks import Block, Column, Figure, Report, Section, Table, Tile, Tiles, Verdicts
from paribus.report.cells import interval, number
from paribus.report.charts import Axis, Kinds, curves, envelope, heat_map, layer, level, points, small_multiples
from paribus.studies.ergodic import analysis, optimum, verdicts

K = Axis("K", "K, categories in training", scale="log2", format="~g")
POSITION = Axis("position", "position in the window", scale="log10", format="~g")
LOSS = Axis("loss", "loss, nats a token")
DELTA = Axis("delta", "difference, nats a token", format="+.4f")


def build_report(title: str, subtitle: str, runs: Mapping[str, Sequence[Path]], command: str) -> Report:
    """Draw what the finished runs of each sweep show; a section whose runs are missing is left out.

    command: what a reader types to make them again."""
    found = analysis.read_all(runs)
    sources = optimum.read_all(runs)
    differences = analysis.paired_differences(found)
    held = [*verdicts.about_text(found, differences), *verdicts.about_optimum(sources), *verdicts.about_causality(runs)]
    sections = [Section("What was found", [Tiles(tiles(found, sources)), Verdicts(held)])]
    if found:
        sections += [
            Section("Loss against K", loss_blocks(found)),
            Section("The same windows, paired", paired_blocks(differences)),
            Section("Loss against position", position_blocks(found)),
            Section("In-context score", in_context_blocks(found)),
            Section("By category", category_blocks(found)),
            Section("How much data", quantity_blocks(found)),
        ]
    if sources:
        sections.append(Section("Trained against optimal", optimum.blocks(sources)))
    return Report(title, subtitle, [*sections, *appendix(runs, command)])


def appendix(runs: Mapping[str, Sequence[Path]], command: str) -> list[Section]:
    """What every report has at its foot; nothing before the first run is done."""
    paths = [path for found in runs.values() for path in found]
    if not paths:
        return []
    table = collect.load_runs(*paths)
    table = table.with_columns(pl.col("study").str.split("/").list.last().alias("study/sweep"))
    return run_tables.appendix(table, [command], [Column("study/sweep", "Sweep")])


def tiles(found: Sequence[analysis.Trained], sources: Sequence[optimum.Scored]) -> list[Tile]:
    """The numbers to take away."""
    shown = [Tile("Runs", str(len(found) + len(sources)), "trained, evaluated, done")]
    most = max((run.k for run in found), default=1)
    if most > 1:
        paired = analysis.paired_by_k(analysis.paired_differences(found)).filter(
            pl.col("K") == most, pl.col("band") == "all"
        )
        for row in paired.iter_rows(named=True):
            limits = interval(row["delta_low"], row["delta_high"], "+.3f")
            unit = f"{limits} nats a token" if limits else "nats a token, one seed, no interval"
            note = f"{unit}: K = {most} minus K = 1 on the same windows, {row['arm']}"
            shown.append(Tile("Effect of K", number(row["delta"], "+.3f"), note))
        ceiling = analysis.loss_by_k(found).filter(pl.col("K") == most)["ceiling"][0]
        shown.append(
            Tile(
                "Ceiling of theory",
                number(ceiling, "+.3f"),
                f"nats a token, ln {most} / T: the most that ergodicity can cost",
            )
        )
    if sources:
        kl = min(scored.record["kl"]["mean"] for scored in sources)
        shown.append(Tile("KL to Bayes", number(kl, ".2g"), "nats a symbol, mean over positions, the best run"))
    return shown


def loss_blocks(found: Sequence[analysis.Trained]) -> list[Block]:
    frame = analysis.loss_by_k(found)
    delta = frame.drop_nulls("delta")
    ceiling = frame.unique("K").sort("K").with_columns(floor=pl.lit(0.0))
    blocks: list[Block] = [
        "XE~K~ is the test loss averaged over the K categories that a model was trained on, on windows that every model"
        " shares; intervals are Student's over seeds. Not knowing which category a window comes from can cost at most"
        " ln K / T nats a token (the excess over a window sums to the information about the category, at most ln K): the"
        " shaded band. What lies outside it is data quantity, transfer, capacity or optimisation.",
        Figure(
            "loss-against-k",
            points(frame, K, LOSS, "arm", ("loss_low", "loss_high")),
            "Test loss against K",
            "Mean over seeds with Student's interval.",
        ),
    ]
    if not delta.is_empty():
        chart = layer(
            envelope(ceiling, K, DELTA._replace(field="ceiling"), "floor", "ceiling"),
            points(delta, K, DELTA, "arm", ("delta_low", "delta_high")),
        )
        most = ceiling.row(-1, named=True)
        caption = (
            "XE~K~ minus XE~1~ of the same seed. Shaded: what theory allows for ergodicity itself, from zero to ln K / T,"
            f" which is {number(most['ceiling'], '.4f')} nats a token at K = {most['K']}."
        )
        blocks.append(Figure("delta-against-k", chart, "Difference to K = 1, with the ceiling", caption))
    columns = [
        *_keys(frame),
        Column("loss", "XE~K~", ".4f", ("loss_low", "loss_high")),
        Column("delta", "XE~K~ − XE~1~", "+.4f", ("delta_low", "delta_high")),
        Column("ceiling", "ln K / T", ".4f"),
        Column("seeds", "Seeds"),
    ]
    return [*blocks, Table(frame, columns, "Test loss by K, nats a token; in brackets 95 % intervals over seeds.")]


def paired_blocks(differences: pl.DataFrame) -> list[Block]:
    if differences.is_empty():
        return ["No sweep has a K = 1 run to compare with."]
    overall = differences.filter(pl.col("band") == "all")
    by_k = analysis.paired_by_k(differences)
    chart = layer(
        level(0.0, DELTA),
        points(by_k.filter(pl.col("band") == "all"), K, DELTA, "arm", ("delta_low", "delta_high")),
    )
    each = [*_keys(overall), Column("seed", "Category seed"), Column("category", "Category")]
    value = Column("delta", "Difference", "+.4f", ("delta_low", "delta_high"))
    return [
        "Each model against the K = 1 model of its seed, on that model's one category: the same frozen windows, so that what"
        " makes a window hard cancels. Below zero, training on more categories helped.",
        Figure(
            "paired-against-k",
            chart,
            "Effect of K on the first category",
            "Mean over seeds with Student's interval. Dashed: as good as K = 1.",
        ),
        Table(
            by_k.filter(pl.col("K") > 1),
            [*_keys(by_k), Column("band", "Positions"), value, Column("seeds", "Seeds")],
            "Mean over seeds, by band of positions; 95 % intervals over seeds.",
        ),
        Table(
            overall.filter(pl.col("K") > 1),
            [*each, value],
            "Each seed alone; 95 % intervals from a paired bootstrap over windows.",
        ),
    ]


def position_blocks(found: Sequence[analysis.Trained]) -> list[Block]:
    frame, fits = analysis.position_curves(found)
    chart = curves(losses.in_log_bins(frame), POSITION, LOSS, by="K", kinds=Kinds("kind"))
    arms = frame["arm"].unique(maintain_order=True)
    if len(arms) > 1:
        chart = small_multiples(chart, "arm")
    drawn = "Dashed: the power law fitted to all positions, averaged in the same way, where they determine it."
    if "fit" not in frame["kind"]:
        drawn = "No power law is drawn: the curves determine none."
    columns = [*_keys(fits), Column("state", "Exponent", kind="badge")]
    columns += [Column(name, f"*{name}*", ".3f", (f"{name}_low", f"{name}_high")) for name in ("b", "c", "a")]
    return [
        "Loss in the seed's first category at each position, mean over seeds, and the power law c + a t^−b^ fitted to it."
        " A power law in the raw loss mixes what the window says about its category with what it says about itself.",
        Figure(
            "loss-against-position",
            chart,
            "Loss against position",
            f"Measured, averaged in bins of positions that grow by 15 %. {drawn}",
        ),
        Table(
            fits,
            [*columns, Column("misfit", "χ² a degree", ".2f")],
            "Fits of c + a t^−b^ to all positions, weighted by the errors of the windows. Not determined: the interval of"
            " *b* is wider than *b* itself.",
        ),
    ]


def in_context_blocks(found: Sequence[analysis.Trained]) -> list[Block]:
    frame = analysis.in_context(found)
    first, last = found[0].record["in_context"]["a"], found[0].record["in_context"]["b"]
    score = Axis("score", f"L({first}) − L({last}), nats")
    chart = points(frame, K, score, "arm", ("score_low", "score_high"))
    return [
        f"How much the context helps: the loss at position {first} minus that at position {last}, first category.",
        Figure("in-context-score", chart, "In-context score against K", "Mean over seeds with Student's interval."),
    ]


def category_blocks(found: Sequence[analysis.Trained]) -> list[Block]:
    frame = analysis.by_category(found)
    name = pl.format("{}, K = {}", "arm", "K") if frame["arm"].n_unique() > 1 else pl.format("K = {}", "K")
    frame = frame.with_columns(row=name)
    matrix = frame.pivot("category", index=["arm", "K"], values="loss")
    names = sorted(frame["category"].unique())
    columns = [*_keys(frame), *(Column(name, name, ".3f") for name in names)]
    chart = heat_map(frame, Axis("category", "category"), "row", LOSS)
    return [
        Figure("loss-by-category", chart, "Test loss of every category", "Mean over seeds, trained on or not."),
        Table(matrix, columns, "Test loss by category, nats a token, mean over seeds."),
    ]


def quantity_blocks(found: Sequence[analysis.Trained]) -> list[Block]:
    frame = analysis.quantities(found)
    columns = [*_keys(frame), Column("seed", "Category seed"), Column("unique_tokens", "Unique tokens")]
    columns += [Column("total_tokens", "Total tokens"), Column("passes", "Passes", ".2f"), Column("steps", "Steps")]
    columns += [
        Column("loss", "XE~K~", ".4f"),
        Column("home", "First category"),
        Column("home loss", "its loss", ".4f"),
    ]
    caption = (
        "Unique: distinct targets that a run has seen (of random windows, in expectation). Passes: total over unique."
    )
    return [Table(frame, [*columns, Column("categories", "Trained on")], caption)]


def _keys(frame: pl.DataFrame) -> list[Column]:
    """What a row is about: its K, and its sweep where there are several."""
    return [*([Column("arm", "Sweep")] if frame["arm"].n_unique() > 1 else []), Column("K")]
