"""Oracle: the rows of the runs themselves."""

import polars as pl

from paribus.grid.programs import group, place, write
from paribus.grid.results import runs_frame, write_frame
from paribus.report.cells import rows
from paribus.report.program_rows import folded, program_table, search_tables
from paribus.report.runs import appendix
from sweep_tables import sweep
from tiny_grids import one


def table() -> pl.DataFrame:
    """Two programs of seven runs, and a run of the other engine."""
    etas = tuple(2.0**e for e in range(-3, 4))
    runs = sweep(batch_sizes=(16, 64), etas=etas).runs.with_columns(
        pl.lit("mlp").alias("model.kind"), study=pl.lit("s")
    )
    runs = runs.with_columns(
        path=pl.format("runs/s/mlp-b{}-0000000{}", "train.batch_size", pl.col("train.batch_size") % 7)
    )
    other = {"id": "aaaaaaaa", "name": "k4", "study": "s", "state": "done", "model.kind": "preset", "final/loss": 1.0}
    return pl.concat([runs, pl.DataFrame([{**other, "path": "runs/s/k4-aaaaaaaa"}])], how="diagonal_relaxed")


def test_a_program_is_one_row_with_its_counts_and_ranges_and_other_runs_stay():
    runs = table()
    programs = folded(runs)
    assert programs["name"].to_list() == ["mlp-b16-00000002", "mlp-b64-00000001", "k4"]
    assert programs["id"].to_list() == ["00000002", "00000001", "aaaaaaaa"]
    assert programs["program/runs"].to_list() == [7, 7, None]
    for size, labels in zip((16, 64), programs["program/labels"][:2], strict=True):
        counted = dict(runs.filter(pl.col("train.batch_size") == size)["label"].value_counts().iter_rows())
        assert {word: int(number) for number, word in (part.split() for part in labels.split(", "))} == counted
    assert programs["train.eta"].to_list() == ["2⁻³ to 8 (7)", "2⁻³ to 8 (7)", None]
    assert programs["model.gamma"].to_list() == ["1", "1", None]
    assert programs["state"].to_list() == ["done"] * 3, "runs that diverged are results of a program that is done"
    lowest = runs.filter(pl.col("train.batch_size") == 64)["final/loss"].min()
    assert programs["final/loss"].to_list()[1:] == [lowest, 1.0]


def test_a_table_without_programs_stays_as_it_is():
    runs = table().filter(pl.col("model.kind") == "preset")
    assert folded(runs).equals(runs)


def test_the_table_of_programs_names_the_command_for_every_run():
    programs = folded(table()).filter(pl.col("model.kind") == "mlp")
    assert "`paribus table runs/s -o runs.csv`" in program_table(programs).caption


def test_an_appendix_lists_programs_instead_of_their_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (listed, *_), *_ = [section.blocks for section in appendix(folded(table()))]
    assert len(rows(listed)) == 1
    assert [len(rows(block)) for block in appendix(folded(table()))[0].blocks] == [1, 2]


def test_searches_are_shown_with_what_they_found(tmp_path):
    search = {"kind": "bisection", "low": 0.01, "high": 10.0}
    (config,) = group([one(tmp_path, train={"eta": search, "batch_size": 16, "budget": {"epochs": 5}})])
    directory = place(config)
    write(directory, config)
    (directory.path / "results").mkdir()
    found = {"run": 0, "id": "a", "name": "tiny", "kind": "bisection", "model.gamma": 1.0, "trials": 9}
    answer = {"eta": 0.5, "low": 0.5, "high": float("inf"), "is_bracketed": False}
    assert list(search_tables(tmp_path)) == []
    write_frame(directory.path / "results/searches.parquet", runs_frame([found | answer]))
    (shown,) = search_tables(tmp_path)
    (cells,) = rows(shown)
    assert [cell.text for cell in cells] == ["tiny", "η_max, by bisection", "1", "0.5", "no", "9"]
    assert cells[3].note == "[0.5, ∞]"
