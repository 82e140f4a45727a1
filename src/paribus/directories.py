"""Run directories below some paths: where they are, and why one of them cannot be read."""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import polars as pl
import yaml

from paribus import config as configs
from paribus.errors import ParibusError, RunError
from paribus.grid.programs import IDS, ids_of, is_program, peek
from paribus.rundir import RunDir
from paribus.tree import plain

UNREADABLE: Final = "unreadable"  # the state of a directory whose files do not tell what it holds
_RUN_NAME = re.compile(r".+-[0-9a-f]{8}")
_READ = ("config.yaml", "STATUS.json", "provenance.json", IDS)


def below(path: Path, *, waiting: bool = False) -> Iterator[Path]:
    """Every run directory at or below the path, k2 before k11; `waiting`: those too that have not begun.

    One that has lost its config.yaml is one all the same: `trouble` says so."""
    for folder, names, files in os.walk(path):
        has_begun = "metrics.jsonl" in files or "STATUS.json" in files
        is_waiting = waiting and _RUN_NAME.fullmatch(Path(folder).resolve().name)
        is_lost = "config.yaml" not in files and ("STATUS.json" in files or IDS in files)
        if is_lost or ("config.yaml" in files and (has_begun or is_waiting)):
            yield Path(folder)
            names.clear()
        names[:] = sorted((name for name in names if not name.startswith(".")), key=_natural)


def trouble(path: Path) -> str:
    """Why the files of a run directory do not tell what it holds, and what to do, in one line; empty where they do.

    Of a program of the grid engine its tables count too. Looked at again only where a file changed."""
    files = [*(path / name for name in _READ), *sorted((path / "results").glob("*.parquet"))]
    return _trouble(path, tuple(state for file in files if (state := _state(file))))


def tell_unreadable(*paths: Path) -> None:
    """A line on stderr for each run directory at or below the paths that cannot be read: none is left out in silence."""
    for path in dict.fromkeys(found for folder in paths for found in below(folder)):
        if why := trouble(path):
            print(f"paribus: {path}: {UNREADABLE}: {why}", file=sys.stderr)


def common_folder(paths: Iterable[Path | str]) -> str:
    """The folder in which all of these run directories lie."""
    parents = [Path(path).parent for path in paths]
    if len({parent.is_absolute() for parent in parents}) > 1:
        parents = [parent.absolute() for parent in parents]
    return os.path.commonpath(parents) or "."


def read_config(run: RunDir) -> dict[str, Any]:
    """The resolved config. What `config.dump` wrote is plain YAML, which libyaml reads ten times faster than our loader."""
    text = run.config_path.read_text()
    if "${" in text:
        return dict(plain(configs.resolve(run.config_path)))
    return dict(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


_State = tuple[Path, int, int]  # a file, its size and the time of its last change in ns


def _state(file: Path) -> _State | None:
    """None for a file that is not there: a program that is resumed removes some."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return file, found.st_size, found.st_mtime_ns


@lru_cache(maxsize=2**16)
def _trouble(path: Path, files: tuple[_State, ...]) -> str:
    """`trouble`, for files of this size and time of change."""
    try:
        _check(path, [file for file, _, _ in files])
    except FileNotFoundError:  # a program that is resumed has just removed it
        return ""
    except (ParibusError, OSError) as error:
        why = str(error).splitlines()[0].removeprefix(f"{path}/")
        return f"{why}; bring it back as it was, or remove the directory and train again"
    return ""


def _check(path: Path, files: list[Path]) -> None:
    """Raise RunError or ConfigError for the first file that is not as it was written."""
    if path / "config.yaml" not in files:
        raise RunError("config.yaml is missing")
    for file in files:
        if file.suffix == ".json":
            _check_json(file)
    try:
        kind = read_config(RunDir(path)).get("kind")
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RunError(f"config.yaml: not valid YAML ({_one_line(error)})") from error
    if is_program(path):
        _check_program(path, files)
    elif kind == "grid_program":
        raise RunError(f"{IDS} is missing")


def _check_json(file: Path) -> None:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise RunError(f"{file.name}: not valid JSON ({_one_line(error)})") from error
    expected, told = (list, "a list") if file.name == IDS else (dict, "an object")
    if not isinstance(content, expected):
        raise RunError(f"{file.name}: expected {told}")


def _check_program(path: Path, files: list[Path]) -> None:
    if len(peek(path)) != len(ids_of(path)):
        raise RunError(f"{IDS}: {len(ids_of(path)):,} identities of {len(peek(path)):,} runs")
    for file in files:
        if file.suffix == ".parquet":
            try:
                pl.read_parquet_schema(file)
            except pl.exceptions.PolarsError as error:
                raise RunError(f"results/{file.name}: not a Parquet file ({_one_line(error)})") from error
    if RunDir(path).is_done and path / "results" / "runs.parquet" not in files:
        raise RunError("results/runs.parquet is missing, though the program is done")


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem}, line {error.problem_mark.line + 1}"
    return " ".join(str(error).split())


def _natural(name: str) -> list[tuple[int, str]]:
    """k2 before k11."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
