"""Stores and run directories on S3: uploaded and downloaded all or nothing, verified, resumable.

Below s3://BUCKET/PREFIX lie the folder's files under their own names, and FILES.json, which names each with its size and
SHA-256. FILES.json is written last and taken away first: without it nothing there counts as complete."""

import contextlib
import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from paribus import listing as listings
from paribus.errors import RemoteError
from paribus.listing import LISTING, LOCK, Listed, Listing, LocalFile
from paribus.rundir import RunDir, disk_error
from paribus.s3 import NUM_THREADS, PART, Prefix, RemoteConfig, Stored, etag, locate, md5, part_size

T = TypeVar("T")
R = TypeVar("R")
Advance = Callable[[int], object]


class Transfer(NamedTuple):
    """What a push or a pull did."""

    what: str
    num_files: int
    num_bytes: int
    num_moved: int  # files of which at least a part had to be sent or fetched
    bytes_moved: int
    num_deleted: int = 0  # local files

    def line(self) -> str:
        moved = f"{self.num_moved} moved now ({_size(self.bytes_moved)})" if self.num_moved else "nothing left to move"
        deleted = f"; {self.num_deleted} deleted here" if self.num_deleted else ""
        return f"{self.what}: {self.num_files} files, {_size(self.num_bytes)}, verified; {moved}{deleted}"


# --- push --------------------------------------------------------------------------------------------------------------


def push(
    folder: Path | str,
    remote: RemoteConfig | str,
    *,
    endpoint_url: str | None = None,
    delete_local: bool = False,
    progress: bool = True,
) -> Transfer:
    """Upload a folder. The same command resumes: objects and parts that are there with the same checksum are not sent again.

    Runs inside the folder are locked meanwhile. An object counts as sent when the server's own checksum says so; where
    the server gives no MD5 it is read back. With `delete_local` every object is read back, and compared by SHA-256,
    before the first file is deleted; files that were not uploaded stay. What lies there from an earlier push of the same
    run or store is replaced. Raises RemoteError, and RunError for a run in use."""
    folder = Path(folder)
    prefix = Prefix(locate(remote, endpoint_url))
    with _in_words(folder), contextlib.ExitStack() as locks:
        total = sum((folder / name).stat().st_size for name in listings.names(folder))
        for run in listings.runs(folder):
            locks.enter_context(RunDir(run).lock())
        stored = prefix.stored()
        with bar("reading", total, progress) as advance:
            files = _each(lambda name: listings.read(folder, name, advance), listings.names(folder))
        listing = listings.describe(folder, files)
        content = listing.model_dump_json(indent=1).encode() + b"\n"
        _withdraw(prefix, stored, listing, content)
        missing = [file for file in files if stored.get(file.path) != Stored(file.size, file.etag)]
        with bar("uploading", sum(file.size for file in missing), progress) as advance:
            bytes_sent = _upload(folder, missing, prefix, advance)
        prefix.put(LISTING, content)
        if delete_local:
            with bar("verifying", listing.num_bytes, progress) as advance:
                _each(lambda file: _verify(prefix, file, advance), files)
            listings.delete(folder, files)
    num_deleted = len(files) if delete_local else 0
    return Transfer(prefix.url, len(files), listing.num_bytes, len(missing), bytes_sent, num_deleted)


def _withdraw(prefix: Prefix, stored: dict[str, Stored], listing: Listing, content: bytes) -> None:
    """Take the old listing away before the first object changes, unless it says the same."""
    if LISTING not in stored:
        return
    before = _download_listing(prefix)
    if before.holds != listing.holds:
        raise RemoteError(
            f"{prefix.url}: holds another folder ({before.holds}), not this one ({listing.holds}); choose another prefix"
        )
    if stored[LISTING] != Stored(len(content), etag([md5(content)])):
        prefix.delete(LISTING)


def _upload(folder: Path, files: list[LocalFile], prefix: Prefix, advance: Advance) -> int:
    """Send files, many small ones at once, then the parts of each large one; returns the bytes sent."""
    small, large = ([file for file in files if (file.size > PART) is is_large] for is_large in (False, True))
    sent = _each(lambda file: _upload_whole(folder, file, prefix, advance), small)
    return sum(sent) + sum(_upload_parts(folder, file, prefix, advance) for file in large)


def _upload_whole(folder: Path, file: LocalFile, prefix: Prefix, advance: Advance) -> int:
    body = (folder / file.path).read_bytes()
    _refuse_change(folder, file, etag([md5(body)]))
    if prefix.put(file.path, body) != file.etag:
        _verify(prefix, file)
    advance(len(body))
    return len(body)


def _upload_parts(folder: Path, file: LocalFile, prefix: Prefix, advance: Advance) -> int:
    upload, has = prefix.begin_parts(file.path)
    size = part_size(file.size)

    def send(index: int) -> tuple[bytes, str, int]:
        with (folder / file.path).open("rb") as source:
            source.seek(index * size)
            body = source.read(size)
        advance(len(body))
        digest = md5(body)
        if has.get(index + 1) == digest.hex():
            return digest, digest.hex(), 0
        return digest, prefix.put_part(file.path, upload, index + 1, body), len(body)

    digests, etags, sent = zip(*_each(send, range(-(-file.size // size))), strict=True)
    _refuse_change(folder, file, etag(list(digests)))
    if prefix.finish_parts(file.path, upload, list(etags)) != file.etag:
        _verify(prefix, file)
    return sum(sent)


def _refuse_change(folder: Path, file: LocalFile, etag: str) -> None:
    if etag != file.etag:
        raise RemoteError(f"{folder / file.path}: changed while it was uploaded; push again when nothing writes to it")


def _verify(prefix: Prefix, file: LocalFile | Listed, advance: Advance = lambda _: None) -> None:
    """Read an object back. Raises RemoteError unless it is, byte for byte, what was listed."""
    digest = hashlib.sha256()
    for chunk in prefix.read(file.path) if file.size else ():
        digest.update(chunk)
        advance(len(chunk))
    if digest.hexdigest() != file.sha256:
        raise _altered(prefix, file.path, digest.hexdigest(), file.sha256)


def _altered(prefix: Prefix, path: str, found: str, expected: str) -> RemoteError:
    what = f"SHA-256 {found[:12]}.., {LISTING} says {expected[:12]}.."
    return RemoteError(f"{prefix.url}/{path}: altered after its upload ({what}); delete it and push the original again")


# --- pull --------------------------------------------------------------------------------------------------------------


def pull(
    remote: RemoteConfig | str, folder: Path | str, *, endpoint_url: str | None = None, progress: bool = True
) -> Transfer:
    """Download what `push` uploaded; the folder appears when all of it is there and verified.

    Until then it grows as `.NAME.partial` beside the folder, from which the same command goes on. A folder that is there
    already is verified, never changed. Raises RemoteError, and RunError when the device is full."""
    folder = Path(folder).absolute()
    prefix = Prefix(locate(remote, endpoint_url))
    with _in_words(folder):
        listing = _complete_listing(prefix)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            if unequal := listings.difference(folder, listing):
                what = f"{len(unequal)} files differ, the first {unequal[0]}"
                raise RemoteError(f"{folder}: there already, not as in {prefix.url} ({what}); pull into another folder")
            return Transfer(str(folder), len(listing.files), listing.num_bytes, 0, 0)
        growing = folder.with_name(f".{folder.name}.partial")
        with RunDir(growing).lock():
            wanted = {file.path for file in listing.files}
            for stray in sorted(growing.rglob("*")):  # from a pull of what was there before
                if stray.is_file() and stray.name != LOCK and stray.relative_to(growing).as_posix() not in wanted:
                    stray.unlink()
            with bar("downloading", listing.num_bytes, progress) as advance:
                fetched = _each(lambda file: _download(prefix, file, growing, advance), listing.files)
            (growing / LOCK).unlink()
            growing.rename(folder)
    return Transfer(str(folder), len(fetched), listing.num_bytes, sum(n > 0 for n in fetched), sum(fetched))


def _complete_listing(prefix: Prefix) -> Listing:
    """What lies there. Raises RemoteError unless it is complete, by the names and sizes that the server gives."""
    stored = prefix.stored()
    if LISTING not in stored:
        found = f"{len(stored)} files of an upload that was never finished; push again" if stored else "nothing there"
        raise RemoteError(f"{prefix.url}: no {LISTING}: {found}")
    listing = _download_listing(prefix)
    for file in listing.files:
        size = stored[file.path].size if file.path in stored else None
        if size != file.size:
            found = "missing" if size is None else f"{size:,} bytes"
            raise RemoteError(f"{prefix.url}/{file.path}: {found}, {LISTING} says {file.size:,} bytes; push it again")
    return listing


def _download_listing(prefix: Prefix) -> Listing:
    try:
        return Listing.model_validate_json(b"".join(prefix.read(LISTING)))
    except ValidationError as error:
        what = error.errors()[0]
        where = ".".join(str(key) for key in what["loc"])
        raise RemoteError(
            f"{prefix.url}/{LISTING}: not a list that `paribus push` wrote ({where}: {what['msg']}); delete it, push again"
        ) from None


def _download(prefix: Prefix, file: Listed, growing: Path, advance: Advance) -> int:
    """Fetch one file, or the rest of it; returns the bytes fetched. A rest that does not fit is fetched anew."""
    path = growing / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as target:
        for attempt in ("go on", "anew"):
            if attempt == "anew" or target.seek(0, os.SEEK_END) > file.size:
                target.truncate(0)
            target.seek(0)
            digest = hashlib.file_digest(target, "sha256")
            kept, fetched = target.seek(0, os.SEEK_END), 0
            advance(kept)
            for chunk in prefix.read(file.path, kept) if kept < file.size else ():
                target.write(chunk)
                digest.update(chunk)
                fetched += len(chunk)
                advance(len(chunk))
            target.flush()
            os.fsync(target.fileno())
            if digest.hexdigest() == file.sha256:
                return fetched
            if kept == 0:
                break
    path.unlink()
    raise _altered(prefix, file.path, digest.hexdigest(), file.sha256)


# --- the small print ---------------------------------------------------------------------------------------------------


def _each(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`work` on every item, on a few threads; the first error ends what has not begun."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


@contextlib.contextmanager
def _in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise disk_error(error, folder) from error
        raise RemoteError(f"{error.filename or folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def bar(what: str, num_bytes: int, progress: bool) -> Iterator[Advance]:
    """A progress bar on stderr, advanced in bytes from any thread."""
    if not progress or num_bytes == 0:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as drawn:
        task = drawn.add_task(what, total=num_bytes)
        yield lambda count: drawn.advance(task, count)


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)
