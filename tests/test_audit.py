import json

import numpy as np
import pytest

from paribus import experiment
from paribus.audit import compare, print_audit, verify
from paribus.errors import RunError
from tiny_runs import coins_run, text_run, text_store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on text that differ only in their categories, and one on coins."""
    folder = tmp_path_factory.mktemp("audit")
    store = text_store(folder / "store")
    made = {
        "one": text_run(folder, store=store),
        "two": text_run(folder, store=store, categories={"kind": "explicit", "names": ["a", "b"]}),
        "coins": coins_run(folder),
    }
    for run, config in made.values():
        experiment.run(run, config)
    return {name: run for name, (run, _) in made.items()}


def test_every_batch_that_was_consumed_is_replayed(runs):
    found = verify(runs["one"])
    assert (found.steps, found.altered) == (6, [])


def test_two_runs_that_read_the_same_differ_in_nothing(runs, tmp_path, capsys):
    """Trained apart, from stores of their own, with another learning rate: the stream is the same."""
    twin, config = text_run(tmp_path, "train.optimizer.lr=1e-4", "name=twin")
    experiment.run(twin, config)
    assert print_audit([runs["one"].path, twin.path]) == 0
    shown = capsys.readouterr().out
    assert "config train.optimizer.lr: 0.003 | 0.0001" in shown
    assert "768 compared over 6 steps, nothing differs" in shown


def test_findings_that_cannot_be_written_are_a_traceback(runs, tmp_path):
    for paths in (["one"], ["one", "two"]):
        with pytest.raises(RunError, match=r"cannot be written: Is a directory; --out names a file"):
            print_audit([runs[name].path for name in paths], tmp_path)
    assert print_audit([runs["one"].path], tmp_path / "new" / "spans.jsonl") == 0
    assert (tmp_path / "new" / "spans.jsonl").exists()


def test_a_log_that_was_cut_proves_nothing(runs, capsys):
    path = runs["coins"].stream_path
    logged = path.read_bytes()
    path.write_bytes(logged[: 8 * 2])
    try:
        assert print_audit([runs["coins"].path]) == 1
        assert "logs 2 steps, but the run has taken 6" in capsys.readouterr().out
    finally:
        path.write_bytes(logged)


def test_runs_that_differ_in_k_are_told_apart_to_the_token(runs, tmp_path):
    out = tmp_path / "differences.jsonl"
    found = compare(runs["one"], runs["two"], out)
    assert [key for key, _, _ in found.keys] == ["data.categories.names"]
    one, two = (experiment.load(runs[name]) for name in ("one", "two"))
    from paribus.data.stream import build_stream

    a, b = (build_stream(c.data, c.seeds, c.train.batch_size).batches for c in (one, two))
    differing = [(a(step).targets != b(step).targets) for step in range(6)]
    assert found.tokens_differing == int(np.sum(differing))
    assert found.windows_differing == int(np.any(differing, axis=2).sum())
    assert found.shares["a"][0] == found.tokens
    assert found.shares["a"][1] + found.shares["b"][1] == found.tokens
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == found.windows_differing
    assert {line["cause"] for line in lines} <= {"another category", "another window"}


def test_a_step_that_consumed_something_else_is_named(runs, capsys):
    path = runs["coins"].stream_path
    logged = bytearray(path.read_bytes())
    logged[8 * 3] ^= 1
    path.write_bytes(bytes(logged))
    try:
        assert verify(runs["coins"]).altered == [3]
        assert print_audit([runs["coins"].path]) == 1
        assert "the first at step 3" in capsys.readouterr().out
    finally:
        logged[8 * 3] ^= 1
        path.write_bytes(bytes(logged))


def test_runs_of_other_shapes_are_refused(runs, tmp_path):
    other, config = coins_run(tmp_path, "train.batch_size=4")
    experiment.run(other, config)
    with pytest.raises(RunError, match=r"different shapes, \(8, 16\) and \(4, 16\)"):
        compare(runs["coins"], other)


def test_a_run_that_has_not_begun_says_how_to_start_it(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    with pytest.raises(RunError, match="has not begun; `paribus train"):
        verify(run)


def test_shuffled_labels_are_those_that_the_run_saw(tmp_path):
    """The stream holds only windows of the category `a` as dealt out; the original labels would show all three."""
    run, config = text_run(tmp_path, labels="shuffled")
    experiment.run(run, config)
    assert set(compare(run, run).shares) == {"a"}
