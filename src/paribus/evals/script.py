"""Any script as an evaluation: `SCRIPT --model FOLDER --results-yaml FILE ARGS`, which writes metric -> number."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml
from torch import nn
from transformers import PreTrainedModel

from paribus.data.stream import tokenizer_of
from paribus.errors import ConfigError, RunFailed
from paribus.evals.config import Argument, ScriptEval, input_files
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import frame
from paribus.models.view import hf_view, whole_state
from paribus.yaml12 import typed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")
# What torchrun tells its workers: a script that saw it would wait for ranks that never come.
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


class Command(NamedTuple):
    """What is called, without the model and the results."""

    words: list[str]
    tokenizer: "Tokenizer | None"  # of the run's data; None: they name none
    start_token_id: int | None


def command(config: ScriptEval, context: EvalContext) -> Command:
    """Raises ConfigError when the script is missing or cannot be executed."""
    return Command(executable(config.script), *tokenizer_of(context.data))


def executable(script: str) -> list[str]:
    """What runs a script. Raises ConfigError when it is missing or cannot be executed."""
    path = Path(script)
    if not path.is_file():
        raise ConfigError(f"script: {path}: no such file")
    if path.suffix != ".py" and not os.access(path, os.X_OK):
        raise ConfigError(f"script: {path}: neither a .py file nor executable; `chmod +x` it")
    return [sys.executable, str(path)] if path.suffix == ".py" else [str(path.absolute())]


def script(config: ScriptEval, model: nn.Module, called: Command, context: EvalContext) -> EvalResult:
    """Run the script on rank 0 on a temporary folder with the weights as they are; every rank gets its results.

    A script that fails, or leaves no flat mapping of finite numbers, gives the metric `failed` = 1 and a warning on
    stderr; with `strict` it raises RunFailed."""
    assert isinstance(model, PreTrainedModel)
    tensors = whole_state(model)
    results: dict[str, float] | str = ""
    if context.rank == 0:
        try:
            with hf_view(model, tensors, called.tokenizer, called.start_token_id) as folder:
                results = run(config, called, folder)
        except OSError as error:  # other ranks wait for an answer, whatever it is
            results = f"{config.script}: no room for the model's folder: {error.strerror or error}"
    results = from_rank_0(results, context)
    failure = results if isinstance(results, str) else None
    if failure is not None and config.strict:
        raise RunFailed(failure)
    if failure is not None and context.rank == 0:
        print(f"paribus: warning: {failure}", file=sys.stderr)
    summary = {"failed": 1.0} if isinstance(results, str) else {**results, "failed": 0.0}
    return EvalResult(frame(config, "script", summary, "fp32", input_files(config)) | {"failure": failure})


def run(config: ScriptEval, called: Command, folder: Path) -> dict[str, float] | str:
    """Call the script once: its metrics, or one line that says what went wrong."""
    with tempfile.TemporaryDirectory(prefix="paribus-results-") as place:
        file = Path(place) / "results.yaml"
        line = [*called.words, "--model", str(folder), "--results-yaml", str(file), *arguments(config.args)]
        try:
            last_words = execute(config.script, line, config.timeout_s)
        except RunFailed as error:
            return str(error)
        try:
            return numbers(file)
        except ValueError as error:
            return f"{config.script}: exit code 0, but {error}; {last_words}"


def execute(script: str, line: list[str], timeout_s: float | None) -> str:
    """Run a script to its end, as a program of its own that knows of no ranks; what stood last on its stderr, in words.

    Raises RunFailed, in one line, when it exits with another code than 0, is not done in time, or cannot be run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_OF_RANKS)}
    try:
        ended = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{script}: not done after {timeout_s:g} s; {_last_line(error.stderr)}") from None
    except OSError as error:
        raise RunFailed(f"{script}: cannot be run: {error.strerror or error}") from None
    if ended.returncode:
        raise RunFailed(f"{script}: exit code {ended.returncode}; {_last_line(ended.stderr)}")
    return _last_line(ended.stderr)


def arguments(args: Mapping[str, Argument | list[Argument]]) -> list[str]:
    """The mapping of arguments as words of a command line."""
    line: list[str] = []
    for name, value in args.items():
        if value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        line += [f"--{name}", *map(str, values)]
    return line


def numbers(file: Path) -> dict[str, float]:
    """Read a flat YAML mapping of metric -> finite number. Raises ValueError, in a few words, for anything else."""
    if not file.is_file():
        raise ValueError("it wrote no results")
    try:
        found: Any = yaml.safe_load(file.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"its results are no YAML that can be read ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"its results are {'empty' if not found else f'a {type(found).__name__}'}, no mapping")
    return {_name(key): _number(key, value) for key, value in found.items()}


def _name(key: Any) -> str:
    if not isinstance(key, str) or not key or key == "failed":
        raise ValueError(f"{key!r} is no name for a metric")
    return key


def _number(key: str, value: Any) -> float:
    found = typed(value) if isinstance(value, str) else value  # YAML 1.1 takes 1e-5 for text
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"its metric {key}: found {str(value)[:40]!r}, expected a number")
    if (isinstance(found, int) and abs(found) > 2**1000) or not math.isfinite(found):
        raise ValueError(f"its metric {key}: found {str(value)[:40]}, expected a finite number")
    return float(found)


def _last_line(stderr: bytes | str | None) -> str:
    text = stderr.decode(errors="replace") if isinstance(stderr, bytes) else stderr or ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"stderr ends: {lines[-1][:300]}" if lines else "nothing on stderr"


def from_rank_0(found: T, context: EvalContext) -> T:
    """What rank 0 found, on every rank."""
    if context.world == 1:
        return found
    import torch
    import torch.distributed as dist

    shared = [found]
    dist.broadcast_object_list(shared, 0, device=torch.device(context.device))
    return shared[0]
