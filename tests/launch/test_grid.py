"""Oracle: itertools-free enumeration by hand, and the full text of every error."""

from pathlib import Path

import pytest

from paribus.config import Section, dump, from_mapping, load, parse, resolve
from paribus.errors import ConfigError
from paribus.launch.grid import SweepConfig, expand
from paribus.run_config import RunConfig

BASE = """\
name: tiny
data: {kind: text, store: s, window: 8, categories: {kind: nested, k: 2}, windows: {kind: random, weights: token}}
model: {kind: preset, name: micro-neox}
train:
  batch_size: 2
  budget: {steps: 3}
  optimizer: {kind: adamw, lr: 1e-3}
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.yaml").write_text(BASE)

    def write(text, *overrides):
        (tmp_path / "sweep.yaml").write_text(text)
        return expand(tmp_path / "sweep.yaml", overrides)

    return write


@pytest.fixture
def refused(sweep, tmp_path):
    def error(text, *overrides):
        with pytest.raises(ConfigError) as caught:
            sweep(text, *overrides)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return error


def test_grid_zip_and_points_multiply_and_zip_runs_in_step(sweep):
    runs = sweep(
        "base: base.yaml\n"
        "name: k{data.categories.k}-o{seeds.order}-w{seeds.weights}-b{train.batch_size}\n"
        "grid: {data.categories.k: [1, 4]}\n"
        "zip: {seeds.order: [0, 1], seeds.weights: [10, 11]}\n"
        "points:\n- {}\n- {train.batch_size: 3}\n"
    )
    names = [
        "k1-o0-w10-b2",
        "k1-o0-w10-b3",
        "k1-o1-w11-b2",
        "k1-o1-w11-b3",
        "k4-o0-w10-b2",
        "k4-o0-w10-b3",
        "k4-o1-w11-b2",
        "k4-o1-w11-b3",
    ]
    assert [run.name for run in runs] == names
    told = [(r.data.categories.k, r.seeds.order, r.seeds.weights, r.train.batch_size) for r in runs]
    assert [f"k{k}-o{o}-w{w}-b{b}" for k, o, w, b in told] == names


def test_nothing_but_the_varied_keys_changes(sweep, tmp_path):
    base = load(tmp_path / "base.yaml", RunConfig)
    (run,) = sweep("base: base.yaml\npoints: [{data.categories.k: 4}]\n")
    changed = base.data.model_copy(update={"categories": base.data.categories.model_copy(update={"k": 4})})
    assert run == base.model_copy(update={"name": "tiny-k4", "data": changed})


def test_a_sweep_without_variation_is_its_base(sweep, tmp_path):
    assert sweep("base: base.yaml\n") == [load(tmp_path / "base.yaml", RunConfig)]


def test_the_base_may_stand_inline_and_extend_a_file_beside_the_sweep(sweep):
    runs = sweep("base: {extends: base.yaml, name: inline}\ngrid: {seeds.order: [0, 1]}\n")
    assert [(run.name, run.train.batch_size) for run in runs] == [("inline-order0", 2), ("inline-order1", 2)]


def test_a_template_names_a_base_that_has_no_name(sweep, tmp_path):
    (tmp_path / "base.yaml").write_text(BASE.replace("name: tiny\n", "", 1))
    assert [run.name for run in sweep("base: base.yaml\nname: w{data.window}\n")] == ["w8"]


def test_sweep_overrides_reach_every_run_and_the_command_line_overrules_them(sweep):
    text = "base: base.yaml\noverrides: {train.batch_size: 5, data.window: 6}\ngrid: {seeds.order: [0, 1]}\n"
    runs = sweep(text, "data.window=7", "seeds.weights=3")
    assert [(r.train.batch_size, r.data.window, r.seeds.weights) for r in runs] == [(5, 7, 3), (5, 7, 3)]


def test_a_point_of_another_kind_takes_nothing_from_the_base(sweep):
    runs = sweep(
        "base: base.yaml\npoints:\n"
        "- {data.windows.kind: chunks}\n"
        "- {data.windows.design.chunks: 8, data.windows.design.kind: constant_total, data.windows.kind: chunks}\n"
        "- {data: {kind: coins, num_components: 3, window: 8}}\n"
    )
    assert [run.data.kind for run in runs] == ["text", "text", "coins"]
    assert [run.data.windows.design.kind for run in runs[:2]] == ["all", "constant_total"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ("train.optimizer.lr: [1e-3, 3e-5, 1]", ["tiny-lr0.001", "tiny-lr3e-05", "tiny-lr1"]),
        ("train.precision: [fp32, bf16]", ["tiny-precisionfp32", "tiny-precisionbf16"]),
        ("train.clip_norm: [null, 1.0]", ["tiny-clip_normnull", "tiny-clip_norm1"]),
        ("train.compile: [true, false]", ["tiny-compiletrue", "tiny-compilefalse"]),
        (
            "data.categories: [{kind: all}, {kind: explicit, names: [cs.AI, cs.PL]}]",
            ["tiny-categoriesall", "tiny-categoriesexplicit-cs.AI+cs.PL"],
        ),
        ('data.windows.weights: [token, {"a/b": 2}]', ["tiny-weightstoken", "tiny-weights2"]),
        ("data.store: [a/b, ../c d]", ["tiny-storea-b", "tiny-store..-c-d"]),
        ("name: [first, second]", ["first", "second"]),
    ],
)
def test_without_a_template_the_name_is_the_bases_with_what_varies(values, names, sweep):
    assert [run.name for run in sweep(f"base: base.yaml\ngrid:\n  {values}\n")] == names


def test_a_template_takes_the_values_of_the_resolved_run(sweep):
    (run,) = sweep(
        'base: base.yaml\nname: "{name}-{train.optimizer.betas}-{train.optimizer.betas.1}-{data.windows.kind}"\n'
    )
    assert run.name == "tiny-0.9+0.95-0.95-random"


def test_expanded_runs_are_complete_and_loadable(sweep, tmp_path):
    for run in sweep("base: base.yaml\ngrid: {seeds.order: [0, 1]}\n"):
        (tmp_path / "run.yaml").write_text(dump(run))
        assert load(tmp_path / "run.yaml", RunConfig) == run


REFUSED = {
    # the sweep itself
    "bas: base.yaml\n": [
        "sweep.yaml:1: base: missing, expected text or a mapping "
        "(a run: its file, relative to this one, or its settings inline)",
        'sweep.yaml:1: bas: unknown key, did you mean "base"?',
    ],
    "base: bose.yaml\n": ['sweep.yaml:1: bose.yaml: no such file, did you mean "base.yaml"?'],
    "base: base.yaml\ngrid:\n  seeds.order: []\n": [
        'sweep.yaml:3: grid."seeds.order": found an empty list, expected a list (at least 1) or a mapping'
    ],
    "base: base.yaml\ngrid:\n  seeds.order: 3\n": [
        'sweep.yaml:3: grid."seeds.order": found 3, expected a list (at least 1) or a mapping'
    ],
    "base: base.yaml\npoints: []\n": [
        "sweep.yaml:2: points: found an empty list, expected a list of mappings (at least 1)"
    ],
    "base: base.yaml\nzip:\n  seeds.order: [1, 2]\n  seeds.weights: [1]\n": [
        "sweep.yaml:2: zip: the lists must be equally long: seeds.order has 2, seeds.weights has 1"
    ],
    "base: base.yaml\noverrides: {seeds.order: 1}\ngrid: {seeds.order: [1, 2]}\npoints:\n- seeds.order: 3\n": [
        "sweep.yaml:3: grid.seeds.order: is also set at sweep.yaml:2",
        "sweep.yaml:5: points.seeds.order: is also set at sweep.yaml:3",
    ],
    # the runs, every mistake once
    "base: base.yaml\ngrid:\n  seeds.ordre:\n  - 0\n  - 1\n  data.categories.k: [0, 1, -1]\n": [
        'sweep.yaml:3: seeds.ordre: unknown key, did you mean "order"?',
        "sweep.yaml:6: data.categories.k: found 0, expected a whole number >= 1",
        "sweep.yaml:6: data.categories.k: found -1, expected a whole number >= 1",
    ],
    "base: base.yaml\npoints:\n- data.kind: coins\n- data.kind: coin\n": [
        "sweep.yaml:3: data.num_components: missing, expected a whole number >= 1",
        "sweep.yaml:3: data.window: missing, expected a whole number >= 1",
        'sweep.yaml:4: data.kind: found "coin", expected "text", "token_files", "coins", "markov" or "hidden_markov", '
        'did you mean "coins"?',
    ],
    "base: base.yaml\npoints:\n- data.categories:\n    kind: nested\n    q: 3\n": [
        "sweep.yaml:3: data.categories.k: missing, expected a whole number >= 1",
        'sweep.yaml:5: data.categories.q: unknown key of kind "nested", expected kind or k',
    ],
    "base:\n  extends: base.yaml\n  train: {batch_size: x}\ngrid: {seeds.order: [1, 2]}\n": [
        'sweep.yaml:3: train.batch_size: found "x", expected a whole number >= 1'
    ],
    # ranges
    "base: base.yaml\ngrid:\n  train.optimizer.lr: {log2: [1, 0]}\n": [
        'sweep.yaml:3: grid."train.optimizer.lr": from 1 up to 0 by 1 there are no values'
    ],
    "base: base.yaml\ngrid:\n  train.optimizer.lr: {log2: [0, 1], log10: [0, 1]}\n": [
        'sweep.yaml:3: grid."train.optimizer.lr": exactly one of log2 and log10 is expected, found both'
    ],
    "base: base.yaml\ngrid:\n  train.optimizer.lr: {log: [0, 1]}\n": [
        'sweep.yaml:3: grid."train.optimizer.lr".log: unknown key, did you mean "log2"?'
    ],
    "base: base.yaml\ngrid:\n  train.optimizer.lr: {log10: [-400, 400], step: 100}\n": [
        'sweep.yaml:3: grid."train.optimizer.lr": from -400 up to 400 there are numbers beyond those of 64 bits'
    ],
    # names
    "base: base.yaml\nname: k{data.categories.k}\ngrid: {seeds.order: [0, 1], data.categories.k: [1, 2]}\n": [
        'sweep.yaml:2: name: 2 runs are called "k1": add {seeds.order} to the template'
    ],
    "base: base.yaml\nzip: {seeds.order: [0, 1], name: [a, a]}\n": [
        'sweep.yaml:1: name: 2 runs are called "a": add {seeds.order} to the template'
    ],
    "base: base.yaml\ngrid: {seeds.order: [1, 1]}\n": [
        'sweep.yaml:1: name: 2 runs are called "tiny-order1" and are the same run: leave out what stands twice'
    ],
    "base: base.yaml\nname: k{data.categories.kk}\n": [
        'sweep.yaml:2: name: unknown key in {data.categories.kk}, did you mean "data.categories.k"?'
    ],
    "base: base.yaml\nname: 'k{data.window'\n": [
        'sweep.yaml:2: name: found "k{data.window", expected keys in pairs of braces'
    ],
}


@pytest.mark.parametrize(("text", "lines"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_mistake_in_a_sweep_is_told_once_at_its_line(text, lines, refused):
    assert refused(text) == lines


def test_a_mistake_in_the_base_is_told_once_at_the_bases_line(refused, tmp_path):
    (tmp_path / "worse.yaml").write_text(BASE.replace("batch_size: 2", "batch_size: two"))
    told = refused("base: worse.yaml\ngrid: {seeds.order: [0, 1, 2]}\n")
    assert told == ['worse.yaml:5: train.batch_size: found "two", expected a whole number >= 1']


def test_the_command_line_may_not_set_what_the_sweep_varies(refused):
    assert refused(
        "base: base.yaml\nname: a{seeds.order}\ngrid: {seeds.order: [0, 1]}\n", "seeds.order=2", "name=b", "x=1"
    ) == [
        "command line: name=b: has no effect, the sweep varies it at sweep.yaml:2",
        "command line: seeds.order=2: has no effect, the sweep varies it at sweep.yaml:3",
    ]
    assert refused("base: base.yaml\ngrid: {seeds.order: [0, 1]}\n", "data.windw=2") == [
        'command line: data.windw=2: unknown key of kind "text", did you mean "window"?'
    ]


class StudyConfig(Section):
    question: str
    sweeps: dict[str, SweepConfig]


def test_a_sweep_inside_a_bigger_file_keeps_its_lines(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "base.yaml").write_text(BASE)
    study = tmp_path / "study" / "smoke.yaml"
    study.write_text(
        "question: why\nsweeps:\n  text:\n    base: base.yaml\n    grid: {data.categories.k: [1, 2]}\n"
        "  coins:\n    base: {extends: base.yaml}\n    grid:\n      seeds.oder: [1, 2]\n"
    )
    root = resolve(study)
    assert set(parse(root, StudyConfig).sweeps) == {"text", "coins"}
    assert [run.name for run in expand(root.at("sweeps", "text"))] == ["tiny-k1", "tiny-k2"]
    with pytest.raises(ConfigError) as caught:
        expand(root.at("sweeps", "coins"))
    assert str(caught.value) == f'{study}:9: seeds.oder: unknown key, did you mean "order"?'


def test_a_sweep_of_python_values_is_one_too(tmp_path):
    sweep = from_mapping({"base": str(tmp_path / "base.yaml"), "grid": {"seeds.order": [0]}}, SweepConfig, "notebook")
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "sweep.yaml").write_text(dump(sweep))
    assert [run.name for run in expand(Path(tmp_path / "sweep.yaml"))] == ["tiny-order0"]


def test_a_range_is_exact_at_every_power_and_has_both_ends(sweep):
    text = "base: base.yaml\ngrid: {train.optimizer.lr: {log2: [-12, 12]}, seeds.order: [0]}\n"
    assert [run.train.optimizer.lr for run in sweep(text)] == [2.0**e for e in range(-12, 13)]
    text = "base: base.yaml\nzip: {train.optimizer.lr: {log10: [-1, 1], step: 0.5}, seeds.order: [0, 1, 2, 3, 4]}\n"
    assert [run.train.optimizer.lr for run in sweep(text)] == [0.1, 10**-0.5, 1.0, 10**0.5, 10.0]
