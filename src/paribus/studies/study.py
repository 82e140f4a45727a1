"""What every study is: corpora to prepare, sweeps to run, a report to draw; `paribus study NAME SIZE` carries it through."""

import difflib
import importlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from paribus import config as configs
from paribus import experiment, rundir
from paribus.config import Section
from paribus.data.config import CorpusConfig
from paribus.data.prepare import prepare
from paribus.errors import ConfigError, RunError, RunFailed
from paribus.launch import grid, launcher
from paribus.launch.grid import SweepConfig
from paribus.report.page import write_report
from paribus.run_config import RunConfig

STUDIES = ("ergodic", "insertion")
Runs = Mapping[str, Sequence[Path]]  # sweep -> its run directories, in the order of its points


class StudyConfig(Section):
    """One size of a study."""

    folder: str = Field(
        description="RUNS/FOLDER/SWEEP/ holds the runs of each sweep, RUNS/FOLDER/report.html the report"
    )
    title: str
    subtitle: str = ""
    corpora: dict[str, CorpusConfig] = Field({}, description="prepared first; the runs name their stores")
    sweeps: Annotated[dict[str, SweepConfig], Field(min_length=1)]
    runs: str = Field("runs", description="the folder below which everything is written")


def run_study(
    name: str,
    size: str,
    overrides: Sequence[str],
    max_parallel: int | None,
    dry_run: bool,
    on: launcher.Place = "local",
) -> None:
    """Prepare, sweep and draw; what is done already is skipped. `size` is a YAML of the study, a path, or `report`.

    Prints the report's path last. Raises RunFailed when a run failed: the report is drawn all the same."""
    if size == "report":
        for path in redraw(name):
            print(path)
        return
    file = find(name, size)
    config, sweeps = load(file, overrides)
    runs = [run for sweep in sweeps.values() for run in sweep]
    if dry_run:
        scripts = launcher.scripts(runs, on, max_parallel)
        print("\n".join(plan(config, runs)))
        for script in scripts:
            print(f"\n{script}")
        return
    for corpus in config.corpora.values():
        prepare(corpus)
    result = launcher.sweep(runs, on, max_parallel)
    folder = Path(config.runs) / config.folder
    rundir.write_json(folder / "study.json", {"file": str(file.resolve()), "overrides": list(overrides)})
    page = draw(name, config, sweeps, file, overrides)
    if result.exit_code:
        raise RunFailed(f"{result.line()}; the report has what is done: {page}")
    print(result.line())
    print(f"report: {page.resolve()}")


def plan(config: StudyConfig, runs: Sequence[RunConfig]) -> Iterator[str]:
    """What carrying the study through would mean, in lines for a person; nothing is written."""
    missing = [corpus for corpus in config.corpora.values() if not Path(corpus.store).exists()]
    for corpus in missing:
        yield f"{corpus.store}: {corpus.name} would be prepared here first; then --dry-run tells the tokens of every run"
    for run in runs:
        if missing:
            yield f"{config.runs}/{run.study}/{run.name}"
        else:
            yield from experiment.plan(experiment.place(run), run)


def find(name: str, size: str) -> Path:
    """The YAML of a study's size. Raises ConfigError with the names there are."""
    if name not in STUDIES:
        close = difflib.get_close_matches(name, STUDIES, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f"study {name!r}: expected one of {', '.join(STUDIES)}{meant}")
    if size.endswith((".yaml", ".yml")):
        return Path(size)
    folder = Path(__file__).parent / name
    file = folder / f"{size}.yaml"
    if not file.exists():
        sizes = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise ConfigError(f"study {name}, size {size!r}: expected one of {sizes}, `report`, or the path of a YAML")
    return file


def load(file: Path, overrides: Sequence[str] = ()) -> tuple[StudyConfig, dict[str, list[RunConfig]]]:
    """The study of a YAML, and the runs of each of its sweeps. Raises ConfigError, all mistakes at once."""
    root = configs.resolve(file, overrides)
    config = configs.parse(root, StudyConfig)
    sweeps = {}
    for name, node in root.at("sweeps").entries.items():
        where = [f"study={config.folder}/{name}", f"paths.runs={config.runs}"]
        sweeps[name] = grid.expand(node, where)
    return config, sweeps


def draw(
    name: str, config: StudyConfig, sweeps: Mapping[str, Sequence[RunConfig]], file: Path, overrides: Sequence[str]
) -> Path:
    """Write the report of the runs that are done. Returns its path."""
    study = importlib.import_module(f"paribus.studies.{name}.study")
    places = {sweep: [experiment.place(run) for run in runs] for sweep, runs in sweeps.items()}
    done = {sweep: [run.path for run in found if run.is_done] for sweep, found in places.items()}
    report = study.build_report(config.title, config.subtitle, done, _command(name, file, overrides))
    return write_report(report, Path(config.runs) / config.folder / "report.html")


def _command(name: str, file: Path, overrides: Sequence[str]) -> str:
    """What a reader types to carry out a size of a study."""
    size = file.stem if file == find(name, "smoke").with_name(file.name) else str(file)
    return shlex.join(["paribus", "study", name, size, *overrides])


def redraw(name: str) -> list[Path]:
    """Draw the reports of every size of the study that was run below ./runs again.

    Raises RunError when none of its runs is done, and leaves the report that is there."""
    found = sorted(Path("runs").glob(f"{name}*/study.json"))
    if not found:
        raise RunError(f"runs/{name}*: no study was run here; `paribus study {name} smoke` runs one")
    pages = []
    for path in found:
        made = json.loads(path.read_text())
        file, overrides = Path(made["file"]), made["overrides"]
        config, sweeps = load(file, overrides)
        runs = [run for sweep in sweeps.values() for run in sweep]
        if not any(experiment.place(run).is_done for run in runs):
            raise RunError(
                f"{path.parent}: none of the {len(runs)} runs of {file} is done as this version of paribus and the YAML"
                f" describe them; `{_command(name, file, overrides)}` trains them"
            )
        pages.append(draw(name, config, sweeps, file, overrides))
    return pages
