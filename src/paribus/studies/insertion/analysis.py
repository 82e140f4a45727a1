"""From matched runs to the study's numbers: what insertions did to the items that were inserted, and to nothing else.

A *pair* is a run with insertions and its control: the same run with `insertions.control: true`. Everything below is a
difference within a pair, item by item, so that what makes an item easy or hard for any model cancels. How often an item
was inserted comes from the exposure ledger, joined by the line of the file that both the plan and the evaluation read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from paribus.evals.results import read_result, result_path
from paribus.evals.statistics import Interval, bootstrap, over_seeds, paired_difference, shared_windows
from paribus.report.collect import curves, evaluation, evaluations, provenance
from paribus.rundir import RunDir

_NOT_COMPARED = ("name", "track", "launch", "paths")  # keys in which a run and its control may differ
Floats = NDArray[np.float64]


class Pair(NamedTuple):
    """A run with insertions and the matched control."""

    arm: str  # the sweep they belong to
    treated: Path
    control: Path

    def records(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The newest results of one evaluation: of the treated run, and of its control."""
        return evaluation(self.treated, name), evaluation(self.control, name)

    def evaluations_of(self, kind: str) -> list[str]:
        """The evaluations of a kind that both runs have made."""
        names = [name for name in evaluations(self.treated) if name in evaluations(self.control)]
        return [name for name in names if evaluation(self.treated, name)["kind"] == kind]


def pairs(runs: Mapping[str, Sequence[Path]]) -> list[Pair]:
    """Every run with insertions whose control is done as well, by sweep."""
    found = []
    for arm, paths in runs.items():
        sides: dict[str, dict[bool, Path]] = {}
        for path in paths:
            config = provenance(path).get("config", {})
            if config.get("insertions"):
                sides.setdefault(_but_for_control(config), {})[bool(config["insertions"]["control"])] = path
        found += [Pair(arm.replace("_", " "), side[False], side[True]) for side in sides.values() if len(side) == 2]
    return found


def _but_for_control(config: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in config.items() if key not in _NOT_COMPARED}
    return repr(kept | {"insertions": {**config["insertions"], "control": None}})


def copies(run: Path, inputs: Mapping[str, str]) -> Counter[int]:
    """How often each line of an evaluation's file was inserted (line -> copies), by the ledger of the run.

    inputs: the evaluation's files by content. What dynamic control inserted has no line in a file and is not counted."""
    experiments = provenance(run)["config"]["insertions"]["experiments"]
    same = [name for name, one in experiments.items() if one.get("file") == inputs["file"]]
    ledger = pl.read_parquet(RunDir(run).insertions / "ledger.parquet", columns=["experiment", "item"])
    own = ledger.filter(pl.col("experiment").cast(pl.String).is_in(same))
    return Counter(own["item"].to_list())


def canaries(found: Sequence[Pair]) -> pl.DataFrame:
    """One row a canary: arm, evaluation, line, copies, and negative log-likelihood a token and exposure of both runs."""
    frames = []
    for pair in found:
        for name in pair.evaluations_of("canary"):
            records = pair.records(name)
            counted = copies(pair.treated, records[0]["inputs"])
            treated, control = (record["items"] for record in records)
            columns = {
                "line": treated["line"],
                "copies": [counted[line] for line in treated["line"]],
                "treated": np.divide(treated["nll_sum"], treated["tokens"]),
                "control": np.divide(control["nll_sum"], control["tokens"]),
            }
            columns |= {f"exposure {side}": items["exposure"] for side, items in _sides(treated, control, "exposure")}
            frames.append(pl.DataFrame(columns).with_columns(arm=pl.lit(pair.arm), evaluation=pl.lit(name)))
    return pl.concat(frames, how="diagonal") if frames else pl.DataFrame()


def _sides(treated: Mapping[str, Any], control: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    return [("treated", treated), ("control", control)] if key in treated and key in control else []


def by_copies(items: pl.DataFrame) -> pl.DataFrame:
    """Means over the canaries of each number of copies, with Student's 95 % limits over canaries."""
    rows = []
    for (arm, name, number), group in items.sort("copies").group_by("arm", "evaluation", "copies", maintain_order=True):
        row = {"arm": arm, "evaluation": name, "copies": number, "canaries": len(group)}
        for key in ("treated", "control"):
            row |= over_seeds(group[key].to_list()).columns(key)
        row |= over_seeds((group["treated"] - group["control"]).to_list()).columns("delta")
        for key in ("exposure treated", "exposure control"):
            if key in group.columns:
                row |= over_seeds(group[key].to_list()).columns(key)
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def trend(items: pl.DataFrame) -> Interval:
    """Kendall's tau-b between the copies of a canary and what inserting it did to its likelihood (treated - control).

    -1: each further copy raised the likelihood. 95 % limits by resampling canaries."""
    number = items["copies"].to_numpy()
    delta = (items["treated"] - items["control"]).to_numpy()
    draw = np.random.Generator(np.random.Philox(0))
    resampled = [draw.integers(0, len(number), len(number)) for _ in range(1000)]
    low, high = np.quantile([_tau(number[rows], delta[rows]) for rows in resampled], [0.025, 0.975])
    return Interval(_tau(number, delta), float(low), float(high))


def _tau(a: Floats, b: Floats) -> float:
    """Kendall's tau-b (Kendall 1945): concordant less discordant pairs, over the pairs without ties on either side."""
    upper = np.triu_indices(len(a), 1)
    sign_a, sign_b = (np.sign(x[:, None] - x[None, :])[upper] for x in (a, b))
    untied = np.sqrt((sign_a != 0).sum() * float((sign_b != 0).sum()))
    return float((sign_a * sign_b).sum() / untied) if untied else 0.0


class Contamination(NamedTuple):
    """One benchmark of one pair, its questions parted by the ledger: those that were inserted, and the clean ones."""

    arm: str
    benchmark: str
    copies: int  # of an inserted question, the most
    accuracy: pl.DataFrame  # (part, run, questions, accuracy, low, high)
    effect: dict[str, Interval]  # part -> accuracy of treated - control, paired by question
    bits: dict[str, Interval]  # the same in bits a byte of the right choice
    gap: Interval  # effect on the inserted questions - effect on the clean ones


def contamination(found: Sequence[Pair]) -> list[Contamination]:
    """Every evaluation of kind `ranked` some of whose questions were inserted, and some not."""
    results = []
    for pair in found:
        for name in pair.evaluations_of("ranked"):
            treated, control = pair.records(name)
            counted = copies(pair.treated, treated["inputs"])
            inserted = np.array([counted[line] > 0 for line in treated["items"]["line"]])
            if inserted.any() and not inserted.all():
                results.append(_contamination(pair.arm, name, max(counted.values()), inserted, (treated, control)))
    return results


def _contamination(
    arm: str, name: str, most: int, inserted: NDArray[np.bool_], records: tuple[dict[str, Any], dict[str, Any]]
) -> Contamination:
    right = [np.equal(record["items"]["choice_acc"], record["items"]["gold"]).astype(np.float64) for record in records]
    bits = [np.array(record["items"]["gold_bits_per_byte"]) for record in records]
    parts = {"inserted": inserted, "clean": ~inserted}
    rows: list[dict[str, Any]] = []
    for part, some in parts.items():
        for run, values in zip(("treated", "control"), right, strict=True):
            row = {"part": part, "run": run, "questions": int(some.sum())}
            rows.append(row | _mean(values[some]).columns("accuracy"))
    change = right[0] - right[1]
    signed = np.where(inserted, change, -change)
    half = bootstrap(signed, inserted.astype(int))  # the mean over the two parts of +change and -change: half the gap
    return Contamination(
        arm,
        name,
        most,
        pl.DataFrame(rows),
        {part: _mean(change[some]) for part, some in parts.items()},
        {part: _mean((bits[0] - bits[1])[some]) for part, some in parts.items()},
        Interval(2 * half.mean, 2 * half.low, 2 * half.high),
    )


def _mean(values: Floats) -> Interval:
    return bootstrap(values, np.zeros(len(values)))


def losses(found: Sequence[Pair]) -> pl.DataFrame:
    """(arm, evaluation, treated, control, delta, low, high): held-out loss of both runs on the same windows, paired."""
    rows = []
    for pair in found:
        for name in pair.evaluations_of("loss"):
            results = [
                read_result(result_path(RunDir(path).evals, name, evaluations(path)[name][-1]))
                for path in (pair.treated, pair.control)
            ]
            tables = [result.windows for result in results]
            assert tables[0] is not None
            assert tables[1] is not None
            first, second = shared_windows(tables[0].window_id, tables[1].window_id)
            delta = paired_difference(tables[0].loss[first], tables[1].loss[second], np.zeros(len(first)))
            means = {
                side: result.record["loss"]["mean"]
                for side, result in zip(("treated", "control"), results, strict=True)
            }
            rows.append({"arm": pair.arm, "evaluation": name} | means | delta.columns("delta"))
    return pl.DataFrame(rows, infer_schema_length=None)


def loss_curves(found: Sequence[Pair]) -> pl.DataFrame:
    """(arm, run, step, loss): the held-out loss on the way, of both runs."""
    frames = []
    for pair in found:
        for name in pair.evaluations_of("loss"):
            for side, path in (("treated", pair.treated), ("control", pair.control)):
                logged = curves(path).filter(pl.col("metric") == f"evaluation/{name}/loss")
                curve = logged.select("step", pl.col("value").alias("loss"))
                label = side if len(found) == 1 else f"{pair.arm}, {side}"
                frames.append(curve.with_columns(run=pl.lit(label), evaluation=pl.lit(name)))
    return pl.concat(frames) if frames else pl.DataFrame()


class Marked(NamedTuple):
    """One watermark of one pair: how the rows of both runs stand to its noise."""

    arm: str
    evaluation: str
    treated: Mapping[str, Any]
    control: Mapping[str, Any]

    def rows(self) -> pl.DataFrame:
        """(arm, run, quantile, x): each row's statistic against the quantile of N(0, 1) that its rank has."""
        frames = []
        for run, record in (("treated", self.treated), ("control", self.control)):
            x = sorted(record["items"]["x"])
            quantiles = [NormalDist().inv_cdf((rank + 0.5) / len(x)) for rank in range(len(x))]
            frames.append(pl.DataFrame({"arm": self.arm, "run": run, "quantile": quantiles, "x": x}))
        return pl.concat(frames)


def watermarks(found: Sequence[Pair]) -> list[Marked]:
    """Every evaluation of kind `watermark` of every pair."""
    return [Marked(pair.arm, name, *pair.records(name)) for pair in found for name in pair.evaluations_of("watermark")]


def written(found: Sequence[Pair]) -> pl.DataFrame:
    """(arm, experiment, kind, items, copies, tokens, share, first, last) of every experiment of every plan's ledger."""
    frames = [_written(pair) for pair in found]
    return pl.concat(frames) if frames else pl.DataFrame()


def _written(pair: Pair) -> pl.DataFrame:
    ledger = pl.read_parquet(RunDir(pair.treated).insertions / "ledger.parquet")
    ledger = ledger.filter(pl.col("kind") != "watermark")  # those rows hold noise: no token was written
    total = provenance(pair.treated)["data"]["total_tokens"]
    names = [pl.col(name).cast(pl.String) for name in ("experiment", "kind")]
    table = ledger.group_by(names, maintain_order=True).agg(
        items=pl.col("item").n_unique(),
        copies=pl.len(),
        tokens=pl.col("length").sum(),
        share=100 * pl.col("length").sum() / total,
        first=pl.col("step").min(),
        last=pl.col("step").max(),
    )
    return table.with_columns(arm=pl.lit(pair.arm))
