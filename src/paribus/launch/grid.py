"""A sweep becomes a list of runs: `base:` and what varies, as `grid:` (all combinations), `zip:` (in step) and `points:`."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from paribus.config import PositiveFloat, Section, difference, parse, resolve
from paribus.data.source import check_source
from paribus.data.supervised import SupervisedData
from paribus.errors import ConfigError, DataError
from paribus.grid.config import GridRun, is_grid_run
from paribus.mistakes import Mistake, refusal, told_at
from paribus.run_config import RunConfig
from paribus.tree import Change, Keys, Node, Where, did_you_mean, dotted, found, plain, planted, put_all, split, walk
from paribus.yaml12 import changes, follow, inherit

AnyRun = RunConfig | GridRun
Exponents = tuple[float, float]
MOST_EXPONENT = (1000, 300)  # of 2 and of 10, in 64 bits
MAX_VALUES = 10_000  # of one range: more is a slip of the pen


class Range(Section):
    """Values that are spaced evenly on a logarithmic scale, e.g. `{log2: [-12, 12]}` or `{log10: [-5, 5], step: 0.5}`."""

    log2: Exponents | None = Field(None, description="the first and the last exponent of 2")
    log10: Exponents | None = Field(None, description="the first and the last exponent of 10")
    step: PositiveFloat = Field(1.0, description="between exponents")

    @model_validator(mode="after")
    def _is_one_range(self) -> "Range":
        if (self.log2 is None) == (self.log10 is None):
            raise ValueError(
                f"exactly one of log2 and log10 is expected, found {'both' if self.log2 is not None else 'none'}"
            )
        first, last = self.exponents
        if max(abs(first), abs(last)) > MOST_EXPONENT[self.log2 is None]:
            raise ValueError(f"from {first:g} up to {last:g} there are numbers beyond those of 64 bits")
        if not 0 <= (last - first) / self.step < MAX_VALUES:
            raise ValueError(
                f"from {first:g} up to {last:g} by {self.step:g} there are "
                f"{'no values' if last < first else f'more than {MAX_VALUES:,} values'}"
            )
        return self

    @property
    def exponents(self) -> Exponents:
        found = self.log10 if self.log2 is None else self.log2
        assert found is not None
        return found

    def values(self) -> list[float]:
        """In ascending order; the last exponent is one of them where the step hits it."""
        first, last = self.exponents
        count = math.floor((last - first) / self.step + 1e-9) + 1
        base = 2.0 if self.log2 is not None else 10.0
        return [base ** (first + i * self.step) for i in range(count)]


Values = Annotated[list[Any], Field(min_length=1)]


class SweepConfig(Section):
    """A list of runs: the base with every combination of grid x zip x points. All keys in them are dotted keys of a run."""

    base: str | dict[str, Any] = Field(description="a run: its file, relative to this one, or its settings inline")
    name: str | None = Field(
        None, description="of each run, e.g. `k{data.categories.k}-seed{seeds.order}`; null: base name, keys and values"
    )
    overrides: dict[str, Any] = Field({}, description="key -> value: what every run changes in the base")
    grid: dict[str, Values | Range] = Field({}, description="key -> values, or their range: every combination")
    zip: dict[str, Values | Range] = Field(
        {}, description="key -> values, all of one length: the first of each, the second, ..."
    )
    points: Annotated[list[dict[str, Any]], Field(min_length=1)] = Field(
        [{}], description="one `key: value` mapping each"
    )

    @field_validator("zip")
    @classmethod
    def _in_step(cls, lists: dict[str, list[Any] | Range]) -> dict[str, list[Any] | Range]:
        counts = {key: len(v.values() if isinstance(v, Range) else v) for key, v in lists.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{key} has {count}" for key, count in counts.items())
            raise ValueError(f"the lists must be equally long: {told}")
        return lists


def expand(source: Path | str | Node, overrides: Sequence[str] = ()) -> list[AnyRun]:
    """Turn a sweep, from its file or as a node of a bigger one, into its runs; `overrides` hold for every run.

    Raises ConfigError: every mistake of every run once, at its line; a key set twice; names that are not unique."""
    root = _root(source)
    parse(root, SweepConfig)
    given = changes(overrides)
    if mistakes := _set_twice(root, given):
        raise refusal(mistakes)
    base = _base(root)
    runs: list[AnyRun] = []
    lines: dict[str, None] = {}  # the runs share most mistakes
    for point in _points(root):
        try:
            runs.append(_named(_tree(base, root, point, given), root, point))
        except ConfigError as error:
            lines |= dict.fromkeys(str(error).splitlines())
    if lines:
        raise ConfigError("\n".join(lines))
    if mistakes := _called_alike(runs, root):
        raise refusal(mistakes)
    return runs


def check_files(source: Path | str | Node, runs: Sequence[AnyRun], overrides: Sequence[str] = ()) -> None:
    """Look at the files of images that the runs of a sweep name; `runs` are what `expand` made of the same.

    Raises DataError: a line for each that cannot be used, at the line that names it."""
    root, given = _root(source), changes(overrides)
    base = _base(root)
    seen: set[SupervisedData] = set()
    lines: dict[str, None] = {}
    for run, point in zip(runs, _points(root), strict=True):
        if not isinstance(run, GridRun) or run.data in seen:
            continue
        seen.add(run.data)
        try:
            with told_at(_tree(base, root, point, given)):
                check_source(run.data)
        except DataError as error:
            lines |= {str(error): None}
    if lines:
        raise DataError("\n".join(lines))


def open_sweep(file: Path, overrides: Sequence[str] = ()) -> list[AnyRun]:
    """The runs of a sweep that is to be carried out: `expand`, then `check_files`, with their errors."""
    runs = expand(file, overrides)
    check_files(file, runs, overrides)
    return runs


def _root(source: Path | str | Node) -> Node:
    return source if isinstance(source, Node) else resolve(source, wanted="sweep")


def _base(root: Node) -> Node:
    link = root.get("base")
    return inherit(link) if isinstance(link.value, dict) else follow(link)


def _tree(base: Node, root: Node, point: list[Change], given: list[Change]) -> Node:
    """The run at one point."""
    return put_all(base, [*_changes(root.get("overrides")), *point, *given])


def _changes(node: Node) -> list[Change]:
    return [(split(key), child) for key, child in node.entries.items()]


def _points(root: Node) -> Iterator[list[Change]]:
    """What each run changes. A value stands at the line of its key, so that a misspelt key is one mistake."""

    def along(part: str) -> list[list[Change]]:
        return [
            [(keys, value._replace(where=axis.where)) for value in _values(axis)]
            for keys, axis in _changes(root.get(part))
        ]

    axes = [[[change] for change in axis] for axis in along("grid")]
    rows = [list(row) for row in zip(*along("zip"), strict=True)]
    points = [_changes(point) for point in root.get("points").items]
    for combination in product(*axes, rows or [[]], points or [[]]):
        yield [change for changed in combination for change in changed]


def _values(axis: Node) -> list[Node]:
    """What a key of a grid takes one after another: the items of a list, the values of a range."""
    if isinstance(axis.value, list):
        return axis.items
    return planted(parse(axis, Range).values(), axis.where).items


def _set_twice(root: Node, given: list[Change]) -> list[Mistake]:
    """Keys with two values, of which one would be lost."""
    mistakes = []
    first: dict[Keys, Where] = {}
    for part in ("overrides", "grid", "zip"):
        for keys, node in _changes(root.get(part)):
            if keys in first:
                mistakes.append(Mistake(node.where, (part, *keys), f"is also set at {first[keys]}"))
            first[keys] = node.where
    fixed = dict(_changes(root.get("overrides")))
    varied = {keys: where for keys, where in first.items() if keys not in fixed}
    for point in root.get("points").items:
        for keys, node in _changes(point):
            if keys in first:
                mistakes.append(Mistake(node.where, ("points", *keys), f"is also set at {first[keys]}"))
            varied[keys] = node.where
    if root.get("name").value is not None:
        varied["name",] = root.get("name").where
    return mistakes + [
        Mistake(node.where, keys, f"has no effect, the sweep varies it at {varied[keys]}")
        for keys, node in given
        if keys in varied
    ]


# --- names -------------------------------------------------------------------------------------------------------------


def _named(tree: Node, root: Node, point: list[Change]) -> AnyRun:
    """The run that `tree` describes, under its own name: the template filled in, or the base's name and what varies."""
    template = root.get("name")
    schema: type[AnyRun] = GridRun if is_grid_run(tree) else RunConfig
    if template.value is not None:
        nameless = tree.get("name").value is None
        config = parse(put_all(tree, [(("name",), template)]) if nameless else tree, schema)
        name, where = _filled(template, config), template.where
    else:
        config = parse(tree, schema)
        varied = [f"{keys[-1]}{_word(plain(value))}" for keys, value in point]
        named = ("name",) in dict(point)
        name, where = config.name if named else "-".join([config.name, *varied]), root.where
    return parse(put_all(tree, [(("name",), Node(name, where))]), schema)


def _filled(template: Node, config: AnyRun) -> str:
    """Put the values of the resolved config into `{dotted.key}`."""
    known = {dotted(keys): plain(node) for keys, node in walk(planted(config.model_dump(), template.where)) if keys}
    mistakes = []

    def value(match: re.Match[str]) -> str:
        key = dotted(split(match[1]))
        if key not in known:
            mistakes.append(f"unknown key in {match[0]}{did_you_mean(key, known)}")
        return _word(known.get(key))

    name = re.sub(r"\{([^{}]*)\}", value, str(template.value))
    if not mistakes and re.search(r"[{}]", name):
        mistakes.append(f"found {found(template.value)}, expected keys in pairs of braces")
    if mistakes:
        raise refusal(Mistake(template.where, ("name",), reason) for reason in mistakes)
    return name


def _word(value: Any) -> str:
    """A value as a part of a folder's name."""
    if isinstance(value, dict):
        return "-".join(map(_word, value.values()))
    if isinstance(value, list):
        return "+".join(map(_word, value))
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else found(value)
    return re.sub(r"[^\w.+-]+", "-", text)


def _called_alike(runs: list[AnyRun], root: Node) -> list[Mistake]:
    """The first name that several runs have, and the keys that would tell these apart."""
    named: dict[str, list[AnyRun]] = defaultdict(list)
    for run in runs:
        named[run.name].append(run)
    where = root.get("name").where
    for name, alike in named.items():
        first, *others = [run.model_dump() for run in alike]
        keys = dict.fromkeys(key for other in others for key, _, _ in difference(first, other))
        told = f"{len(alike)} runs are called {found(name)}"
        if keys:
            advice = f"add {' or '.join(f'{{{key}}}' for key in keys)} to the template"
            return [Mistake(where, ("name",), f"{told}: {advice}")]
        if others:
            return [Mistake(where, ("name",), f"{told} and are the same run: leave out what stands twice")]
    return []
