"""What a reader is told who asks a study for what it does not have; oracle: the full text."""

from pathlib import Path

import numpy as np
import pytest

from paribus.errors import ConfigError, DataError
from paribus.studies.study import Options, run_study

STUDY = """\
folder: toy
title: A toy
sweeps:
  teacher:
    base:
      name: toy
      data: {kind: polynomial, num_samples: 64}
      model: {kind: mlp, width: 8}
      train: {eta: 1, batch_size: 16, budget: {epochs: 1}}
    grid: {train.eta: [1, 2]}
  images:
    base:
      name: toy
      data:
        kind: images
        source: {kind: npz, file: "${PARIBUS_TOY:-toy.npz}"}
      model: {kind: mlp, width: 8}
      train: {eta: 1, batch_size: 2, budget: {epochs: 1}}
    grid: {train.eta: [1, 2]}
"""
MISSING = (
    "toy.yaml:16: data.source.file: toy.npz: no such file; expected an .npz with X_train, y_train, X_test, y_test; "
    "the variable PARIBUS_TOY says where it is; the sweep images reads it; --only SWEEP leaves images out"
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PARIBUS_TOY", raising=False)
    Path("toy.yaml").write_text(STUDY)

    def run(overrides=(), settings=(), only=(), dry_run=True):
        run_study("batch_size", "toy.yaml", Options(overrides, settings, only), dry_run=dry_run)

    return run


def test_a_dry_run_without_a_file_of_one_sweep_hides_the_others(study, capsys):
    with pytest.raises(DataError) as caught:
        study()
    assert str(caught.value) == MISSING
    assert "runs/toy/teacher/polynomial-mup-sgd-n8-l3-b16-" in capsys.readouterr().out
    study(only=["teacher"])
    assert list(Path().iterdir()) == [Path("toy.yaml")]


def test_a_study_begins_although_a_file_is_missing(study):
    with pytest.raises(DataError) as caught:
        study(dry_run=False)
    assert str(caught.value) == MISSING
    assert list(Path().iterdir()) == [Path("toy.yaml")]


def test_the_variable_does_not_name_the_file(study, capsys, monkeypatch):
    pixels, labels = np.arange(32, dtype=np.uint8).reshape(8, 2, 2), np.arange(8) % 2
    np.savez("other.npz", X_train=pixels, y_train=labels, X_test=pixels, y_test=labels)
    monkeypatch.setenv("PARIBUS_TOY", "other.npz")
    study()
    assert "runs/toy/images/images-mup-sgd-n8-l3-b2-" in capsys.readouterr().out


def test_a_setting_of_every_run_is_an_unknown_key_of_the_study(study):
    with pytest.raises(ConfigError) as caught:
        study(["train.budget.epochs=2", "title=mine", "data={kind: linear}"])
    assert str(caught.value).splitlines() == [
        "command line: train.budget.epochs=2: train is a key of runs, not of the study: "
        "--set train.budget.epochs=2 sets it in every run",
        "command line: data={kind: linear}: data is a key of runs, not of the study: "
        "--set 'data={kind: linear}' sets it in every run",
    ]
    study(["title=mine"], ["train.budget.epochs=2"], ["teacher"])


@pytest.mark.parametrize("options", [(["paths.runs=/big"], []), ([], ["paths.runs=/big"]), ([], ["study=mine"])])
def test_the_runs_of_a_study_lie_elsewhere_than_its_report(options, study):
    with pytest.raises(ConfigError, match=r"the study says where its runs lie: runs=FOLDER moves all of them"):
        study(*options)
