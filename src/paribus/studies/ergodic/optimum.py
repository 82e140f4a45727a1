"""Synthetic sources, where the exact optimum is known: what the trained models lose against it, by position."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from paribus.report.blocks import Block, Column, Figure, Table
from paribus.report.charts import Axis, Kinds, curves
from paribus.report.collect import evaluation, evaluations

POSITION = Axis("position", "position in the window", scale="log10", format="~g")


class Scored(NamedTuple):
    """One finished run on a synthetic source, with its newest `bayes` evaluation."""

    arm: str
    name: str
    record: Mapping[str, Any]


def read_all(runs: Mapping[str, Sequence[Path]]) -> list[Scored]:
    """Every finished run that has an evaluation of kind `bayes`."""
    found = []
    for arm, paths in runs.items():
        for path in paths:
            for name in evaluations(path):
                record = evaluation(path, name)
                if record["kind"] == "bayes":
                    found.append(Scored(arm, path.name.rsplit("-", 1)[0], record))
    return found


def blocks(scored: Sequence[Scored]) -> list[Block]:
    """KL(Bayes || model) by position, and both losses beside each other."""
    divergence, losses = [], []
    for one in scored:
        kl, model = one.record["kl"]["by_position"], one.record["loss"]["by_position"]
        positions = list(range(1, len(kl) + 1))
        divergence.append(pl.DataFrame({"run": one.name, "position": positions, "kl": kl}))
        best = one.record["bayes_loss"]["by_position"]
        for kind, values in (("model", model), ("Bayes", best)):
            losses.append(pl.DataFrame({"run": one.name, "kind": kind, "position": positions, "loss": values}))
    kl_axis = Axis("kl", "KL(Bayes || model), nats", format=".2e")
    loss_axis = Axis("loss", "loss, nats a symbol")
    table = pl.DataFrame(
        [
            {"run": one.name, "arm": one.arm, "kl": one.record["kl"]["mean"], "kl_max": one.record["kl"]["max"]}
            for one in scored
        ]
    )
    columns = [Column("run", "Run"), Column("kl", "mean KL", ".2e"), Column("kl_max", "largest at a position", ".2e")]
    return [
        "The source is known, so its Bayes-optimal predictor is too. The KL divergence from the model's prediction to Bayes'"
        " is what the model still loses at each position; it is never negative, or the model sees what it should predict.",
        Figure(
            "loss-and-bayes",
            curves(pl.concat(losses), POSITION, loss_axis, by="run", kinds=Kinds("kind", beneath="Bayes")),
            "Trained and optimal",
            "Mean loss at each position, on the same sequences. The broad line: Bayes, which no model can better in"
            " expectation; the thin line on it: the model.",
        ),
        Figure(
            "kl-against-position",
            curves(pl.concat(divergence), POSITION, kl_axis, by="run"),
            "What is lost against Bayes",
            "Mean over the sequences at each position; zero: the model predicts as Bayes does.",
        ),
        Table(table, columns, "Mean over positions, and the worst position; nats a symbol."),
    ]
