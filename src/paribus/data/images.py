"""Images of K classes, from scikit-learn, an .npz, or the four files in which MNIST was published."""

import contextlib
import gzip
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.supervised import Digits, Idx, ImageSource, Npz
from paribus.errors import DataError, MissingExtra

# how others call the arrays: training images and labels, test images and labels
NAMES = (
    ("X_train", "y_train", "X_test", "y_test"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
# Some copies of MNIST have a dot before `idx`.
IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_UNSIGNED_BYTE = 8  # the third byte of an idx file
_HELD_OUT = 5  # one digit of so many of a class

# what zipfile, zlib and numpy raise over a file that is damaged or none of theirs
_UNREADABLE = (
    OSError, ValueError, EOFError, OverflowError, RuntimeError, MemoryError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Pictures(NamedTuple):
    """Training and test images with the numbers of their classes, 0 .. K - 1."""

    x_train: NDArray[np.uint8]  # (n, D)
    y_train: NDArray[np.int64]  # (n,)
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        return int(self.y_train.max()) + 1


def read_images(source: ImageSource) -> Pictures:
    """Read and check all images. Raises DataError, with its key, for a file that cannot be used;
    MissingExtra when scikit-learn is not installed."""
    match source:
        case Digits():
            return _digits()
        case Npz():
            return _read_npz(npz_file(source))
        case Idx():
            files = idx_files(source)
            return _checked([_read_idx(file) for file in files], [f"data.source.folder: {file}" for file in files])


def check_images(source: ImageSource) -> None:
    """Look at files without reading their images. Raises DataError, as `read_images` does, for what can be told so."""
    match source:
        case Npz():
            _npz_names(npz_file(source))
        case Idx():
            idx_files(source)


def npz_file(source: Npz) -> Path:
    """The file, which is there. Raises DataError."""
    path = Path(source.file)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"data.source.file: {path}: {found}; expected an .npz with {_listed(NAMES[0])}")
    return path


def idx_files(source: Idx) -> list[Path]:
    """The four files in the order of IDX, which are there. Raises DataError with those that are missing."""
    found = [_first_there(Path(source.folder), name) for name in IDX]
    if missing := [name for name, file in zip(IDX, found, strict=True) if file is None]:
        raise DataError(
            f"data.source.folder: {source.folder}: no {', '.join(missing)}; expected MNIST's four files, plain or .gz"
        )
    return [file for file in found if file is not None]


def _first_there(folder: Path, name: str) -> Path | None:
    names = (name, name.replace("-idx", ".idx"))
    files = [folder / f"{each}{suffix}" for suffix in ("", ".gz") for each in names]
    return next((file for file in files if file.is_file()), None)


def _digits() -> Pictures:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise MissingExtra(
            "data.source.kind: digits come with the library `scikit-learn`: pip install 'paribus[jax]'"
        ) from None
    x, y = load_digits(return_X_y=True)
    x, y = x.astype(np.uint8), y.astype(np.int64)
    rank = np.empty_like(y)  # of a digit among its class
    for label in range(10):
        rank[y == label] = np.arange(np.sum(y == label))
    is_test = rank % _HELD_OUT == _HELD_OUT - 1
    return Pictures(x[~is_test], y[~is_test], x[is_test], y[is_test])


def _read_npz(path: Path) -> Pictures:
    names = _npz_names(path)
    with _reading(path), np.load(path, allow_pickle=False) as opened:
        arrays = [np.asarray(opened[name]) for name in names]
    return _checked(arrays, [f"data.source.file: {path}: {name}" for name in names])


def _npz_names(path: Path) -> tuple[str, ...]:
    """What the four arrays are called, by the headers alone. Raises DataError for other names, types or shapes.

    An array of Python objects, which only a pickle can hold, is refused here by its type."""
    with _reading(path):
        if not zipfile.is_zipfile(path):
            told = f"no .npz, which is a zip of arrays; expected one with {_listed(NAMES[0])}"
            raise DataError(f"data.source.file: {path}: {told}")
        with zipfile.ZipFile(path) as archive:
            there = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            names = _names(there, path)
            empty = [_header(archive, there[name]) for name in names]
    _check_shapes(empty, [f"data.source.file: {path}: {name}" for name in names])
    return names


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say in one line why an .npz cannot be read."""
    try:
        yield
    except _UNREADABLE as error:
        raise DataError(f"data.source.file: {path}: damaged: {_line(error)}; expected an .npz that is whole") from error


def _names(there: Collection[str], path: Path) -> tuple[str, ...]:
    for names in NAMES:
        if set(names) <= set(there):
            return names
    told = ", ".join(name if name.isprintable() else repr(name) for name in sorted(there)) or "none"
    raise DataError(f"data.source.file: {path}: has the arrays {told}; expected {_alternatives()}")


def _header(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """An array of the type and the shape of a member of an .npz, without its content, in next to no memory."""
    with archive.open(name) as member:
        is_first = np.lib.format.read_magic(member) == (1, 0)
        read = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return np.broadcast_to(np.empty((), dtype), shape)


def _alternatives() -> str:
    return "; or ".join(map(_listed, NAMES))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _read_idx(path: Path) -> NDArray[Any]:
    """One file of LeCun's format: 0, 0, type, dimensions; their sizes, big-endian; the bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except _UNREADABLE as error:
        raise DataError(f"data.source.folder: {path}: cannot be read: {_line(error)}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or len(content) < 4 + 4 * content[3]:
        raise DataError(
            f"data.source.folder: {path}: begins with {content[:4].hex(' ') or 'nothing'}; expected an idx file of bytes, "
            "00 00 08 and the number of dimensions"
        )
    shape = struct.unpack_from(f">{content[3]}I", content, 4)
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if len(body) != int(np.prod(shape, dtype=object)):
        raise DataError(f"data.source.folder: {path}: {len(body):,} bytes of content, expected {shape} by its header")
    return body.reshape(shape)


def _checked(arrays: list[NDArray[Any]], where: list[str]) -> Pictures:
    """Four arrays, named in errors by `where`, as pictures. Raises DataError for wrong types, shapes or labels."""
    _check_shapes(arrays, where)
    x_train, y_train, x_test, y_test = arrays
    classes = np.unique(y_train)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise DataError(
            f"{where[1]}: labels from {classes[0]} to {classes[-1]}, {len(classes)} different ones; "
            "expected 0 .. K - 1, each at least once"
        )
    if y_test.min() < 0 or y_test.max() >= len(classes):
        raise DataError(
            f"{where[3]}: labels from {y_test.min()} to {y_test.max()}, but those of training end at {len(classes) - 1}"
        )
    return Pictures(
        x_train.reshape(len(x_train), -1), y_train.astype(np.int64),
        x_test.reshape(len(x_test), -1), y_test.astype(np.int64),
    )  # fmt: skip


def _check_shapes(arrays: list[NDArray[Any]], where: list[str]) -> None:
    x_train, y_train, x_test, y_test = arrays
    for x, name in ((x_train, where[0]), (x_test, where[2])):
        if x.dtype != np.uint8 or x.ndim < 2 or x.size == 0:
            raise DataError(f"{name}: {_kind(x)}; expected uint8 images, (n, height, width)")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise DataError(f"{where[2]}: images of {x_test.shape[1:]}, but those of training are {x_train.shape[1:]}")
    for x, y, name in ((x_train, y_train, where[1]), (x_test, y_test, where[3])):
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise DataError(f"{name}: {_kind(y)}; expected integers, ({len(x)},), one for each image")


def _kind(array: NDArray[Any]) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
