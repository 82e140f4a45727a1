"""Memory-mapped token files as OLMo and OLMo-core read them: each cut into rows of S consecutive tokens.

A file is a headerless little-endian array, whatever its name ends in. A position is an index into all files laid end to
end, the dropped ends included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paribus.data.config import PermutationOrder, TokenFilesData
from paribus.data.corpus import matching_files
from paribus.errors import DataError

_NPY = b"\x93NUMPY"  # how a file with a header begins (NEP 1)


class TokenFiles:
    """Open files, whose rows are numbered from 0, file by file."""

    def __init__(self, paths: Sequence[Path], arrays: Sequence[NDArray[Any]], row_tokens: int, vocab_size: int) -> None:
        self.paths, self.row_tokens, self.vocab_size = tuple(paths), row_tokens, vocab_size
        counts = [len(array) // row_tokens for array in arrays]
        self._rows = [
            array[: count * row_tokens].reshape(count, row_tokens) for array, count in zip(arrays, counts, strict=True)
        ]
        self._first_row = np.cumsum([0, *counts])  # of each file, then how many there are
        self._first_token = np.cumsum([0, *map(len, arrays)])

    @property
    def num_rows(self) -> int:
        return int(self._first_row[-1])

    @property
    def num_tokens(self) -> int:
        """Of all files, those that fill no row included."""
        return int(self._first_token[-1])

    def positions(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        """(B,) rows -> (B,) positions of their first tokens."""
        file = self._file_of(rows)
        positions: NDArray[np.int64] = self._first_token[file] + (rows - self._first_row[file]) * self.row_tokens
        return positions

    def read(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """(B,) rows -> (B, S) ids. Raises DataError, with file and token, for an id that is not below vocab_size."""
        found = np.empty((len(rows), self.row_tokens), np.int32)
        file = self._file_of(rows)
        for number in np.unique(file).tolist():
            own = file == number
            inside = rows[own] - self._first_row[number]
            ids = self._rows[number][inside]
            if ids.max() >= self.vocab_size:
                self._refuse(number, inside, ids)
            found[own] = ids
        return found

    def _file_of(self, rows: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.searchsorted(self._first_row, rows, side="right") - 1

    def _refuse(self, number: int, inside: NDArray[np.integer], ids: NDArray[Any]) -> None:
        row, offset = np.argwhere(ids >= self.vocab_size)[0].tolist()
        token = int(inside[row]) * self.row_tokens + offset
        raise DataError(
            f"{self.paths[number]}: token {token:,} has id {ids[row, offset]}, expected 0 to {self.vocab_size - 1}; "
            "correct data.vocab_size, or data.dtype"
        )


def open_token_files(
    data: TokenFilesData, patterns: Sequence[str], key: str = "files", row_tokens: int | None = None
) -> TokenFiles:
    """Open the files of a `data:` section; key: that of the patterns; row_tokens: None for the section's own S.

    Raises DataError, naming the file, when there is none, it cannot be read or is no such array, or all are too short."""
    length = row_tokens or data.sequence_length
    paths = matching_files(patterns, key)
    arrays = [_open(path, data, key) for path in paths]
    files = TokenFiles(paths, arrays, length, data.vocab_size)
    if not files.num_rows:
        longest = max(map(len, arrays))
        raise DataError(
            f"sequence_length: a row has {length:,} tokens, but the longest of {len(paths)} files in {key} has {longest:,}; "
            f"choose at most {longest:,}"
        )
    return files


def _open(path: Path, data: TokenFilesData, key: str) -> NDArray[Any]:
    dtype = np.dtype(data.dtype).newbyteorder("<")
    try:
        with path.open("rb") as file:
            has_header = file.read(len(_NPY)) == _NPY
        if has_header:
            return _with_header(path, data, key)
        size = path.stat().st_size
        if size % dtype.itemsize:
            raise DataError(
                f"{key}: {path}: {size:,} bytes are no whole number of {data.dtype} ids of {dtype.itemsize} bytes; "
                "the file was cut, or dtype is wrong"
            )
        return np.asarray(np.memmap(path, dtype, "r")) if size else np.empty(0, dtype)
    except OSError as error:
        raise DataError(f"{key}: {path}: cannot be read: {error.strerror or error}") from None


def _with_header(path: Path, data: TokenFilesData, key: str) -> NDArray[Any]:
    if not isinstance(data.order, PermutationOrder):
        raise DataError(
            f"{key}: {path}: begins with the header of a .npy file, which OLMo and OLMo-core read as token ids: no run of "
            f"theirs can be replayed from it; strip the header, or use order: {{kind: permutation}}"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{key}: {path}: a damaged .npy file: {error}") from None
    if array.dtype != np.dtype(data.dtype).newbyteorder("<") or array.ndim != 1:
        raise DataError(
            f"{key}: {path}: a .npy file of {array.ndim} dimensions of {array.dtype}, expected 1 of {data.dtype}"
        )
    return np.asarray(array)
