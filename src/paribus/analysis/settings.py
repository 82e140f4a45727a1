"""What distinguishes runs apart from the quantities on a figure's axes: never mixed in one curve or one map."""

from collections.abc import Sequence

import polars as pl

from paribus.analysis.axes import ETA

_SECTIONS = ("data.", "model.", "train.")  # of the config: what a run is, besides its seeds


def varying(runs: pl.DataFrame, apart_from: Sequence[str] = ()) -> list[str]:
    """The config keys in which runs of the table differ, apart from seeds and the given ones.

    A budget that follows from the given keys (as many steps as a batch size needs for its samples) is no difference, nor
    is how an eta was searched for."""
    keys = [key for key in runs.columns if key.startswith(_SECTIONS) or key in ("loss", "study")]
    keys = [key for key in keys if key not in apart_from and not key.startswith(f"{ETA}.")]
    return [key for key in keys if _num_values(runs, key) > 1 and not _is_budget_of(runs, key, apart_from)]


def with_setting(runs: pl.DataFrame, apart_from: Sequence[str] = ()) -> pl.DataFrame:
    """Add `setting`: in words, by what each run differs from others of the table, as `gamma = 0.1, width = 64`.

    Empty where nothing differs. Rows are sorted by the values, so that panels stand in their order."""
    keys = varying(runs, apart_from)
    lasts = [key.rsplit(".", 1)[-1] for key in keys]
    names = [last.replace("_", " ") if lasts.count(last) == 1 else key for key, last in zip(keys, lasts, strict=True)]
    texts = [
        ", ".join(f"{name} = {_text(row[key])}" for key, name in zip(keys, names, strict=True) if row[key] is not None)
        for row in runs.iter_rows(named=True)
    ]
    sortable = [key for key in keys if not runs[key].dtype.is_nested()]
    labelled = runs.with_columns(setting=pl.Series(texts, dtype=pl.String))
    return labelled.sort(sortable, maintain_order=True) if sortable else labelled


def protocols(runs: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The runs by what their data are: `fixed time` (fresh samples at every step) or `fixed data` (so many, in epochs).

    They follow different laws and are never drawn together."""
    if runs.is_empty():
        return {}
    is_fixed = pl.col("data.kind") == "images"
    if "data.num_samples" in runs.columns:
        is_fixed |= pl.col("data.num_samples").is_not_null()
    parts = {"fixed time": runs.filter(~is_fixed), "fixed data": runs.filter(is_fixed)}
    return {name: part for name, part in parts.items() if len(part)}


def _num_values(runs: pl.DataFrame, key: str) -> int:
    """How many values a key has; that of one kind alone (Adam's betas, where others train with SGD) is told by the kind."""
    kind = f"{key.rsplit('.', 1)[0]}.kind"
    is_of_a_kind = key != kind and kind in runs.columns and runs[kind].n_unique() > 1
    values = {_text(value) for value in runs[key].to_list() if value is not None or not is_of_a_kind}
    return len(values)


def _is_budget_of(runs: pl.DataFrame, key: str, axes: Sequence[str]) -> bool:
    if not key.startswith("train.budget."):
        return False
    return all(part[key].n_unique() == 1 for part in runs.partition_by(*axes)) if axes else False


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
