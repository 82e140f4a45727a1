"""Insertion maps in HDF5: key -> [(position, token ids)], as five flat datasets.

keys             (n,) int64       what the insertions are indexed by: see `Index`
tuple_offsets    (n + 1,) int64   key k has the entries tuple_offsets[k] : tuple_offsets[k + 1]
positions        (t,) int32       where each entry begins, counted from the first token of its key
token_offsets    (t + 1,) int64   entry e is tokens[token_offsets[e] : token_offsets[e + 1]]
tokens           (N,) int32
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.errors import MissingExtra, PlanError
from paribus.insertions.config import Hdf5, Index
from paribus.insertions.payloads import Alphabet, Items
from paribus.insertions.plan import Geometry, Plan
from paribus.rundir import write_bytes

if TYPE_CHECKING:
    import h5py

DTYPES = {"keys": "<i8", "tuple_offsets": "<i8", "positions": "<i4", "token_offsets": "<i8", "tokens": "<i4"}


class InsertionMap(NamedTuple):
    """The datasets of a map, as they stand in its file."""

    keys: NDArray[np.int64]
    tuple_offsets: NDArray[np.int64]
    positions: NDArray[np.int32]
    token_offsets: NDArray[np.int64]
    tokens: NDArray[np.int32]

    def key_of_entry(self) -> NDArray[np.int64]:
        """(t,): the key of each entry."""
        return np.repeat(self.keys, np.diff(self.tuple_offsets))


def read_map(path: Path | str) -> InsertionMap:
    """Read a map whole. Raises PlanError for a file that is no map: unreadable, a dataset that is missing, of another
    type or at odds with the others, a key that stands twice; MissingExtra without h5py."""
    h5py = _h5py()
    try:
        with h5py.File(path, "r") as file:
            arrays = {name: _dataset(file, name, path) for name in DTYPES}
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise PlanError(f"{path}: cannot be read as HDF5: {reason}") from None
    found = InsertionMap(**arrays)
    for name, counted, entries in (("tuple_offsets", "keys", "positions"), ("token_offsets", "positions", "tokens")):
        offsets, num, last = arrays[name], len(arrays[counted]), len(arrays[entries])
        if len(offsets) != num + 1:
            raise PlanError(f"{path}: {name}: {len(offsets):,} offsets for {num:,} {counted}, expected {num + 1:,}")
        if offsets[0] != 0 or offsets[-1] != last or (np.diff(offsets) < 0).any():
            raise PlanError(f"{path}: {name}: must rise from 0 to {last:,}, the number of {entries}")
    if len(twice := np.flatnonzero(np.diff(np.sort(found.keys)) == 0)):
        raise PlanError(f"{path}: keys: {np.sort(found.keys)[twice[0]]} stands twice; every key is expected once")
    return found


def write_map(plan: Plan, path: Path | str, index: Index) -> None:
    """Write every span of a plan as an entry, in training order; the file is whole or absent.

    Experiment, item and repetition have no place in the format. Raises PlanError when a batch has more tokens than int32
    counts, RunError when the file cannot be written, MissingExtra without h5py."""
    h5py, unit = _h5py(), unit_tokens(index, plan.geometry)
    if unit > 2**31:
        raise PlanError(f"{path}: positions are int32, but a batch has {unit:,} tokens; use index sequence or position")
    spans = plan.spans
    keys, first = np.unique(spans.start // unit, return_index=True)
    offsets, positions = np.append(first, len(spans.start)), (spans.start % unit).astype(np.int32)
    arrays = InsertionMap(keys, offsets, positions, spans.offsets, spans.tokens.astype(np.int32))
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, array in arrays._asdict().items():
            file.create_dataset(name, data=array.astype(DTYPES[name]))
    write_bytes(Path(path), content.getvalue())


def unit_tokens(index: Index, geometry: Geometry) -> int:
    """The tokens of the stream that one key stands for: key k begins at coordinate k times this."""
    per_row = geometry.row_tokens
    return {"sequence": per_row, "batch": per_row * geometry.batch_size, "position": 1}[index]


def map_items(config: Hdf5, alphabet: Alphabet, geometry: Geometry) -> Items:
    """Every entry of a map as an item with one explicit place; `line` counts entries from 1.

    Raises what `read_map` raises, and PlanError, naming the entry, for a key or position outside the run, no token or more
    than a row has, or an id beyond the vocabulary."""
    found = read_map(config.file)
    if not len(found.positions):
        raise PlanError(f"{config.file}: no entries; expected at least one")
    keys, unit = found.key_of_entry(), unit_tokens(config.index, geometry)
    positions, lengths = found.positions.astype(np.int64), np.diff(found.token_offsets)
    num_keys = geometry.num_tokens // unit
    inside = np.iinfo(np.int32).max if config.index == "position" else unit - 1
    beyond = (found.tokens < 0) | (found.tokens >= alphabet.vocab_size)
    bad_tokens = np.diff(np.concatenate([[0], np.cumsum(beyond)])[found.token_offsets]) > 0
    for wrong, what in (
        ((keys < 0) | (keys >= num_keys), f"the run has {num_keys:,} of index {config.index}"),
        ((positions < 0) | (positions > inside), f"expected a position of 0 to {inside:,}"),
        (lengths == 0, "no token; every entry needs at least one"),
        (lengths > geometry.row_tokens, f"a row of the stream has {geometry.row_tokens:,} tokens"),
        (bad_tokens, f"token ids of 0 to {alphabet.vocab_size - 1} are expected"),
    ):
        if wrong.any():
            n = int(np.argmax(wrong))
            where = f"entry {n + 1}: {lengths[n]:,} tokens at position {positions[n]:,} of key {keys[n]:,}"
            raise PlanError(f"{config.file}: {where}: {what}")
    return Items(
        np.arange(1, len(positions) + 1),
        found.token_offsets,
        found.tokens.astype(np.uint32),
        np.ones(len(positions)),
        [[start] for start in (keys * unit + positions).tolist()],
        noun="entry",
    )


def _dataset(file: "h5py.File", name: str, path: Path | str) -> NDArray[Any]:
    found, expected = file.get(name), np.dtype(DTYPES[name])
    if found is None or not hasattr(found, "dtype"):
        raise PlanError(f"{path}: no dataset {name!r}; an insertion map has {', '.join(DTYPES)}")
    if found.dtype != expected or found.ndim != 1:
        raise PlanError(
            f"{path}: {name}: {found.ndim} dimensions of {found.dtype} found, expected 1 of {expected.name}"
        )
    return np.asarray(found[:])


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingExtra("HDF5 insertion maps need the library h5py: pip install 'paribus[hdf5]'") from None
    return h5py
