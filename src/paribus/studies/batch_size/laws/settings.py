"""Runs that may be compared: equal in every setting but the one that a law varies, and the seeds that replicate it."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl

from paribus.report.collect import config_keys
from paribus.studies.batch_size.laws.law import Floats

GAMMA, WIDTH, DEPTH, BATCH, ETA = "model.gamma", "model.width", "model.depth", "train.batch_size", "train.eta"
SEEDS = ("seeds.data", "seeds.teacher", "seeds.weights")
_NO_SETTING = ("launch", "paths", "seeds", "record")
STABLE = pl.col("label").is_in(["stable", "catapult"])


def alike(runs: pl.DataFrame, *varied: str) -> Iterator[pl.DataFrame]:
    """The finished runs in groups that are equal in all settings but the varied ones and eta.

    Fixed time and fixed data differ in settings, so they never share a group."""
    ended = runs.filter(pl.col("state").is_in(["done", "diverged"]))
    keys = [
        key
        for key in config_keys(ended)
        if key.split(".")[0] not in _NO_SETTING and not key.startswith(ETA) and key not in (*varied, "label")
    ]
    yield from ended.partition_by(keys, maintain_order=True) if keys and len(ended) else []


def is_fixed(group: pl.DataFrame) -> bool:
    """Whether the group trains on fixed data; else on fresh samples for a fixed time."""
    first = group.row(0, named=True)
    return first["data.kind"] == "images" or first.get("data.num_samples") is not None


def is_only(group: pl.DataFrame, key: str, *values: object) -> bool:
    """Whether every run of the group has one of these values there."""
    return key in group.columns and group[key].is_in(list(values)).fill_null(False).all()


def seeds(group: pl.DataFrame) -> list[pl.DataFrame]:
    """The group's replicates: runs that share all three seeds."""
    return group.partition_by([key for key in SEEDS if key in group.columns], maintain_order=True)


def values(group: pl.DataFrame, key: str) -> list[float]:
    """The values that a setting takes in a group, ascending."""
    return sorted(group[key].unique().to_list())


def is_swept(group: pl.DataFrame, key: str) -> bool:
    """Whether three etas at least were trained at each value of a setting: what an optimum or a border is read off."""
    return bool((group.group_by(key).agg(pl.col(ETA).n_unique())[ETA] >= 3).all())


def by_seed(group: pl.DataFrame, key: str, measure: Callable[[pl.DataFrame], float]) -> list[list[float]]:
    """`measure` of the runs at each value of a setting, one list a seed; nan where a seed has no such run."""
    points = values(group, key)
    return [
        [measure(rows) if len(rows := runs.filter(pl.col(key) == point)) else math.nan for point in points]
        for runs in seeds(group)
    ]


def measured(evaluations: pl.DataFrame, runs: pl.DataFrame, metric: str) -> pl.DataFrame:
    """The runs with their values of a metric: one row a run and step, in columns `at` and `value`."""
    found = evaluations.filter(pl.col("metric") == metric).select("id", pl.col("step").alias("at"), "value")
    return runs.join(found, on="id", maintain_order="left")


def log2(numbers: Sequence[float] | Floats) -> Floats:
    return np.log2(np.asarray(numbers, np.float64))


def told(group: pl.DataFrame) -> str:
    """What a group is, in short: `muP, SGD, L = 3`."""
    first = group.row(0, named=True)
    names = {"mup": "muP", "ntk": "NTK", "sp": "SP"}
    optimizer = str(first["train.optimizer.kind"])
    wrong = ", one rate for all layers" if first.get("train.optimizer.layer_rates") == "sqrt_width" else ""
    shown = "SGD" if optimizer == "sgd" else "Adam"
    return f"{names[first['model.parameterization']]}, {shown}{wrong}, L = {first[DEPTH]}"
