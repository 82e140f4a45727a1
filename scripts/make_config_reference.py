"""Write docs/config.md, the reference of every key, from the types that check a file.

python scripts/make_config_reference.py"""

import re
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from paribus.data.config import CorpusConfig
from paribus.data.supervised import ImageZips
from paribus.grid.config import GridRun
from paribus.launch.grid import SweepConfig
from paribus.mistakes import expected, options
from paribus.run_config import RunConfig

PAGE = Path(__file__).parents[1] / "docs" / "config.md"

INTRODUCTION = """\
# The configuration

`scripts/make_config_reference.py` writes this page from the types that check your files; `paribus schema run`, `corpus`,
`image_zips` and `sweep` print the same as a JSON Schema, with which an editor completes keys and marks mistakes.

## How a file is read

A file is YAML 1.2: `3e-4` is a number, `012` is 12, `NO` and `on` are text. A key that stands twice, a misspelt key and a
value of the wrong type are refused. Every mistake is told at once, one line each:

```
run.yaml:7: train.optimizer.lr: found "fast", expected a number > 0
run.yaml:9: train.scedule: unknown key, did you mean "schedule"?
command line: seeds.order=x: found "x", expected a whole number >= 0
```

**`extends: base.yaml`** puts a file over another, whose path is relative to the file. Mappings merge key by key, and
everything else, lists too, is replaced: `budget: {steps: null, tokens: 1e6}` over `budget: {steps: 100}`. A mapping of
another `kind` than its parent takes nothing from it, since the parent's keys belong to the other kind.

**`${VAR}`** and **`${VAR:-default}`** stand for environment variables. They are put in before the type is found, so
`lr: ${LR:-3e-4}` is a number; in quotes it stays text. A variable that is not set is an error where its value is
needed. A default also takes the place of an empty variable. `$${` is a literal `${`. **`${HERE}`** is the folder of the
file that says so: what lies beside a YAML is found from anywhere. In `{ }` and `[ ]` YAML
takes no bare `${VAR}`: give the key a line of its own.

**`key.path=value`** on the command line replaces one value, which is YAML too: `train.optimizer.lr=3e-4`,
`evals.loss.categories=[cs.AI, cs.PL]`, `track.wandb.project=mine`. Items of lists have numbers (`betas.0=0.8`), keys
with dots stand in quotes (`'data.windows.weights."cs.AI"=2'`). The order does not matter: a mapping is set before what
goes into it, and `data.windows.kind=chunks` drops the keys of the other kind. Of the same key twice the last counts.
"""

SWEEP = """\
Every run of a sweep is the base with one combination of changes: `grid` x `zip` x `points`. Values replace what the
base has at their key, as on the command line. Key=value pairs after `paribus sweep SWEEP.yaml` hold for every run.

```yaml
base: run.yaml                # or the settings of a run, inline
name: k{data.categories.k}-seed{seeds.order}
overrides:                    # what every run changes
  train.budget.steps: 1000
grid:                         # every combination
  data.categories.k: [1, 2, 4]
zip:                          # the first of each, then the second of each
  seeds.order: [0, 1]
  seeds.weights: [0, 1]
```

`{dotted.key}` in `name` stands for any value of the resolved run. Names must be unique. Without `name` a run is called
by the base's name, the keys that vary and their values: `tiny-k4-order0-weights0`.
"""

GRID = """\
A model of kind `mlp` makes a run one of the grid engine's. Those of a sweep that differ only in `train.eta` and
`model.gamma` are one program: compiled once, trained side by side, in one directory.
"""

# title, what to say first, what tells a heading from the same one of an earlier part, schema
PARTS: list[tuple[str, str, str, type[BaseModel]]] = [
    ("A run: `paribus train RUN.yaml`", "", "run", RunConfig),
    ("A run of the grid engine: `paribus train RUN.yaml`", GRID, "grid engine", GridRun),
    ("A sweep: `paribus sweep SWEEP.yaml`", SWEEP, "sweep", SweepConfig),
    ("A corpus: `paribus prepare CORPUS.yaml`", "", "corpus", CorpusConfig),
    ("Zips of images: `paribus prepare ZIPS.yaml`", "", "zips", ImageZips),
]


def reference() -> str:
    """The whole page."""
    blocks = [INTRODUCTION]
    taken: set[str] = set()
    for title, about, part, schema in PARTS:
        seen: dict[type, str] = {}
        blocks += [f"## {title}\n", about, *_section(schema, "", seen, partial(_free, part=part, taken=taken))]
        taken |= set(seen.values())
    return "\n".join(block for block in blocks if block)


def _free(heading: str, part: str, taken: Collection[str]) -> str:
    """The heading, with the part behind it where an earlier part has the same: its anchor would lead there."""
    return f"{heading} ({part})" if heading in taken else heading


def _section(schema: type[BaseModel], path: str, seen: dict[type, str], free: Callable[[str], str]) -> list[str]:
    """The table of a section, then those of the sections under it; `seen` holds the headings of this part."""
    heading = free(f"{path}: kind {_kind(schema)}" if _kind(schema) else path)
    seen[schema] = heading
    inner = []
    for key, field in schema.model_fields.items():
        for below, place in _sections(field, f"{path}.{key}".lstrip(".")):
            inner += [] if below in seen else _section(below, place, seen, free)
    rows = [_row(key, field, seen) for key, field in schema.model_fields.items() if key != "kind"]
    block = [f"### {heading}", ""] if path else []
    block += [" ".join((schema.__doc__ or "").split()), ""] if schema.__doc__ else []
    block += (
        ["| key | is | default | meaning |", "|---|---|---|---|", *rows, ""] if rows else ["It has no other keys.", ""]
    )
    return ["\n".join(block), *inner]


def _kind(schema: Any) -> str:
    field = schema.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field else ""


def _sections(field: FieldInfo, path: str) -> list[tuple[type[BaseModel], str]]:
    """The sections that a field may hold, with their dotted keys."""
    found: list[tuple[type[BaseModel], str]] = []
    for option in options(field):
        if get_origin(option.type) is dict:
            found += [(o.type, f"{path}.NAME") for o in options(get_args(option.type)[1]) if _is_section(o.type)]
        elif _is_section(option.type):
            found.append((option.type, path))
    return found


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _row(key: str, field: FieldInfo, seen: dict[type, str]) -> str:
    below = [section for section, _ in _sections(field, "")]
    links = [f"[{_kind(section) or seen[section]}](#{_anchor(seen[section])})" for section in below]
    if any(option.type is NoneType for option in options(field)):
        links += ["null"]
    kind = expected(options(field)).replace('"', "`") if not below else ", ".join(links)
    kind = f"kind {kind}" if below and _kind(below[0]) else kind
    kind = f"names to sections of {kind}" if below and get_origin(field.annotation) is dict else kind
    default = "required" if field.is_required() else f"`{_yaml(field.get_default())}`"
    return f"| `{key}` | {_cell(kind)} | {_cell(default)} | {_cell(field.description or '')} |"


def _yaml(value: Any) -> str:
    plain = value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
    if isinstance(value, BaseModel) and "kind" in type(value).model_fields:
        plain = {"kind": _kind(type(value)), **plain}
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
    print(PAGE)
