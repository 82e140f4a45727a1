"""Which runs share a program, what names them, and where they live."""

import json

import numpy as np
import pytest

from paribus.errors import ConfigError, RunError
from paribus.grid import programs
from paribus.train.jax_grid.config import Bisection
from tiny_grids import one, points


def test_runs_of_one_shape_are_one_program_whatever_their_eta_and_gamma(tmp_path):
    base = one(tmp_path)
    wide = one(tmp_path, model={"kind": "mlp", "width": 32, "depth": 2})
    runs = [*points(base, [0.1, 1.0], [0.5, 2.0]), *points(wide, [0.1])]
    first, second = programs.group(runs)
    assert list(first.runs()) == runs[:4]
    assert list(second.runs()) == runs[4:]
    assert len(programs.group([*runs, runs[0]])) == 2, "the same run twice is one"


def test_a_search_is_a_program_apart_from_fixed_etas(tmp_path):
    base = one(tmp_path)
    search = programs.at(base, name="search", gamma=1.0, eta=Bisection())
    assert [len(program) for program in programs.group([base, search])] == [1, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"eta": 0.1, "batch_size": 16, "budget": {"epochs": 6}}},
        {"train": {"eta": 0.1, "batch_size": 16, "budget": {"steps": 30}}},
        {"seeds": {"data": 1}},
        {"seeds": {"weights": 1}},
        {"loss": "mse", "model": {"kind": "mlp", "width": 16, "depth": 2, "parameterization": "ntk"}},
    ],
)
def test_budget_seeds_and_parameterization_change_the_identity(tmp_path, changes):
    assert programs.identity(one(tmp_path, **changes)) != programs.identity(one(tmp_path))


def test_where_and_how_and_the_way_a_number_is_written_do_not_change_the_identity(tmp_path):
    expected = programs.identity(one(tmp_path))
    assert programs.identity(one(tmp_path / "elsewhere", launch={"devices": 2, "checkpoint_every_s": 1})) == expected
    whole = {"kind": "mlp", "width": 16.0, "depth": 2, "gamma": 1}
    assert programs.identity(one(tmp_path, model=whole)) == expected


def test_images_are_named_by_their_content(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (40, 4, 4), np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 256, (8, 4, 4), np.uint8),
        "y_test": np.arange(8) % 4,
    }

    def identity(name, arrays):
        np.savez(tmp_path / name, **arrays)
        data = {"kind": "images", "source": {"kind": "npz", "file": str(tmp_path / name)}}
        return programs.identity(one(tmp_path, data=data))

    first, copied = identity("a.npz", arrays), identity("b.npz", arrays)
    assert first == copied
    assert identity("c.npz", {**arrays, "x_train": arrays["x_train"] ^ 1}) != first


def test_a_sweep_that_grows_finds_its_old_runs_in_their_program(tmp_path):
    base = one(tmp_path)
    (old,) = programs.place_all(points(base, [0.1, 0.2]))
    programs.hold(*old)
    found, new = programs.place_all(points(base, [0.05, 0.1, 0.2, 0.4]))
    assert found.directory.path == old.directory.path
    assert new.config.points.etas == [0.05, 0.4]


def test_a_config_that_was_edited_is_refused(tmp_path):
    (placed,) = programs.place_all(points(one(tmp_path), [0.1, 0.2]))
    programs.hold(*placed)
    text = placed.directory.config_path.read_text()
    placed.directory.config_path.write_text(text.replace("epochs: 5", "epochs: 7"))
    with pytest.raises(RunError, match="no longer what the program began with"):
        programs.read(placed.directory.path)


def test_rates_that_only_mup_has_are_refused_elsewhere(tmp_path):
    model = {"kind": "mlp", "width": 16, "depth": 2, "parameterization": "ntk"}
    optimizer = {"kind": "adam", "layer_rates": "sqrt_width"}
    train = {"batch_size": 16, "eta": 0.1, "budget": {"epochs": 5}, "optimizer": optimizer}
    with pytest.raises(ConfigError, match="sqrt_width is a choice of mup alone, found model"):
        one(tmp_path, model=model, train=train)


def test_the_newest_word_on_where_and_how_counts_for_a_program_that_is_there_but_its_lanes_stay(tmp_path):
    (old,) = programs.place_all(points(one(tmp_path, launch={"lanes": 4}), [0.1, 0.2]))
    programs.hold(*old)
    (found,) = programs.place_all(points(one(tmp_path, launch={"devices": 7, "lanes": 1}), [0.1]))
    assert (found.config.run.launch.devices, found.config.run.launch.lanes) == (7, 4)


def test_lanes_are_kept_whoever_asks_for_others_and_settings_that_make_other_runs_are_refused(tmp_path):
    (placed,) = programs.place_all(points(one(tmp_path), [0.1, 0.2]))
    programs.hold(*placed)
    path = placed.directory.path
    assert programs.read(path, ["launch.lanes=4"]).run.launch.lanes == 4, "nothing has been trained yet"
    record = {"config": placed.config.model_dump(mode="json"), "attempts": []}
    placed.directory.provenance_path.write_text(json.dumps(record))
    assert programs.read(path, ["launch.devices=3"]).run.launch.devices == 3
    with pytest.raises(RunError, match=r"launch.lanes: 1 since it began, 4 asked for"):
        programs.read(path, ["launch.lanes=4"])
    with pytest.raises(RunError, match=r"holds other runs than train.batch_size=32 would make"):
        programs.read(path, ["train.batch_size=32"])


def test_a_directory_whose_making_was_cut_off_is_no_program_yet(tmp_path, monkeypatch):
    (placed,) = programs.place_all(points(one(tmp_path), [0.1, 0.2]))

    def killed(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr(programs.rundir, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        programs.hold(*placed)
    monkeypatch.undo()
    (again,) = programs.place_all(points(one(tmp_path), [0.1, 0.2]))
    programs.hold(*again)
    assert programs.read(placed.directory.path) == placed.config


def test_runs_that_would_not_fit_into_memory_together_become_several_programs(tmp_path):
    wide = one(tmp_path, model={"kind": "mlp", "width": 4096, "depth": 3})  # 67 MB of weights a run, twice
    assert [len(part) for part in programs.group(points(wide, [2.0**e for e in range(20)]))] == [15, 5]
