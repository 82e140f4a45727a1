"""Members of a zip as grey images of 28 x 28 pixels, decoded in several processes."""

import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.encode import in_order
from paribus.errors import DataError, RunFailed

SIDE = 28
LARGEST_MEMBER = 2**24  # bytes; an image of 28 x 28 has about 300

# what zipfile and Pillow raise over damaged files
_DAMAGED = (
    OSError, ValueError, EOFError, SyntaxError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


class Batch(NamedTuple):
    """Members of one zip, and the rows that their images become."""

    zip: Path
    members: list[tuple[str, int]]  # name, compressed bytes
    is_test: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.members]

    @property
    def num_bytes(self) -> int:
        return sum(size for _, size in self.members)


def members_of(path: Path) -> list[tuple[str, int]]:
    """The images of a zip by name, whatever the order they were packed in, with their compressed sizes.

    Folders are left out, and what macOS and its like add: `__MACOSX/` and hidden files."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _DAMAGED as error:
        raise DataError(f"{path}: cannot be read as a zip: {_line(error)}") from error
    members = {
        entry.filename: entry.compress_size
        for entry in entries
        if not entry.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in entry.filename.split("/"))
    }
    if not members:
        raise DataError(f"{path}: holds no images")
    return sorted(members.items())


def decoded(
    batches: Iterable[Batch], resize: bool, num_workers: int
) -> Generator[tuple[Batch, NDArray[np.uint8]], None, None]:
    """Batches in order with their images, (n, 28, 28), decoded in processes: threads would wait for the interpreter."""
    if num_workers == 1:
        yield from ((batch, _decode(batch.zip, batch.names, resize)) for batch in batches)
        return
    # spawned, not forked: the progress bar has a thread
    with ProcessPoolExecutor(num_workers, get_context("spawn"), _end_with_parent) as pool:

        def decode(batch: Batch) -> tuple[Batch, NDArray[np.uint8]]:
            try:
                return batch, pool.submit(_decode, batch.zip, batch.names, resize).result()
            except BrokenProcessPool as error:
                raise RunFailed(f"{batch.zip}: a decoding process died; run the command again") from error

        with closing(in_order(decode, batches, 2 * num_workers)) as ordered:
            yield from ordered


def _end_with_parent() -> None:
    """A worker that waits for work would outlive a parent that was killed."""

    def wait() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@lru_cache(maxsize=1)
def _opened(path: Path, _size: int, _mtime_ns: int) -> zipfile.ZipFile:
    """The zip of the last batch; its directory of 100,000 members takes a second to read."""
    return zipfile.ZipFile(path)


def _decode(path: Path, names: Sequence[str], resize: bool) -> NDArray[np.uint8]:
    """(n, 28, 28) grey images. Raises DataError, with the member, for what is no image of that size."""
    images = np.empty((len(names), SIDE, SIDE), np.uint8)
    state = path.stat()
    archive = _opened(path, state.st_size, state.st_mtime_ns)
    for image, name in zip(images, names, strict=True):
        try:
            if archive.getinfo(name).file_size > LARGEST_MEMBER:
                raise ValueError(f"more than {LARGEST_MEMBER:,} bytes")
            image[:] = _grey(archive.read(name), resize)
        except _DAMAGED as error:
            raise DataError(f"{path}: {name}: {_line(error)}") from error
    return images


def _grey(content: bytes, resize: bool) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"pixels of mode {image.mode}, expected 8 bits a channel")
            if image.size != (SIDE, SIDE) and not resize:
                raise ValueError(f"{image.width} x {image.height} pixels, expected 28 x 28; `resize: true` resamples")
            grey = image.convert("L")
    except UnidentifiedImageError:
        raise ValueError("is no image") from None
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    return np.asarray(grey if grey.size == (SIDE, SIDE) else grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
