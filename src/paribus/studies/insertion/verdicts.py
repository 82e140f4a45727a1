"""What the study claims, each claim with its state and the numbers behind it."""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from paribus.evals.statistics import Interval
from paribus.report.blocks import Verdict
from paribus.report.cells import interval, number
from paribus.studies.insertion.analysis import Contamination, Marked, by_copies, trend
from paribus.words import counted

State = Literal["holds", "fails", "inconclusive"]
NEGLIGIBLE = 0.25  # of the effect of the most copies: what canaries that were never inserted may move at most
ALPHA = 0.01  # of the tests that nothing is there: two a watermark, so that a true null fails 2 times in 100
SMALL_LOSS = 0.02  # of the control's held-out loss: what insertions may cost elsewhere at most


def about_canaries(items: pl.DataFrame) -> list[Verdict]:
    """Two verdicts a sweep: likelihood follows the copies; what was never inserted stays where it was."""
    verdicts = []
    for (arm, name), group in items.group_by("arm", "evaluation", maintain_order=True):
        means = by_copies(group)
        if len(means) < 2:
            continue
        tau = trend(group)
        claim = f"The more copies of a canary, the likelier it is ({arm}, {name})"
        state: State = "holds" if tau.high < 0 else "fails" if tau.low > 0 else "inconclusive"
        most = means.row(-1, named=True)
        evidence = (
            f"Kendall's τ between copies and treated − control: {_shown(tau, '+.2f')}, {number(len(group))} canaries"
            f"; at {most['copies']} copies {number(most['delta'], '+.2f')} nats a token"
        )
        verdicts.append(Verdict(claim, state, evidence))
        if means["copies"][0] == 0:
            never = means.row(0, named=True)
            claim = f"Canaries that were never inserted stay as likely as in the control ({arm}, {name})"
            verdicts.append(_small(claim, _of(never, "delta"), NEGLIGIBLE * abs(most["delta"]), "nats a token"))
    return verdicts


def about_contamination(found: Sequence[Contamination]) -> list[Verdict]:
    """The inserted questions gain, the others do not."""
    verdicts = []
    for one in found:
        gap, clean = one.gap, one.effect["clean"]
        state: State = "holds" if gap.low > 0 else "fails" if gap.high < 0 else "inconclusive"
        claim = f"Contamination lifts the inserted questions of {one.benchmark} above the clean ones ({one.arm})"
        evidence = f"gain in accuracy, inserted − clean: {_shown(gap, '+.2f')}, at {one.copies} copies a question"
        verdicts.append(Verdict(claim, state, evidence))
        contains = clean.low <= 0 <= clean.high
        claim = f"The clean questions of {one.benchmark} gain less than the inserted ones ({one.arm})"
        evidence = (
            f"accuracy, treated − control: {_shown(clean, '+.2f')}, inserted {_shown(one.effect['inserted'], '+.2f')}"
        )
        state = (
            "fails"
            if clean.low > 0
            else "holds"
            if contains and clean.high < one.effect["inserted"].mean
            else "inconclusive"
        )
        verdicts.append(Verdict(claim, state, evidence))
    return verdicts


def about_watermarks(found: Sequence[Marked]) -> list[Verdict]:
    """The noise that was trained on is found, in nothing but the treated run; its null is N(0, 1)."""
    verdicts = []
    for one in found:
        treated, control, null = one.treated["overall"], one.control["overall"], one.treated["null"]
        seen: State = "holds" if treated["low"] > 0 else "fails" if treated["high"] < 0 else "inconclusive"
        true_rate = interval(treated["tpr_low"], treated["tpr_high"], ".2f")
        evidence = (
            f"mean x {number(treated['x'], '+.2f')} {interval(treated['low'], treated['high'], '+.2f')} over "
            f"{counted(treated['n'], 'row')}; found at 1 % false positives: {number(treated['tpr'], '.2f')} {true_rate}"
        )
        verdicts.append(
            Verdict(f"The watermark is found in the model that was trained on it ({one.arm})", seen, evidence)
        )
        quiet = control["p"] > ALPHA and null["p"] > ALPHA
        evidence = (
            f"control, mean x {number(control['x'], '+.2f')}, p = {number(control['p'], '.2f')}; {number(null['n'])} noises "
            f"never trained on: mean {number(null['x'], '+.2f')}, standard deviation {number(null['std'], '.2f')}, "
            f"Kolmogorov-Smirnov p = {number(null['p'], '.2f')}"
        )
        claim = f"Where it was not trained on, the statistic is N(0, 1) ({one.arm})"
        verdicts.append(Verdict(claim, "holds" if quiet else "fails", evidence))
    return verdicts


def about_losses(table: pl.DataFrame) -> list[Verdict]:
    """What the insertions cost on held-out text."""
    verdicts = []
    for row in table.iter_rows(named=True):
        claim = f"On held-out text treated and control differ little ({row['arm']}, {row['evaluation']})"
        verdicts.append(_small(claim, _of(row, "delta"), SMALL_LOSS * row["control"], "nats a token"))
    return verdicts


def _small(claim: str, value: Interval, margin: float, unit: str) -> Verdict:
    """Whether an interval lies within ±margin: an equivalence test by inclusion (Schuirmann 1987), at 95 %."""
    low, high = (value.mean, value.mean) if value.low != value.low else (value.low, value.high)
    inside, outside = max(-low, high) <= margin, low > margin or high < -margin
    state: State = "holds" if inside else "fails" if outside else "inconclusive"
    evidence = (
        f"treated − control: {_shown(value, '+.3f')} {unit}; negligible is what lies within ±{number(margin, '.3f')}"
    )
    return Verdict(claim, state, evidence)


def _of(row: dict[str, float | None], name: str) -> Interval:
    mean, low, high = (row[key] for key in (name, f"{name}_low", f"{name}_high"))
    assert mean is not None
    return Interval(mean, float("nan") if low is None else low, float("nan") if high is None else high)


def _shown(value: Interval, form: str) -> str:
    limits = "(no interval)" if value.low != value.low else interval(value.low, value.high, form)
    return f"{number(value.mean, form)} {limits}"
