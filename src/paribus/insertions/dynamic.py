"""The settings of dynamic control: who decides, every so many steps, which texts the next steps get."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paribus.config import Fraction, PositiveCount, PositiveFloat, Section
from paribus.script import Arguments, refuse_own

OWN_FLAGS = ("model", "current-step", "total-steps", "in-state-file", "out-state-file", "prompts-file")
FEWEST, MOST = 1, 8192  # texts a segment (Bordt and Pawelczyk 2025, arXiv 2509.23383)


class ScriptController(Section):
    """A script of your own: reads the model and a state, writes the next state and the texts."""

    kind: Literal["script"] = "script"
    script: str = Field(description="a .py file, run by this Python, or any executable")
    args: Arguments = {}
    timeout_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _our_own_arguments(self) -> "ScriptController":
        refuse_own(self.args, OWN_FLAGS)
        return self


class PythonController(Section):
    """A function of your own: gets a `Moment`, returns (state, texts)."""

    kind: Literal["python"] = "python"
    call: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")] = Field(
        description="package.module:function, importable by this Python"
    )
    args: dict[str, Any] = {}


class ProportionalController(Section):
    """Steer a probability along a line: p = target * step / steps, by doubling and halving the number of texts."""

    kind: Literal["proportional"] = "proportional"
    probe: str = Field(description="JSONL of prompts with targets: the mean probability of the targets is steered")
    prompt_key: str = "prompt"
    target_key: str = "target"
    target_delimiter: str = Field(" ", description="stands between prompt and target")
    start_token: bool | None = Field(
        None, description="the store's start token before every prompt; null: as `data.start_token`"
    )
    batch_size: PositiveCount = 32
    texts: str = Field(description="JSONL of the texts that are inserted")
    key: str = "text"
    target: Annotated[Fraction, Field(gt=0)] = Field(description="the probability at the end of the run")


Controller = Annotated[ScriptController | PythonController | ProportionalController, Field(discriminator="kind")]


class Dynamic(Section):
    """Dynamic control: every n steps a controller sees the model and decides which texts the next n steps get.

    Each text is written once, anywhere in these steps."""

    kind: Literal["dynamic"] = "dynamic"
    every: PositiveCount = Field(description="n: steps of a segment")
    controller: Controller
    initial_state: dict[str, Any] = Field({}, description="what the controller is given at step 0")
    add_eos: bool = Field(True, description="wrap texts in end-of-text tokens")

    @property
    def where(self) -> None:
        """Anywhere in its segment: no places can be drawn before its texts are known."""

    @model_validator(mode="after")
    def _states_have_a_form(self) -> "Dynamic":
        state = self.initial_state
        if "num_prompts" in state:
            raise ValueError("initial_state.num_prompts: the name of a metric of every controller; choose another")
        if isinstance(self.controller, ProportionalController) and not _is_a_number_of_texts(state):
            raise ValueError(f"initial_state: {{n: {FEWEST} to {MOST}}}, texts at first, is expected, found {state}")
        return self


def _is_a_number_of_texts(state: Mapping[str, Any]) -> bool:
    return state.keys() == {"n"} and type(state["n"]) is int and FEWEST <= state["n"] <= MOST


def controller_files(controller: Controller) -> Mapping[str, str]:
    """The files whose content a controller depends on: key of its section -> path."""
    match controller:
        case ScriptController(script=script):
            return {"script": script}
        case ProportionalController(probe=probe, texts=texts):
            return {"probe": probe, "texts": texts}
    return {}
