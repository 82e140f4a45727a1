"""A Python function as a controller: it gets a `Moment` and returns (state, texts)."""

import copy
import importlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import PreTrainedModel

from paribus.control.controller import Controller, Now, Weights, checked, gathered
from paribus.errors import ConfigError, RunFailed
from paribus.evals.scoring import EvalContext
from paribus.insertions.dynamic import PythonController
from paribus.insertions.payloads import Alphabet
from paribus.insertions.segments import Decision
from paribus.models.view import hf_view
from paribus.train.weights import load_weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Moment(NamedTuple):
    """What a function sees: copies, with which it may do what it likes. The run goes on as if it had not been called."""

    model: PreTrainedModel  # in evaluation mode, fp32, on the run's device
    tokenizer: "Tokenizer"  # of the run's store
    step: int
    num_steps: int
    state: dict[str, Any]
    args: Mapping[str, Any]
    seed: int  # seeds.insertions: for draws that should depend on it


def python_controller(config: PythonController, alphabet: Alphabet, context: EvalContext) -> Controller:
    """Raises ConfigError when there is no such function."""
    function = _imported(config.call)

    def decide(seen: Weights, now: Now) -> Decision:
        moment = _moment(config, context, alphabet, seen, now)
        try:
            returned = function(moment)
        except Exception as error:
            raise RunFailed(
                f"{config.call}: {type(error).__name__}: {_one_line(error)} ({_last_place(error)})"
            ) from error
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise RunFailed(
                f"{config.call}: it returned {type(returned).__name__} {repr(returned)[:60]}, expected (state, texts)"
            )
        return checked(*returned, config.call)

    return Controller(gathered, decide)


def _moment(config: PythonController, context: EvalContext, alphabet: Alphabet, seen: Weights, now: Now) -> Moment:
    with hf_view(seen.model, seen.tensors, None, None) as folder:  # of a sharded model no copy could be made otherwise
        model = load_weights(folder).to(context.device).eval()
    assert alphabet.tokenizer is not None
    state, args = copy.deepcopy(dict(now.state)), MappingProxyType(copy.deepcopy(config.args))
    return Moment(model, alphabet.tokenizer, now.step, now.num_steps, state, args, context.seeds.insertions)


def _imported(call: str) -> Callable[[Moment], Any]:
    module, _, name = call.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"call: {call}: no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        ) from None
    except AttributeError:
        raise ConfigError(f"call: {call}: the module {module} has no {name!r}") from None
    if not callable(found):
        raise ConfigError(f"call: {call}: found {type(found).__name__}, expected a function")
    function: Callable[[Moment], Any] = found
    return function


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _last_place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"
