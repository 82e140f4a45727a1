"""The token store: memory-mapped shards, a table of documents, and a manifest that says and proves what they are.

tokens-00000.bin ..  little-endian uint16 or uint32, whole documents one after another, no separators
documents.parquet    id, category, split, offset, length, num_bytes: one row a document, in the order of the tokens
tokenizer.json       what made the tokens
manifest.json        counts, fingerprints, sizes and hashes of the files above; written last
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from paribus.config import Section
from paribus.data.bars import Advance
from paribus.data.tokenizer import fingerprint, read_tokenizer, vocab_size
from paribus.errors import DataError, StoreError
from paribus.rundir import file_sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MANIFEST, DOCUMENTS, TOKENIZER = "manifest.json", "documents.parquet", "tokenizer.json"


class FileFacts(Section):
    bytes: int
    sha256: str


class Amount(Section):
    documents: int = 0
    tokens: int = 0
    bytes: int = 0  # of UTF-8 text


class Skipped(Section):
    """The documents of a split that the store does not hold."""

    empty: int = 0  # nothing but white space
    short: int = 0  # fewer tokens than min_tokens
    duplicate: int = 0  # a later split holds the same text


class Manifest(Section):
    """What a store holds. Everything but `name`, `files`, `corpus` and `inputs` is content."""

    format: Literal["paribus-store"] = "paribus-store"
    version: Literal[1] = 1
    name: str
    dtype: Literal["uint16", "uint32"]
    byte_order: Literal["little"] = "little"
    vocab_size: int
    start_token_id: int | None
    tokenizer_fingerprint: str
    tokens_sha256: str  # of all shards, one after another
    documents_sha256: str  # of the rows of the document table, as JSON lines
    counts: dict[str, dict[str, Amount]]  # split -> category
    skipped: dict[str, Skipped]  # split
    repeated: dict[str, int]  # split -> documents kept although the split holds the same text already
    files: dict[str, FileFacts]
    corpus: dict[str, Any]  # the settings that made it
    inputs: dict[str, FileFacts] = {}  # what it was made from

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the content: tokens, documents, tokenizer; not of the folder, the shards or the time."""
        hashes = (self.tokenizer_fingerprint, self.tokens_sha256, self.documents_sha256)
        content = (self.dtype, self.vocab_size, self.start_token_id, *hashes)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def shards(self) -> list[str]:
        return sorted(name for name in self.files if name.startswith("tokens-"))


class Documents(NamedTuple):
    """The document table: D rows in the order of the tokens."""

    id: list[str]
    category: NDArray[np.int32]  # (D,): index into Store.categories
    split: NDArray[np.int32]  # (D,): index into Store.splits
    offset: NDArray[np.int64]  # (D,): its first token
    length: NDArray[np.int64]  # (D,): tokens
    num_bytes: NDArray[np.int64]  # (D,): of its UTF-8 text


class Store:
    """An open store. A position is an index into all shards laid end to end; a document never crosses a shard."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        # a plain array over the map: np.memmap pays for its subclass on every index
        self.shards = tuple(np.asarray(np.memmap(path / name, dtype, "r")) for name in manifest.shards)
        self._first = np.cumsum(
            [0, *(len(shard) for shard in self.shards)]
        )  # first position of each shard, then the end
        self.fingerprint = manifest.fingerprint
        self.splits = tuple(manifest.counts)
        self.categories = tuple(sorted({name for split in manifest.counts.values() for name in split}))

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def start_token_id(self) -> int | None:
        """The token that can stand before a window: the beginning of a document, else the first special token."""
        return self.manifest.start_token_id

    @property
    def num_tokens(self) -> int:
        return int(self._first[-1])

    @cached_property
    def documents(self) -> Documents:
        """The document table, read once."""
        import pyarrow.parquet as parquet

        table = parquet.read_table(self.path / DOCUMENTS)
        column = {name: table.column(name).combine_chunks() for name in table.column_names}
        return Documents(
            column["id"].to_pylist(),
            _codes(column["category"], self.categories),
            _codes(column["split"], self.splits),
            *(column[name].to_numpy().astype(np.int64) for name in ("offset", "length", "num_bytes")),
        )

    def rows(self, split: str, categories: Sequence[str] | None = None) -> NDArray[np.int64]:
        """The documents of a split, and of these categories if given, in the order of the table.

        Raises DataError when the store has no such split or category."""
        for kind, wanted, known in (("split", [split], self.splits), ("category", categories or [], self.categories)):
            for name in wanted:
                if name not in known:
                    raise DataError(f"{self.path}: no {kind} {name!r}; it has {', '.join(known)}")
        chosen = self.documents.split == self.splits.index(split)
        if categories is not None:
            chosen &= np.isin(self.documents.category, [self.categories.index(name) for name in categories])
        return np.flatnonzero(chosen)

    def document_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of the document that holds each position."""
        if np.any((positions < 0) | (positions >= self.num_tokens)):
            raise IndexError(f"{self.path}: a position outside [0, {self.num_tokens})")
        return np.searchsorted(self.documents.offset, positions, side="right") - 1

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """The tokens at [start, start + length) for each start: (B,) -> (B, length).

        Raises IndexError when a window leaves the store or crosses a shard, as no window of a document does."""
        if not len(starts):
            return np.empty((0, length), np.int32)
        low, high = np.minimum.reduce(starts), np.maximum.reduce(starts)
        if low < 0 or high >= self.num_tokens:
            raise IndexError(f"{self.path}: a window outside [0, {self.num_tokens})")
        shard = bisect_right(self._first, low) - 1
        if high < self._first[shard + 1]:
            return self._windows(shard, starts, length)
        gathered = np.empty((len(starts), length), np.int32)
        shards = np.searchsorted(self._first, starts, side="right") - 1
        for index in np.unique(shards):
            inside = shards == index
            gathered[inside] = self._windows(int(index), starts[inside], length)
        return gathered

    def tokenizer(self) -> "Tokenizer":
        return read_tokenizer(self.path / TOKENIZER)

    def check_tokenizer(self, tokenizer: "Tokenizer") -> None:
        """Raise StoreError unless this tokenizer gives every token the id that the store's own gives it."""
        if tokenizer.get_vocab(with_added_tokens=True) != (own := self.tokenizer()).get_vocab(with_added_tokens=True):
            raise StoreError(
                f"{self.path}: its tokens were made by another tokenizer: found {fingerprint(tokenizer)[:12]} "
                f"({vocab_size(tokenizer):,} entries), expected {fingerprint(own)[:12]} ({vocab_size(own):,} entries); "
                f"use the store's own {TOKENIZER}, or prepare another store"
            )

    def _windows(self, shard: int, starts: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        tokens = self.shards[shard]
        if length > len(tokens):
            raise IndexError(f"{self.path}: a window of {length} tokens in a shard of {len(tokens)}")
        # every window as one element of an overlapping view: numpy copies it whole, not token by token (half the time)
        whole, stride = np.dtype((np.void, length * tokens.itemsize)), tokens.itemsize
        every: NDArray[Any] = np.ndarray(len(tokens) - length + 1, whole, tokens, 0, stride)
        read = every[starts - self._first[shard]].view(tokens.dtype).reshape(len(starts), length)
        windows: NDArray[np.int32] = read.astype(np.int32)
        return windows


def open_store(path: Path | str, verify: bool = False, advance: Advance = lambda _: None) -> Store:
    """Open a store after checking its manifest and the size of every file; `verify` also checks every hash.

    `advance` is told how many more bytes were checked.
    Raises StoreError, naming the file that is missing, truncated or altered."""
    path = Path(path)
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise StoreError(f"{file}: missing; prepare the store again, or copy it whole")
        if (found := file.stat().st_size) != expected.bytes:
            damage = "truncated" if found < expected.bytes else "altered"
            raise StoreError(f"{file}: {damage}: found {found:,} bytes, expected {expected.bytes:,}; {_CURE}")
        if verify and (digest := file_sha256(file)) != expected.sha256:
            raise StoreError(f"{file}: altered: found SHA-256 {digest[:12]}, expected {expected.sha256[:12]}; {_CURE}")
        advance(found)
    return Store(path, manifest)


_CURE = "remove the store and prepare it again"


def _codes(column: Any, names: Sequence[str]) -> NDArray[np.int32]:
    """The index of each value of a dictionary-encoded column in `names`."""
    place = np.array([names.index(name) for name in column.dictionary.to_pylist()], np.int32)
    codes: NDArray[np.int32] = place[column.indices.to_numpy()]
    return codes


def read_manifest(path: Path) -> Manifest:
    """Raises StoreError when `path` holds no store, or one of another format."""
    file = path / MANIFEST
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{path}: no store here (no {MANIFEST}); `paribus prepare CORPUS.yaml` writes one") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise StoreError(f"{file}: not a manifest that this version reads: {where or 'file'}: {first['msg']}") from None
