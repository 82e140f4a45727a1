"""What every controller is: it looks at the model on all ranks, and decides on the first."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from paribus.errors import RunFailed
from paribus.insertions.segments import Decision
from paribus.models.view import whole_state

if TYPE_CHECKING:
    from torch import Tensor


class Now(NamedTuple):
    """When a controller is asked, and in which state it is."""

    step: int
    num_steps: int
    state: Mapping[str, Any]


class Controller(NamedTuple):
    """Two halves, since a look at the model may need every rank, and a decision must be made once."""

    look: Callable[[nn.Module], Any]  # every rank calls it; the model is left as it was
    decide: Callable[[Any, Now], Decision]  # rank 0; raises RunFailed, in one line, for what cannot be used


class Weights(NamedTuple):
    """A model, and its whole state dict on the CPU."""

    model: PreTrainedModel
    tensors: "dict[str, Tensor]"


def gathered(model: nn.Module) -> Weights:
    """The look of a controller that wants the model itself."""
    assert isinstance(model, PreTrainedModel)
    return Weights(model, whole_state(model))


def checked(state: Any, texts: Any, who: str) -> Decision:
    """What a controller returned, when it can be used. Raises RunFailed, with what came back and what is expected."""
    if not isinstance(state, Mapping):
        raise RunFailed(f"{who}: its state is {_a(state)}, expected a mapping")
    if wrong := [key for key in state if not isinstance(key, str) or key == "num_prompts"]:
        raise RunFailed(f"{who}: its state has the key {wrong[0]!r}, expected text other than num_prompts")
    try:
        plain = json.loads(json.dumps(dict(state), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise RunFailed(f"{who}: its state cannot be written as JSON ({error}), expected JSON") from None
    if plain != dict(state):
        raise RunFailed(f"{who}: its state changes when it is written as JSON and read again: {_short(state)}")
    if not isinstance(texts, list | tuple):
        raise RunFailed(f"{who}: its texts are {_a(texts)}, expected a list of texts")
    if big := [key for key, value in plain.items() if isinstance(value, int) and abs(value) > 2**1000]:
        raise RunFailed(
            f"{who}: its state's {big[0]} is a whole number of more than 300 digits, expected a smaller one"
        )
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise RunFailed(f"{who}: text {number} is {_a(text)}, expected text")
        if any("\ud800" <= letter <= "\udfff" for letter in text):  # half of a surrogate pair
            raise RunFailed(f"{who}: text {number} cannot be written as UTF-8")
    return Decision(plain, list(texts))


def _a(value: Any) -> str:
    return f"{type(value).__name__} {_short(value)}"


def _short(value: Any) -> str:
    return repr(value)[:60]
