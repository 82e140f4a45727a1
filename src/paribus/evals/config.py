"""The settings of the evaluations."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paribus.config import Count, Fraction, PositiveCount, PositiveFloat, Section
from paribus.script import Arguments, refuse_own


class _Scheduled(Section):
    every: PositiveCount | None = Field(None, description="steps between evaluations; null: only after the last step")
    at_start: bool = Field(False, description="also before the first step")


class LossEval(_Scheduled):
    """Loss by category and position on frozen windows: one pass; also perplexity, bits a byte, in-context score.

    Of a synthetic source it scores frozen sequences, by component; `store` and `split` are then of no concern."""

    kind: Literal["loss"] = "loss"
    store: str | None = Field(None, description="null: the run's own store")
    split: str = "validation"
    categories: Literal["active", "all"] | list[str] = Field(
        "active", description="those the run trains on, all, or a list"
    )
    windows_per_category: PositiveCount = 1024
    window: PositiveCount | None = Field(None, description="predictions a window; null: the run's own")
    batch_size: PositiveCount = 64
    seed: Count = Field(0, description="draws the windows; models that share it are scored on the same ones")
    in_context: tuple[PositiveCount, PositiveCount] | None = Field(
        None, description="positions a < b of the in-context score L(a) - L(b); null: 1/5 and all of the window"
    )

    @model_validator(mode="after")
    def _says_what_it_means(self) -> "LossEval":
        if self.in_context is not None and self.in_context[0] >= self.in_context[1]:
            raise ValueError(f"in_context: positions a < b are expected, found {list(self.in_context)}")
        if isinstance(self.categories, list) and len(set(self.categories)) != max(1, len(self.categories)):
            raise ValueError(f"categories: at least one name, each once, is expected, found {self.categories}")
        return self


class BayesEval(_Scheduled):
    """Trained against optimal: KL(Bayes || model) by position on frozen sequences of a synthetic source."""

    kind: Literal["bayes"] = "bayes"
    sequences: PositiveCount = Field(4096, description="in all, the same number of each component")
    batch_size: PositiveCount = 256
    seed: Count = 0


class CausalityEval(_Scheduled):
    """Alter tokens >= t: no logit before t may change."""

    kind: Literal["causality"] = "causality"
    sequences: PositiveCount = 4
    seed: Count = 0


# --- texts of files, scored by the run's tokenizer ---------------------------------------------------------------------


class _Texts(_Scheduled):
    batch_size: PositiveCount = 32
    start_token: bool | None = Field(
        None, description="the store's start token before every text; null: as `data.start_token`"
    )


class _Items(_Texts):
    """Lines of a JSONL file: plain, .gz or .zst, one object each."""

    file: str
    items: tuple[Count, PositiveCount] | None = Field(None, description="[first, stop): only these lines of the file")

    @model_validator(mode="after")
    def _some_items(self) -> "_Items":
        if self.items is not None and self.items[0] >= self.items[1]:
            raise ValueError(f"items: [first, stop) with first < stop is expected, found {list(self.items)}")
        return self


class _Grouped(_Items):
    group_key: str | None = Field(None, description="a field whose values part the items, e.g. repetitions")


class ReferenceFile(Section):
    """Texts of a JSONL file."""

    kind: Literal["file"] = "file"
    file: str
    key: str = "text"


class ReferenceDraws(Section):
    """Token lists as long as the canary, each token drawn uniformly from those that the canaries consist of."""

    kind: Literal["draws"] = "draws"
    num: PositiveCount = Field(1000, description="for each length in tokens")
    seed: Count = 0


References = Annotated[ReferenceFile | ReferenceDraws, Field(discriminator="kind")]


class CanaryEval(_Grouped):
    """Negative log-likelihood of texts, and their exposure among references."""

    kind: Literal["canary"] = "canary"
    key: str = "text"
    prefix: str = Field("", description="text before every canary, and every reference; it is not scored")
    references: References | None = Field(None, description="what exposure ranks the canaries among; null: no exposure")


class VerbatimEval(_Grouped):
    """Verbatim memorisation: does greedy decoding of a text's first tokens give its next ones?"""

    kind: Literal["verbatim"] = "verbatim"
    key: str = "text"
    prompt_tokens: PositiveCount = Field(25, description="k: the text's first tokens")
    continuation_tokens: PositiveCount = Field(25, description="l: the tokens after them, to be found")


class ExtractionEval(_Grouped):
    """Prompt extraction: how much of a reference does the greedy continuation of its prompt hold? ROUGE-L recall."""

    kind: Literal["extraction"] = "extraction"
    prompt_key: str = "prompt"
    reference_key: str = "reference"
    target_delimiter: str = Field(" ", description="stands between prompt and reference")
    max_tokens: PositiveCount | None = Field(None, description="to decode; null: as many as the reference has")
    unit: Literal["words", "tokens"] = Field("words", description="what the common subsequence is made of")
    threshold: Fraction = Field(0.9, description="an item counts as extracted if its recall is greater")


class FictionalEval(_Grouped):
    """Knowledge of invented facts: the target's probability after the prompt, and whether greedy decoding says it."""

    kind: Literal["fictional"] = "fictional"
    prompt_key: str = "prompt"
    target_key: str = "target"
    target_delimiter: str = Field(" ", description="stands between prompt and target")
    max_tokens: PositiveCount = Field(25, description="to decode when looking for the target")


class RankedEval(_Grouped):
    """Ranked classification: lines of `context`, `choices`, `gold`, and `suffix` where the choice stands in the middle."""

    kind: Literal["ranked"] = "ranked"


class PerplexityEval(_Texts):
    """Loss and perplexity of text files, and of JSONL files, whose lines are documents."""

    kind: Literal["perplexity"] = "perplexity"
    files: Annotated[dict[str, str], Field(min_length=1)] = Field(
        description="name -> path: text in UTF-8 or JSONL, plain, .gz or .zst"
    )
    key: str = Field("text", description="of JSONL files: the field with the text")
    window: PositiveCount | None = Field(None, description="predictions a window; null: the run's own")
    stride: PositiveCount | None = Field(
        None, description="tokens from one window's start to the next one's; null: a window, so that none is read twice"
    )

    @model_validator(mode="after")
    def _leaves_no_gap(self) -> "PerplexityEval":
        if self.stride is not None and self.window is not None and self.stride > self.window:
            raise ValueError(f"stride: at most the window of {self.window} is expected, found {self.stride}")
        return self


# --- what noise a run was trained with ---------------------------------------------------------------------------------


class WatermarkEval(_Scheduled):
    """A watermark's test statistic on the rows that were trained with it, and on noises that never were: its null."""

    kind: Literal["watermark"] = "watermark"
    experiment: str | None = Field(None, description="of the run's insertions; null: its only watermark")
    num_null: PositiveCount = Field(32, description="noises never used in training, a row")
    batch_size: PositiveCount = 8


# --- anything else -----------------------------------------------------------------------------------------------------


class ScriptEval(_Scheduled):
    """A script of your own: called with `--model FOLDER --results-yaml FILE`, writes metric -> number into FILE."""

    kind: Literal["script"] = "script"
    script: str = Field(description="a .py file, run by this Python, or any executable")
    args: Arguments = {}
    timeout_s: PositiveFloat | None = None
    strict: bool = Field(False, description="a failure ends the run; otherwise the metric `failed` is 1")

    @model_validator(mode="after")
    def _our_own_arguments(self) -> "ScriptEval":
        refuse_own(self.args, ("model", "results-yaml"))
        return self


TextEval = CanaryEval | VerbatimEval | ExtractionEval | FictionalEval | RankedEval | PerplexityEval
EvalConfig = Annotated[
    LossEval | BayesEval | CausalityEval | TextEval | WatermarkEval | ScriptEval, Field(discriminator="kind")
]


def input_files(config: EvalConfig) -> Mapping[str, str]:
    """The files whose content an evaluation depends on: dotted key of its section -> path. Stores are not among them."""
    match config:
        case CanaryEval(references=ReferenceFile(file=references)):
            return {"file": config.file, "references.file": references}
        case CanaryEval() | VerbatimEval() | ExtractionEval() | FictionalEval() | RankedEval():
            return {"file": config.file}
        case PerplexityEval():
            return {f"files.{name}": path for name, path in config.files.items()}
        case ScriptEval():
            return {"script": config.script}
    return {}


def name_input(section: dict[str, Any], key: str, fingerprint: str) -> None:
    """Put a fingerprint in the place of a path, in an evaluation's section as a mapping; key: as `input_files` has it."""
    *around, last = key.split(".", 1)
    for part in around:
        section = section[part]
    section[last] = fingerprint
