"""The three files of the first version of the ergodic study: tokens.bin, index.jsonl, splits.json.

tokens.bin    headerless little-endian uint16, documents in the order of their splits, no separators
index.jsonl   {"paper_id": "train_12", "cat": "cs.PL", "offset": tokens, "length": tokens}, in the same order
splits.json   {"train": ["train_12", ...], ...}
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.encode import Encoded
from paribus.data.jsonlines import json_lines
from paribus.data.part import part_folder, writing
from paribus.data.store import Store
from paribus.data.tokenizer import token_bytes
from paribus.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NAMES = TOKENS, INDEX, SPLITS = "tokens.bin", "index.jsonl", "splits.json"
LIMIT = 2**16  # ids are uint16


class TokenDocument(NamedTuple):
    """A document that is tokens already."""

    id: str
    tokens: NDArray[np.uint16]
    category: str
    split: str

    @property
    def content(self) -> bytes:
        return self.tokens.tobytes()

    @property
    def is_empty(self) -> bool:
        return len(self.tokens) == 0


class Original(NamedTuple):
    """The three files, checked against each other."""

    tokens: NDArray[np.uint16]
    papers: dict[str, tuple[str, int, int]]  # id -> category, offset, length
    splits: dict[str, list[str]]

    def documents(self, split: str, advance: Callable[[int], None] = lambda _: None) -> Iterator[TokenDocument]:
        """The documents of a split in its order; `advance` is told how many bytes were read."""
        for paper in self.splits[split]:
            category, offset, length = self.papers[paper]
            yield TokenDocument(paper, self.tokens[offset : offset + length], category, split)
            advance(length * self.tokens.itemsize)

    def num_bytes(self, split: str) -> int:
        """What `documents` reads of the split."""
        return self.tokens.itemsize * sum(self.papers[paper][2] for paper in self.splits[split])


def check_files(folder: Path) -> None:
    """Raise DataError when one of the three files is missing."""
    for name in NAMES:
        if not (folder / name).is_file():
            raise DataError(f"source.path: {folder / name}: missing; expected the three files {', '.join(NAMES)}")


def read_original(folder: Path) -> Original:
    """Open the three files. Raises DataError when one is missing or broken, or they do not fit together."""
    check_files(folder)
    size = (folder / TOKENS).stat().st_size
    if size == 0 or size % 2:
        raise DataError(f"{folder / TOKENS}: found {size:,} bytes, expected tokens of 2 bytes each; it was cut off")
    index: dict[str, tuple[str, int, int]] = {}
    for line, record in json_lines(folder / INDEX):
        paper, category, offset, length = _row(record, f"{folder / INDEX}:{line}")
        if paper in index:
            raise DataError(f"{folder / INDEX}:{line}: paper_id {paper!r} occurs a second time")
        if offset < 0 or length < 0 or offset + length > size // 2:
            raise DataError(
                f"{folder / INDEX}:{line}: {paper!r} is at tokens [{offset}, {offset + length}), but {TOKENS} has "
                f"{size // 2:,}; one of the two was cut off or belongs to another corpus"
            )
        index[paper] = category, offset, length
    tokens = np.asarray(np.memmap(folder / TOKENS, "<u2", "r"))
    return Original(tokens, index, _splits(folder / SPLITS, index))


def write_original(store: Store, folder: Path | str) -> None:
    """Write the three files of a store into a new folder; its tokenizer is not among them.

    Raises DataError when an id needs more than uint16, or two splits share a document id, which the format cannot say."""
    table, folder = store.documents, Path(folder)
    order = np.argsort(table.split, kind="stable")
    papers = [table.id[row] for row in order]
    if len(set(papers)) != len(papers):
        raise DataError(f"{store.path}: two splits share a document id, and {INDEX} has room for one of them only")
    offsets = np.cumsum(table.length[order]) - table.length[order]
    with part_folder(folder) as part, writing(folder, more=2 * store.num_tokens):
        with (part / TOKENS).open("wb") as tokens, (part / INDEX).open("w", encoding="utf-8") as index:
            for row, paper, offset in zip(order, papers, offsets.tolist(), strict=True):
                length = int(table.length[row])
                ids = store.gather(table.offset[row : row + 1], length)[0]
                if length and ids.max() >= LIMIT:
                    raise DataError(f"{store.path}: document {paper!r}: token id {ids.max()} is beyond uint16 (65,535)")
                tokens.write(ids.astype("<u2").data)
                category = store.categories[table.category[row]]
                line = {"paper_id": paper, "cat": category, "offset": offset, "length": length}
                index.write(json.dumps(line) + "\n")
        splits = {
            name: [paper for row, paper in zip(order, papers, strict=True) if table.split[row] == code]
            for code, name in enumerate(store.splits)
        }
        (part / SPLITS).write_text(json.dumps(splits), encoding="utf-8")


def token_encoder(tokenizer: "Tokenizer") -> Callable[[Sequence[TokenDocument]], Encoded]:
    """A function that joins the tokens of documents, and counts the bytes of the text that they stand for."""
    sizes = token_bytes(tokenizer)

    def num_bytes(tokens: NDArray[np.uint16]) -> int:
        if sizes is None:
            return len(tokenizer.decode(tokens.tolist()).encode())
        return int(sizes[tokens[tokens < len(sizes)]].sum())  # ids beyond the vocabulary: the writer refuses them

    def encode(documents: Sequence[TokenDocument]) -> Encoded:
        tokens = np.concatenate([np.zeros(0, np.uint32), *(one.tokens for one in documents)])
        lengths = np.array([len(one.tokens) for one in documents], np.int64)
        return Encoded(tokens, lengths, np.array([num_bytes(one.tokens) for one in documents], np.int64))

    return encode


def _row(record: Any, where: str) -> tuple[str, str, int, int]:
    expected = {"paper_id": str, "cat": str, "offset": int, "length": int}
    if not isinstance(record, dict) or any(type(record.get(key)) is not kind for key, kind in expected.items()):
        raise DataError(
            f"{where}: found {str(record)[:80]}, expected paper_id and cat (text), offset and length (tokens)"
        )
    return record["paper_id"], record["cat"].strip(), record["offset"], record["length"]


def _splits(file: Path, index: dict[str, Any]) -> dict[str, list[str]]:
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not JSON: {error}") from None
    if not isinstance(splits, dict) or not all(isinstance(papers, list) for papers in splits.values()):
        raise DataError(f"{file}: expected split -> list of paper ids")
    listed = [paper for papers in splits.values() for paper in papers]
    wrong = {
        "are in no line of " + INDEX: [paper for paper in listed if paper not in index],
        "are in no split": sorted(set(index) - set(listed)),
        "are listed twice": [paper for paper, count in Counter(listed).items() if count > 1],
    }
    for what, papers in wrong.items():
        if papers:
            raise DataError(f"{file}: {len(papers)} documents {what}, the first is {papers[0]!r}")
    return {name: splits[name] for name in sorted(splits, key=lambda name: name != "train")}
