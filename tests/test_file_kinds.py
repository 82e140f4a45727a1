"""Oracle: the full text of every error, and that each file that is shipped is what its verb wants."""

from pathlib import Path

import pytest

from paribus import config as configs
from paribus.errors import ConfigError
from paribus.evaluation import EvalFile
from paribus.launch.grid import SweepConfig, expand
from paribus.run_config import RunConfig

RUN = "name: a\nmodel: {kind: mlp}\ntrain: {}\nevals: {}\n"
SWEEP = "base: run.yaml\ngrid: {seeds.data: [0, 1]}\n"
STUDY = "folder: a\ntitle: A\nsweeps: {one: {base: run.yaml}}\n"
CORPUS = "name: a\nstore: s\nsource: {kind: sample}\n"
ZIPS = "kind: image_zips\nfolder: a\nout: b\n"
EVALUATIONS = "evals: {}\n"


@pytest.mark.parametrize(
    ("text", "wanted", "line"),
    [
        (SWEEP, "run", "found a sweep, expected a run: `paribus sweep file.yaml` takes it"),
        (RUN, "sweep", "found a run, expected a sweep: `paribus train file.yaml` takes it"),
        (STUDY, "sweep", "found a study, expected a sweep: `paribus study NAME file.yaml` takes it"),
        (CORPUS, "run", "found a corpus, expected a run: `paribus prepare file.yaml` takes it"),
        (ZIPS, "study", "found a corpus, expected a study: `paribus prepare file.yaml` takes it"),
        (RUN, "corpus", "found a run, expected a corpus: `paribus train file.yaml` takes it"),
        (EVALUATIONS, "run", "found evaluations, expected a run: `paribus eval MODEL file.yaml` takes it"),
    ],
)
def test_a_file_for_another_verb_is_one_line_that_names_it(text, wanted, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        configs.load("file.yaml", RunConfig, ["seeds.data=3"], wanted)
    assert str(caught.value) == f"file.yaml: {line}"


def test_a_file_of_the_right_kind_is_judged_by_its_keys(tmp_path):
    file = tmp_path / "file.yaml"
    for text, wanted, schema, key in (
        (f"{RUN}base: x\n", "run", RunConfig, "base"),
        (f"{SWEEP}trian: 3\n", "sweep", SweepConfig, "trian"),
        ("bas: run.yaml\n", "sweep", SweepConfig, "bas"),
        (f"{EVALUATIONS}step: 3\n", "eval", EvalFile, "step"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"{key}: unknown key"):
            configs.load(file, schema, [], wanted)


def test_a_run_that_scores_itself_is_never_taken_for_evaluations(tmp_path):
    file = tmp_path / "file.yaml"
    for text, overrides, told in (
        (RUN.replace("model", "modle"), [], 'modle: unknown key, did you mean "model"'),
        (RUN.replace("train", "trian"), [], 'trian: unknown key, did you mean "train"'),
        (EVALUATIONS, ["model.kind=preset"], "train: missing"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            configs.load(file, RunConfig, overrides, "run")
        assert told in str(caught.value)


def test_a_sweep_expands_no_run(tmp_path):
    (tmp_path / "run.yaml").write_text(RUN)
    with pytest.raises(ConfigError, match=r"run\.yaml: found a run, expected a sweep") as caught:
        expand(tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)
