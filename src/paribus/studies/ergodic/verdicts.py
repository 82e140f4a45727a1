"""What the study claims, each claim with its state and the numbers behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from paribus.report.blocks import Verdict
from paribus.report.cells import interval, number
from paribus.report.collect import evaluation, evaluations
from paribus.studies.ergodic.analysis import Trained, effects, loss_by_k
from paribus.studies.ergodic.optimum import Scored
from paribus.words import counted

State = Literal["holds", "fails", "inconclusive"]
NEGLIGIBLE = 0.25  # of an effect: an artefact of that size would leave three quarters of the effect to be explained


def about_text(found: Sequence[Trained], paired: pl.DataFrame) -> list[Verdict]:
    """One verdict a sweep: on the effect of K under the original labels, on its absence under shuffled ones.

    paired: the differences by arm, K and band (`paired_by_k`). None before a second K."""
    if paired.is_empty() or max(run.k for run in found) == 1:
        return []
    ceilings = {(arm, k): ceiling for arm, k, ceiling in loss_by_k(found).select("arm", "K", "ceiling").iter_rows()}
    controls = {run.arm for run in found if run.labels is not None}
    verdicts = []
    for row in effects(paired):
        ceiling = ceilings[row["arm"], row["K"]]
        if row["arm"] in controls:
            shown = _least_shown(paired.filter(~pl.col("arm").is_in(controls), pl.col("K") == row["K"]))
            runs = [run for run in found if run.arm == row["arm"]]
            verdicts.append(_about_control(row, runs, max(ceiling, NEGLIGIBLE * shown)))
        else:
            claim = f"The effect of K is no more than ergodicity can cost ({row['arm']})"
            verdicts.append(
                Verdict(claim, _below(row, ceiling), f"{_evidence(row)}; the ceiling is {number(ceiling, '+.3f')}")
            )
    return verdicts


def _about_control(row: Mapping[str, Any], runs: Sequence[Trained], margin: float) -> Verdict:
    claim = f"With shuffled labels K makes no difference ({row['arm']})"
    if any(run.data.get("design") != "constant_unique" for run in runs):
        no_test = "no test of the claim: unique text grows with K unless windows.design is constant_unique"
        return Verdict(claim, "inconclusive", f"{_evidence(row)}; {no_test}")
    power = f"negligible is what lies within ±{number(margin, '.3f')}"
    return Verdict(claim, _no_effect(row, margin), f"{_evidence(row)}; {power}")


def _least_shown(paired: pl.DataFrame) -> float:
    """How far from 0 the nearest of the sweeps' intervals over seeds stays; 0 if one contains 0, or there is none."""
    overall = paired.filter(pl.col("band") == "all", pl.col("over") == "seeds").drop_nulls("delta_low")
    near = [max(low, -high, 0.0) for low, high in overall.select("delta_low", "delta_high").iter_rows()]
    return min(near, default=0.0)


def _evidence(row: Mapping[str, Any]) -> str:
    paired = f"K = {row['K']} minus K = 1, same windows: {number(row['delta'], '+.3f')}"
    limits = interval(row["delta_low"], row["delta_high"], "+.3f") or "(no interval)"
    runs = "1 run" if row["runs"] == 1 else f"{row['runs']} runs, over {row['over']}"
    return f"{paired} {limits} nats a token, {runs}"


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


def _no_effect(row: Mapping[str, Any], margin: float) -> State:
    """Whether the difference is 0 as far as anyone need care.

    It holds when the interval contains 0 and lies within +-margin, fails when it leaves 0 out: an equivalence test by
    inclusion (Schuirmann 1987), at 95 % where he takes 90 %. A wide interval around 0 shows that the runs are too few,
    not that there is no effect."""
    low, high = row["delta_low"], row["delta_high"]
    if low is None or high is None or row["over"] != "seeds":
        return "inconclusive"
    if not low <= 0 <= high:
        return "fails"
    return "holds" if max(-low, high) <= margin else "inconclusive"


def _below(row: Mapping[str, Any], ceiling: float) -> State:
    low, high = row["delta_low"], row["delta_high"]
    if low is None or high is None or row["over"] != "seeds":
        return "inconclusive"
    return "holds" if high <= ceiling else "fails" if low > ceiling else "inconclusive"
