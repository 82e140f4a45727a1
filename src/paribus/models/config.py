"""The settings of a model: any transformers causal LM, from a preset, an architecture, or a folder or hub id."""

from typing import Annotated, Any, Literal

from pydantic import Field

from paribus.config import Count, PositiveCount, PositiveFloat, Section


class Preset(Section):
    """A named architecture with random weights."""

    kind: Literal["preset"] = "preset"
    name: Literal["pythia-14m", "pythia-70m", "pythia-160m", "decoder-13m", "tiny-neox", "tiny-llama", "micro-neox"]
    vocab_multiple: PositiveCount = Field(128, description="the embedding is padded to a multiple of this")


class Architecture(Section):
    """Any transformers architecture, by its `model_type` and the keys of its config, with random weights."""

    kind: Literal["architecture"] = "architecture"
    model_type: str = Field(description="e.g. gpt_neox, gpt2, olmo2, llama")
    config: dict[str, Any] = Field(
        {}, description="keys of that architecture's own config; vocab_size comes from the data"
    )
    vocab_multiple: PositiveCount = 128


class Pretrained(Section):
    """The weights of another run, folder, URL or hub id; `init: scratch` takes only its config."""

    kind: Literal["pretrained"] = "pretrained"
    path: str = Field(
        description="a run directory, a Hugging Face folder, an OLMo folder `step1000-unsharded`, the URL of such a "
        "folder, or a hub id"
    )
    step: Count | None = Field(
        None, description="which checkpoint of a run directory; elsewhere the folder `step<N>-unsharded` below the path"
    )
    revision: str | None = Field(None, description="of a hub id: a branch, a tag or a commit")
    sha256: dict[str, str] = Field({}, description="file: digest; what a URL's files must be")
    init: Literal["weights", "scratch"] = "weights"


ModelConfig = Annotated[Preset | Architecture | Pretrained, Field(discriminator="kind")]


class Mlp(Section):
    """A bias-free MLP whose output is centred: f(x) = h(x; theta) - h(x; theta_0), so that it is exactly 0 at step 0."""

    kind: Literal["mlp"] = "mlp"
    width: PositiveCount = Field(128, description="N, of every hidden layer")
    depth: PositiveCount = Field(3, description="L, weight matrices; 1: a linear model")
    gamma: PositiveFloat = Field(1.0, description="richness: the output is divided by it; small is lazy, large is rich")
    parameterization: Literal["sp", "ntk", "mup"] = "mup"
    activation: Literal["relu", "linear"] = "relu"
