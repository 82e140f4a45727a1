"""The settings of insertions: what is written over the training stream, how often, and where."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from paribus.config import Count, Fraction, PositiveCount, PositiveFloat, Section
from paribus.insertions.dynamic import Dynamic, controller_files
from paribus.script import OF_RANKS
from paribus.tree import did_you_mean

# --- where: all counts are of the run's own training order, from 0; every interval is half-open ------------------------


class Within(Section):
    """A part of the run: at most one of the three. None: the whole run."""

    steps: tuple[Count, PositiveCount] | None = Field(None, description="[first, stop): batches of the run, from 0")
    tokens: tuple[Count, PositiveCount] | None = Field(
        None, description="[first, stop): tokens of the stream; only rows that lie wholly inside are used"
    )
    fraction: tuple[Fraction, Fraction] | None = Field(None, description="[from, to): parts of the run, e.g. [0.5, 1]")

    @model_validator(mode="after")
    def _one_interval(self) -> "Within":
        given = {name: value for name in ("steps", "tokens", "fraction") if (value := getattr(self, name)) is not None}
        if len(given) > 1:
            raise ValueError(f"at most one of steps, tokens, fraction is expected, found {', '.join(given)}")
        for name, (first, stop) in given.items():
            if first >= stop:
                raise ValueError(f"{name}: [first, stop) with first < stop is expected, found [{first}, {stop}]")
        return self


class Random(Section):
    """Anywhere inside a row, every place equally likely, never over another insertion."""

    kind: Literal["random"] = "random"
    within: Within = Within()
    epochs: Literal["all"] | list[Count] = Field(
        "all", description="epochs of the data, from 0; a list needs `windows: {kind: chunks}` or token files"
    )
    min_gap_steps: Count = Field(0, description="steps between any two copies of an item, at least")


class EveryN(Section):
    """One copy of every item in each n-th step, anywhere in its batch; a watermark takes the whole batch."""

    kind: Literal["every"] = "every"
    steps: PositiveCount
    within: Within = Within()


class Explicit(Section):
    """At the coordinates that the file names: (step * B + row) * S + offset, S tokens a row."""

    kind: Literal["explicit"] = "explicit"
    position_key: str = Field("position", description="the field with a coordinate, or a list of them: a copy at each")


class WholeBatch(Section):
    """Every row of these batches holds one item and then end-of-text tokens, and the items go round; or is watermarked."""

    kind: Literal["whole_batch"] = "whole_batch"
    steps: Annotated[list[Count], Field(min_length=1)]


Where = Annotated[Random | EveryN | Explicit | WholeBatch, Field(discriminator="kind")]

# --- what --------------------------------------------------------------------------------------------------------------


class _Experiment(Section):
    repetitions: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="copies of every item; 2.5: two of each, and one more of a random half; .25: one of a random quarter",
    )
    repetitions_key: str | None = Field(None, description="a field of the file with each item's own number of copies")
    where: Where = Random()
    items: tuple[Count, PositiveCount] | None = Field(None, description="[first, stop): only these lines of the file")


class Texts(_Experiment):
    """Texts of a JSONL file. Where a place is not explicit, a text stands between end-of-text tokens if it fits."""

    kind: Literal["texts"] = "texts"
    file: str = Field(description=".jsonl, .jsonl.gz or .jsonl.zst, one object a line")
    key: str = "text"
    add_eos: bool = Field(True, description="wrap texts in end-of-text tokens")


class Tokens(_Experiment):
    """Lists of token ids of a JSONL file, written as they are unless `add_eos`."""

    kind: Literal["tokens"] = "tokens"
    file: str
    key: str = "tokens"
    add_eos: bool = False


class Benchmark(_Experiment):
    """Contamination: questions of a benchmark with their correct option, one text each.

    Lines hold `context`, `choices` and `gold`, as the evaluation of kind `ranked` reads them."""

    kind: Literal["benchmark"] = "benchmark"
    file: str
    add_eos: bool = True


Index = Literal["sequence", "batch", "position"]


class Hdf5(Section):
    """An HDF5 insertion map: every entry is written once, at the place that its key and position name."""

    kind: Literal["hdf5"] = "hdf5"
    file: str
    index: Index = Field(
        description="what keys count: rows of the run (step * B + row), its batches, or tokens of its stream; "
        "positions count from the key's first token"
    )

    @property
    def where(self) -> Explicit:
        return Explicit()


class Watermark(Section):
    """Gaussian noise on the input embeddings of whole batches, or of their first rows; no token is written."""

    kind: Literal["watermark"] = "watermark"
    where: Annotated[WholeBatch | EveryN, Field(discriminator="kind")]
    noise_std: PositiveFloat = Field(0.075, description="of each value; 0.075 is that of Bordt and Pawelczyk 2025")
    rows: PositiveCount | None = Field(None, description="only the first so many rows of each batch; null: all")
    noise: Literal["each_step", "shared"] = Field(
        "each_step", description="shared: every step gets the noise of the first; for a batch that is repeated"
    )


# the threads that the launchers deal out
_THREADS = re.compile(
    r"(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|VECLIB_MAXIMUM_THREADS|RAYON_NUM_THREADS|POLARS_MAX_THREADS"
)


def _names_a_variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"found {value!r}, expected a variable's name: letters, digits and _, no digit first")
    if OF_RANKS.fullmatch(value) or _THREADS.fullmatch(value):
        raise ValueError(f"{value} is set for each rank by what starts it; use `launch`, or another variable")
    return value


def _is_a_string(value: str) -> str:
    if "\0" in value:
        raise ValueError("a variable's value cannot hold a zero byte")
    return value


class Environment(Section):
    """A variable of the training process, and of its ranks."""

    kind: Literal["environment"] = "environment"
    variable: Annotated[str, AfterValidator(_names_a_variable)]
    value: Annotated[str, AfterValidator(_is_a_string)]


# --- all of them -------------------------------------------------------------------------------------------------------

Writer = Texts | Tokens | Benchmark | Hdf5 | Dynamic  # what writes tokens over the stream
Experiment = Annotated[Writer | Watermark | Environment, Field(discriminator="kind")]


class InsertionsConfig(Section):
    """What is written over the stream. Each experiment draws from a generator of its own, keyed by its name."""

    experiments: Annotated[dict[str, Experiment], Field(min_length=1)]
    without: list[str] = Field([], description="experiments that are left out of the otherwise equal run")
    control: bool = Field(False, description="the matched control: the same run, nothing inserted")
    eos: str | None = Field(None, description="the end-of-text token; null: the tokenizer's first special token")
    ngram: PositiveCount = Field(
        13,
        description="words in a row that two texts of insertions and evaluations must share to be told as overlapping",
    )

    @property
    def kept(self) -> dict[str, Experiment]:
        """The experiments that are not left out. They stay where they were: the randomness of each is keyed by its name."""
        return {name: one for name, one in self.experiments.items() if name not in self.without}

    @property
    def writers(self) -> Mapping[str, Writer]:
        """The experiments that write tokens, a control's too."""
        return {name: one for name, one in self.kept.items() if isinstance(one, Writer)}

    @property
    def watermarks(self) -> Mapping[str, Watermark]:
        """The experiments that add noise, a control's too."""
        return {name: one for name, one in self.kept.items() if isinstance(one, Watermark)}

    @property
    def environments(self) -> Mapping[str, Environment]:
        """The experiments that set a variable, a control's too."""
        return {name: one for name, one in self.kept.items() if isinstance(one, Environment)}

    @property
    def environment(self) -> Mapping[str, str]:
        """What the run sets: variable -> value; a control sets none."""
        return {} if self.control else {one.variable: one.value for one in self.environments.values()}

    @model_validator(mode="after")
    def _leaves_out_what_there_is(self) -> "InsertionsConfig":
        for name in self.without:
            if name not in self.experiments:
                meant = did_you_mean(name, self.experiments)
                raise ValueError(f"without: no experiment {name!r}; those are: {', '.join(self.experiments)}{meant}")
        if len(set(self.without)) < len(self.without):
            raise ValueError(f"without: each name once is expected, found {', '.join(self.without)}")
        if self.without and self.control:
            raise ValueError("without: has no effect, the control inserts nothing; leave one of the two out")
        return self

    @model_validator(mode="after")
    def _dynamic_experiments_name_folders(self) -> "InsertionsConfig":
        for name, experiment in self.experiments.items():
            if isinstance(experiment, Dynamic) and (not name.strip() or name.startswith(".") or "/" in name):
                raise ValueError(f"experiments: {name!r} names a folder: no slash, and no dot before it, is expected")
        return self

    @model_validator(mode="after")
    def _each_variable_once(self) -> "InsertionsConfig":
        names = [one.variable for one in self.experiments.values() if isinstance(one, Environment)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"experiments: {', '.join(sorted(twice))} is set twice; one experiment a variable is expected"
            )
        return self


def experiment_files(experiment: Experiment) -> Mapping[str, str]:
    """The files whose content an experiment depends on: dotted key of its section -> path."""
    if isinstance(experiment, Dynamic):
        return {f"controller.{key}": path for key, path in controller_files(experiment.controller).items()}
    return {} if isinstance(experiment, Watermark | Environment) else {"file": experiment.file}
