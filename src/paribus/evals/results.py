"""What an evaluation leaves in a run directory, and how it is read again. No torch here: reports read it.

evals/NAME/step-000500.json             one JSON object, one key a line; `summary` is flat, metric -> number
evals/NAME/step-000500.windows.parquet  one row a window, for paired comparisons (evaluations of kind `loss` only)
"""

import io
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.errors import RunError, RunFailed
from paribus.rundir import write_bytes, write_text


class WindowTable(NamedTuple):
    """One row a window: which it is, and how a model did on it. Rows of models that share the windows line up."""

    window_id: NDArray[np.int64]
    category: NDArray[np.str_]
    loss: NDArray[np.float32]  # mean nats a prediction; nan: none taken
    bands: dict[str, NDArray[np.float32]]  # "5-16" -> mean over these positions, counted from 1


class EvalResult(NamedTuple):
    """A JSON-able record, and the losses of single windows where the evaluation has them."""

    record: dict[str, Any]
    windows: WindowTable | None = None

    @property
    def summary(self) -> dict[str, float]:
        return dict(self.record["summary"])


def result_path(evals: Path, name: str, step: int) -> Path:
    return evals / name / f"step-{step:06d}.json"


def write_result(evals: Path, name: str, step: int, result: EvalResult) -> Path:
    """Write the record, the table of windows first: who sees the record finds the table. Returns the record's path."""
    path = result_path(evals, name, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    if result.windows is not None:
        write_bytes(_table_path(path), _parquet(result.windows))
    lines = (f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in result.record.items())
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def read_result(path: Path) -> EvalResult:
    """Read what `write_result` wrote. Raises RunError if it is no such file."""
    try:
        record = json.loads(path.read_text())
        table = _table_path(path)
        return EvalResult(record, _windows(table) if table.exists() else None)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: not the result of an evaluation ({error}); run `paribus eval` again") from error


def failures(evals: Path) -> list[str]:
    """A line for each evaluation by a script that failed, at whichever step; `evals` may be missing."""
    paths = sorted(evals.glob("*/step-*.json"))
    return [line for path in paths if (line := failure(path))]


def failure(path: Path) -> str:
    """Which evaluation failed at which step, and why; empty where the result is no script's, or it went well."""
    with path.open() as file:  # the kind stands in the second line: big records are not read
        is_script = '"script"' in "".join(islice(file, 2))
    why = read_result(path).record.get("failure") if is_script else None
    return f"evals.{path.parent.name}, step {int(path.stem.removeprefix('step-'))}: {why}" if why else ""


def refuse_failed(lines: Sequence[str]) -> None:
    """Raise RunFailed where there are lines, with all of them."""
    if lines:
        raise RunFailed("\n".join(["evaluations failed:", *lines] if len(lines) > 1 else lines))


def _table_path(path: Path) -> Path:
    return path.with_suffix(".windows.parquet")


def _parquet(windows: WindowTable) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"window_id": windows.window_id, "category": windows.category, "loss": windows.loss}
    columns |= {f"loss_{band}": values for band, values in windows.bands.items()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd", use_dictionary=["category"])
    return buffer.getvalue()


def _windows(path: Path) -> WindowTable:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    bands = {name.removeprefix("loss_"): values for name, values in columns.items() if name.startswith("loss_")}
    return WindowTable(columns["window_id"], columns["category"].astype(np.str_), columns["loss"], bands)
