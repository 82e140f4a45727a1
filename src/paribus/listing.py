"""What a folder holds: every file with its size and checksums, as read from disk and as FILES.json lists it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from paribus import config as configs
from paribus.config import Section
from paribus.errors import RemoteError
from paribus.rundir import file_sha256, identity
from paribus.s3 import etag, md5, part_size
from paribus.tree import plain

LISTING = "FILES.json"
LOCK = ".lock"  # a run's: it says who works here, not what is here


def _inside(path: str) -> str:
    if not path or path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError("leaves the folder")
    return path


class Listed(Section):
    path: Annotated[str, AfterValidator(_inside)]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Listing(Section):
    """FILES.json."""

    format: Literal[1] = 1
    holds: str = Field(description="`run ID8`, `store SHA-256` or `folder`: never replaced by another")
    files: list[Listed]

    @property
    def num_bytes(self) -> int:
        return sum(file.size for file in self.files)


class LocalFile(NamedTuple):
    """A file as it was read: its name in the folder, and the checksums of its bytes."""

    path: str
    size: int
    sha256: str
    etag: str
    stamp: tuple[int, int]  # size and modification time, by which a later change is noticed


def names(folder: Path) -> list[str]:
    """Every file below the folder but locks, by its relative path. A link inside says nothing new and is left out.

    Raises RemoteError when there is none, for a link that leads out, and for a name that cannot be uploaded."""
    if not folder.is_dir():
        raise RemoteError(f"{folder}: no folder; expected a store or a run directory")
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise RemoteError(f"{path}: a link that leads out of the folder; put the files themselves here")
        elif path.is_file() and path.name != LOCK:
            found.append(path.relative_to(folder).as_posix())
    if not found:
        raise RemoteError(f"{folder}: no files here; expected a store or a run directory")
    if LISTING in found:
        raise RemoteError(f"{folder / LISTING}: this name is taken by the list of what was uploaded; rename the file")
    return found


def runs(folder: Path) -> list[Path]:
    """Every run directory at or below the folder that a process may hold."""
    return sorted({path.parent for name in (LOCK, "STATUS.json") for path in folder.rglob(name)})


def read(folder: Path, name: str, advance: Callable[[int], object]) -> LocalFile:
    """Read a file once for all its checksums."""
    sha256, digests, size = hashlib.sha256(), [], 0
    with (folder / name).open("rb") as file:
        status = os.fstat(file.fileno())
        while body := file.read(part_size(status.st_size)):
            sha256.update(body)
            digests.append(md5(body))
            size += len(body)
            advance(len(body))
    return LocalFile(name, size, sha256.hexdigest(), etag(digests), (status.st_size, status.st_mtime_ns))


def describe(folder: Path, files: Sequence[LocalFile]) -> Listing:
    listed = [Listed(path=file.path, size=file.size, sha256=file.sha256) for file in files]
    return Listing(holds=_holds(folder), files=listed)


def _holds(folder: Path) -> str:
    """What the folder is, so that another never takes its place."""
    if (folder / "manifest.json").is_file():
        return f"store {file_sha256(folder / 'manifest.json')}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # of a run that has not begun
        # what it reads is named by content there, wherever it lies
        return f"run {identity(json.loads((folder / 'provenance.json').read_bytes())['config'])}"
    if (folder / "config.yaml").is_file():
        config = plain(configs.resolve(folder / "config.yaml"))
        if isinstance(config, dict):
            return f"run {identity(_without_stores(config))}"
    return "folder"


def _without_stores(value: Any) -> Any:
    """A run goes on where its stores lie elsewhere."""
    if isinstance(value, dict):
        return {key: _without_stores(child) for key, child in value.items() if key != "store"}
    return value


def difference(folder: Path, listing: Listing) -> list[str]:
    """The files that are not in both, or not the same in both."""
    here = set(names(folder))
    there = {file.path: file.sha256 for file in listing.files}
    return sorted(here ^ set(there) or {name for name in here if file_sha256(folder / name) != there[name]})


def delete(folder: Path, files: Sequence[LocalFile]) -> None:
    """Delete exactly these files, then locks, links, and folders that are left empty.

    Raises RemoteError, and deletes nothing, when one has changed since it was read."""
    for file in files:
        status = (folder / file.path).stat()
        if (status.st_size, status.st_mtime_ns) != file.stamp:
            raise RemoteError(f"{folder / file.path}: changed after it was uploaded; nothing is deleted, push again")
    for file in files:
        (folder / file.path).unlink()
    left = sorted(folder.rglob("*"), reverse=True)  # what is inside a folder before the folder
    for path in left:
        if path.is_symlink() or path.name == LOCK:
            path.unlink()
    for path in (*left, folder):
        with contextlib.suppress(OSError):  # a file, or a folder with files: it stays
            path.rmdir()
