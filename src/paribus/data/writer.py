"""Writing a token store: into a folder beside it, renamed at the end, so that a store is whole or absent."""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.part import part_folder, writing
from paribus.data.store import DOCUMENTS, MANIFEST, TOKENIZER, Amount, FileFacts, Manifest, Skipped
from paribus.data.tokenizer import fingerprint, vocab_size
from paribus.errors import DataError
from paribus.rundir import file_sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TABLE_ROWS = 65_536


class Entry(NamedTuple):
    """What the store keeps of a document beside its tokens."""

    id: str
    category: str
    split: str
    num_bytes: int


class Recipe(NamedTuple):
    """What the manifest records of how the store is made."""

    name: str
    corpus: Mapping[str, Any] = {}
    inputs: Mapping[str, FileFacts] = {}
    start_token_id: int | None = None
    shard_tokens: int = 2**28


class StoreWriter:
    """Writes a store into a folder beside `path` and renames it at the end.

    Use it as a context: it finishes the store, or leaves nothing when the block raises (see part_folder). Raises
    DataError when the device is full, a token is outside the vocabulary, or two documents of a split share an id."""

    def __init__(self, path: Path | str, tokenizer: "Tokenizer", recipe: Recipe) -> None:
        self.path, self.tokenizer, self.recipe = Path(path), tokenizer, recipe
        self.vocab_size = vocab_size(tokenizer)
        self.dtype = np.dtype("<u2" if self.vocab_size <= 2**16 else "<u4")
        self.num_tokens = 0
        self.skipped: dict[str, Skipped] = {}  # the caller's account, for the manifest
        self.repeated: dict[str, int] = {}
        self._amounts: dict[str, dict[str, list[int]]] = {}  # split -> category -> documents, tokens, bytes
        self._ids: dict[str, set[str]] = {}
        self._rows: list[tuple[Any, ...]] = []  # of the document table; every TABLE_ROWS they are packed
        self._tables: list[Any] = []
        self._tokens_hash, self._documents_hash = hashlib.sha256(), hashlib.sha256()
        self._num_shards = self._room = 0

    def __enter__(self) -> "StoreWriter":
        with contextlib.ExitStack() as undo:
            self._part = undo.enter_context(part_folder(self.path))
            with self._writing():
                (self._part / TOKENIZER).write_text(self.tokenizer.to_str(), encoding="utf-8")
                self._shard = self._next_shard()
            undo.callback(lambda: _close(self._shard))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        with self._undo:
            if error is not None:
                raise error
            self._finish()

    def append(self, entry: Entry, tokens: Sequence[int] | NDArray[Any]) -> None:
        """Write one document."""
        self.extend([entry], np.asarray(tokens, np.int64), np.array([len(tokens)]))

    def extend(self, entries: Sequence[Entry], tokens: NDArray[Any], lengths: NDArray[Any]) -> None:
        """Write several documents, whose `tokens` stand end to end; all of them, or none when it raises DataError."""
        self._check(entries, tokens, lengths)
        ends = np.cumsum(lengths)
        begin = 0
        while begin < len(entries):
            if self._room <= 0:
                with self._writing():
                    self._shard.close()
                    self._shard = self._next_shard()
            before = int(ends[begin] - lengths[begin])
            # the document that fills the shard still belongs to it
            stop = min(int(np.searchsorted(ends, before + self._room)) + 1, len(entries))
            chunk = tokens[before : int(ends[stop - 1])].astype(self.dtype)
            with self._writing(chunk.nbytes):
                self._shard.write(chunk.data)
            self._tokens_hash.update(chunk.data)
            self._room -= len(chunk)
            begin = stop
        self._record(entries, lengths)

    def _check(self, entries: Sequence[Entry], tokens: NDArray[Any], lengths: NDArray[Any]) -> None:
        assert len(entries) == len(lengths)
        assert np.sum(lengths) == len(tokens)
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= self.vocab_size):
            wrong = int(np.flatnonzero((tokens < 0) | (tokens >= self.vocab_size))[0])
            entry = entries[int(np.searchsorted(np.cumsum(lengths), wrong, side="right"))]
            raise DataError(
                f"{entry.split}: document {entry.id!r}: token id {int(tokens[wrong])} is outside the vocabulary "
                f"[0, {self.vocab_size}): another tokenizer made it"
            )
        for entry in entries:
            ids = self._ids.setdefault(entry.split, set())
            if entry.id in ids:
                raise DataError(
                    f"{entry.split}: two documents have the id {entry.id!r}; ids must be unique within a split: "
                    "name another field under source.fields.id, or null to number the documents"
                )
            ids.add(entry.id)

    def _record(self, entries: Sequence[Entry], lengths: NDArray[Any]) -> None:
        for entry, length in zip(entries, lengths.tolist(), strict=True):
            row = (entry.id, entry.category, entry.split, self.num_tokens, length, entry.num_bytes)
            self._rows.append(row)
            self._documents_hash.update(json.dumps(row).encode() + b"\n")
            amounts = self._amounts.setdefault(entry.split, {}).setdefault(entry.category, [0, 0, 0])
            for index, value in enumerate((1, length, entry.num_bytes)):
                amounts[index] += value
            self.num_tokens += length
            if len(self._rows) == TABLE_ROWS:
                self._tables.append(_table(self._rows))
                self._rows.clear()

    def _next_shard(self) -> Any:
        self._room = self.recipe.shard_tokens
        self._num_shards += 1
        return (self._part / f"tokens-{self._num_shards - 1:05d}.bin").open("wb", buffering=2**20)

    def _finish(self) -> None:
        if not self.num_tokens:
            raise DataError(
                f"{self.path}: every document was left out, so there is nothing to store: {self._account()}"
            )
        documents = _parquet([*self._tables, _table(self._rows)])
        with self._writing(len(documents)):
            self._shard.close()
            (self._part / DOCUMENTS).write_bytes(documents)
            files = {}
            for file in sorted(self._part.iterdir()):
                files[file.name] = FileFacts(bytes=file.stat().st_size, sha256=file_sha256(file))
            (self._part / MANIFEST).write_text(self._manifest(files).model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _manifest(self, files: dict[str, FileFacts]) -> Manifest:
        counts = {
            split: {
                category: Amount(documents=documents, tokens=tokens, bytes=num_bytes)
                for category, (documents, tokens, num_bytes) in sorted(categories.items())
            }
            for split, categories in self._amounts.items()
        }
        return Manifest(
            name=self.recipe.name,
            dtype="uint16" if self.dtype.itemsize == 2 else "uint32",
            vocab_size=self.vocab_size,
            start_token_id=self.recipe.start_token_id,
            tokenizer_fingerprint=fingerprint(self.tokenizer),
            tokens_sha256=self._tokens_hash.hexdigest(),
            documents_sha256=self._documents_hash.hexdigest(),
            counts=counts,
            skipped=self.skipped,
            repeated=self.repeated,
            files=files,
            corpus=dict(self.recipe.corpus),
            inputs=dict(self.recipe.inputs),
        )

    def _account(self) -> str:
        splits = [
            f"{split}: {skipped.empty} empty, {skipped.short} short, {skipped.duplicate} duplicate"
            for split, skipped in self.skipped.items()
        ]
        return "; ".join(splits) or "the corpus has none"

    def _writing(self, more: int = 1) -> contextlib.AbstractContextManager[None]:
        return writing(self.path, self.num_tokens * self.dtype.itemsize, more)


def _table(rows: Sequence[tuple[Any, ...]]) -> Any:
    """The rows as an Arrow table, a fraction of their size as Python tuples."""
    import pyarrow

    name, whole = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.int64()
    types = {
        "id": pyarrow.string(),
        "category": name,
        "split": name,
        "offset": whole,
        "length": whole,
        "num_bytes": whole,
    }
    columns = zip(*rows, strict=True) if rows else [()] * len(types)
    return pyarrow.table(
        {key: pyarrow.array(values, kind) for (key, kind), values in zip(types.items(), columns, strict=True)}
    )


def _parquet(tables: Sequence[Any]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.concat_tables(tables).unify_dictionaries(), sink, compression="zstd")
    return bytes(sink.getvalue())


def _close(file: Any) -> None:
    with contextlib.suppress(OSError):
        file.close()
