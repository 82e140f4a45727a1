"""`paribus plot` and `paribus table` of real programs. Oracle: what was done to their files."""

from pathlib import Path

import polars as pl
import pytest

from paribus import load_runs
from paribus.errors import RunError
from paribus.grid import programs, run
from paribus.report.export import write_table
from paribus.report.plot_files import plot_files
from tiny_grids import one, points


@pytest.fixture(scope="module")
def grids(tmp_path_factory) -> Path:
    """A program of six runs, of which two diverge, and one of two runs."""
    folder = tmp_path_factory.mktemp("grids")
    base = one(folder, train={"eta": 1.0, "batch_size": 16, "budget": {"steps": 12}})
    wide = one(folder, model={"kind": "mlp", "width": 24, "depth": 2})
    for placed in programs.place_all([*points(base, [0.01, 0.1, 1e5], [1.0, 10.0]), *points(wide, [0.1, 0.2])]):
        run.run(*placed)
    return folder


def test_a_plot_says_how_many_runs_it_leaves_out_and_why(grids: Path, tmp_path: Path, capsys):
    assert load_runs(grids)["label"].to_list().count("diverged") == 2
    plot_files("portrait", [grids], tmp_path / "portrait.svg", ["model.width=16"])
    assert capsys.readouterr().err == ""
    plot_files("losscurve_grid", [grids], tmp_path / "curves.svg", ["model.width=16"])
    assert capsys.readouterr().err == "paribus: losscurve_grid: left out of 6 runs: 2 diverged\n"
    plot_files("portrait", [grids], tmp_path / "portrait.svg")
    assert capsys.readouterr().err == "paribus: portrait: left out of 8 runs: 2 of other settings\n"


def test_a_damaged_program_is_named_and_left_out_of_plots_and_tables(grids: Path, tmp_path: Path, capsys):
    wide = Path(load_runs(grids).filter(pl.col("model.width") == 24)["path"][0])
    damaged = wide / "results/runs.parquet"
    content = damaged.read_bytes()
    damaged.write_bytes(b"hello")
    try:
        plot_files("portrait", [grids], tmp_path / "portrait.svg")
        said = capsys.readouterr().err.splitlines()
        assert said[0].startswith(f"paribus: {wide}: unreadable: results/runs.parquet: not a Parquet file")
        assert said[1:] == ["paribus: portrait: left out of 7 runs: 1 unreadable"]
        for what, num_ids in (("runs", 7), ("losses", 6), ("evaluations", 6)):
            assert write_table([grids], tmp_path / "t.csv", what)["id"].n_unique() == num_ids
            assert capsys.readouterr().err.startswith(f"paribus: {wide}: unreadable: ")
    finally:
        damaged.write_bytes(content)


def test_a_part_with_a_damaged_middle_is_named(grids: Path, tmp_path: Path):
    (part,) = next(iter(sorted(grids.glob("**/results")))).glob("losses-*.parquet")
    content = part.read_bytes()
    part.write_bytes(content[:4] + b"\xff" * 200 + content[204:])  # of the pages; the schema at the end stays
    try:
        with pytest.raises(RunError, match=rf"{part.name}: damaged"):
            write_table([grids], tmp_path / "t.csv", "losses")
    finally:
        part.write_bytes(content)
    assert pl.read_parquet(part).height
