"""What every study is: corpora to prepare, sweeps to run, a report to draw; `paribus study NAME SIZE` carries it through."""

import importlib
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from paribus import config as configs
from paribus import directories, rundir
from paribus.config import Section
from paribus.data.config import CorpusConfig
from paribus.data.prepare import prepare
from paribus.errors import ConfigError, DataError, RunError, RunFailed
from paribus.grid.config import GridRun
from paribus.launch import grid, jobs, launcher
from paribus.launch.grid import AnyRun, SweepConfig
from paribus.report import blocks, collect
from paribus.report.blocks import Report
from paribus.report.page import all_figures, write_report
from paribus.run_config import RunConfig
from paribus.tree import did_you_mean
from paribus.yaml12 import changes

STUDIES = ("ergodic", "insertion", "batch_size")
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


class Options(NamedTuple):
    """What a reader chose of a study, beside its name and size."""

    overrides: Sequence[str] = ()  # key.path=value of the study's file
    settings: Sequence[str] = ()  # key.path=value of every run
    only: Sequence[str] = ()  # sweeps to carry out; empty: all
    plots: Sequence[str] = ()  # figures of the report, by name or its beginning; empty: all

    def words(self) -> list[str]:
        """As they are typed."""
        named = [("--set", self.settings), ("--only", self.only), ("--plots", self.plots)]
        return [*self.overrides, *(word for option, values in named for value in values for word in (option, value))]


ALL = Options()
_PLACES = ("paths", "study")  # of each run, from the study's own keys
_PLACE = "the study says where its runs lie: runs=FOLDER moves all of them, folder=NAME calls them otherwise"


def run_study(
    name: str,
    size: str,
    options: Options = ALL,
    *,
    on: launcher.Place = "local",
    max_parallel: int | None = None,
    dry_run: bool = False,
    no_save: bool = False,
) -> None:
    """Prepare, sweep and draw; what is done already is skipped. `size` is a YAML of the study, a path, or `report`.

    no_save: the runs are made in a temporary folder and told about; none of them stays.
    Prints the report's path last. Raises RunFailed when a run failed: the report is drawn all the same."""
    if size == "report":
        if max_parallel or dry_run or no_save or on != "local" or any(options[:2]):
            raise ConfigError("report draws what was run: it takes --only and --plots, and no other option or setting")
        print("\n".join(map(str, redraw(name, options))))
        return
    file = find(name, size)
    _refuse_plots(name, options.plots)
    config, sweeps = load(file, options)
    refused = refusals(file, options, sweeps)
    if dry_run:
        runs = _all_runs({name: sweep for name, sweep in sweeps.items() if name not in refused})
        scripts = launcher.scripts(runs, on, max_parallel)
        for line in [*plan(config, runs), *(f"\n{script}" for script in scripts)]:
            print(line)
    if refused:
        raise DataError("\n".join(refused.values()))
    if dry_run:
        return
    if no_save:
        _tell(file, options, on, max_parallel)
        return
    result = _carry_out(config, sweeps, on, max_parallel)
    if result.signal:
        print(f"{result.line()}\nnext: the same command, which goes on from there", file=sys.stderr)
        sys.exit(result.exit_code)
    page = draw(name, config, sweeps, file, options)
    folder = Path(config.runs) / config.folder
    rundir.write_json(folder / "study.json", {"file": str(file.resolve()), **options._asdict()})
    if result.exit_code:
        raise RunFailed(f"{result.line()}; the report has what is done: {page}")
    print(result.line())
    print(f"report: {page.resolve()}")


def _refuse_plots(name: str, plots: Sequence[str]) -> None:
    """Raise ConfigError for a figure that no report of the study has, where the study says which they may be."""
    known = getattr(importlib.import_module(f"paribus.studies.{name}.study"), "FIGURES", ())
    for plot in plots if known else ():
        if not any(plot.startswith(figure) or figure.startswith(plot) for figure in known):
            raise ConfigError(f"--plots {plot}: expected one of {', '.join(known)}{did_you_mean(plot, known)}")


def _tell(file: Path, options: Options, on: launcher.Place, max_parallel: int | None) -> None:
    """Carry the study out in a temporary folder and print what its runs came to. Raises RunFailed when one failed."""
    if on != "local":
        raise ConfigError(f"--no-save: the runs lie in this machine's temporary folder, which --on {on} cannot see")
    with tempfile.TemporaryDirectory(prefix="paribus-") as temporary:
        hidden = options._replace(overrides=[*options.overrides, f"runs={temporary}"])
        result = _carry_out(*load(file, hidden), on, max_parallel)
        if result.of("done"):
            print(_told(Path(temporary)))
    if result.exit_code:
        raise RunFailed(result.line())


def _carry_out(
    config: StudyConfig, sweeps: Mapping[str, Sequence[AnyRun]], on: launcher.Place, max_parallel: int | None
) -> jobs.SweepResult:
    for corpus in config.corpora.values():
        prepare(corpus)
    return launcher.sweep(_all_runs(sweeps), on, max_parallel)


def _all_runs(sweeps: Mapping[str, Sequence[AnyRun]]) -> list[AnyRun]:
    return [run for sweep in sweeps.values() for run in sweep]


def _told(folder: Path) -> str:
    """What runs came to that leave nothing behind: a line a run."""
    runs = collect.load_runs(folder)
    shown = [name for name in ("name", "state", "label", "final/loss", "final/heldout_loss") if name in runs.columns]
    lines = ["  ".join(map(_cell, row)) for row in runs.select(shown).iter_rows()]
    return "\n".join(["  ".join(shown), *lines])


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def plan(config: StudyConfig, runs: Sequence[AnyRun]) -> Iterator[str]:
    """What carrying the study through would mean, in lines for a person; nothing is written."""
    missing = [corpus for corpus in config.corpora.values() if not Path(corpus.store).exists()]
    for corpus in missing:
        yield f"{corpus.store}: {corpus.name} would be prepared here first; then --dry-run tells the tokens of every run"
    yield from (f"{config.runs}/{run.study}/{run.name}" for run in runs) if missing else jobs.plan(runs)


def find(name: str, size: str) -> Path:
    """The YAML of a study's size. Raises ConfigError with the names there are."""
    if name not in STUDIES:
        raise ConfigError(f"study {name!r}: expected one of {', '.join(STUDIES)}{did_you_mean(name, STUDIES)}")
    if size.endswith((".yaml", ".yml")):
        return Path(size)
    folder = Path(__file__).parent / name
    file = folder / f"{size}.yaml"
    if not file.exists():
        sizes = sorted(path.stem for path in folder.glob("*.yaml"))
        told = f"expected one of {', '.join(sizes)}, `report`, or the path of a YAML{did_you_mean(size, sizes)}"
        raise ConfigError(f"study {name}, size {size!r}: {told}")
    return file


def load(file: Path, options: Options = ALL) -> tuple[StudyConfig, dict[str, list[AnyRun]]]:
    """The study of a YAML, and the runs of each of its sweeps. Raises ConfigError, all mistakes at once."""
    _refuse_settings(options)
    root = configs.resolve(file, options.overrides, "study")
    config = configs.parse(root, StudyConfig)
    for name in options.only:
        if name not in config.sweeps:
            raise ConfigError(
                f"--only {name}: expected one of {', '.join(config.sweeps)}{did_you_mean(name, config.sweeps)}"
            )
    sweeps = {}
    for name, node in root.at("sweeps").entries.items():
        if not options.only or name in options.only:
            where = [f"study={config.folder}/{name}", f"paths.runs={config.runs}"]
            sweeps[name] = grid.expand(node, [*where, *options.settings])
    return config, sweeps


def refusals(file: Path, options: Options, sweeps: Mapping[str, Sequence[AnyRun]]) -> dict[str, str]:
    """Sweep -> which files that its runs name cannot be used, a line each; only sweeps that have some."""
    nodes = configs.resolve(file, options.overrides, "study").at("sweeps").entries
    refused = {}
    for name, runs in sweeps.items():
        try:
            grid.check_files(nodes[name], runs, options.settings)
        except DataError as error:
            advice = f"the sweep {name} reads it" + f"; --only SWEEP leaves {name} out" * (len(nodes) > 1)
            refused[name] = "\n".join(f"{line}; {advice}" for line in str(error).splitlines())
    return refused


def _refuse_settings(options: Options) -> None:
    """Raise ConfigError for settings of runs among those of the study, where they would be unknown keys, and for settings
    of where the runs lie, which the study says."""
    known = (RunConfig.model_fields | GridRun.model_fields).keys() - StudyConfig.model_fields.keys()
    lines = []
    for text, (keys, node) in zip(options.overrides, changes(options.overrides), strict=True):
        if keys[0] in _PLACES:
            lines.append(f"{node.where}: {_PLACE}")
        elif keys[0] in known:
            advice = f"{shlex.join(['--set', text])} sets it in every run"
            lines.append(f"{node.where}: {keys[0]} is a key of runs, not of the study: {advice}")
    for text, (keys, _) in zip(options.settings, changes(options.settings), strict=True):
        lines += [f"--set {text}: {_PLACE}"] if keys[0] in _PLACES else []
    if lines:
        raise ConfigError("\n".join(lines))


def draw(
    name: str, config: StudyConfig, sweeps: Mapping[str, Sequence[AnyRun]], file: Path, options: Options = ALL
) -> Path:
    """Write the report of the runs that are done. Returns its path."""
    study = importlib.import_module(f"paribus.studies.{name}.study")
    places = {sweep: jobs.directories(runs) for sweep, runs in sweeps.items()}
    directories.tell_unreadable(*(run.path for found in places.values() for run in found if run.is_done))
    done = {
        sweep: [run.path for run in found if run.is_done and not directories.trouble(run.path)]
        for sweep, found in places.items()
    }
    report = study.build_report(config.title, config.subtitle, done, _command(name, file, options))
    if options.plots:
        report = with_figures(report, options.plots)
    return write_report(report, Path(config.runs) / config.folder / "report.html")


def with_figures(report: Report, names: Sequence[str]) -> Report:
    """These figures of a report alone, by their names or how they begin. Raises ConfigError for one that is not there."""
    known = [figure.name for figure in all_figures(report)]
    for name in names:
        if not any(figure.startswith(name) for figure in known):
            raise ConfigError(
                f"--plots {name}: the report has {', '.join(known) or 'no figure'}{did_you_mean(name, known)}"
            )
    kept = [
        blocks.Section(section.title, [figure for figure in figures if figure.name.startswith(tuple(names))])
        for section in report.sections
        if (figures := all_figures(report._replace(sections=[section])))
    ]
    return report._replace(sections=[section for section in kept if section.blocks])


def _command(name: str, file: Path, options: Options = ALL) -> str:
    """What a reader types to carry out a size of a study."""
    size = file.stem if file == find(name, "smoke").with_name(file.name) else str(file)
    return shlex.join(["paribus", "study", name, size, *options.words()])


def redraw(name: str, chosen: Options = ALL) -> list[Path]:
    """Draw the reports of every size of the study that was run below ./runs again; `chosen` may name sweeps and figures, of
    the sizes that have them.

    Raises RunError when none of its runs is done, and leaves the report that is there."""
    found = sorted(Path("runs").glob(f"{name}*/study.json"))
    if not found:
        raise RunError(f"runs/{name}*: no study was run here; `paribus study {name} smoke` runs one")
    pages, refusals = [], []
    for path in found:
        made = json.loads(path.read_text())
        file = Path(made.pop("file"))
        options = Options(**made)
        options = options._replace(only=chosen.only or options.only, plots=chosen.plots or options.plots)
        try:
            config, sweeps = load(file, options)
            runs = _all_runs(sweeps)
            if not any(run.is_done for run in jobs.directories(runs)):
                raise RunError(
                    f"{path.parent}: none of the {len(runs)} runs of {file} is done as this version of paribus and the YAML"
                    f" describe them; `{_command(name, file, options)}` trains them"
                )
            pages.append(draw(name, config, sweeps, file, options))
        except ConfigError as error:  # what was chosen may be of another size
            refusals.append(error)
    if refusals and not pages:
        raise refusals[0]
    return pages
