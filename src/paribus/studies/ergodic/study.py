"""The report of the `ergodic` study: loss against K, by position, paired, and against theory's exact optimum."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from paribus.report import losses
from paribus.report import runs as run_tables
from paribus.report.blocks import Block, Column, Figure, Report, Section, Table, Tile, Tiles, Verdicts
from paribus.report.cells import interval, number
from paribus.report.charts import Axis, Kinds, curves, envelope, heat_map, layer, level, points, small_multiples
from paribus.studies.ergodic import analysis, optimum, verdicts

K = Axis("K", "K, categories in training", scale="log2", format="~g")
POSITION = Axis("position", "position in the window", scale="log10", format="~g")
LOSS = Axis("loss", "loss, nats a token")
DELTA = Axis("delta", "difference, nats a token", format="+.4f")
SPREAD = (Column("runs", "Runs"), Column("over", "Spread over"))
FOCUS = "the seed's first category (where a sweep lists its categories: the mean over those trained on)"


def build_report(title: str, subtitle: str, runs: Mapping[str, Sequence[Path]], command: str) -> Report:
    """Draw what the finished runs of each sweep show; a section whose runs are missing is left out.

    command: what a reader types to make them again."""
    found = analysis.read_all(runs)
    sources = optimum.read_all(runs)
    differences = analysis.paired_differences(found)
    paired = analysis.paired_by_k(found, differences)
    held = [*verdicts.about_text(found, paired), *verdicts.about_optimum(sources), *verdicts.about_causality(runs)]
    sections = [Section("What was found", [Tiles(tiles(found, paired, sources)), Verdicts(held)])]
    if found:
        sections += [
            Section("Loss against K", loss_blocks(found)),
            Section("The same windows, paired", paired_blocks(differences, paired)),
            Section("Loss against position", position_blocks(found)),
            Section("In-context score", in_context_blocks(found)),
            Section("By category", category_blocks(found)),
            Section("How much data", quantity_blocks(found)),
        ]
    if sources:
        sections.append(Section("Trained against optimal", optimum.blocks(sources)))
    return Report(title, subtitle, [*sections, *run_tables.study_appendix(runs, command)])


def tiles(found: Sequence[analysis.Trained], paired: pl.DataFrame, sources: Sequence[optimum.Scored]) -> list[Tile]:
    """The numbers to take away."""
    shown = [Tile("Runs", str(len(found) + len(sources)), "trained, evaluated, done")]
    most = max((run.k for run in found), default=1)
    if most > 1:
        for row in analysis.effects(paired):
            limits = interval(row["delta_low"], row["delta_high"], "+.3f")
            unit = f"{limits} nats a token" if limits else "nats a token, one run, no interval"
            note = f"{unit}: K = {row['K']} minus K = 1 on the same windows, {row['arm']}"
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


def spread(frame: pl.DataFrame) -> str:
    """What the bars and brackets of a frame are, as a caption says it."""
    known = {
        "seeds": "over seeds with Student's 95 % interval",
        "subsets": "over subsets of the categories from the least to the greatest subset, which is no confidence interval",
    }
    found = [text for over, text in known.items() if over in frame["over"]]
    return f"Mean {'; '.join(found)}." if found else "One run each: no interval."


def loss_blocks(found: Sequence[analysis.Trained]) -> list[Block]:
    frame = analysis.loss_by_k(found)
    delta = frame.drop_nulls("delta")
    ceiling = frame.unique("K").sort("K").with_columns(floor=pl.lit(0.0))
    blocks: list[Block] = [
        "XE~K~ is the test loss averaged over the K categories that a model was trained on, on windows that every model"
        " shares. Not knowing which category a window comes from can cost at most ln K / T nats a token (the excess over a"
        " window sums to the information about the category, at most ln K): the shaded band. What lies outside it is data"
        " quantity, transfer, capacity or optimisation.",
        Figure(
            "loss-against-k",
            points(frame, K, LOSS, "arm", ("loss_low", "loss_high")),
            "Test loss against K",
            spread(frame),
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
        *SPREAD,
    ]
    return [*blocks, Table(frame, columns, f"Test loss by K, nats a token. {spread(frame)}")]


def paired_blocks(differences: pl.DataFrame, paired: pl.DataFrame) -> list[Block]:
    if paired.is_empty():
        return ["No sweep has a K = 1 run, with the same labels and on the same windows, to compare with."]
    overall = differences.filter(pl.col("band") == "all")
    chart = layer(
        level(0.0, DELTA),
        points(paired.filter(pl.col("band") == "all"), K, DELTA, "arm", ("delta_low", "delta_high")),
    )
    each = [*_keys(overall), Column("run", "Run"), Column("category", "Category")]
    value = Column("delta", "Difference", "+.4f", ("delta_low", "delta_high"))
    return [
        f"Each model against the one that was trained on a single category, in {FOCUS}: the same frozen windows, so that"
        " what makes a window hard cancels. Below zero, training on more categories helped. The second table has the other"
        " categories of a run too, where a model was trained on them alone: those models serve all seeds, so they are no"
        " part of the mean over seeds.",
        Figure("paired-against-k", chart, "Effect of K", f"{spread(paired)} Dashed: as good as K = 1."),
        Table(
            paired.filter(pl.col("K") > 1),
            [*_keys(paired), Column("band", "Positions"), value, *SPREAD],
            f"By band of positions. {spread(paired)}",
        ),
        Table(
            overall.filter(pl.col("K") > 1),
            [*each, value],
            "Each run and category alone; 95 % intervals from a paired bootstrap over windows.",
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
        f"Loss at each position in {FOCUS}, mean over runs, and the power law c + a t^−b^ fitted to it."
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
        f"How much the context helps: the loss at position {first} minus that at position {last}, in {FOCUS}.",
        Figure("in-context-score", chart, "In-context score against K", spread(frame)),
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
        Figure("loss-by-category", chart, "Test loss of every category", "Mean over runs, trained on or not."),
        Table(matrix, columns, "Test loss by category, nats a token, mean over runs."),
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
