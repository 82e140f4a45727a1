"""The report of the `insertion` study: likelihood against copies, the contamination gap, what it cost, and the audit."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import altair as alt
import polars as pl

from paribus import audit
from paribus.errors import RunError
from paribus.report import audits, collect
from paribus.report import runs as run_tables
from paribus.report.blocks import Block, Column, Figure, Report, Section, Table, Tile, Tiles, Verdicts
from paribus.report.cells import interval, number
from paribus.report.charts import Axis, curves, layer, points, small_multiples, theory
from paribus.rundir import RunDir
from paribus.studies.insertion import analysis, dependence, verdicts

COPIES = Axis("copies", "copies in the stream", scale="symlog", format="~g")
NLL = Axis("nll", "negative log-likelihood, nats a token", format=".3f")
EXPOSURE = Axis("exposure", "exposure, bits", format=".2f")
QUANTILE = Axis("quantile", "quantile of N(0, 1)", format=".2f")
STATISTIC = Axis("x", "x of a row", format="+.2f")
STEP = Axis("step", "Step", format=",")
LOSS = Axis("loss", "loss, nats a token")


def build_report(title: str, subtitle: str, runs: Mapping[str, Sequence[Path]], command: str) -> Report:
    """Audit the finished runs and draw what they show; a section whose runs are missing is left out.

    command: what a reader types to make them again."""
    pairs = analysis.pairs(runs)
    record_audits(pairs)
    items = analysis.canaries(pairs)
    benchmarks = analysis.contamination(pairs)
    marked = analysis.watermarks(pairs)
    losses = analysis.losses(pairs)
    held = [
        *(verdicts.about_canaries(items) if len(items) else []),
        *verdicts.about_contamination(benchmarks),
        *verdicts.about_watermarks(marked),
        *verdicts.about_losses(losses),
    ]
    sections = [Section("What was found", [Tiles(tiles(runs, items, benchmarks, marked, losses)), Verdicts(held)])]
    if pairs:
        sections.append(Section("What was inserted", written_blocks(pairs)))
    if len(items):
        sections.append(Section("Likelihood against repetitions", canary_blocks(items)))
    if benchmarks:
        sections.append(Section("Contamination", contamination_blocks(benchmarks)))
    if marked:
        sections.append(Section("Watermark", watermark_blocks(marked)))
    if len(losses):
        sections.append(Section("What it costs elsewhere", loss_blocks(pairs, losses)))
    for arm, paths in runs.items():
        if metrics := dependence.metrics_of(paths):
            sections.append(Section(f"Dependence ({arm.replace('_', ' ')})", dependence_blocks(paths, metrics)))
    directories = {path.name: path for pair in pairs for path in (pair.treated, pair.control)}
    return Report(
        title, subtitle, [*sections, *audits.sections(directories), *run_tables.study_appendix(runs, command)]
    )


def dependence_blocks(paths: Sequence[Path], metrics: dependence.Metrics) -> list[Block]:
    """The test, or what is missing for it: a sweep that is under way, or one of whose runs failed, has a report too."""
    try:
        return dependence.blocks(dependence.measure(dependence.sort_runs(paths), metrics))
    except RunError as error:
        return [f"Not tested: {error}."]


def record_audits(pairs: Sequence[analysis.Pair]) -> None:
    """Audit every pair that was not audited yet: each run against its own log, the treated run against its control."""
    for pair in pairs:
        others = [found["other"] for found in collect.audit(pair.treated).against]
        if not (all(map(_is_audited, (pair.treated, pair.control))) and pair.control.name in others):
            treated, control = RunDir(pair.treated), RunDir(pair.control)
            audit.record(control, audit.verify(control))
            audit.record(treated, audit.verify(treated), audit.compare(treated, control), control.path.name)


def _is_audited(run: Path) -> bool:
    """Whether its audit saw every step that it has taken."""
    logged = RunDir(run).stream_path.stat().st_size // 8  # a hash of 8 bytes a step
    return bool(collect.audit(run).verification.get("steps") == logged)


def tiles(
    runs: Mapping[str, Sequence[Path]],
    items: pl.DataFrame,
    benchmarks: Sequence[analysis.Contamination],
    marked: Sequence[analysis.Marked],
    losses: pl.DataFrame,
) -> list[Tile]:
    """The numbers to take away."""
    shown = [Tile("Runs", str(sum(map(len, runs.values()))), "trained, evaluated, audited")]
    if len(items):
        most = analysis.by_copies(items).sort("copies").row(-1, named=True)
        limits = interval(most["delta_low"], most["delta_high"], "+.2f")
        note = f"{limits} nats a token at {most['copies']} copies, treated − control"
        shown.append(Tile("Canaries", number(most["delta"], "+.2f"), note))
    for one in benchmarks[:2]:
        limits = interval(one.gap.low, one.gap.high, "+.2f")
        note = f"{limits} gain in accuracy on *{one.benchmark}*, inserted − clean questions, {one.copies} copies each"
        shown.append(Tile("Contamination gap", number(one.gap.mean, "+.2f"), note))
    for mark in marked[:1]:
        overall = mark.treated["overall"]
        note = (
            f"{interval(overall['low'], overall['high'], '+.2f')} mean statistic of the rows; N(0, 1) without exposure"
        )
        shown.append(Tile("Watermark", number(overall["x"], "+.2f"), note))
    for row in losses.head(1).iter_rows(named=True):
        limits = interval(row["delta_low"], row["delta_high"], "+.3f")
        shown.append(Tile("Held-out loss", number(row["delta"], "+.3f"), f"{limits} nats a token, treated − control"))
    return shown


def written_blocks(pairs: Sequence[analysis.Pair]) -> list[Block]:
    columns = [Column("arm", "Sweep"), Column("experiment", "Experiment"), Column("kind", "Kind")]
    columns += [Column("items", "Items"), Column("copies", "Copies"), Column("tokens", "Tokens")]
    columns += [Column("share", "% of the stream", ".2f")]
    columns += [Column("first", "First step"), Column("last", "Last step")]
    return [
        "By the exposure ledger of each run with insertions. Its control reads the same stream without them: same order,"
        " same initial weights, same schedule.",
        Table(
            analysis.written(pairs),
            columns,
            "What each experiment wrote over the stream; a watermark adds noise to the embeddings of so many tokens.",
        ),
    ]


def canary_blocks(items: pl.DataFrame) -> list[Block]:
    means = analysis.by_copies(items)
    sides = pl.concat([_side(means, side, "nll", side) for side in ("treated", "control")])
    blocks: list[Block] = [
        "Canaries are texts that the model could not know: each was written into the stream a known number of times. The"
        " control has never seen any of them.",
        Figure(
            "likelihood-against-copies",
            _panels(points(sides, COPIES, NLL, "run", ("low", "high")), sides),
            "Likelihood against copies",
            "Mean over the canaries of each number of copies, with Student's 95 % limits over canaries.",
        ),
    ]
    if "exposure treated" in means.columns:
        both = pl.concat([_side(means, f"exposure {side}", "exposure", side) for side in ("treated", "control")])
        blocks.append(
            Figure(
                "exposure-against-copies",
                _panels(points(both, COPIES, EXPOSURE, "run", ("low", "high")), both),
                "Exposure against copies",
                "log~2~ of the candidates less log~2~ of the canary's rank among them (Carlini et al. 2019): 1.4 bits by"
                " chance, and at most log~2~ of the candidates, where it is the likeliest of all.",
            )
        )
    columns = [Column("arm", "Sweep"), Column("copies", "Copies"), Column("canaries", "Canaries")]
    columns += [
        Column(side, side.capitalize(), ".3f", (f"{side}_low", f"{side}_high")) for side in ("treated", "control")
    ]
    columns.append(Column("delta", "Treated − control", "+.3f", ("delta_low", "delta_high")))
    if "exposure treated" in means.columns:
        columns.append(Column("exposure treated", "Exposure", ".2f", ("exposure treated_low", "exposure treated_high")))
    return [*blocks, Table(means, columns, "Negative log-likelihood, nats a token; differences are paired by canary.")]


def _side(means: pl.DataFrame, field: str, name: str, run: str) -> pl.DataFrame:
    """One run's means as (arm, run, copies, NAME, low, high)."""
    return means.select(
        "arm",
        "copies",
        pl.lit(run).alias("run"),
        pl.col(field).alias(name),
        pl.col(f"{field}_low").alias("low"),
        pl.col(f"{field}_high").alias("high"),
    )


def _panels(chart: alt.Chart, frame: pl.DataFrame) -> alt.Chart:
    """One panel a sweep, where there are several."""
    return small_multiples(chart, "arm") if frame["arm"].n_unique() > 1 else chart


def contamination_blocks(found: Sequence[analysis.Contamination]) -> list[Block]:
    frame = pl.concat(
        one.accuracy.with_columns(
            questions_of=pl.format("{} ({}), {}", pl.lit(one.benchmark), pl.lit(one.arm), pl.col("part"))
        )
        for one in found
    )
    rows = [
        {"arm": one.arm, "benchmark": one.benchmark, "copies": one.copies}
        | one.effect["inserted"].columns("inserted")
        | one.effect["clean"].columns("clean")
        | one.gap.columns("gap")
        | one.bits["inserted"].columns("bits inserted")
        | one.bits["clean"].columns("bits clean")
        for one in found
    ]
    values = [("inserted", "Inserted", "+.3f"), ("clean", "Clean", "+.3f"), ("gap", "Gap", "+.3f")]
    values += [("bits inserted", "Bits a byte, inserted", "+.3f"), ("bits clean", "Bits a byte, clean", "+.3f")]
    columns = [Column("arm", "Sweep"), Column("benchmark", "Benchmark"), Column("copies", "Copies")]
    columns += [Column(key, title, form, (f"{key}_low", f"{key}_high")) for key, title, form in values]
    each = [Column("questions_of", "Questions"), Column("run", "Run"), Column("questions", "Number")]
    each.append(Column("accuracy", "Accuracy", ".3f", ("accuracy_low", "accuracy_high")))
    return [
        "A part of the questions was written into the stream with their right answers, the others were not. What the"
        " insertion did is the difference to the control on the inserted questions; what it would have done anyway is the"
        " difference on the clean ones.",
        Table(
            pl.DataFrame(rows), columns, "Treated − control, paired by question; bootstrap 95 % limits over questions."
        ),
        Table(frame, each, "Accuracy of each part."),
    ]


def watermark_blocks(found: Sequence[analysis.Marked]) -> list[Block]:
    frame = pl.concat(one.rows() for one in found)
    line = frame.select(pl.col("quantile").min().alias("low"), pl.col("quantile").max().alias("high")).row(0)
    normal = pl.DataFrame({"quantile": line, "x": line})
    chart = points(frame, QUANTILE, STATISTIC, "run", faint=True)
    if len(found) == 1:
        chart = layer(chart, theory(normal, QUANTILE, STATISTIC, "N(0, 1)"))
    rows = [
        {"arm": one.arm, "run": run, "null": record["null"]["x"], "null std": record["null"]["std"]} | record["overall"]
        for one in found
        for run, record in (("treated", one.treated), ("control", one.control))
    ]
    columns = [Column("arm", "Sweep"), Column("run", "Run"), Column("n", "Rows")]
    columns += [Column("x", "Mean x", "+.2f", ("low", "high")), Column("p", "p", ".2g")]
    columns += [Column("tpr", "Found at 1 % false positives", ".2f", ("tpr_low", "tpr_high"))]
    columns += [Column("null", "Mean, null", "+.3f"), Column("null std", "Deviation, null", ".3f")]
    return [
        "Gaussian noise was added to the input embeddings of some batches; it is generated again for the test, never stored."
        " x is minus the correlation of a row's gradient with its noise: N(0, 1) for a model that never saw it, above 0 for"
        " one whose loss is lower at the noisy embeddings. The null uses noises that nobody was trained on.",
        Figure(
            "watermark",
            _panels(chart, frame),
            "The watermark's statistic",
            "Each row's x against the quantile of N(0, 1) of its rank: on the line where the noise was not learned.",
        ),
        Table(pl.DataFrame(rows), columns, "Student's 95 % limits of the mean over rows; Wilson's of the rate."),
    ]


def loss_blocks(pairs: Sequence[analysis.Pair], table: pl.DataFrame) -> list[Block]:
    blocks: list[Block] = []
    frame = analysis.loss_curves(pairs)
    if len(frame) and frame["step"].n_unique() > 1:
        chart = curves(frame, STEP, LOSS, "run")
        blocks.append(Figure("held-out-loss", chart, "Held-out loss", "On the same frozen windows in every run."))
    columns = [Column("arm", "Sweep"), Column("evaluation", "Evaluation"), Column("treated", "Treated", ".4f")]
    columns += [
        Column("control", "Control", ".4f"),
        Column("delta", "Treated − control", "+.4f", ("delta_low", "delta_high")),
    ]
    caption = "Held-out loss after the last step, nats a token, paired by window; bootstrap 95 % limits."
    return [*blocks, Table(table, columns, caption)]
