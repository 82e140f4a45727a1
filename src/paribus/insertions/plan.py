"""The plan: every span that is written over a stream, compiled once, immutable, memory-mapped.

start.npy        (N,) int64   coordinate of each span in training order, ascending
offsets.npy      (N + 1,) int64   its tokens are tokens[offsets[n] : offsets[n + 1]]
tokens.npy       uint32
experiment.npy   (N,) uint16   index into the manifest's experiments
item.npy         (N,) uint32   line of the experiment's file, from 1
repetition.npy   (N,) uint32   which copy of the item
manifest.json    what it was compiled for, what it holds, the hash of each array; written last
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus import config as configs
from paribus.data.batches import Noise
from paribus.data.part import part_folder
from paribus.errors import PlanError
from paribus.insertions.watermarks import Mark

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, LEDGER = "manifest.json", "ledger.parquet"
WITHOUT_SPANS = ("watermark", "environment")  # kinds that write no tokens
DTYPES = {"start": "<i8", "offsets": "<i8", "tokens": "<u4", "experiment": "<u2", "item": "<u4", "repetition": "<u4"}


class Geometry(NamedTuple):
    """The stream as a grid of rows: row n of the run is row n % B of batch n // B."""

    batch_size: int  # B
    row_tokens: int  # S: the tokens of a window that its source supplies
    num_steps: int
    rows_per_epoch: int | None = None  # None: windows are drawn independently
    first_step: int = 0  # of a run that continues another one's stream: its own steps are first_step .. num_steps

    @property
    def first_row(self) -> int:
        return self.batch_size * self.first_step

    @property
    def num_rows(self) -> int:
        """Where the run's rows end; they are numbered from the stream's beginning."""
        return self.batch_size * self.num_steps

    @property
    def num_tokens(self) -> int:
        """Where its tokens end."""
        return self.num_rows * self.row_tokens

    @property
    def own_tokens(self) -> int:
        """How many tokens it reads."""
        return (self.num_rows - self.first_row) * self.row_tokens

    def to_json(self) -> dict[str, int | None]:
        """As a manifest says it; a run that begins at step 0 does not mention it."""
        return {name: value for name, value in self._asdict().items() if name != "first_step" or value}


class Spans(NamedTuple):
    """N spans that overlap nowhere and cross no row, in training order."""

    start: NDArray[np.int64]
    offsets: NDArray[np.int64]
    tokens: NDArray[np.uint32]
    experiment: NDArray[np.uint16]
    item: NDArray[np.uint32]
    repetition: NDArray[np.uint32]

    @property
    def length(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


class Plan:
    """Spans, and what they were planned for. `overlay` is the seam: it writes them into the rows of a step."""

    def __init__(self, spans: Spans, geometry: Geometry, manifest: Mapping[str, Any]) -> None:
        self.spans, self.geometry, self.manifest = spans, geometry, dict(manifest)
        self._per_step = geometry.batch_size * geometry.row_tokens

    @property
    def experiments(self) -> list[str]:
        """What has spans: `experiment` of a span counts these."""
        return [name for name, facts in self.manifest["experiments"].items() if facts["kind"] not in WITHOUT_SPANS]

    @cached_property
    def marks(self) -> list[Mark]:
        """The watermarks."""
        found = self.manifest["experiments"].items()
        return [Mark.from_json(name, facts) for name, facts in found if facts["kind"] == "watermark"]

    def noise(self, step: int) -> Noise | None:
        """What is added to the input embeddings of a step; None: nothing."""
        number = self._mark_of_step.get(step)
        return None if number is None else self.marks[number].noise(step)

    @cached_property
    def _mark_of_step(self) -> dict[int, int]:
        return {step: number for number, mark in enumerate(self.marks) for step in mark.steps}

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the manifest, which holds the hash of every array."""
        return fingerprint(self.manifest)

    def of_step(self, step: int) -> slice:
        """The spans of one step."""
        return self.of_steps(step, step + 1)

    def of_steps(self, first: int, stop: int) -> slice:
        """The spans of the steps [first, stop)."""
        low, high = self.spans.start.searchsorted([first * self._per_step, stop * self._per_step])
        return slice(int(low), int(high))

    def overlay(self, step: int, rows_BS: NDArray[np.int32]) -> None:
        """Write the spans of a step over its rows, in place. rows_BS: (B, S), contiguous."""
        some = self.of_step(step)
        if some.start == some.stop:
            return
        places, low, high = self._places(step, some)
        rows_BS.reshape(-1)[places] = self.spans.tokens[low:high]

    def mask(self, step: int) -> NDArray[np.bool_]:
        """(B, S): which tokens of a step the plan writes."""
        mask = np.zeros(self._per_step, bool)
        some = self.of_step(step)
        if some.start < some.stop:
            mask[self._places(step, some)[0]] = True
        return mask.reshape(self.geometry.batch_size, self.geometry.row_tokens)

    def _places(self, step: int, some: slice) -> tuple[NDArray[np.int64], int, int]:
        """Where in the flattened rows of a step the tokens [low, high) of the plan go."""
        offsets = self.spans.offsets[some.start : some.stop + 1]
        low, high = int(offsets[0]), int(offsets[-1])
        shift = self.spans.start[some] - step * self._per_step - (offsets[:-1] - low)
        return np.arange(high - low) + np.repeat(shift, np.diff(offsets)), low, high

    def place(self, start: int) -> tuple[int, int, int]:
        """(step, row, offset) of a coordinate."""
        row, offset = divmod(int(start), self.geometry.row_tokens)
        return *divmod(row, self.geometry.batch_size), offset

    def table(self) -> Iterator[dict[str, Any]]:
        """What each experiment writes: items, copies, tokens, their share of the stream, first and last step."""
        length, size = self.spans.length, self.geometry
        for number, name in enumerate(self.experiments):
            own = self.spans.experiment == number
            start = self.spans.start[own]
            tokens = int(length[own].sum())
            yield {
                "experiment": name,
                "items": len(np.unique(self.spans.item[own])),
                "copies": len(start),
                "tokens": tokens,
                "share": tokens / size.own_tokens,
                "first_step": int(start[0]) // self._per_step if len(start) else None,
                "last_step": int(start[-1]) // self._per_step if len(start) else None,
            }


def fingerprint(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(manifest)).hexdigest()


def table_lines(plan: Plan) -> list[str]:
    """The plan's table for a person: a line for each experiment."""
    if not plan.manifest["experiments"]:
        return ["insertions: none (control)"]
    lines = ["insertions          items    copies      tokens     share    steps"] if plan.experiments else []
    for row in plan.table():
        facts = plan.manifest["experiments"][row["experiment"]]
        if facts["kind"] == "dynamic" and not row["copies"]:
            lines.append(
                f"{row['experiment']:<18}every {facts['every']:,} steps, decided by its controller: unknown tokens"
            )
            continue
        steps = f"{row['first_step']} to {row['last_step']}" if row["copies"] else "-"
        counts = f"{row['items']:>7,}{row['copies']:>10,}{row['tokens']:>12,}{row['share']:>10.4%}"
        lines.append(f"{row['experiment']:<18}{counts}    {steps}")
    lines += [_mark_line(mark, plan.geometry) for mark in plan.marks]
    for name, facts in plan.manifest["experiments"].items():
        if facts["kind"] == "environment":
            lines.append(f"{name:<18} sets {facts['variable']}={facts['value']} in the environment of training")
    return lines


def _mark_line(mark: Mark, geometry: Geometry) -> str:
    rows = "every row" if mark.rows == geometry.batch_size else f"the first {mark.rows:,} rows"
    many, first, last = len(mark.steps), mark.steps[0], mark.steps[-1]
    steps = f"step {first}" if many == 1 else f"{many:,} steps, {first} to {last}"
    tokens = mark.rows * many * geometry.row_tokens
    same = ", the same noise each time" if mark.is_shared and many > 1 else ""
    return (
        f"{mark.name:<18} writes nothing; noise of std {mark.std:g} on the embeddings of {rows} of {steps}{same}: "
        f"{tokens:,} tokens perturbed, {tokens / geometry.own_tokens:.4%}"
    )


def make_manifest(
    spans: Spans, geometry: Geometry, base: Mapping[str, Any], experiments: Mapping[str, Any]
) -> dict[str, Any]:
    """base: what the plan was compiled for, as JSON: data, order, seeds, batch, window, and the insertions themselves."""
    arrays = {
        name: {"count": len(array), "sha256": hashlib.sha256(_bytes(name, array)).hexdigest()}
        for name, array in spans._asdict().items()
    }
    return {
        "format": "paribus-plan",
        "version": 1,
        "geometry": geometry.to_json(),
        "experiments": dict(experiments),
        "arrays": arrays,
        "base": dict(base),
    }


def write_plan(plan: Plan, folder: Path, beside: Mapping[str, bytes] = {}) -> None:
    """Write the plan, and files that belong to it; the folder is whole or absent.

    Raises StoreError when it exists, DataError when the device is full."""
    with part_folder(folder) as part:
        for name, array in plan.spans._asdict().items():
            np.save(part / f"{name}.npy", array.astype(DTYPES[name], copy=False))
        write_ledger(plan, part / LEDGER)
        for name, content in beside.items():
            (part / name).write_bytes(content)
        (part / MANIFEST).write_text(json.dumps(plan.manifest, indent=1) + "\n")


def open_plan(folder: Path, base: Mapping[str, Any] | None = None) -> Plan:
    """Open a plan. Raises PlanError when it is damaged, or, with every key that differs, when it is not for this `base`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in DTYPES}
        spans, geometry = Spans(**arrays), Geometry(**manifest["geometry"])
    except FileNotFoundError as error:
        raise PlanError(
            f"{folder}: no whole plan: {Path(str(error.filename)).name} is missing; remove the folder to compile it again"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{folder}: a damaged plan ({error}); remove the folder to compile it again") from None
    if base is not None:
        differing = [
            f"  {key}: {old} in the plan, {new} now"
            for key, old, new in configs.difference(manifest["base"], _plain(base))
        ]
        if differing:
            lines = "\n".join(differing)
            raise PlanError(
                f"{folder}: made for another stream; remove the folder to compile the plan again. It differs in\n{lines}"
            )
    for name, array in arrays.items():
        if (found := len(array)) != (expected := manifest["arrays"][name]["count"]):
            raise PlanError(
                f"{folder / name}.npy: {found:,} entries, expected {expected:,}; remove {folder} to compile it again"
            )
    return Plan(spans, geometry, manifest)


def verify_plan(plan: Plan, folder: Path) -> None:
    """Raise PlanError, naming the file, unless every array is what the manifest says, and the ledger what they say."""
    for name, array in plan.spans._asdict().items():
        digest, expected = hashlib.sha256(_bytes(name, array)).hexdigest(), plan.manifest["arrays"][name]["sha256"]
        if digest != expected:
            raise PlanError(
                f"{folder / name}.npy: sha256 {digest[:12]}... found, {expected[:12]}... expected; the plan was altered"
            )
    if not _is_ledger(plan, folder / LEDGER):
        raise PlanError(f"{folder / LEDGER}: missing, or not what the plan says; it was altered")


def write_ledger(plan: Plan, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(ledger(plan), path, compression="zstd")


def _is_ledger(plan: Plan, path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(path)
    except (OSError, pa.ArrowInvalid):
        return False
    expected = ledger(plan)
    columns = [name for name in found.column_names if name in expected.column_names]  # older ones know of no kind
    return (
        bool(columns)
        and found.num_rows == expected.num_rows
        and all(
            (a.cast(pa.string()) == b.cast(pa.string())) if pa.types.is_dictionary(b.type) else a == b
            for a, b in ((found[name].combine_chunks(), expected[name].combine_chunks()) for name in columns)
        )
    )


def ledger(plan: Plan) -> "pa.Table":
    """The exposure ledger: one row a copy, in training order; the join key of every analysis.

    kind: that of the experiment. A `watermark` has one row for each row of a batch that it perturbs, behind all copies:
    item is the row, repetition counts its steps, and the span of offset and length holds noise, not its tokens."""
    import pyarrow as pa

    spans, size = plan.spans, plan.geometry
    row, offset = np.divmod(spans.start, size.row_tokens)
    step, row = np.divmod(row, size.batch_size)
    columns: dict[str, NDArray[Any]] = {"item": spans.item, "repetition": spans.repetition}
    columns |= {"step": step, "row": row, "offset": offset, "length": spans.length}
    parts = [(spans.experiment.astype(np.int32), columns)]
    parts += [
        (np.full(len(mark.steps) * mark.rows, len(plan.experiments) + number, np.int32), _exposures(mark, size))
        for number, mark in enumerate(plan.marks)
    ]
    codes = np.concatenate([code for code, _ in parts])
    kind_of = [facts["kind"] for facts in plan.manifest["experiments"].values()]
    kinds = list(dict.fromkeys(kind_of))
    kind = np.array([kinds.index(one) for one in kind_of], np.int32)[codes]
    table = {
        "experiment": pa.DictionaryArray.from_arrays(codes, list(plan.manifest["experiments"])),
        "kind": pa.DictionaryArray.from_arrays(kind, kinds),
        **{name: np.concatenate([part[name] for _, part in parts]) for name in columns},
    }
    return pa.table(table)


def _exposures(mark: Mark, size: Geometry) -> dict[str, NDArray[Any]]:
    """A watermark's rows of the ledger, step by step."""
    row = np.tile(np.arange(mark.rows), len(mark.steps))
    return {
        "item": row.astype(np.uint32),
        "repetition": np.repeat(np.arange(len(mark.steps), dtype=np.uint32), mark.rows),
        "step": np.repeat(np.array(mark.steps, np.int64), mark.rows),
        "row": row,
        "offset": np.zeros(len(row), np.int64),
        "length": np.full(len(row), size.row_tokens),
    }


def _bytes(name: str, array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array, DTYPES[name]).data


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """As JSON reads it back: tuples are lists."""
    return json.loads(json.dumps(value))
