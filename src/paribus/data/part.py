"""Folders that are whole or absent: written under another name beside their own, renamed at the end."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from paribus.errors import DataError, StoreError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def part_folder(path: Path) -> Iterator[Path]:
    """An empty folder `.NAME.part` beside `path`: renamed to `path` after the block, removed when the block raises.

    What a killed process left in it is cleared. Raises StoreError when `path` exists, or while another process holds
    the folder; DataError when the device is full."""
    if not is_free(path):
        raise StoreError(f"{path}: exists already; remove it, or name another folder")
    part = path.absolute().with_name(f".{path.name}.part")
    with writing(path):
        part.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _claim(part)
    try:
        yield part
        with writing(path):
            for file in [*part.iterdir(), part]:
                _sync(file)
            part.rename(path)
            _sync(part.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(descriptor)


def is_free(path: Path) -> bool:
    """Whether nothing stands at `path`, or an empty folder."""
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


@contextlib.contextmanager
def writing(path: Path, written: int = 0, more: int = 1) -> Iterator[None]:
    """Say in one line why `path` cannot be written; `written` and `more`: bytes before the block, and in it at least."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
        raise DataError(
            f"{path.absolute().parent}: no space left on the device: {path.name} had {written:,} bytes and needs at "
            f"least {more:,} more; free some, or name another folder"
        ) from error


def _claim(folder: Path) -> int:
    """Make an empty folder that no other living process holds; return the descriptor whose lock says so."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # between open and lock the holder may have finished and renamed the folder: then it is no longer ours to take
        is_ours = folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())
    except BlockingIOError:
        is_ours = False
    if not is_ours:
        os.close(descriptor)
        raise StoreError(f"{folder}: another process is writing it; wait for it, then run the command again")
    for left_behind in folder.iterdir():
        left_behind.unlink()
    return descriptor


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
