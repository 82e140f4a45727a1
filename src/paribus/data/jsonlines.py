"""JSON lines, plain or compressed with gzip or Zstandard, each with its line number."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paribus.errors import DataError

BLOCK = 2**18  # bytes read at once
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def json_lines(path: Path, advance: Callable[[int], None] = lambda _: None) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every line that is not blank; `advance` is told how many bytes of the file were read.

    Raises DataError, with the line, when the file is missing, truncated, or not what its name says."""
    number = 0
    try:
        for line in _lines(_blocks(path, advance)):
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")  # the byte order mark that some editors write
            if line.strip():
                yield number, _whole(json.loads(line.decode()), line)
    except UnicodeEncodeError as error:
        found = ascii(error.object[error.start])
        raise DataError(f"{path}:{number}: found {found}, half a surrogate pair, expected Unicode text") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8: byte 0x{error.object[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path}:{number}: not JSON that can be read: {error}") from None
    except RecursionError:
        raise DataError(f"{path}:{number}: not JSON that can be read: nested too deeply") from None
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        compression = COMPRESSIONS.get(path.suffix)
        if error.errno is None and compression:
            raise DataError(f"{path}:{number + 1}: broken {compression}: {error}; fetch the file again") from None
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _whole(value: Any, line: bytes) -> Any:
    """The value. Raises UnicodeEncodeError where an escape of its line left half a surrogate pair."""
    if b"\\u" in line:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    parts: list[bytes] = []  # of a line that spans blocks
    for block in blocks:
        first, *lines = block.split(b"\n")
        parts.append(first)
        if lines:
            yield b"".join(parts)
            parts = [lines.pop()]
            yield from lines
    if last := b"".join(parts):
        yield last


def _blocks(path: Path, advance: Callable[[int], None]) -> Iterator[bytes]:
    import pyarrow

    with pyarrow.OSFile(str(path)) as file:
        compression = COMPRESSIONS.get(path.suffix)
        stream = pyarrow.CompressedInputStream(file, compression) if compression else file
        position = 0
        while block := stream.read(BLOCK):
            yield block
            advance(file.tell() - position)
            position = file.tell()
