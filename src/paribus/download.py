"""Files of a folder behind a URL, in a cache: resumed where a transfer broke off, retried, checked by SHA-256.

CACHE/downloads/HASH/NAME/   NAME: the last part of the URL, HASH: of the whole of it
    files under their own names, each whole or absent; while it grows it is FILE.part, beside FILE.part.json
    DOWNLOADS.json           the URL, and the size and SHA-256 of each file as it was downloaded
CACHE is $PARIBUS_CACHE, or paribus in $XDG_CACHE_HOME (~/.cache)."""

import fcntl
import hashlib
import http.client
import json
import os
import random
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from paribus.errors import RemoteError
from paribus.remote import bar
from paribus.rundir import disk_error, known_sha256, write_json

MANIFEST = "DOWNLOADS.json"
TIMEOUT_S = 60.0
CHUNK = 2**20
_GONE = (404, 410)
_PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that another attempt may not meet


class Patience(NamedTuple):
    """How often a transfer that makes no progress is tried, and how long it waits: b, 2b, 4b ... with jitter."""

    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0

    def wait(self, failures: int) -> None:
        """Up to half as long again, so that many processes do not come back at once (not part of any result)."""
        wait_s = min(self.first_wait_s * 2 ** (failures - 1), self.longest_wait_s)
        time.sleep(wait_s * (1 + random.random() / 2))


def cache_folder() -> Path:
    """Where downloads are kept."""
    if named := os.environ.get("PARIBUS_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "paribus"


class Download:
    """One folder behind a URL, as far as it is needed; a context, in which no other process fills the same folder.

    sha256: file -> the digest that it must have. What is there already is verified by the digest that it had when it came,
    and not asked for again. Raises RemoteError: what, where, and why not."""

    def __init__(self, url: str, sha256: Mapping[str, str] | None = None, patience: Patience = Patience()) -> None:  # noqa: B008 -- a frozen value
        self.url, self._patience = url.rstrip("/"), patience
        self._expected, self._used, self._absent = dict(sha256 or {}), set[str](), set[str]()
        name = re.sub(r"[^\w.-]", "_", urlsplit(self.url).path.rpartition("/")[2]) or "files"
        self.folder = cache_folder() / "downloads" / hashlib.sha256(self.url.encode()).hexdigest()[:16] / name

    def __enter__(self) -> "Download":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = self.folder.with_name(".lock").open("w")
        except OSError as error:
            raise disk_error(error, self.folder) from error
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def fetch(self, name: str, sha256: str | None = None) -> Path:
        """The file, downloaded unless it is there. Raises RemoteError when the server does not have it."""
        found = self._get(name, sha256)
        if found is None:
            raise RemoteError(f"{self.url}/{name}: not found (404); is the address right?")
        return found

    def find(self, name: str) -> Path | None:
        """The file, or None when the server says that it has none."""
        if self._known().get(name, ...) is None:
            return None
        if (found := self._get(name, None)) is None:
            self._absent.add(name)
        return found

    def fetch_one_of(self, names: Sequence[str]) -> Path:
        """The first of these that the server has; one that is there already comes before it. Raises RemoteError."""
        here = [name for name in names if self._known().get(name)]
        for name in here or names:
            if found := self.find(name):
                return found
        raise RemoteError(f"{self.url}: neither {' nor '.join(names)} found (404); is the address right?")

    def finish(self) -> None:
        """All that is needed is there: what the server does not have need not be asked for again.

        Raises RemoteError for a digest of a file that was not read: it would seem to have been checked."""
        for name in sorted(self._absent):
            self._remember(name, None)
        if unused := sorted(self._expected.keys() - self._used):
            raise RemoteError(
                f"{self.url}: model.sha256: {unused[0]} is not read; those are: {', '.join(sorted(self._used))}"
            )

    def _get(self, name: str, sha256: str | None) -> Path | None:
        expected = self._expected.get(name, sha256)
        path, known = self.folder / name, self._known()
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise RemoteError(
                f"{self.url}: names the file {name}, which lies outside of its folder; nothing is fetched"
            )
        if known.get(name) and path.is_file():
            self._compare(path, name, known[name]["sha256"], "it was altered in the cache")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._download(name, path):
                return None
            digest = known_sha256(path)
            if expected and digest != expected.lower():
                path.unlink()
                self._refuse(name, digest, expected, "the download is deleted")
            self._remember(name, {"sha256": digest, "bytes": path.stat().st_size})
        if expected:
            self._compare(path, name, expected.lower(), "it is another file")
        self._used.add(name)
        return path

    def _compare(self, path: Path, name: str, expected: str, why: str) -> None:
        if (digest := known_sha256(path)) != expected:
            self._refuse(name, digest, expected, f"{why}; delete {path.parent} to download it again")

    def _refuse(self, name: str, digest: str, expected: str, what: str) -> NoReturn:
        raise RemoteError(f"{self.url}/{name}: sha256 {digest[:12]}... found, {expected[:12]}... expected; {what}")

    def _known(self) -> dict[str, Any]:
        path = self.folder / MANIFEST
        return dict(json.loads(path.read_text())["files"]) if path.is_file() else {}

    def _remember(self, name: str, facts: Mapping[str, Any] | None) -> None:
        write_json(self.folder / MANIFEST, {"url": self.url, "files": {**self._known(), name: facts}})

    def _download(self, name: str, path: Path) -> bool:
        """Bring a file under its name, in as many attempts as it takes; False when the server has none."""
        part, url, failures = path.with_name(f"{path.name}.part"), f"{self.url}/{name}", 0
        while True:
            before = part.stat().st_size if part.is_file() else 0
            try:
                if not _attempt(url, part):
                    return False
                part.rename(path)
                part.with_name(f"{part.name}.json").unlink(missing_ok=True)
                return True
            except urllib.error.HTTPError as error:
                if error.code not in _PASSING:
                    raise RemoteError(f"{url}: the server refuses: {error.code} {error.reason}") from None
                why = f"{error.code} {error.reason}"
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
                reason = getattr(error, "reason", error)
                why = f"{getattr(reason, 'strerror', None) or reason}"
            except OSError as error:
                raise disk_error(error, part) from error
            has_grown = part.is_file() and part.stat().st_size > before
            failures = 1 if has_grown else failures + 1
            if failures >= self._patience.attempts:
                raise RemoteError(
                    f"{url}: not reached in {failures} attempts ({why}); offline? The same command goes on from there"
                )
            self._patience.wait(failures)


def _attempt(url: str, part: Path) -> bool:
    """Fetch a file, or the rest of it; returns whether the server has it. Raises what urllib raises when it breaks off."""
    facts_path = part.with_name(f"{part.name}.json")
    tag: str | None = json.loads(facts_path.read_text())["tag"] if facts_path.is_file() and part.is_file() else None
    kept = part.stat().st_size if tag else 0  # without a tag nothing says that the rest belongs to this beginning
    headers = {"Accept-Encoding": "identity", "User-Agent": "paribus"}
    if tag and kept:
        headers |= {"Range": f"bytes={kept}-", "If-Range": tag}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code in _GONE:
            return False
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{kept}":
            return True  # all of it had come
        part.unlink()
        raise ConnectionError("the file on the server became shorter") from error
    with answer:
        resumed = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {kept}-")
        if answer.status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise ConnectionError("another range was sent than was asked for")
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (kept if resumed else 0)
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag is not None and tag.startswith("W/"):
            tag = None  # a weak tag does not promise the same bytes
        write_json(facts_path, {"url": url, "tag": tag})
        _receive(answer, part, kept if resumed else 0, total)
    return True


def _receive(answer: Any, part: Path, kept: int, total: int | None) -> None:
    """Append what comes to the part. Raises ConnectionError when less comes than was announced."""
    name = part.name.removesuffix(".part")
    with part.open("ab") as file, bar(f"downloading {name}", total or 0, sys.stderr.isatty()) as advance:
        file.truncate(kept)
        advance(kept)
        while chunk := answer.read(CHUNK):
            file.write(chunk)
            advance(len(chunk))
        file.flush()
        os.fsync(file.fileno())
        if total is not None and file.tell() != total:
            raise ConnectionError(f"broke off after {file.tell():,} of {total:,} bytes")
