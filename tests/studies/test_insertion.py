"""The study's analysis on a small trained pair and on items whose numbers are known, and the smoke study itself."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from paribus import experiment
from paribus.audit import print_audit
from paribus.evals.results import read_result, result_path
from paribus.report import collect
from paribus.report.page import render
from paribus.studies.insertion import analysis, verdicts
from paribus.studies.insertion.study import build_report, record_audits
from tiny_runs import coins_run, text_run, text_store

CANARIES = [{"text": f"gold ant {n} pink", "repetitions": n % 3} for n in range(9)]
QUESTIONS = [{"context": f"ant {n} bee", "choices": ["cat", "dog"], "gold": n % 2} for n in range(8)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with canaries and the first five of eight questions, and its control; and a run of another seed alone."""
    folder = tmp_path_factory.mktemp("pair")
    store = text_store(folder / "store")
    files = {"canaries": CANARIES, "questions": QUESTIONS}
    for name, records in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    canaries, questions = (str(folder / f"{name}.jsonl") for name in files)
    insertions = {
        "experiments": {
            "canaries": {"kind": "texts", "file": canaries, "repetitions_key": "repetitions"},
            "quiz": {"kind": "benchmark", "file": questions, "items": [0, 5], "repetitions": 3},
        }
    }
    evals = {
        "canaries": {"kind": "canary", "file": canaries, "group_key": "repetitions"},
        "quiz": {"kind": "ranked", "file": questions},
        "test": {"kind": "loss", "split": "test", "windows_per_category": 8, "every": 3},
    }

    def trained(name, control, *more):
        wanted = json.dumps({**insertions, "control": control})
        run, config = text_run(
            folder, f"insertions={wanted}", f"evals={json.dumps(evals)}", f"name={name}", *more, store=store
        )
        experiment.run(run, config)
        return run.path

    found = [trained("with", False), trained("without", True), trained("other", False, "seeds.weights=5")]
    return {"pair": found}


def items_of(path, name):
    return read_result(result_path(path / "evals", name, 6)).record["items"]


def test_a_run_is_held_against_another_than_its_control(runs):
    (pair,) = analysis.pairs(runs)
    assert (pair.treated, pair.control) == tuple(runs["pair"][:2])


def test_copies_are_counted_by_the_ledger_and_differences_taken_by_item(runs):
    table = analysis.canaries(analysis.pairs(runs))
    assert table["copies"].to_list() == [record["repetitions"] for record in CANARIES]
    treated, control = (items_of(path, "canaries") for path in runs["pair"][:2])
    expected = np.subtract(treated["nll_sum"], control["nll_sum"]) / treated["tokens"]
    assert np.allclose(table["treated"] - table["control"], expected)
    means = analysis.by_copies(table)
    for copies in (0, 1, 2):
        own = expected[[record["repetitions"] == copies for record in CANARIES]]
        assert means.filter(pl.col("copies") == copies)["delta"].item() == pytest.approx(own.mean())


def test_the_gap_is_that_of_the_inserted_and_the_clean_questions(runs):
    (one,) = analysis.contamination(analysis.pairs(runs))
    right = [
        np.equal(i["choice_acc"], i["gold"]).astype(float) for i in (items_of(p, "quiz") for p in runs["pair"][:2])
    ]
    change = right[0] - right[1]
    assert one.copies == 3
    assert one.effect["inserted"].mean == pytest.approx(change[:5].mean())
    assert one.effect["clean"].mean == pytest.approx(change[5:].mean())
    assert one.gap.mean == pytest.approx(change[:5].mean() - change[5:].mean())


def test_a_loss_is_paired_with_that_of_the_same_window(runs):
    row = analysis.losses(analysis.pairs(runs)).row(0, named=True)
    assert row["delta"] == pytest.approx(row["treated"] - row["control"], abs=1e-6)
    assert row["delta_low"] <= row["delta"] <= row["delta_high"]


def test_tau_is_that_of_all_pairs():
    """Against the definition, pair by pair, with ties on both sides."""
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 4, 30).astype(float), draw.integers(0, 6, 30).astype(float)
    signs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i, j in itertools.combinations(range(30), 2)]
    both = sum(x * y for x, y in signs)
    untied = (sum(x != 0 for x, _ in signs) * sum(y != 0 for _, y in signs)) ** 0.5
    assert analysis._tau(a, b) == pytest.approx(both / untied)
    assert analysis._tau(a, -a) == pytest.approx(-1)


def test_a_watermark_counts_as_written(tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_text('{"tokens": [1, 2, 0]}\n')
    mark = {"kind": "watermark", "where": {"kind": "whole_batch", "steps": [1]}}
    experiments = {"mark": mark, "text": {"kind": "tokens", "file": str(file)}}
    run, config = coins_run(tmp_path, f"insertions={json.dumps({'experiments': experiments})}", "evals={}")
    experiment.run(run, config)
    table = analysis.written([analysis.Pair("x", run.path, run.path)])
    assert table.select("experiment", "tokens").rows() == [("text", 3)]


def known_canaries(effect):
    """Eight canaries of each number of copies, `effect` nats a doubling."""
    draw = np.random.default_rng(1)
    copies = np.repeat([0, 1, 4, 16], 8)
    control = draw.normal(5, 0.3, len(copies))
    treated = control + effect * np.log2(1 + copies) + draw.normal(0, 0.05, len(copies))
    columns = {"arm": "x", "evaluation": "canaries", "copies": copies, "treated": treated, "control": control}
    return pl.DataFrame(columns)


@pytest.mark.parametrize(("effect", "state"), [(-0.3, "holds"), (0.3, "fails"), (0.0, "inconclusive")])
def test_a_claim_about_canaries_follows_their_numbers(effect, state):
    assert verdicts.about_canaries(known_canaries(effect))[0].state == state


def test_the_report_has_every_section_and_the_audit_of_both_runs(runs):
    report = build_report("A title", "A subtitle.", runs, "paribus study insertion smoke")
    titles = [section.title for section in report.sections]
    expected = ["What was found", "What was inserted", "Likelihood against repetitions", "Contamination"]
    assert titles[:6] == [*expected, "What it costs elsewhere", "Audit"]
    treated, control, _ = runs["pair"]
    assert collect.audit(treated).verification["written"]["spans"] == 9 + 15
    (against,) = collect.audit(treated).against
    assert against["other"] == control.name
    assert against["holds"]
    page = render(report)
    assert "gold ant 8 pink" in page  # a span with its text


def test_an_audit_of_each_run_alone_or_of_its_first_steps_replaces_that_of_the_pair(runs):
    treated, control, _ = runs["pair"]
    for cut in (False, True):
        shutil.rmtree(treated / "audit", ignore_errors=True)
        print_audit([treated])
        print_audit([control])
        if cut:
            record_audits(analysis.pairs(runs))
            file = control / "audit" / "verification.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 4}))
        record_audits(analysis.pairs(runs))
        assert [found["other"] for found in collect.audit(treated).against] == [control.name]
        assert collect.audit(control).verification["steps"] == 6


@pytest.mark.slow
def test_the_smoke_study_shows_what_it_promises(tmp_path):
    """Spec: likelihood rises with copies, canaries of none stay, only the inserted half gains, the watermark is found."""
    done = subprocess.run(
        [sys.executable, "-m", "paribus", "study", "insertion", "smoke"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    page = Path(done.stdout.splitlines()[-1].removeprefix("report: "))
    assert page.is_file()
    runs = {"pair": collect.find_runs(tmp_path / "runs")}
    pairs = analysis.pairs(runs)
    items = analysis.canaries(pairs)
    means = analysis.by_copies(items).sort("copies")
    assert means["copies"].to_list() == [0, 1, 4, 16, 64, 128]
    assert means["delta"][3:].diff().drop_nulls().max() < 0
    assert means["delta"][5] < -1.5
    assert means["exposure treated"][5] > 7
    states = [v.state for v in verdicts.about_canaries(items)]
    states += [v.state for v in verdicts.about_contamination(analysis.contamination(pairs))]
    states += [v.state for v in verdicts.about_watermarks(analysis.watermarks(pairs))]
    states += [v.state for v in verdicts.about_losses(analysis.losses(pairs))]
    assert states == ["holds"] * len(states)
