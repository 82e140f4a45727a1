"""Any script as an evaluation: `SCRIPT --model FOLDER --results-yaml FILE ARGS`, which writes metric -> number."""

import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml
from torch import nn
from transformers import PreTrainedModel

from paribus.data.stream import tokenizer_of
from paribus.errors import RunFailed
from paribus.evals.config import ScriptEval, input_files
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import frame
from paribus.models.view import hf_view, whole_state
from paribus.script import arguments, executable, execute
from paribus.yaml12 import typed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")


class Command(NamedTuple):
    """What is called, without the model and the results."""

    words: list[str]
    tokenizer: "Tokenizer | None"  # of the run's data; None: they name none
    start_token_id: int | None


def command(config: ScriptEval, context: EvalContext) -> Command:
    """Raises ConfigError when the script is missing or cannot be executed."""
    return Command(executable(config.script), *tokenizer_of(context.data))


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


def from_rank_0(found: T, context: EvalContext) -> T:
    """What rank 0 found, on every rank."""
    if context.world == 1:
        return found
    import torch
    import torch.distributed as dist

    shared = [found]
    dist.broadcast_object_list(shared, 0, device=torch.device(context.device))
    return shared[0]
