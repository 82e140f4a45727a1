"""Runs on disk -> one table, and each run's curves and evaluations. Only files are read; an unfinished run is a row too."""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from paribus.directories import UNREADABLE, below, read_config, trouble
from paribus.errors import RunError
from paribus.evals.results import failures, result_path
from paribus.grid.programs import ids_of, is_program, peek
from paribus.grid.results import read_runs
from paribus.rundir import RunDir, identity
from paribus.tree import dotted

_TAIL_BYTES = 1 << 13  # of metrics.jsonl, where the last line of training is looked for first
# columns that are neither config nor measurement
_FACTS = ("id", "name", "study", "state", "reason", "step", "failures", "path", "label")
ORIGIN = ("started", "attempts", "host", "processor", "commit", "dirty", "command")  # of a run's last attempt


def find_runs(*paths: Path | str) -> list[Path]:
    """Every run directory at or below the paths, in the order in which a person would number them.

    Raises RunError for a path that holds none."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        there = list(below(path))
        if not there:
            raise RunError(
                f"{path}: no run directory here; one holds config.yaml and metrics.jsonl, `paribus train` makes it"
            )
        found.update(dict.fromkeys(there))
    return list(found)


def load_runs(*paths: Path | str) -> pl.DataFrame:
    """One row a run below the paths.

    Columns: id, name, study, state, reason, step, path, failures (of evaluations by a script); each key of the config under
    its dotted name; then what was measured, with slashes: `final/METRIC`, the last value of a training metric;
    `evaluation/NAME/METRIC`, of the newest evaluation; `data/FACT`, what the run reads (unique_tokens, total_tokens,
    passes ...); `time/ACTIVITY` and `time/total_s`, its seconds; `provenance/FACT`. What a run does not have is null.
    A directory whose files are damaged or missing is a row too, of the state `unreadable` with the reason.
    Raises RunError for a path that holds no run."""
    return table_of([row for path in find_runs(*paths) for row in _rows(path)])


def table_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A table with every key of any row as a column; null where a row lacks it, text where kinds are mixed."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return pl.DataFrame([_column(key, [row.get(key) for row in rows]) for key in keys])


def curves(run: Path | str) -> pl.DataFrame:
    """The metrics that a run logged, as (step, metric, value), sorted by metric and step."""
    schema = {"step": pl.Int64, "metric": pl.String, "value": pl.Float64}
    lines = _read_lines(RunDir(run).metrics_path)
    if "step" not in lines.columns:
        return pl.DataFrame(schema=schema)
    numeric = [name for name, dtype in lines.schema.items() if dtype.is_numeric() and name != "step"]
    long = lines.unpivot(numeric, index="step", variable_name="metric", value_name="value").drop_nulls("value")
    return long.cast(schema).sort("metric", "step")  # type: ignore[arg-type]


def curves_of(runs: pl.DataFrame, metrics: Sequence[str], label: str = "name") -> pl.DataFrame:
    """The curves of some metrics of every run of a table, with the run's `label` and id beside each point."""
    frames = [
        curves(row["path"])
        .filter(pl.col("metric").is_in(list(metrics)))
        .with_columns(pl.lit(row[label]).alias(label), id=pl.lit(row["id"]))
        for row in runs.iter_rows(named=True)
    ]
    return pl.concat([frame for frame in frames if len(frame)] or frames[:1])


def evaluations(run: Path | str) -> dict[str, list[int]]:
    """The evaluations of a run -> the steps at which each was made, ascending."""
    folder = RunDir(run).evals
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    steps = {name: sorted(map(_step, (folder / name).glob("step-*.json"))) for name in names}
    return {name: made for name, made in steps.items() if made}


def evaluation(run: Path | str, name: str, step: int | None = None) -> dict[str, Any]:
    """One evaluation as it was written; without a step, the newest.

    Raises RunError when the run has no such evaluation."""
    made = evaluations(run)
    if name not in made:
        raise RunError(
            f"{run}: no evaluation `{name}`; found {', '.join(made) or 'none'}: `paribus eval {run}` makes it"
        )
    chosen = made[name][-1] if step is None else step
    if chosen not in made[name]:
        raise RunError(f"{run}: evaluation `{name}` was not made at step {chosen}; it was at {made[name]}")
    return _read_json(result_path(RunDir(run).evals, name, chosen))


def provenance(run: Path | str) -> dict[str, Any]:
    return _read_json(RunDir(run).provenance_path)


class Audit(NamedTuple):
    """What `paribus audit` last recorded about a run; an empty verification where it never did."""

    verification: dict[str, Any]
    against: list[dict[str, Any]]


def audit(run: Path | str) -> Audit:
    folder = RunDir(run).audit
    return Audit(
        _read_json(folder / "verification.json"), [_read_json(path) for path in sorted(folder.glob("against-*.json"))]
    )


def config_keys(runs: pl.DataFrame) -> list[str]:
    """The columns of a table of runs that come from their configs: dotted keys, without study and name."""
    return [name for name in runs.columns if "/" not in name and name not in _FACTS]


def thinned(frame: pl.DataFrame, by: Sequence[str], most: int = 300) -> pl.DataFrame:
    """Long curves (step, value) -> at most so many points a curve, each the mean over a stretch of steps.

    The stretches are the same for all curves; a point stands at the last logged step of its stretch. Adds `low` and `high`,
    the extremes over the stretch. Curves of no more than `most` points stay as they are."""
    longest = frame.group_by(by).len()["len"].max() if len(frame) else 0
    if not isinstance(longest, int) or longest <= most:
        return frame.with_columns(low=pl.col("value"), high=pl.col("value"))
    first, last = frame["step"].min(), frame["step"].max()
    stretch = ((pl.col("step") - first) * most // (last - first + 1)).alias("stretch")  # type: ignore[operator]
    value = pl.col("value")
    points = [pl.col("step").max(), value.mean(), value.min().alias("low"), value.max().alias("high")]
    return frame.group_by([*by, stretch], maintain_order=True).agg(points).drop("stretch")


def _flat(mapping: Mapping[str, Any], keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The leaves of nested mappings, each with its keys; an empty mapping has none."""
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*keys, key))
        else:
            yield (*keys, key), value


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one run directory: one a run of a program."""
    if why := trouble(path):
        suffix = re.search(r"-([0-9a-f]{8})$", path.name)
        facts = {"state": UNREADABLE, "reason": why, "path": str(path), "failures": None}
        yield {"id": suffix[1] if suffix else path.name, "name": path.name, "study": None, **facts}
    elif is_program(path):
        yield from _program_rows(path)
    else:
        yield _row(path)


def _row(path: Path) -> dict[str, Any]:
    run = RunDir(path)
    config = read_config(run)
    status = _status(run)
    tail = _read_tail(run.metrics_path)
    suffix = re.search(r"-([0-9a-f]{8})$", path.name)
    facts = {"id": suffix[1] if suffix else identity(config), "name": config.get("name", path.name)}
    row: dict[str, Any] = {**facts, "study": config.get("study"), **status, "path": str(path)}
    row["failures"] = "; ".join(failures(run.evals)) or None
    row["step"] = max((line["step"] for line in tail if "step" in line), default=status.get("step"))
    last = {key: value for line in tail for key, value in line.items() if "/" not in key and key != "step"}
    row |= {f"final/{key}": value for key, value in last.items() if _is_number(value)}
    for name, steps in evaluations(path).items():
        summary = _read_json(result_path(run.evals, name, steps[-1])).get("summary", {})
        row |= {f"evaluation/{name}/{key}": value for key, value in summary.items() if _is_number(value)}
    row |= {dotted(keys): value for keys, value in _flat(config) if keys[0] not in row}
    record = provenance(path)
    row |= {f"data/{key}": value for key, value in record.get("data", {}).items() if not isinstance(value, Mapping)}
    row |= {f"time/{key}": value for key, value in _seconds(run).items()}
    return row | {f"provenance/{key}": value for key, value in _origin(record).items()}


def _program_rows(path: Path) -> Iterator[dict[str, Any]]:
    """One row for each run of a program: what all of them share, and what is known of each."""
    directory, config = RunDir(path), peek(path)
    status, made = _status(directory), read_runs(path)
    record = provenance(path)
    origin = {f"provenance/{key}": value for key, value in _origin(record).items()}
    shared = {dotted(keys): value for keys, value in _flat(config.run.model_dump(mode="json"))}
    facts = {"study": shared.pop("study"), **status, "path": str(path)}
    del shared["name"]  # of the program
    if len(made):
        for row in made.drop("run", "round").iter_rows(named=True):
            yield {"id": row["id"], "name": row["name"], **facts, "failures": None, **shared, **row, **origin}
        return
    for run, one in zip(config.runs(), ids_of(path), strict=True):
        own = {
            dotted(keys): value for keys, value in _flat(run.model_dump(mode="json")) if keys[0] in ("model", "train")
        }
        yield {"id": one, "name": run.name, **facts, "failures": None, **shared, **own, **origin}


def _seconds(run: RunDir) -> dict[str, float]:
    """What training cost, by activity and in all; work that was lost and done again counts twice."""
    lines = _read_lines(run.timings_path)
    spent = {name: float(lines[name].sum()) for name in lines.columns if name.endswith("_s") and name != "tokens_per_s"}
    return spent | ({"total_s": sum(spent.values())} if spent else {})


def _status(run: RunDir) -> dict[str, Any]:
    """The state that STATUS.json gives; a run that says `running` though no process holds it was interrupted."""
    status = run.status()
    state = status.get("state", "unknown")
    if state == "running" and not run.is_locked():
        state = "interrupted"
    return {"state": state, "reason": status.get("reason", ""), "step": status.get("step")}


def _origin(record: Mapping[str, Any]) -> dict[str, Any]:
    """The few facts of provenance.json that a table of runs can show; of several attempts, the last."""
    attempts = record.get("attempts") or [record]
    short = {keys[-1]: value for keys, value in _flat(attempts[-1]) if keys[0] != "packages"}
    if isinstance(short.get("commit"), str):
        short["commit"] = short["commit"][:12]
    return {key: short[key] for key in ORIGIN if key in short} | {"attempts": len(attempts)}


def _read_json(path: Path) -> dict[str, Any]:
    """{} where there is no such file; a file that is no JSON object is named."""
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise RunError(f"{path}: is not a JSON object ({error}); remove it, then make it again") from error


def _read_lines(path: Path) -> pl.DataFrame:
    """Every whole line of a JSONL file: the last may be under way."""
    content = path.read_bytes() if path.exists() else b""
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return pl.DataFrame()
    return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)


def _read_tail(path: Path) -> list[dict[str, Any]]:
    """The last whole lines of a JSONL file, at least from the last line of training on."""
    if not path.exists():
        return []
    size, tail = path.stat().st_size, _TAIL_BYTES
    with path.open("rb") as file:
        while True:
            start = max(0, size - tail)
            file.seek(start)
            content = file.read(size - start)
            whole = content[: content.rfind(b"\n") + 1].splitlines()
            lines = [json.loads(line) for line in whole[1 if start else 0 :]]
            if start == 0 or any("loss" in line for line in lines):
                return lines
            tail *= 8


def _step(path: Path) -> int:
    return int(path.stem.split("-")[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _column(name: str, values: list[Any]) -> pl.Series:
    """Numbers stay numbers; what is mixed, or a list, becomes text."""
    kinds = {type(value) for value in values if value is not None}
    for dtype, allowed in ((pl.Boolean, {bool}), (pl.Int64, {int}), (pl.Float64, {int, float})):
        if kinds and kinds <= allowed:
            return pl.Series(name, values, dtype=dtype)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pl.Series(name, texts, dtype=pl.String)
