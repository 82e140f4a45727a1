"""run(): the only place where the parts of a run meet."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paribus import config as configs
from paribus import provenance, rundir, treated
from paribus.data.batches import Stream, untouched
from paribus.data.config import TokenFilesData
from paribus.errors import Diverged, ParibusError, RunError, named
from paribus.evals.config import EvalConfig, WatermarkEval
from paribus.identity import fingerprints, hub_commit, refuse_other_tokenizer, resolve, verify_stores
from paribus.run_config import RunConfig
from paribus.rundir import RunDir, newest, step_of
from paribus.start import first_state, load_optimizer, start_of, verify

if TYPE_CHECKING:
    from paribus.insertions.plan import Plan
    from paribus.train.engine import Engine, Host
    from paribus.train.loop import Action, Outcome
    from paribus.train.olmo.engine import OlmoCoreEngine


def place(config: RunConfig) -> RunDir:
    """Where the run lives: RUNS/STUDY/NAME-ID. Nothing is written. Raises StoreError when a store is missing."""
    return RunDir(Path(config.paths.runs) / config.study / f"{config.name}-{rundir.identity(resolve(config))}")


def create(config: RunConfig) -> RunDir:
    """Make the run's directory, or find it again; nothing is trained."""
    run = place(config)
    hold(run, config)
    return run


def hold(run: RunDir, config: RunConfig) -> None:
    """Write the config into the directory, where it was not yet. Raises RunError when it holds another run."""
    if run.config_path.exists():
        refuse_changes(run, config)
    if not run.is_done:  # what may differ is where and how: the newest word counts
        run.make()
        rundir.write_text(run.config_path, configs.dump(config))


def open_run(path: Path, overrides: Sequence[str] = ()) -> tuple[RunDir, RunConfig]:
    """From RUN.yaml or a run directory to both; overrides of a directory may change where and how, and nothing else."""
    if path.is_dir():
        return RunDir(path), load(RunDir(path), overrides)
    config = configs.load(path, RunConfig, overrides, "run")
    return place(config), config


def read(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of RUN.yaml or of a run directory, whether its data are at hand or not."""
    return configs.load(path / "config.yaml" if path.is_dir() else path, RunConfig, overrides, "run")


def load(run: RunDir, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run directory's config. Raises RunError when an override would make it another run."""
    if not run.config_path.exists():
        raise RunError(f"{run.path}: no config.yaml: not a run directory; `paribus train RUN.yaml` makes one")
    config = configs.load(run.config_path, RunConfig, overrides)
    if overrides:
        refuse_changes(run, config)
    return config


def refuse_changes(run: RunDir, config: RunConfig) -> None:
    """Raise RunError, with both values of every key, when `config` is not the run that the directory holds.

    Of a run that has begun, provenance.json says what it is, whatever was done to config.yaml since."""
    known = json.loads(run.provenance_path.read_text()) if run.provenance_path.exists() else {}
    held = known["config"] if "config" in known else resolve(configs.load(run.config_path, RunConfig))
    asked = json.loads(json.dumps(resolve(config)))
    changed = {
        key: f"  {key}: {old} in the directory, {new} asked for"
        for key, old, new in configs.difference(held, asked)
        if key.split(".")[0] not in rundir.WHERE_AND_HOW
    }
    if not changed or _is_mended(run, changed):
        return
    contents = (
        ".store",
        "model.path",
        ".file",
        ".script",
        ".probe",
        ".texts",
        "data.files",
        "data.heldout_files",
        "data.tokenizer",
    )
    if all(key.endswith(contents) or ".files." in key for key in changed):
        what = "what it reads changed since the run began; bring the old content back"
    else:
        what = "holds another run; train the changed config under its own name"
    lines = "\n".join(changed.values())
    raise RunError(f"{run.path}: {what}. It differs in\n{lines}")


def _is_mended(run: RunDir, changed: Iterable[str]) -> bool:
    """Whether the run failed, and only scripts of its controllers changed since: each segment says which one decided it."""
    return run.status().get("state") == "failed" and all(key.endswith("controller.script") for key in changed)


def run(directory: RunDir, config: RunConfig) -> "Outcome":
    """Train the run that `directory` holds, from its newest checkpoint to the end of its budget.

    Every rank of a process group calls this; rank 0 writes. The status tells the end: done, stopped (a signal), diverged
    or failed. Raises Diverged for a loss that is not finite, RunError when another process holds the directory, when the
    device is full, or when the data are no longer those that the run began with."""
    rank = 0 if config.launch.engine == "single" else int(os.environ.get("RANK", 0))
    environment = config.insertions.environment if config.insertions else {}
    with variables(environment), directory.lock() if rank == 0 else contextlib.nullcontext():
        is_new = rank == 0 and not directory.config_path.exists()  # nobody else can have begun it meanwhile
        try:
            return _run(directory, config, rank)
        except ParibusError as error:
            if is_new and error.exit_code == ParibusError.exit_code:
                forget(directory)
            raise


@contextlib.contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process's environment; afterwards they are what they were."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def forget(directory: RunDir) -> None:
    """Remove a run that took no step: a mistake before the first one leaves nothing."""
    stepped = directory.stream_path.exists() and directory.stream_path.stat().st_size > 0
    if not stepped:
        shutil.rmtree(directory.path, ignore_errors=True)


def _run(directory: RunDir, config: RunConfig, rank: int) -> "Outcome":
    """`run`, under the lock."""
    from paribus.train.engine import build_engine
    from paribus.train.loop import Outcome

    if directory.is_done:  # another process finished it while this one waited for its turn
        return Outcome("done", directory.status().get("step", 0), "done already")
    if rank == 0:
        hold(directory, config)
    engine = build_engine(config.launch, config.train)
    try:
        outcome = _train(directory, config, engine)
    except Diverged as error:
        _end(directory, rank, "diverged", str(error))
        raise
    except (Exception, KeyboardInterrupt) as error:
        reason = str(error) if isinstance(error, ParibusError) else f"{type(error).__name__}: {error}"
        _end(directory, rank, "failed", reason)
        raise
    finally:
        engine.close()
    _end(directory, rank, outcome.state, outcome.reason, step=outcome.step)
    return outcome


def _train(directory: RunDir, config: RunConfig, engine: "Engine | OlmoCoreEngine") -> "Outcome":
    from paribus.insertions.plan import open_plan
    from paribus.insertions.segments import Segments
    from paribus.models.hf import build_model
    from paribus.objectives.build import build_objective
    from paribus.track.tracker import Mirrors, build_trackers
    from paribus.train.loop import Job, fit
    from paribus.train.olmo.engine import OlmoCoreEngine

    stream, total = treated.plain_stream(config)
    refuse_other_tokenizer(config)
    start = start_of(config)
    if engine.rank == 0:
        verify_stores(config)
        verify(start)
    overlay = untouched
    controls: list[Action] = []
    plan = None
    if config.insertions:
        if engine.rank == 0:
            plan = treated.open_insertions(directory, config)
            treated.write_lint(directory, config, plan)
        engine.barrier()  # rank 0 may have had to compile it, and has verified it
        plan = plan or open_plan(directory.insertions)
        segments = Segments(plan, directory.control)
        controls = treated.control(config, segments, stream, engine)
        overlay = segments.overlay
        stream = treated.inserted_stream(config, plan, overlay)
    model = build_model(config.model, stream.vocab_size, stream.window, config.seeds.weights)
    if engine.rank == 0:
        record_attempt(directory, config, data_facts(config, stream, total))
        directory.set_status("running", num_steps=total)
    state = first_state(config, start)
    job = Job(config.train, directory, config.seeds.weights, config.launch.progress, state, start.schedule_steps)
    mirrors = Mirrors({})
    if engine.rank == 0:
        mirrors = build_trackers(config.track, directory, config.name, config.model_dump(mode="json"))
    with contextlib.closing(mirrors) as log:
        actions = [*evaluations(directory, config, engine, plan), *controls]
        if isinstance(engine, OlmoCoreEngine):
            from paribus.data.token_files import open_token_files
            from paribus.train.olmo.fit import fit_with_olmo_core
            from paribus.train.olmo.loader import Feed

            assert isinstance(config.data, TokenFilesData)  # RunConfig refuses anything else
            files = open_token_files(config.data, config.data.files)
            engine.prepare(model, stream.row_tokens)
            feed = Feed(config.data, config.seeds.order, overlay, files)
            return fit_with_olmo_core(engine, feed, stream, job, actions, log)
        engine.prepare(model)
        if config.start.optimizer == "continued" and newest(directory.checkpoints) is None:
            load_optimizer(engine, start, directory)
        return fit(engine, build_objective(config.objective), stream, job, actions, log)


def evaluations(directory: RunDir, config: RunConfig, host: "Host", plan: "Plan | None") -> list["Action"]:
    """The run's evaluations as actions of the loop, their frozen windows drawn now: what does not fit fails here.

    plan: of the run's insertions, where it has some. Rank 0 writes evals/NAME/step-000500.json."""
    from paribus.evals.build import EvalContext, build_evaluation
    from paribus.evals.results import write_result
    from paribus.train.loop import Action

    context = EvalContext(config.data, config.seeds, str(host.device), rank=host.rank, world=host.world)
    if any(isinstance(evaluation, WatermarkEval) for evaluation in config.evals.values()):
        context = context._replace(treatment=treated.treatment(directory, config, plan))

    def action(name: str, config: EvalConfig) -> Action:
        with named(f"evals.{name}"):
            evaluation = build_evaluation(config, context)

        def score(step: int) -> Mapping[str, float]:
            result = evaluation(host.model, step)
            if host.rank == 0:
                write_result(directory.evals, name, step, result)
            return {f"evaluation/{name}/{metric}": value for metric, value in result.summary.items()}

        return Action(config.every, config.at_start, score)

    return [action(name, evaluation) for name, evaluation in config.evals.items()]


def plan(directory: RunDir, config: RunConfig) -> list[str]:
    """What training the run would mean, in lines for a person; nothing is written."""
    from paribus.insertions.lint import lint_lines
    from paribus.insertions.plan import table_lines

    stream, total = treated.plain_stream(config)
    facts, first = data_facts(config, stream, total), start_of(config).first_step
    begins = f" (this run takes those from {first:,} on)" if first else ""
    state = "done" if directory.is_done else directory.status().get("state", "new")
    unique = "unbounded" if facts["unique_tokens"] is None else f"{facts['unique_tokens']:,}"
    passes = "" if facts["passes"] is None else f", {facts['passes']:.2f} passes"
    inserted = []
    if config.insertions:
        written = treated.compile_insertions(config)
        inserted = [*table_lines(written), *(lint_lines(treated.lint(config, written)) if written.experiments else [])]
    return [
        f"{directory.path} ({state})",
        f"  {facts['steps']:,} steps{begins} of {config.train.batch_size} windows of {stream.window} predictions: "
        f"{facts['total_tokens']:,} tokens, {unique} unique{passes}",
        f"  categories: {', '.join(stream.categories)}",
        *(f"  {line}" for line in inserted),
    ]


def data_facts(config: RunConfig, stream: Stream, total: int) -> dict[str, Any]:
    """How much the run reads: total tokens, unique ones (expected, where windows are random), and passes over those.

    All are counted from step 0, also where the run continues another one's data."""
    from paribus.data.stream import unique_tokens

    windows = total * config.train.batch_size
    tokens = windows * stream.window
    unique = unique_tokens(config.data, config.seeds, config.train.batch_size, windows)
    return {
        "steps": total,
        "total_tokens": tokens,
        "unique_tokens": unique,
        "reachable_tokens": stream.unique_tokens,
        "passes": tokens / unique if unique else None,
        "categories": list(stream.categories),
        **stream.facts,
    }


def record_attempt(directory: RunDir, config: RunConfig, data: Mapping[str, Any]) -> None:
    """Add this process to provenance.json. Raises RunError when the run began with other stores or pretrained weights."""
    prints = fingerprints(config) | hub_commit(config)
    path = directory.provenance_path
    known: dict[str, Any] = {"config": resolve(config), "stores": prints, "data": dict(data), "attempts": []}
    if path.exists():
        known = json.loads(path.read_text())
    differing = [name for name, now in prints.items() if known["stores"].get(name) != now]
    if differing and _is_mended(directory, differing):
        known |= {"config": resolve(config), "stores": prints}
    elif known["stores"] != prints:
        changed = [f"{name}: {known['stores'].get(name)} then, {prints[name]} now" for name in differing]
        raise RunError(
            f"{directory.path}: what it reads changed since the run began ({'; '.join(changed)}); bring the old content back"
        )
    checkpoint = newest(directory.checkpoints)
    facts: dict[str, Any] = {"resumes_from": checkpoint and step_of(checkpoint)}
    if config.insertions and config.insertions.environment:
        facts["environment"] = dict(config.insertions.environment)
    known["attempts"].append(provenance.attempt(**facts))
    rundir.write_json(path, known)


def _end(directory: RunDir, rank: int, state: rundir.State, reason: str, **facts: Any) -> None:
    if rank == 0:
        kept = {key: value for key, value in directory.status().items() if key == "num_steps"}
        directory.set_status(state, reason, **kept, **facts)
