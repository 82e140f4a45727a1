"""What the study claims, each claim with its state and the numbers behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from paribus.report.blocks import Verdict
from paribus.report.cells import counted, interval, number
from paribus.report.collect import evaluation, evaluations
from paribus.studies.ergodic.analysis import Trained, loss_by_k, paired_by_k
from paribus.studies.ergodic.optimum import Scored

State = Literal["holds", "fails", "inconclusive"]
SHUFFLED = "shuffled"  # sweeps of this name hold the control with shuffled labels


def about_text(found: Sequence[Trained], differences: pl.DataFrame) -> list[Verdict]:
    """One verdict a sweep on the effect of K, and one on the control; none before a second K."""
    if differences.is_empty() or max(run.k for run in found) == 1:
        return []
    most = max(run.k for run in found)
    ceilings = dict(loss_by_k(found).select("K", "ceiling").iter_rows())
    verdicts = []
    for row in paired_by_k(differences).filter(pl.col("K") == most, pl.col("band") == "all").iter_rows(named=True):
        limits = interval(row["delta_low"], row["delta_high"], "+.3f") or "(no interval)"
        paired = f"K = {most} minus K = 1, same windows: {number(row['delta'], '+.3f')}"
        evidence = f"{paired} {limits} nats a token, {counted(row['seeds'], 'seed')}"
        if row["arm"] == SHUFFLED:
            verdicts.append(Verdict("With shuffled labels K makes no difference", _contains_zero(row), evidence))
        else:
            ceiling = f"; the ceiling is {number(ceilings[most], '+.3f')}"
            verdicts.append(
                Verdict(
                    f"The effect of K is no more than ergodicity can cost ({row['arm']})",
                    _below(row, ceilings[most]),
                    evidence + ceiling,
                )
            )
    return verdicts


def about_optimum(scored: Sequence[Scored]) -> list[Verdict]:
    """No model beats Bayes."""
    if not scored:
        return []
    leaking = [one.name for one in scored if one.record["leak"]["is_leak"]]
    lowest = min(one.record["kl"]["min"] for one in scored)
    evidence = (
        f"leaks: {', '.join(leaking)}"
        if leaking
        else f"smallest KL at a position {number(lowest, '.1e')} nats, {counted(len(scored), 'run')}"
    )
    return [Verdict("No model beats the Bayes predictor", "fails" if leaking else "holds", evidence)]


def about_causality(runs: Mapping[str, Sequence[Path]]) -> list[Verdict]:
    """Altering later tokens changes no logit."""
    records = [
        evaluation(path, name)
        for paths in runs.values()
        for path in paths
        for name in evaluations(path)
        if name == "causality"
    ]
    if not records:
        return []
    leaking = sum(not record["is_causal"] for record in records)
    evidence = f"{len(records) - leaking} of {counted(len(records), 'model')}: altered tokens changed no earlier logit"
    return [Verdict("Every model is causal", "fails" if leaking else "holds", evidence)]


def _contains_zero(row: Mapping[str, Any]) -> State:
    low, high = row["delta_low"], row["delta_high"]
    if low is None or high is None:
        return "inconclusive"
    return "holds" if low <= 0 <= high else "fails"


def _below(row: Mapping[str, Any], ceiling: float) -> State:
    low, high = row["delta_low"], row["delta_high"]
    if low is None or high is None:
        return "inconclusive"
    return "holds" if high <= ceiling else "fails" if low > ceiling else "inconclusive"
