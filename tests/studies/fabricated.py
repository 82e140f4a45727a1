"""Finished runs of a study's own sweeps without their training: losses from a formula, in the files that runs leave."""

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from paribus import config as configs
from paribus.data.batches import Batch
from paribus.data.config import ChunkWindows, TextData
from paribus.data.mixture import choose_categories
from paribus.data.places import view_of
from paribus.data.windows import FrozenWindows
from paribus.evals.config import LossEval
from paribus.evals.loss import record, table
from paribus.evals.matrix import Losses
from paribus.evals.results import EvalResult, write_result
from paribus.evals.scoring import EvalContext
from paribus.run_config import RunConfig
from paribus.rundir import RunDir, write_json, write_text
from paribus.studies.study import Options, find, load

CATEGORIES = ("cs.AI", "cs.CE", "cs.CV", "cs.DS", "cs.IT", "cs.NE", "cs.PL", "cs.SY", "math.AC", "math.GR", "math.ST")
WINDOWS = 6  # a category
STEP = 10

Loss = Callable[[str, RunConfig, tuple[str, ...], str], float]  # (sweep, run, active categories, category) -> nats


def fabricate(folder: Path, size: str, loss: Loss, categories: tuple[str, ...] = CATEGORIES) -> dict[str, list[Path]]:
    """Write every run of a size of the study below `folder`; returns sweep -> run directories.

    A run's mean loss in a category is what `loss` says; windows differ in difficulty, alike for all runs that share them.
    """
    _, sweeps = load(find("ergodic", size), Options([f"runs={folder}"]))
    return {
        sweep: [
            _write(
                folder / sweep / run.name,
                run,
                categories,
                lambda active, name, sweep=sweep, run=run: loss(sweep, run, active, name),
            )
            for run in runs
        ]
        for sweep, runs in sweeps.items()
    }


def _write(
    path: Path, config: RunConfig, categories: tuple[str, ...], loss: Callable[[tuple[str, ...], str], float]
) -> Path:
    run = RunDir(path)
    path.mkdir(parents=True)
    data = config.data
    assert isinstance(data, TextData)
    active = choose_categories(data.categories, categories, config.seeds.categories)
    write_text(run.config_path, configs.dump(config))
    facts = {"unique_tokens": 1000, "total_tokens": 5000, "passes": 5.0, "steps": STEP}
    if isinstance(data.windows, ChunkWindows):
        facts["design"] = data.windows.design.kind
    write_json(run.provenance_path, {"stores": {}, "data": facts, "attempts": []})
    write_text(run.metrics_path, '{"step": 10, "loss": 3.0}\n')
    windows = frozen(config, data, categories)
    rng = np.random.default_rng(int(windows.batch.window_ids.sum()))
    values_NT = rng.normal(0, 0.5, windows.batch.targets.shape) + 2 / np.arange(1, data.window + 1) ** 0.5
    for number, name in enumerate(categories):
        rows = windows.category == number
        values_NT[rows] += loss(active, name) - values_NT[rows].mean()
    losses = Losses(values_NT.astype(np.float32), np.ones(values_NT.shape, bool), windows.category, windows.categories)
    settings = LossEval(split="test", categories="all", windows_per_category=WINDOWS)
    result = EvalResult(record(settings, losses, windows, EvalContext(data, config.seeds)), table(losses, windows))
    write_result(run.evals, "test", STEP, result)
    run.set_status("done", step=STEP)
    return path


def frozen(config: RunConfig, data: TextData, categories: tuple[str, ...]) -> FrozenWindows:
    """Windows that depend on the category and on how the labels were dealt, as those of a store do."""
    labels = view_of(data, config.seeds).labels_seed
    ids = [zlib.crc32(f"{name} {labels}".encode()) * 100 + number for name in categories for number in range(WINDOWS)]
    shape = len(ids), data.window
    batch = Batch(np.zeros(shape, np.int32), np.ones(shape, np.int32), np.array(ids, np.int64))
    return FrozenWindows(batch, np.repeat(np.arange(len(categories), dtype=np.int32), WINDOWS), categories, None)
