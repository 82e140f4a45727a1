"""A script of the user's: the arguments that a config gives it, and how it is called."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from paribus.errors import ConfigError, RunFailed

Argument = str | int | float | bool
Arguments = Annotated[
    dict[str, Argument | list[Argument]],
    Field(description="name -> value, as --name value; a list as --name a b; true as --name; false is left out"),
]
# What torchrun tells its workers: a script that saw it would wait for ranks that never come.
OF_RANKS = re.compile(r"RANK|WORLD_SIZE|(LOCAL|GROUP|ROLE|MASTER|TORCHELASTIC|TORCH_ELASTIC)_.*")


def refuse_own(args: Mapping[str, object], own: Iterable[str]) -> None:
    """Raise ValueError for arguments that paribus itself gives."""
    if taken := set(own) & set(args):
        raise ValueError(f"args: {', '.join(sorted(taken))}: given by paribus; remove it")


def executable(script: str) -> list[str]:
    """What runs a script. Raises ConfigError when it is missing or cannot be executed."""
    path = Path(script)
    if not path.is_file():
        raise ConfigError(f"script: {path}: no such file")
    if path.suffix != ".py" and not os.access(path, os.X_OK):
        raise ConfigError(f"script: {path}: neither a .py file nor executable; `chmod +x` it")
    return [sys.executable, str(path)] if path.suffix == ".py" else [str(path.absolute())]


def arguments(args: Mapping[str, Argument | list[Argument]]) -> list[str]:
    """The mapping of arguments as words of a command line."""
    line: list[str] = []
    for name, value in args.items():
        if value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        line += [f"--{name}", *map(str, values)]
    return line


def execute(script: str, line: list[str], timeout_s: float | None) -> str:
    """Run a script to its end, as a program of its own that knows of no ranks; what stood last on its stderr, in words.

    Raises RunFailed, in one line, when it exits with another code than 0, is not done in time, or cannot be run."""
    environment = {key: value for key, value in os.environ.items() if not OF_RANKS.fullmatch(key)}
    try:
        ended = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{script}: not done after {timeout_s:g} s; {_last_line(error.stderr)}") from None
    except OSError as error:
        raise RunFailed(f"{script}: cannot be run: {error.strerror or error}") from None
    if ended.returncode:
        raise RunFailed(f"{script}: exit code {ended.returncode}; {_last_line(ended.stderr)}")
    return _last_line(ended.stderr)


def _last_line(stderr: bytes | str | None) -> str:
    text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"stderr ends: {lines[-1][:300]}" if lines else "nothing on stderr"
