"""Oracle: what was done to the files."""

import shutil
from pathlib import Path

import pytest

from paribus import load_runs
from paribus.directories import below, common_folder, tell_unreadable, trouble
from paribus.errors import RunError
from paribus.grid.programs import group as grouped
from paribus.grid.programs import place, place_all
from paribus.grid.programs import write as write_program
from paribus.grid.results import runs_frame, write_frame
from paribus.rundir import RunDir
from tiny_grids import one, points


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program of two runs that is done, without having been trained."""
    (config,) = grouped(points(one(tmp_path), [0.1, 0.2]))
    directory = place(config)
    write_program(directory, config)
    (directory.path / "results").mkdir()
    rows = [
        {"run": i, "round": 0, "id": f"{i}", "name": f"r{i}", "label": "stable", "train.eta": 0.1} for i in range(2)
    ]
    write_frame(directory.path / "results/runs.parquet", runs_frame(rows))
    directory.set_status("done", "2 stable", num_steps=30, num_runs=2, step=30)
    return directory.path


def test_a_whole_program_is_in_no_trouble(program: Path):
    assert trouble(program) == ""
    assert load_runs(program)["state"].to_list() == ["done", "done"]


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("config.yaml", None, "config.yaml is missing"),
        ("config.yaml", "kind: [grid", "config.yaml: not valid YAML"),
        ("config.yaml", "kind: grid_program\nrunn: {}\n", "config.yaml:1: run"),
        ("ids.json", None, "ids.json is missing"),
        ("ids.json", '["a"]', "ids.json: 1 identities of 2 runs"),
        ("STATUS.json", '{"state', "STATUS.json: not valid JSON"),
        ("STATUS.json", "null", "STATUS.json: expected an object"),
        ("ids.json", '{"a": 1}', "ids.json: expected a list"),
        ("provenance.json", "[", "provenance.json: not valid JSON"),
        ("results/runs.parquet", None, "results/runs.parquet is missing, though the program is done"),
        ("results/runs.parquet", "hello", "results/runs.parquet: not a Parquet file"),
        ("results/losses-0000-000000030.parquet", "hello", "results/losses-0000-000000030.parquet: not a Parquet file"),
    ],
)
def test_what_was_damaged_is_said_in_one_line_and_is_a_row(
    program: Path, file: str, content: str | None, why: str, capsys
):
    whole = program.with_name("whole-00000000")
    shutil.copytree(program, whole)
    (program / file).unlink(missing_ok=True)
    if content is not None:
        (program / file).write_text(content)
    assert trouble(program).startswith(why)
    assert trouble(program).endswith("; bring it back as it was, or remove the directory and train again")
    table = load_runs(program.parent)
    assert sorted(table["state"]) == ["done", "done", "unreadable"]
    assert table.filter(table["state"] == "unreadable")["reason"].to_list() == [trouble(program)]
    tell_unreadable(program.parent)
    assert capsys.readouterr().err == f"paribus: {program}: unreadable: {trouble(program)}\n"


def test_a_sweep_over_a_damaged_program_trains_its_runs_again(program: Path, tmp_path: Path):
    (program / "ids.json").write_text("[")
    with pytest.raises(RunError, match=r"ids\.json: not valid JSON .*; bring it back as it was, or remove"):
        place_all(points(one(tmp_path), [0.1, 0.2]))


def test_the_common_folder_of_relative_and_absolute_paths(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert common_folder(["runs/a/x", "runs/b/y"]) == "runs"
    assert common_folder(["runs/a/x", tmp_path / "runs/b/y"]) == str(tmp_path / "runs")
    assert common_folder(["a/x", "b/y"]) == "."


def test_a_file_that_is_brought_back_ends_the_trouble(program: Path):
    content = (program / "ids.json").read_text()
    (program / "ids.json").write_text("[")
    assert trouble(program)
    (program / "ids.json").write_text(content)
    assert trouble(program) == ""


def test_a_run_of_the_other_engine_is_looked_at_alike(tmp_path: Path):
    run = RunDir(tmp_path / "k4-00000000")
    run.make()
    run.config_path.write_text("study: [a\n")
    run.set_status("done", step=3)
    assert trouble(run.path).startswith("config.yaml: not valid YAML (did not find expected ',' or ']', line 2)")
    run.config_path.write_text("study: a\n")
    assert trouble(run.path) == ""


def test_what_waits_is_found_on_demand_and_what_lost_its_config_always(tmp_path: Path):
    for name in ("k11-00000000", "k2-00000000", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("study: a\n")
    lost = RunDir(tmp_path / "lost-00000000")
    lost.make()
    lost.set_status("done")
    assert [path.name for path in below(tmp_path)] == ["lost-00000000"]
    assert [path.name for path in below(tmp_path, waiting=True)] == ["k2-00000000", "k11-00000000", "lost-00000000"]
