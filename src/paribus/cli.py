"""The command line: verbs to functions. Nothing heavy is imported before the verb that needs it."""

import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from paribus.errors import ParibusError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""paribus: a laboratory for controlled training experiments.

Describe a run, change exactly one thing, and prove that everything else stayed equal.

Begin with `paribus study ergodic smoke`, then read the report whose path it prints.
Exit codes: 0 done, 1 a run failed, 2 a mistake in what was typed, 130/143 stopped by a signal (the same command goes on).
""",
)


def _print_version(is_asked: bool) -> None:
    from paribus import __version__

    if is_asked:
        print(f"paribus {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY.PATH=VALUE ...]", help="Settings that replace those of the file, e.g. train.optimizer.lr=3e-4"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, do nothing.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 when an evaluation by a script has failed.")]
MaxParallel = Annotated[
    int | None,
    typer.Option(help="Runs at once; default: one per core here, as many as there is room for on a cluster.", min=1),
]
On = Annotated[
    Literal["local", "slurm", "ray"],
    typer.Option("--on", help="Where the runs execute; `launch.slurm` and `launch.ray` say what each asks for."),
]


@app.command()
def prepare(corpus: Path, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Turn the documents of CORPUS.yaml into a token store, or zips of images (`kind: image_zips`) into an .npz.

    What is there already is verified. `paribus prepare examples/corpus.yaml tokenizer.vocab_size=8192`"""
    from paribus.data.preparation import prepare_file

    print("\n".join(prepare_file(corpus, overrides or [], dry_run)))


@app.command()
def train(
    run: Path,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    strict: Strict = False,
    delete_run_directory: Annotated[
        bool,
        typer.Option(
            "--delete-run-directory",
            help="Delete it once the run is done: what remains is what trackers sent. Refused where it is there already.",
        ),
    ] = False,
) -> None:
    """Train RUN.yaml, or go on with a run directory. The same command resumes after any interruption, bit for bit.

    `paribus train examples/coins.yaml train.optimizer.lr=1e-3 seeds.weights=7`"""
    from paribus import experiment
    from paribus.errors import ConfigError
    from paribus.evals.results import failures, refuse_failed
    from paribus.grid import programs
    from paribus.launch import deletion, jobs, torchrun

    if placed := programs.open_program(run, overrides or []):
        if delete_run_directory or strict:
            raise ConfigError("--delete-run-directory and --strict: a run of the grid engine has no use for them")
        sys.exit(jobs.train_program(placed, dry_run))
    directory, config = experiment.open_run(run, overrides or [])
    if delete_run_directory:
        deletion.refuse_existing(directory)
    config = jobs.with_threads(config, directory, jobs.num_cores())
    if dry_run:
        print("\n".join(experiment.plan(directory, config)))
        return
    if directory.is_done:
        print(f"{directory.path}: done already")
    elif config.launch.uses_torchrun and not torchrun.is_inside():
        if code := torchrun.train(directory, config):
            sys.exit(code)
    else:
        outcome = experiment.run(directory, config)
        if outcome.state == "stopped":
            print(f"{directory.path}: {outcome.reason}; the same command goes on from there", file=sys.stderr)
            sys.exit(128 + outcome.signal)
    failed = failures(directory.evals) if strict else []
    refuse_failed(failed)  # and what failed stays to be looked at
    print(deletion.delete(directory) if delete_run_directory else f"next: paribus report {directory.path}")


@app.command("eval")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A run directory, or a folder with a transformers model.")],
    evaluations: Annotated[Path, typer.Argument(help="EVAL.yaml: `evals:` as in a run, and `data:` for a bare model.")],
    overrides: Overrides = None,
    steps: Annotated[str, typer.Option(help="Checkpoints to score: `last`, `all`, or steps such as 100,200.")] = "last",
    strict: Strict = False,
) -> None:
    """Score one checkpoint, or many, on frozen windows that every model shares.

    `paribus eval runs/ergodic/k4-seed0-1a2b3c4d eval.yaml --steps all`"""
    from paribus.evals.results import failure, refuse_failed
    from paribus.evaluation import evaluate as evaluate_model

    made = []
    for path, summary in evaluate_model(model, evaluations, overrides or [], steps):
        made.append(path)
        print(f"{path}: " + ", ".join(f"{metric} {value:.6g}" for metric, value in summary.items()))
    print(f"next: paribus report {model}")
    refuse_failed([line for path in made if strict and (line := failure(path))])


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml")],
    overrides: Overrides = None,
    on: On = "local",
    max_parallel: MaxParallel = None,
    dry_run: DryRun = False,
    strict: Strict = False,
) -> None:
    """Run every point of a grid; what is done is skipped, what is unfinished is resumed, a failing run stops no other.

    On this machine: `paribus sweep sweep.yaml --max-parallel 2 train.budget.steps=500`

    As arrays of Slurm jobs: `paribus sweep sweep.yaml --on slurm launch.slurm.partition=gpu launch.slurm.gpus=1`;
    `--dry-run` shows the scripts. The jobs go on without this command, and the same one watches them again.

    As tasks of a Ray cluster: `paribus sweep sweep.yaml --on ray launch.ray.address=auto`"""
    from paribus.evals.results import failures, refuse_failed
    from paribus.launch import grid, jobs, launcher

    configs = grid.open_sweep(file, overrides or [])
    if dry_run:
        scripts = launcher.scripts(configs, on, max_parallel)
        print("\n".join(jobs.plan(configs)))
        for script in scripts:
            print(f"\n{script}")
        return
    result = launcher.sweep(configs, on, max_parallel)
    print(result.line())
    if result.signal:
        print("next: the same command, which goes on from there")
    else:
        print(f"next: paribus report {configs[0].paths.runs}/{configs[0].study}")
    if strict and not result.exit_code:
        refuse_failed(
            [f"{ending.run.path}: {line}" for ending in result.endings for line in failures(ending.run.evals)]
        )
    sys.exit(result.exit_code)


@app.command()
def status(
    paths: Annotated[list[Path] | None, typer.Argument(help="Folders to look below; default: runs")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Show what runs, what failed and why, and what is done."""
    from paribus.launch.status import show_status

    show_status(paths or [Path("runs")], watch, as_json)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(help="Run directories, or folders that hold some.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained HTML page about any runs; its figures are also written as SVG beside it."""
    from paribus.report.overview import generic_report

    print(generic_report(paths, out))


@app.command()
def table(
    paths: Annotated[list[Path], typer.Argument(help="Run directories, or folders that hold some.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.parquet or NAME.csv.")] = Path("runs.parquet"),
    what: Annotated[
        str,
        typer.Option(help="runs: one row a run; of the grid engine's also losses, evaluations, searches."),
    ] = "runs",
) -> None:
    """Write any runs as one table for other programs; in Python, `paribus.load_runs(PATH)` gives the same.

    `paribus table runs/batch_size -o runs.csv`"""
    from paribus.report.export import write_table
    from paribus.words import counted

    print(f"{out}: {counted(len(write_table(paths, out, what)), 'row')}")


@app.command()
def plot(
    name: Annotated[str, typer.Argument(help="The plot: heatmap_batch, portrait, losscurve_temp_samples ...")],
    paths: Annotated[list[Path], typer.Argument(help="Programs of the grid engine, or folders that hold some.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="NAME.svg, NAME.png or NAME.pdf.")] = Path("plot.svg"),
    where: Annotated[
        list[str] | None,
        typer.Option("--where", "-w", metavar="KEY=VALUE", help="Only runs with this setting, e.g. model.gamma=1"),
    ] = None,
) -> None:
    """Draw one plot of runs of the grid engine into a file. A misspelt name lists all of them.

    `paribus plot losscurve_grid runs/batch_size-smoke -o curves.png --where model.gamma=1`"""
    from paribus.report.plot_files import plot_files

    print("\n".join(map(str, plot_files(name, paths, out, where or []))))


@app.command()
def study(
    name: Annotated[str, typer.Argument(help="The study: ergodic, insertion or batch_size.")],
    size: Annotated[
        str, typer.Argument(help="`smoke`, another YAML of the study, a path to your own, or `report`.")
    ] = "smoke",
    overrides: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", "-n", metavar="SWEEP", help="This sweep only; repeat it for several.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-o", metavar="KEY=VALUE", help="A setting of every run, e.g. train.budget.epochs=5"),
    ] = None,
    plots: Annotated[
        list[str] | None,
        typer.Option("--plots", metavar="FIGURE", help="Only figures whose names begin so; repeat it for several."),
    ] = None,
    on: On = "local",
    max_parallel: MaxParallel = None,
    no_save: Annotated[bool, typer.Option("--no-save", help="Print what the runs came to, keep none of them.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Carry a study from raw text to its report: prepare, sweep, evaluate, draw.

    `paribus study ergodic smoke` takes minutes on two cores; `paribus study ergodic paper --dry-run` shows the full plan."""
    from paribus.studies.study import Options, run_study

    options = Options(overrides or [], settings or [], only or [], plots or [])
    run_study(name, size, options, on=on, max_parallel=max_parallel, dry_run=dry_run, no_save=no_save)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(help="RUN.yaml or a run directory.")],
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OTHER] [KEY.PATH=VALUE ...]", help="Another, to print the keys that differ; settings for both."
        ),
    ] = None,
) -> None:
    """Print a run's resolved config, or the keys in which two runs differ.

    `paribus show a.yaml b.yaml` or `paribus show runs/ergodic/k4-seed0-1a2b3c4d train.optimizer.lr=1e-3`"""
    from paribus.comparison import shown

    print("\n".join(shown(run, rest or [])))


@app.command()
def audit(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    other: Annotated[Path | None, typer.Argument(help="Another: every token that differs, with its cause.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="One JSON line for every inserted span; of two runs, every window that differs."
        ),
    ] = None,
) -> None:
    """Replay a run's token stream, verify it against what the trainer consumed, and compare it with another's."""
    from paribus import audit as audits

    sys.exit(audits.print_audit([run] if other is None else [run, other], out))


@app.command()
def push(
    folder: Annotated[
        Path, typer.Argument(help="A store, which is verified first, a run directory, or any other folder.")
    ],
    url: Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX, or hf://USER/NAME for a model of a run.")],
    endpoint_url: Annotated[str | None, typer.Option(help="An S3 server other than Amazon's.")] = None,
    delete_local: Annotated[
        bool, typer.Option("--delete-local", help="Delete the folder once every file is verified.")
    ] = False,
    step: Annotated[
        int | None, typer.Option(help="hf:// only: which checkpoint; default: the final one of a run that is done.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="hf:// only: a new repository is private.")] = False,
) -> None:
    """Upload a store or a run directory to S3: all or nothing, verified, resumable. Or one checkpoint to the hub.

    `paribus push runs/small/k4-1a2b3c4d s3://bucket/k4` or `paribus push runs/small/k4-1a2b3c4d hf://me/k4 --step 500`"""
    from paribus import upload

    done = upload.push(folder, url, endpoint_url=endpoint_url, delete_local=delete_local, step=step, private=private)
    print("\n".join(done))


@app.command()
def pull(
    url: Annotated[str, typer.Argument(help="s3://BUCKET/PREFIX")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    endpoint_url: Annotated[str | None, typer.Option(help="An S3 server other than Amazon's.")] = None,
) -> None:
    """Download what `push` uploaded: all files or none, each verified."""
    from paribus import remote

    print(remote.pull(url, folder, endpoint_url=endpoint_url).line())


@app.command()
def schema(
    kind: Annotated[str, typer.Argument(help="run, grid_run, corpus, image_zips, sweep, eval or study.")] = "run",
) -> None:
    """Print the JSON Schema of a file, so that an editor completes and checks the YAML.

    `paribus schema run > run.schema.json`, then begin a YAML with `# yaml-language-server: $schema=run.schema.json`"""
    import json

    from paribus.schemas import schema_of

    print(json.dumps(schema_of(kind), indent=1))


def main() -> NoReturn:
    """Run one verb; a user's mistake is printed in its own words and exits with its code."""
    try:
        app()
    except ParibusError as error:
        print(f"paribus: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(141)
    sys.exit(0)
