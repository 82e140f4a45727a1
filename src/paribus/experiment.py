"""RunConfig and run(): the only place where the parts meet."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from paribus import config as configs
from paribus import provenance, rundir
from paribus.config import Section
from paribus.data.batches import Stream
from paribus.data.config import DataConfig, Seeds, TextData
from paribus.errors import Diverged, ParibusError, RunError
from paribus.evals.config import EvalConfig, LossEval
from paribus.models.config import ModelConfig, Pretrained
from paribus.objectives.config import NextToken, ObjectiveConfig
from paribus.rundir import RunDir, folder_fingerprint, newest, step_of
from paribus.track.config import TrackConfig
from paribus.train.config import LaunchConfig, ReduceOnPlateau, TrainConfig

if TYPE_CHECKING:
    from paribus.train.engine import Engine
    from paribus.train.loop import Action, Outcome


LONG_READ_BYTES = 2**30  # reading more than this shows a bar


class Paths(Section):
    runs: str = Field("runs", description="the folder that holds STUDY/NAME-ID/")


def _names_folders(value: str) -> str:
    if any(part.startswith(".") or not part.strip() for part in value.split("/")) or "\0" in value:
        raise ValueError("it names a folder: no empty part, and none that begins with a dot, is expected")
    return value


def _names_a_folder(value: str) -> str:
    if "/" in value:
        raise ValueError("it names a folder: no slash is expected")
    return _names_folders(value)


Name = Annotated[str, AfterValidator(_names_a_folder)]


class RunConfig(Section):
    """One run: what it trains on, what it trains, and how it is judged."""

    study: Annotated[str, AfterValidator(_names_folders)] = Field(
        "runs", description="the folder of the run below paths.runs"
    )
    name: Name
    seeds: Seeds = Seeds()
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig = NextToken()
    train: TrainConfig
    evals: dict[Name, EvalConfig] = {}
    # where and how: no part of the run's identity
    track: TrackConfig = TrackConfig()
    launch: LaunchConfig = LaunchConfig()
    paths: Paths = Paths()

    @model_validator(mode="after")
    def _evaluations_exist(self) -> "RunConfig":
        train = self.train
        followed = {"train.checkpoints.best_evaluation": train.checkpoints.best_evaluation}
        if train.early_stopping is not None:
            followed["train.early_stopping.evaluation"] = train.early_stopping.evaluation
        if isinstance(train.schedule, ReduceOnPlateau):
            followed["train.schedule.evaluation"] = train.schedule.evaluation
        for key, name in followed.items():
            evaluation = self.evals.get(name) if name is not None else None
            if name is not None and not (isinstance(evaluation, LossEval) and evaluation.every is not None):
                usable = [n for n, e in self.evals.items() if isinstance(e, LossEval) and e.every is not None]
                raise ValueError(
                    f"{key}: {name} is no evaluation of kind loss with `every`; those are: {usable or 'none'}"
                )
        return self


def resolve(config: RunConfig, prints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The config as a mapping in which everything that is read is named by its fingerprint: what decides the identity.

    The same run has the same identity wherever its stores and pretrained weights lie. prints: those to use, when the
    files need not be at hand. Raises StoreError when a store is missing."""
    mapping = config.model_dump(mode="json")
    for name, found in (fingerprints(config) if prints is None else prints).items():
        if name == "model":
            mapping["model"]["path"] = found
        elif name == "data":
            mapping["data"]["store"] = found
        elif name.startswith("evals."):
            mapping["evals"][name.removeprefix("evals.")]["store"] = found
    return mapping


def stores(config: RunConfig) -> dict[str, Path]:
    """Every store that the run reads: `data`, and `evals.NAME` where an evaluation has its own."""
    found = {"data": Path(config.data.store)} if isinstance(config.data, TextData) else {}
    own = {name: e.store for name, e in config.evals.items() if isinstance(e, LossEval) and e.store is not None}
    return found | {f"evals.{name}": Path(store) for name, store in own.items()}


def fingerprints(config: RunConfig) -> dict[str, str]:
    """The content of every store that the run reads, and of the folder, if any, that its model comes from."""
    from paribus.data.store import open_store

    prints = {name: open_store(path).fingerprint for name, path in stores(config).items()}
    if isinstance(config.model, Pretrained) and Path(config.model.path).is_dir():
        prints["model"] = folder_fingerprint(Path(config.model.path), weights=config.model.init == "weights")
    return prints


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
        run.path.mkdir(parents=True, exist_ok=True)
        rundir.write_text(run.config_path, configs.dump(config))


def open_run(path: Path, overrides: Sequence[str] = ()) -> tuple[RunDir, RunConfig]:
    """From RUN.yaml or a run directory to both; overrides of a directory may change where and how, and nothing else."""
    if path.is_dir():
        return RunDir(path), load(RunDir(path), overrides)
    config = configs.load(path, RunConfig, overrides)
    return place(config), config


def read(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of RUN.yaml or of a run directory, whether its data are at hand or not."""
    return configs.load(path / "config.yaml" if path.is_dir() else path, RunConfig, overrides)


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

    What the held run read is taken from its provenance: its store may have moved since."""
    begun = json.loads(run.provenance_path.read_text())["stores"] if run.provenance_path.exists() else None
    held, asked = resolve(configs.load(run.config_path, RunConfig), begun), resolve(config)
    changed = {
        key: f"  {key}: {old} in the directory, {new} asked for"
        for key, old, new in configs.difference(held, asked)
        if key.split(".")[0] not in rundir.WHERE_AND_HOW
    }
    if not changed:
        return
    if all(key.endswith((".store", "model.path")) for key in changed):
        what = "what it reads changed since the run began; bring the old content back"
    else:
        what = "holds another run; train the changed config under its own name"
    lines = "\n".join(changed.values())
    raise RunError(f"{run.path}: {what}. It differs in\n{lines}")


def run(directory: RunDir, config: RunConfig) -> "Outcome":
    """Train the run that `directory` holds, from its newest checkpoint to the end of its budget.

    Every rank of a process group calls this; rank 0 writes. The status tells the end: done, stopped (a signal), diverged
    or failed. Raises Diverged for a loss that is not finite, RunError when another process holds the directory, when the
    device is full, or when the data are no longer those that the run began with."""
    from paribus.train.engine import build_engine
    from paribus.train.loop import Outcome

    rank = 0 if config.launch.engine == "single" else int(os.environ.get("RANK", 0))
    with directory.lock() if rank == 0 else contextlib.nullcontext():
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
            _end(
                directory,
                rank,
                "failed",
                str(error) if isinstance(error, ParibusError) else f"{type(error).__name__}: {error}",
            )
            raise
        finally:
            engine.close()
        _end(directory, rank, outcome.state, outcome.reason, step=outcome.step)
        return outcome


def _train(directory: RunDir, config: RunConfig, engine: "Engine") -> "Outcome":
    from paribus.data.stream import build_stream
    from paribus.models.hf import build_model
    from paribus.objectives.build import build_objective
    from paribus.track.tracker import Mirrors, build_trackers
    from paribus.train.budget import num_steps
    from paribus.train.loop import Job, fit

    stream = build_stream(config.data, config.seeds, config.train.batch_size)
    total = num_steps(config.train, stream)
    refuse_other_tokenizer(config)
    if engine.rank == 0:
        verify_stores(config)
    model = build_model(config.model, stream.vocab_size, stream.window, config.seeds.weights)
    if engine.rank == 0:
        record_attempt(directory, config, data_facts(config, stream, total))
        directory.set_status("running", num_steps=total)
    engine.prepare(model)
    job = Job(config.train, directory, config.seeds.weights, config.launch.progress)
    mirrors = Mirrors({})
    if engine.rank == 0:
        mirrors = build_trackers(config.track, directory, config.name, config.model_dump(mode="json"))
    with contextlib.closing(mirrors) as log:
        return fit(engine, build_objective(config.objective), stream, job, evaluations(directory, config, engine), log)


def evaluations(directory: RunDir, config: RunConfig, engine: "Engine") -> list["Action"]:
    """The run's evaluations as actions of the loop, their frozen windows drawn now: what does not fit fails here.

    Rank 0 writes evals/NAME/step-000500.json."""
    from paribus.evals.build import EvalContext, build_evaluation
    from paribus.evals.results import write_result
    from paribus.train.loop import Action

    context = EvalContext(config.data, config.seeds, str(engine.device), rank=engine.rank, world=engine.world)

    def action(name: str, config: EvalConfig) -> Action:
        evaluation = build_evaluation(config, context)

        def score(step: int) -> Mapping[str, float]:
            result = evaluation(engine.model)
            if engine.rank == 0:
                write_result(directory.evals, name, step, result)
            return {f"evaluation/{name}/{metric}": value for metric, value in result.summary.items()}

        return Action(config.every, config.at_start, score)

    return [action(name, evaluation) for name, evaluation in config.evals.items()]


def plan(directory: RunDir, config: RunConfig) -> list[str]:
    """What training the run would mean, in lines for a person; nothing is written."""
    from paribus.data.stream import build_stream
    from paribus.train.budget import num_steps

    stream = build_stream(config.data, config.seeds, config.train.batch_size)
    facts = data_facts(config, stream, num_steps(config.train, stream))
    state = "done" if directory.is_done else directory.status().get("state", "new")
    unique = "unbounded" if facts["unique_tokens"] is None else f"{facts['unique_tokens']:,}"
    passes = "" if facts["passes"] is None else f", {facts['passes']:.2f} passes"
    return [
        f"{directory.path} ({state})",
        f"  {facts['steps']:,} steps of {config.train.batch_size} windows of {stream.window} predictions: "
        f"{facts['total_tokens']:,} tokens, {unique} unique{passes}",
        f"  categories: {', '.join(stream.categories)}",
    ]


def data_facts(config: RunConfig, stream: Stream, total: int) -> dict[str, Any]:
    """How much the run reads: total tokens, unique ones (expected, where windows are random), and passes over those."""
    from paribus.data.windows import unique_tokens

    windows = total * config.train.batch_size
    tokens = windows * stream.window
    unique = unique_tokens(config.data, config.seeds, windows) if isinstance(config.data, TextData) else None
    return {
        "steps": total,
        "total_tokens": tokens,
        "unique_tokens": unique,
        "reachable_tokens": stream.unique_tokens,
        "passes": tokens / unique if unique else None,
        "categories": list(stream.categories),
        **stream.facts,
    }


def verify_stores(config: RunConfig) -> None:
    """Read every store of the run once, about a second a gigabyte. Raises StoreError, naming the file that was altered."""
    from paribus.data.bars import bars
    from paribus.data.store import open_store

    for path in dict.fromkeys(stores(config).values()):
        size = sum(facts.bytes for facts in open_store(path).manifest.files.values())
        with bars(config.launch.progress and size > LONG_READ_BYTES) as begin:
            open_store(path, verify=True, advance=begin(f"verifying {path.name}", size))


def refuse_other_tokenizer(config: RunConfig) -> None:
    """Raise StoreError when a pretrained model's folder holds a tokenizer that gives other ids than the store's."""
    from paribus.data.store import open_store
    from paribus.data.tokenizer import read_tokenizer

    if (
        not isinstance(config.model, Pretrained)
        or config.model.init != "weights"
        or not isinstance(config.data, TextData)
    ):
        return
    file = Path(config.model.path) / "tokenizer.json"
    if file.is_file():
        open_store(config.data.store).check_tokenizer(read_tokenizer(file))


def hub_commit(config: RunConfig) -> dict[str, str]:
    """The commit of the hub's repository that the model was loaded from; pin `model.revision` to name it beforehand."""
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(config.model, Pretrained) or Path(config.model.path).is_dir():
        return {}
    cached = try_to_load_from_cache(config.model.path, "config.json", revision=config.model.revision)
    return {"model_commit": Path(cached).parent.name} if isinstance(cached, str) else {}


def record_attempt(directory: RunDir, config: RunConfig, data: Mapping[str, Any]) -> None:
    """Add this process to provenance.json. Raises RunError when the run began with other stores or pretrained weights."""
    prints = fingerprints(config) | hub_commit(config)
    path = directory.provenance_path
    known: dict[str, Any] = {"stores": prints, "data": dict(data), "attempts": []}
    if path.exists():
        known = json.loads(path.read_text())
    if known["stores"] != prints:
        changed = [f"{name}: {known['stores'].get(name)} then, {now} now" for name, now in prints.items()]
        raise RunError(
            f"{directory.path}: what it reads changed since the run began ({'; '.join(changed)}); bring the old content back"
        )
    checkpoint = newest(directory.checkpoints)
    known["attempts"].append(provenance.attempt(resumes_from=checkpoint and step_of(checkpoint)))
    rundir.write_json(path, known)


def _end(directory: RunDir, rank: int, state: rundir.State, reason: str, **facts: Any) -> None:
    if rank == 0:
        kept = {key: value for key, value in directory.status().items() if key == "num_steps"}
        directory.set_status(state, reason, **kept, **facts)
