"""The sizes of the study are what their headers say: the published grids, one law each, and all laws in one."""

import math
from pathlib import Path

import pytest

from paribus import config as configs
from paribus.errors import ConfigError
from paribus.launch.grid import Range
from paribus.studies.study import StudyConfig, find, load

LAWS = ("coordinate_check", "richness", "tau", "batch_size", "temperature", "width", "noise_scale")


def sweeps_of(size):
    return configs.parse(configs.resolve(find("batch_size", size)), StudyConfig).sweeps


def values(grid, key):
    return grid[key].values() if isinstance(grid[key], Range) else grid[key]


def test_the_paper_study_is_not_the_published_grid():
    sweeps = sweeps_of("paper")
    for name, sweep in sweeps.items():
        assert values(sweep.grid, "model.gamma") == [1e-5, 0.01, 0.1, 1, 10, 100, 1e5]
        sizes, etas = values(sweep.grid, "train.batch_size"), values(sweep.grid, "train.eta")
        assert etas == [2.0**power for power in range(-12, 13)]
        assert sizes == [2**power for power in range(16 if name == "mnist" else 17)]
    counts = [math.prod(len(values(sweep.grid, key)) for key in sweep.grid) for sweep in sweeps.values()]
    assert (len(counts), sum(counts)) == (9, 26_600)
    assert "26,600 runs" in find("batch_size", "paper").read_text()


def test_the_small_suite_is_not_the_original_one():
    for sweep in sweeps_of("small_mup").values():
        assert values(sweep.grid, "model.width") == [64, 128, 256]
        assert values(sweep.grid, "model.gamma") == pytest.approx([0.01, 0.1, 1, 10, 100])
        assert (values(sweep.grid, "train.batch_size"), values(sweep.grid, "train.eta")) == ([128, 256], [16, 32])


def test_the_portrait_runs_without_a_batch_size():
    with pytest.raises(ConfigError, match=r"train\.batch_size: missing"):
        load(find("batch_size", "gamma_eta"))


def test_a_law_in_the_study_of_all_laws_has_other_runs_than_alone():
    alone = {name: sweep for size in LAWS for name, sweep in sweeps_of(size).items()}
    together = sweeps_of("laws")
    assert set(together) - set(alone) == {"mnist"}
    assert {name: together[name] for name in alone} == alone


def test_a_size_does_not_say_how_it_is_run():
    for file in sorted(Path(find("batch_size", "smoke")).parent.glob("*.yaml")):
        first = file.read_text().splitlines()[0]
        assert f"paribus study batch_size {file.stem}" in first, file
        assert any(unit in first for unit in ("seconds", "minute", "core-days")), file
