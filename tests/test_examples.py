"""Every example is run, as its first line says, in a folder of its own; every YAML that ships is loaded."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from paribus import config as configs
from paribus.studies import study

ROOT = Path(__file__).parents[1]
# later ones use what earlier ones made
ORDER = ["corpus", "coins", "text", "sweep", "eval", "insertion", "dynamic", "olmo"]


def command_of(example):
    """The command in an example's first comment."""
    text = (ROOT / "examples" / f"{example}.yaml").read_text()
    found = re.search(r"^#.*?  (paribus [^(\n]*?)(?:  |$)", text, re.MULTILINE)
    assert found, f"{example}: the first line names no command"
    return found[1].strip()


def paribus(command, folder):
    """Run a command line as a shell would, with its globs."""
    return subprocess.run(
        f"{sys.executable} -m {command}", shell=True, cwd=folder, capture_output=True, text=True, timeout=300
    )


def test_every_example_has_its_place_in_the_order():
    assert sorted(ORDER) == sorted(path.stem for path in (ROOT / "examples").glob("*.yaml"))


@pytest.mark.slow
def test_every_example_runs_as_its_first_line_says(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for example in ORDER:
        if example == "olmo":
            if find_spec("olmo_core") is None:  # its extra is not installed
                continue
            subprocess.run([sys.executable, "examples/token_file.py"], cwd=tmp_path, check=True)
        done = paribus(command_of(example), tmp_path)
        assert done.returncode == 0, f"{command_of(example)}\n{done.stdout}\n{done.stderr[-3000:]}"
        assert done.stdout.splitlines()[-1].startswith("next: paribus "), done.stdout


def asked(file):
    """What a YAML wants to be given, and of one with 26,600 runs a few of each sweep."""
    if file.stem == "gamma_eta":
        return study.Options(settings=["train.batch_size=256"])
    if file.parent.name == "batch_size" and file.stem == "paper":
        names = configs.parse(configs.resolve(file), study.StudyConfig).sweeps
        return study.Options([f"sweeps.{name}.grid={{train.batch_size: [1, 32768]}}" for name in names])
    return study.ALL


def test_every_study_yaml_that_ships_is_loaded(monkeypatch):
    monkeypatch.setenv("PARIBUS_DATA", "somewhere")
    files = sorted((ROOT / "src/paribus/studies").glob("*/*.yaml"))
    assert {"smoke", "paper"} <= {file.stem for file in files}
    for file in files:
        config, sweeps = study.load(file, asked(file))
        assert config.folder.startswith(file.parent.name), file
        assert all(sweeps.values()), file
        nested = [run for runs in sweeps.values() for run in runs if getattr(run.data, "categories", None)]
        for run in (run for run in nested if run.data.categories.kind == "nested"):
            told = f"k{run.data.categories.k}-seed{run.seeds.categories}"
            assert run.name == told, f"{file}: the report's tables show the seed of the categories"


def test_the_paper_study_is_the_original_plan():
    _, sweeps = study.load(study.find("ergodic", "paper"))
    assert len(sweeps["text"]) == 15
    assert len(sweeps["baselines"]) == 11
    assert {run.data.categories.k for run in sweeps["text"]} == {1, 2, 4, 8, 11}
    run = sweeps["text"][0]
    assert run.train.budget.steps * run.train.batch_size * run.data.window == 2_560_000_000
    assert len({configs.dump(run) for runs in sweeps.values() for run in runs}) == 50


def test_in_the_control_of_the_paper_study_no_quantity_of_text_depends_on_k():
    _, sweeps = study.load(study.find("ergodic", "paper"))
    control = sweeps["shuffled"]
    assert {run.data.labels for run in control} == {"shuffled"}
    assert len({(run.seeds.labels, run.data.categories.k) for run in control}) == len(control) == 24
    designs = {(run.data.windows.design.kind, run.data.windows.design.chunks) for run in control}
    ((kind, chunks),) = designs
    assert kind == "constant_unique"
    assert all(chunks % run.data.categories.k == 0 for run in control)
    assert {run.train.budget.steps * run.train.batch_size for run in control} == {16 * chunks}


def test_the_subsets_study_has_all_31_subsets_of_one_size():
    _, sweeps = study.load(study.find("ergodic", "subsets"))
    subsets = {tuple(run.data.categories.names) for run in sweeps["subsets"]}
    assert len(subsets) == 31
    assert {run.data.windows.design.chunks for run in sweeps["subsets"]} == {501_760}
