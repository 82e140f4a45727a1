"""Oracle: the full text of every error."""

from pathlib import Path

import pytest

from paribus import config as configs
from paribus.errors import ConfigError, DataError
from paribus.grid import programs
from paribus.launch.grid import expand, open_sweep

GRID_RUN = """\
name: a
data: {kind: polynomial}
model: {kind: mlp, width: 8, depth: 3}
train: {eta: 1, batch_size: 64, budget: {steps: 10}}
"""
KINDS = 'expected "preset", "architecture", "pretrained" or "mlp"'


def refused(look, folder):
    with pytest.raises(ConfigError) as caught:
        look()
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("model: {kind: mpl, width: 8}\n", f'3: model.kind: found "mpl", {KINDS}, did you mean "mlp"?'),
        ("model: {width: 8}\n", f"3: model.kind: missing, {KINDS}"),
        ("model: {kind: [mlp]}\n", f"3: model.kind: found a list of 1, {KINDS}"),
        ("model: mlp\n", f'3: model: found "mlp", {KINDS.replace("expected", "expected a mapping of kind")}'),
        ("", f"1: model: missing, {KINDS.replace('expected', 'expected a mapping of kind')}"),
    ],
)
def test_a_run_whose_model_is_of_no_kind_is_judged_as_a_language_model(model, line, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(GRID_RUN.replace("model: {kind: mlp, width: 8, depth: 3}\n", model))
    (tmp_path / "sweep.yaml").write_text("base: run.yaml\ngrid: {train.eta: [1, 2]}\n")
    for look in (lambda: programs.look(file), lambda: programs.open_program(file)):
        assert refused(look, tmp_path) == f"run.yaml:{line}"
    assert refused(lambda: expand(tmp_path / "sweep.yaml"), tmp_path) == f"run.yaml:{line}"


def test_a_run_of_a_known_kind_has_all_its_mistakes_told(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(GRID_RUN.replace("width: 8", "widht: 8").replace("eta: 1", "eta: x"))
    assert len(refused(lambda: programs.look(file), tmp_path).splitlines()) == 2
    file.write_text(GRID_RUN.replace("mlp", "preset"))
    assert programs.look(file) is None


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["seeds.data=3", "data.num_samples=10"],
            "command line: data.num_samples=10: train.batch_size: 64 is more than the data.num_samples: 10; lower it",
        ),
        (
            ["train.budget={steps: 3, epochs: 3}"],
            "command line: train.budget={steps: 3, epochs: 3}: exactly one of steps and epochs is expected, found both",
        ),
        (
            ["train.budget.epochs=3"],
            "command line: train.budget.epochs=3: train.budget: exactly one of steps and epochs is expected, found both",
        ),
        (
            ["train.optimizer={kind: adam, layer_rates: sqrt_width}", "model.parameterization=ntk"],
            "command line: model.parameterization=ntk: train.optimizer.layer_rates: sqrt_width is a choice of mup alone, "
            "found model.parameterization: ntk",
        ),
        (
            ["loss=cross_entropy"],
            "command line: loss=cross_entropy: loss: cross_entropy needs classes (data.kind: images), found polynomial",
        ),
    ],
)
def test_a_rule_that_an_override_breaks_is_told_at_the_file(overrides, line, tmp_path):
    (tmp_path / "run.yaml").write_text(GRID_RUN)
    assert refused(lambda: programs.look(tmp_path / "run.yaml", overrides), tmp_path) == line


def test_a_rule_that_the_file_breaks_is_told_there_whatever_the_overrides(tmp_path):
    (tmp_path / "run.yaml").write_text(GRID_RUN.replace("steps: 10", "epochs: 10"))
    line = "run.yaml:1: train.budget.epochs: fresh samples have no epochs; give steps, or data.num_samples"
    assert refused(lambda: programs.look(tmp_path / "run.yaml", ["seeds.data=3"]), tmp_path) == line


def test_a_rule_that_a_sweep_breaks_is_told_at_the_base(tmp_path):
    (tmp_path / "run.yaml").write_text(GRID_RUN)
    (tmp_path / "sweep.yaml").write_text(
        "base: run.yaml\ngrid:\n  train.batch_size: [8, 128]\noverrides: {data.num_samples: 100}\n"
    )
    line = "sweep.yaml:4: train.batch_size: 128 is more than the data.num_samples: 100; lower it"
    assert refused(lambda: expand(tmp_path / "sweep.yaml"), tmp_path) == line
    assert configs.load(tmp_path / "run.yaml", programs.GridRun).train.batch_size == 64


IMAGES = GRID_RUN.replace("{kind: polynomial}", "{kind: images, source: {kind: npz, file: nope.npz}}").replace(
    "steps", "epochs"
)
NO_FILE = "no such file; expected an .npz with X_train, y_train, X_test, y_test"


def test_a_file_that_is_missing_is_told_without_the_line_that_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(IMAGES)
    Path("sweep.yaml").write_text(
        "base: run.yaml\ngrid:\n  data.source.file: [a.npz, b.npz]\n  train.batch_size: [1, 2]\n"
    )

    def told(look):
        with pytest.raises(DataError) as caught:
            look()
        return str(caught.value)

    assert told(lambda: programs.open_program(Path("run.yaml"))) == f"run.yaml:2: data.source.file: nope.npz: {NO_FILE}"
    override = "data.source.file=c.npz"
    assert (
        told(lambda: programs.open_program(Path("run.yaml"), [override]))
        == f"command line: {override}: c.npz: {NO_FILE}"
    )
    assert told(lambda: open_sweep(Path("sweep.yaml"))).splitlines() == [
        f"sweep.yaml:3: data.source.file: {name}.npz: {NO_FILE}" for name in "ab"
    ]
    assert len(expand(Path("sweep.yaml"))) == 4, "what a sweep is does not depend on files"
    assert programs.look(Path("run.yaml")) is not None
    assert len(list(tmp_path.iterdir())) == 2
