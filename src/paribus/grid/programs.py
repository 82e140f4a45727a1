"""Runs of equal shape become one program: a directory that holds many runs, which differ only in eta and gamma.

runs/<study>/<shape>-<id8>/
  config.yaml          what all of them share, and the points: names, gammas, etas
  ids.json             the identity of each point
  results/             Parquet: losses, evaluations, runs (results.py)
  state/               the newest checkpoint of a program that is not done (state.py)
  provenance.json, STATUS.json, DONE, log.txt      as in every run directory
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from paribus import config as configs
from paribus import rundir
from paribus.config import PositiveFloat, Section
from paribus.data.source import check_source, source_files
from paribus.data.supervised import Images
from paribus.errors import ConfigError, RunError
from paribus.grid.config import GridRun, is_grid_run
from paribus.mistakes import told_at
from paribus.rundir import RunDir
from paribus.train.jax_grid.config import Adam, GridLaunch, Search

MAX_WEIGHT_BYTES = 2**31  # of the runs that one program holds in memory; more become several programs
MOST_PIXELS, MOST_CLASSES = 784, 10  # assumed of images, which are not opened to plan
IDS = "ids.json"


class Points(Section):
    """What differs between the runs of a program: one entry a run in each list."""

    names: list[str] = Field(min_length=1)
    gammas: list[PositiveFloat]
    etas: list[PositiveFloat] | Search = Field(description="one a run, or the search that every run carries out")

    @model_validator(mode="after")
    def _as_many_of_each(self) -> "Points":
        counts = {len(self.names), len(self.gammas), len(self.etas) if isinstance(self.etas, list) else len(self.names)}
        if len(counts) > 1:
            raise ValueError("names, gammas and etas: one of each for every run is expected")
        return self


class ProgramConfig(Section):
    """A program: the run that stands for all, and the points."""

    kind: Literal["grid_program"] = "grid_program"
    run: GridRun
    points: Points

    def __len__(self) -> int:
        return len(self.points.names)

    def runs(self) -> Iterator[GridRun]:
        """Each point as the run that it is."""
        etas = self.points.etas
        for i, (name, gamma) in enumerate(zip(self.points.names, self.points.gammas, strict=True)):
            yield at(self.run, name=name, gamma=gamma, eta=etas[i] if isinstance(etas, list) else etas)


class Placed(NamedTuple):
    """A program and its directory, which need not exist yet."""

    directory: RunDir
    config: ProgramConfig


def at(run: GridRun, *, name: str, gamma: float, eta: float | Search) -> GridRun:
    """The same run at another point."""
    model, train = run.model.model_copy(update={"gamma": gamma}), run.train.model_copy(update={"eta": eta})
    return run.model_copy(update={"name": name, "model": model, "train": train})


def identity(run: GridRun) -> str:
    """16 hex digits of the whole config, budget and seeds included; files are named by their content, whose place is free.

    Sixteen, since studies have tens of thousands of runs: of 8, two in 26,600 would be equal with a chance of 8 %.
    Raises RunError when a file is missing."""
    mapping = run.model_dump(mode="json")
    if files := source_files(run.data):
        mapping["data"]["source"] = rundir.files_fingerprint(files, "data.source")
    return rundir.identity(mapping, digits=16)


def group(runs: Sequence[GridRun]) -> list[ProgramConfig]:
    """One program for each shape, in the order of the runs; runs that resolve to one are one."""
    groups: dict[str, dict[str, GridRun]] = {}
    for run in runs:
        groups.setdefault(_shape(run), {}).setdefault(identity(run), run)
    return [_program(part) for group in groups.values() for part in _parts(list(group.values()))]


def place_all(runs: Sequence[GridRun]) -> list[Placed]:
    """The programs that hold these runs: those on disk that hold some of them, and new ones for all others.

    A run lives in one program only, so that a sweep that grows finds its old runs. Nothing is written."""
    held: dict[str, Path] = {}
    for folder in dict.fromkeys(Path(run.paths.runs) / run.study for run in runs):
        held |= _held(folder)
    found: dict[Path, Placed] = {}
    others = []
    for run in runs:
        path = held.get(identity(run))
        if path is None:
            others.append(run)
        elif path not in found:
            found[path] = Placed(RunDir(path), _under(read(path), run.launch))
    return [*found.values(), *(Placed(place(config), config) for config in group(others))]


def _under(config: ProgramConfig, launch: GridLaunch) -> ProgramConfig:
    """A program that is there, under the newest word on where and how; its lanes stay, on which last bits depend."""
    kept = launch.model_copy(update={"lanes": config.run.launch.lanes})
    return config.model_copy(update={"run": config.run.model_copy(update={"launch": kept})})


def place(config: ProgramConfig) -> RunDir:
    """Where a new program lives: RUNS/STUDY/SHAPE-ID."""
    run, ids = config.run, [identity(run) for run in config.runs()]
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:8]
    return RunDir(Path(run.paths.runs) / run.study / f"{run.name}-{digest}")


def look(path: Path, overrides: Sequence[str] = ()) -> ProgramConfig | GridRun | None:
    """What a program's directory or the YAML of one of the grid engine's runs says; None for anything else."""
    if is_program(path):
        return peek(path, overrides)
    if path.is_dir():
        return None
    tree = configs.resolve(path, overrides, "run")
    return configs.parse(tree, GridRun) if is_grid_run(tree) else None


def open_program(path: Path, overrides: Sequence[str] = ()) -> Placed | None:
    """From a program's directory, or the YAML of one run of the grid engine; None for anything else.

    Overrides of a directory may change where and how, and nothing else. Raises DataError, at the line that names it, for a
    file that cannot be used."""
    if is_program(path):
        return Placed(RunDir(path), read(path, overrides))
    tree = configs.resolve(path, overrides, "run")
    if not is_grid_run(tree):
        return None
    run = configs.parse(tree, GridRun)
    with told_at(tree):
        check_source(run.data)
    return place_all([run])[0]


def hold(directory: RunDir, config: ProgramConfig) -> None:
    """Write the config and the identities. Who trains it holds it, and has written it with the lanes that it measured."""
    if not (directory.is_done or directory.is_locked()):
        write(directory, config)


def write(directory: RunDir, config: ProgramConfig) -> None:
    """Make the directory what it is, or bring where and how up to date."""
    directory.make()
    rundir.write_text(directory.config_path, configs.dump(config))
    rundir.write_json(directory.path / IDS, [identity(run) for run in config.runs()])  # last: it makes this a program


def peek(path: Path, overrides: Sequence[str] = ()) -> ProgramConfig:
    """A program's config as it stands in its directory, for who only looks: the files that it names need not be there."""
    return configs.load(path / "config.yaml", ProgramConfig, [f"run.{override}" for override in overrides])


def read(path: Path, overrides: Sequence[str] = ()) -> ProgramConfig:
    """A program's config, to train it. Raises RunError when it was altered, or a file that it reads."""
    config = peek(path, overrides)
    asked, kept = config.run.launch.lanes, _kept_lanes(path)
    if kept is not None and asked != kept:
        raise RunError(f"{path}: launch.lanes: {kept} since it began, {asked} asked for; the last bits depend on them")
    if [identity(run) for run in config.runs()] != ids_of(path):
        if overrides:
            raise RunError(
                f"{path}: holds other runs than {' '.join(overrides)} would make; train them under their own name"
            )
        raise RunError(
            f"{path}: config.yaml, or a file that it names, is no longer what the program began with; "
            "bring the old content back, or train the changed runs under their own name"
        )
    return config


def _kept_lanes(path: Path) -> int | None:
    """With how many lanes the program was begun; None before it was."""
    record = path / "provenance.json"
    return _read_json(record)["config"]["run"]["launch"]["lanes"] if record.exists() else None


def ids_of(path: Path) -> list[str]:
    """The identities of a program's runs, in the order of its points. Raises RunError for a damaged file."""
    return list(_read_json(path / IDS))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise RunError(
            f"{file}: not valid JSON ({error}); bring it back as it was, or remove the directory and train again"
        ) from error


def is_program(path: Path) -> bool:
    """Whether a directory holds a program."""
    return (path / IDS).is_file()


def _held(folder: Path) -> dict[str, Path]:
    """Identity -> the program below a study's folder that holds the run."""
    found = sorted(path.parent for path in folder.glob(f"*/{IDS}"))
    return {one: path for path in found for one in ids_of(path)}


def _shape(run: GridRun) -> str:
    """What runs of one program have in common, as text."""
    mapping = at(run, name="", gamma=1.0, eta=1.0).model_dump(mode="json")
    search = run.train.eta
    return json.dumps([mapping, None if isinstance(search, float) else search.model_dump(mode="json")])


def _parts(runs: list[GridRun]) -> Iterator[list[GridRun]]:
    """As many programs as their weights need."""
    model, data = runs[0].model, runs[0].data
    inputs, outputs = (MOST_PIXELS, MOST_CLASSES) if isinstance(data, Images) else (data.input_dim, 1)
    widths = [inputs, *[model.width] * (model.depth - 1), outputs]
    copies = 2 * (3 if isinstance(runs[0].train.optimizer, Adam) else 1)  # two moments; before and after an advance
    most = max(1, MAX_WEIGHT_BYTES // (4 * copies * sum(a * b for a, b in pairwise(widths))))
    for start in range(0, len(runs), most):
        yield runs[start : start + most]


def _program(runs: Sequence[GridRun]) -> ProgramConfig:
    first = runs[0]
    searches = [run.train.eta for run in runs if not isinstance(run.train.eta, float)]
    points = Points(
        names=[run.name for run in runs],
        gammas=[run.model.gamma for run in runs],
        etas=searches[0] if searches else [run.train.eta for run in runs if isinstance(run.train.eta, float)],
    )
    if repeated := {name for name in points.names if points.names.count(name) > 1}:
        raise ConfigError(f"name: {sorted(repeated)[0]!r} is the name of several runs; each needs its own")
    own = at(first, name=_name(first), gamma=first.model.gamma, eta=first.train.eta)
    return ProgramConfig(run=own, points=points)


def _name(run: GridRun) -> str:
    """`polynomial-mup-sgd-n128-l3-b64`"""
    model, train = run.model, run.train
    parts: list[Any] = [run.data.kind, model.parameterization, train.optimizer.kind]
    return "-".join(map(str, [*parts, f"n{model.width}", f"l{model.depth}", f"b{train.batch_size}"]))
