"""`paribus eval`: score checkpoints of a run, or any model folder, after the fact."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from paribus import config as configs
from paribus.config import Section
from paribus.data.config import DataConfig, Seeds
from paribus.errors import CheckpointError, ConfigError, RunError, named
from paribus.evals.config import EvalConfig, WatermarkEval, input_files, name_input
from paribus.evals.results import read_result, result_path, write_result
from paribus.experiment import load
from paribus.run_config import Name
from paribus.rundir import RunDir, complete, input_fingerprint, step_of
from paribus.treated import treatment

WHEN = ("every", "at_start")  # of an evaluation: when it happens in a run, nothing that it measures


class EvalFile(Section):
    """Evaluations as a run has them, and, for a bare model, the data that they are about."""

    evals: dict[Name, EvalConfig]
    data: DataConfig | None = None
    seeds: Seeds = Seeds()


def evaluate(
    model: Path, file: Path, overrides: list[str], steps: str = "last"
) -> Iterator[tuple[Path, Mapping[str, float]]]:
    """Yield the file of each result with its summary: RUNDIR/evals/NAME/step-000500.json, or evals/ in a model folder.

    steps: `last`, `all`, or step numbers with commas; a bare model has none. The newest checkpoint is the default.
    Raises CheckpointError for a step that has no checkpoint, ConfigError when a bare model is given no `data`, RunError
    when a result of that name was made with other settings."""
    import torch
    from rich.console import Console

    from paribus.evals.build import build_evaluation
    from paribus.evals.scoring import EvalContext
    from paribus.train.checkpoint import load_model
    from paribus.train.weights import load_weights

    config = configs.load(file, EvalFile, overrides, "eval")
    directory = RunDir(model)
    is_run = directory.config_path.exists()
    if is_run:
        run = load(directory)
        data, seeds = config.data or run.data, run.seeds
        folders = {step_of(folder): folder for folder in chosen_checkpoints(directory, steps)}
    elif not (model / "config.json").is_file():
        found = "holds neither config.yaml (a run) nor config.json (a model)" if model.is_dir() else "no such folder"
        raise ConfigError(f"{model}: {found}")
    elif config.data is not None:
        data, seeds, folders = config.data, config.seeds, {0: model}
    else:
        raise ConfigError(
            f"{file}: `data` is missing: {model} is no run directory, so nothing says what to score it on"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    context = EvalContext(data, seeds, device, console=Console(stderr=True))
    if is_run and any(isinstance(evaluation, WatermarkEval) for evaluation in config.evals.values()):
        context = context._replace(treatment=treatment(directory, run))
    refuse_other(directory.evals, config.evals, list(folders))
    scorers = {}
    for name, evaluation in config.evals.items():
        with named(f"evals.{name}"):
            scorers[name] = build_evaluation(evaluation, context)
    for step, folder in folders.items():
        weights = load_model(folder) if is_run else load_weights(folder)
        weights.to(context.device)
        for name, score in scorers.items():
            result = score(weights, step)
            write_result(directory.evals, name, step, result)
            yield result_path(directory.evals, name, step), result.summary


def refuse_other(evals: Path, wanted: Mapping[str, EvalConfig], steps: Sequence[int]) -> None:
    """Raise RunError where a result of the same name and step was made with other settings: it would be overwritten."""
    for name, config in wanted.items():
        for path in (result_path(evals, name, step) for step in steps):
            if not path.exists():
                continue
            held, asked = by_content(read_result(path).record, config)
            changed = [
                f"{key}: {a} there, {b} asked for" for key, a, b in configs.difference(held, asked) if key not in WHEN
            ]
            if changed:
                raise RunError(
                    f"{path}: made with other settings ({'; '.join(changed)}); give this evaluation another name"
                )


def by_content(record: Mapping[str, Any], config: EvalConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The section that made a result, and one asked for, with files named by their content: a moved file is the same."""
    held, asked = dict(record["config"]), json.loads(config.model_dump_json())
    files = input_files(config)
    if held.get("kind") == asked["kind"] and record.get("inputs", {}).keys() == files.keys():
        for key, path in files.items():
            name_input(held, key, record["inputs"][key])
            name_input(asked, key, input_fingerprint(Path(path), key))
    return held, asked


def chosen_checkpoints(directory: RunDir, steps: str) -> list[Path]:
    """The checkpoints that `last`, `all` or `100,200` names, oldest first."""
    found = {step_of(folder): folder for folder in complete(directory.checkpoints)}
    if not found:
        raise CheckpointError(f"{directory.path}: no checkpoint yet; `paribus train {directory.path}` writes one")
    if steps == "all":
        return list(found.values())
    if steps == "last":
        return [found[max(found)]]
    wanted = [int(step) for step in steps.split(",") if step.strip().isdigit()]
    missing = [step for step in wanted if step not in found]
    if missing or len(wanted) != len(steps.split(",")):
        raise CheckpointError(
            f"{directory.path}: --steps {steps}: found checkpoints {sorted(found)}; or say `last` or `all`"
        )
    return [found[step] for step in wanted]
