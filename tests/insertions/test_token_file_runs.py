"""Runs on token files: insertions, audits, resume, evaluations, and what makes one run another."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from paribus import experiment, treated
from paribus.audit import compare, print_audit, verify
from paribus.data.stream import build_stream
from paribus.data.token_rows import heldout_windows
from paribus.errors import ConfigError, DataError, PlanError, RunError
from paribus.evals.config import LossEval
from paribus.evals.frozen import loss_windows
from paribus.insertions.hdf5 import write_map
from paribus.insertions.trace import Watch
from tiny_runs import token_files, token_run

ORDERS = ["permutation", "olmo", "olmo_core"]
S = 17


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Words w1 .. w39; w0 is the end of text, by its name a special token."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made = Tokenizer(models.WordLevel({"<eos>": 0} | {f"w{n}": n for n in range(1, 40)}, unk_token="w1"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def canaries(tmp_path_factory):
    path = tmp_path_factory.mktemp("canaries") / "canaries.jsonl"
    path.write_text("".join(json.dumps({"text": f"w7 w7 w7 w{n}"}) + "\n" for n in range(10, 14)))
    return str(path)


def inserting(file, **more):
    control = more.pop("control", False)
    experiments = {"canaries": {"kind": "texts", "file": file, **more}}
    return f"insertions={json.dumps({'experiments': experiments, 'control': control})}"


@pytest.mark.parametrize("order", ORDERS)
def test_epoch_one_reaches_into_another(tmp_path, tokenizer, canaries, order):
    """Three epochs of 40 rows, batches of 8: what differs from the base stream is planned, and lies in epoch 1."""
    where = {"kind": "random", "epochs": [1]}
    overrides = ["train.budget={epochs: 3}", inserting(canaries, where=where, repetitions=5)]
    _, config = token_run(tmp_path, *overrides, order={"kind": order}, tokenizer=tokenizer, mask_separators=True)
    plan = treated.compile_insertions(config)
    watch = Watch(plan.overlay)
    stream = build_stream(config.data, config.seeds, 8, watch)
    assert plan.geometry.num_steps == 15
    changed = 0
    for step in range(15):
        batch = stream.batches(step)
        differ = watch.before != watch.after
        assert not (differ & ~plan.mask(step)).any()
        assert (step in range(5, 10)) or not differ.any()
        changed += differ.sum()
        np.testing.assert_array_equal(batch.tokens, watch.after[:, :-1])
        np.testing.assert_array_equal(batch.targets, np.where(batch.tokens == 0, -100, watch.after[:, 1:]))
    assert len(plan.spans.start) == 20
    assert plan.spans.tokens[:6].tolist()[:4] == [0, 7, 7, 7]  # wrapped in data.eos
    assert changed > 60


def test_an_inserted_run_fails_its_audit(tmp_path, tokenizer, canaries, capsys):
    made = {
        control: token_run(tmp_path, inserting(canaries, control=control), tokenizer=tokenizer)
        for control in (False, True)
    }
    for run, config in made.values():
        experiment.run(run, config)
    treated, control = made[False][0], made[True][0]
    out = tmp_path / "spans.jsonl"
    assert print_audit([treated.path], out) == 0
    spans = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(span["new_text"] for span in spans) == [f"<eos> w7 w7 w7 w{n} <eos>" for n in range(10, 14)]
    assert set(compare(treated, control).causes) == {"insertion"}
    capsys.readouterr()
    assert print_audit([treated.path, control.path]) == 0
    assert "cause: insertion in " in capsys.readouterr().out


def test_a_map_of_a_plan_is_another_run_of_tokens(tmp_path, tokenizer, canaries):
    """The plan of one run, written as an HDF5 map, gives another run the same stream; its audit holds."""
    run, config = token_run(tmp_path, inserting(canaries, repetitions=3), tokenizer=tokenizer)
    experiment.run(run, config)
    write_map(treated.open_insertions(run, config), tmp_path / "map.h5", "batch")
    experiments = {"given": {"kind": "hdf5", "file": str(tmp_path / "map.h5"), "index": "batch"}}
    given, from_map = token_run(tmp_path, f"insertions={json.dumps({'experiments': experiments})}")
    experiment.run(given, from_map)
    assert given.stream_path.read_bytes() == run.stream_path.read_bytes()
    assert verify(given).holds
    assert verify(given).written == verify(run).written
    write_map(treated.open_insertions(run, config), tmp_path / "map.h5", "position")
    with pytest.raises(RunError, match=r"insertions\.experiments\.given\.file: "):
        verify(given)


@pytest.mark.parametrize("order", ORDERS)
def test_a_resumed_run_reads_other_tokens(tmp_path, order):
    """6 steps in one attempt, and 4 of them again from the checkpoint of step 4, end in the same log."""
    run, config = token_run(tmp_path, order={"kind": order})
    experiment.run(run, config)
    stream, metrics = run.stream_path.read_bytes(), run.metrics_path.read_bytes()
    (run.path / "DONE").unlink()
    shutil.rmtree(run.checkpoints / "step-000006")
    experiment.run(run, config)
    assert run.stream_path.read_bytes() == stream
    assert run.metrics_path.read_bytes() == metrics
    assert verify(run).holds


def test_moved_files_are_another_run_or_altered_ones_the_same(tmp_path):
    run, config = token_run(tmp_path)
    experiment.run(run, config)
    moved = [shutil.copy(file, tmp_path / f"moved-{number}") for number, file in enumerate(config.data.files)]
    _, elsewhere = token_run(tmp_path, files=[str(file) for file in moved])
    assert experiment.place(elsewhere).path == run.path
    swapped, _ = token_run(tmp_path, files=[str(file) for file in reversed(moved)])
    assert swapped.path != run.path
    token_run_again, changed = token_run(tmp_path)
    token_files(tmp_path, {"a.npy": 30 * S + 5}, seed=1)
    assert experiment.place(changed).path != token_run_again.path
    (run.path / "DONE").unlink()
    with pytest.raises(RunError, match=r"what it reads changed since the run began.*\n  data\.files: "):
        experiment.run(run, changed)
    with pytest.raises(RunError, match=r"data\.files: "):
        verify(run)


def test_other_files_pass_as_unexplained(tmp_path):
    """Two runs that read the same places of other files differ by their files, not for no cause."""
    made = []
    for seed in (0, 1):
        run, config = token_run(tmp_path / str(seed))
        token_files(tmp_path / str(seed), {"a.npy": 30 * S + 5, "b.npy": 10 * S + 16}, seed=seed)
        run = experiment.place(config)
        experiment.run(run, config)
        made.append(run)
    assert set(compare(*made).causes) == {"another store"}


def test_an_evaluation_scores_other_rows(tmp_path):
    heldout = token_files(tmp_path / "heldout", {"h.npy": 20 * S + 3}, seed=5)
    evals = "evals={held: {kind: loss, windows_per_category: 12, every: 3}, short: {kind: loss, window: 4}}"
    run, config = token_run(tmp_path, evals, heldout_files=[str(heldout[0])], mask_separators=True)
    experiment.run(run, config)
    rows = np.fromfile(heldout[0], "<u2")[: 20 * S].reshape(20, S)
    found = json.loads((run.evals / "held" / "step-000006.json").read_text())
    assert found["windows"]["count"] == 12
    assert found["categories"] == ["all"]
    assert found["loss"]["count"] < 12 * (S - 1)  # nothing is predicted behind a separator
    short = json.loads((run.evals / "short" / "step-000006.json").read_text())
    assert short["windows"]["predictions"] == 4

    windows = heldout_windows(config.data, S - 1, 20, 0)
    assert sorted(windows.batch.window_ids.tolist()) == list(range(0, 20 * S, S))
    for tokens, position in zip(windows.batch.tokens, windows.batch.window_ids // S, strict=True):
        assert tokens.tolist() == rows[position, :-1].tolist()
    fewer = heldout_windows(config.data, S - 1, 7, 0)
    np.testing.assert_array_equal(fewer.batch.window_ids, windows.batch.window_ids[:7])
    with pytest.raises(ConfigError, match="store: found x, but data of kind token_files have no store"):
        loss_windows(LossEval(store="x"), config.data, config.seeds)
    with pytest.raises(DataError, match=r"^categories: no category 'cs'"):
        loss_windows(LossEval(categories=["cs"]), config.data, config.seeds)


@pytest.mark.parametrize(
    ("override", "options", "error", "message"),
    [
        (
            "evals={held: {kind: loss}}",
            {},
            ConfigError,
            "evals.held: an evaluation of kind loss needs data.heldout_files",
        ),
        ("evals={b: {kind: bayes}}", {}, ConfigError, "needs a synthetic source, found data of kind token_files"),
        ("name=wide", {"vocab_size": 20}, DataError, r"[ab]\.npy: token [\d,]+ has id \d+, expected 0 to 19"),
        ("name=long", {"sequence_length": 600}, DataError, "^data: sequence_length: a row has 600 tokens, but the"),
    ],
)
def test_what_cannot_be_run_leaves_a_directory(tmp_path, override, options, error, message):
    run, config = token_run(tmp_path, override, **options)
    with pytest.raises(error, match=message):
        experiment.run(run, config)
    assert not run.path.exists()


def test_texts_are_inserted_without_a_tokenizer(tmp_path, canaries, tokenizer):
    _, config = token_run(tmp_path, inserting(canaries))
    with pytest.raises(PlanError, match=r"texts need a tokenizer.*data\.tokenizer"):
        treated.compile_insertions(config)
    _, config = token_run(tmp_path, inserting(canaries), "insertions.eos=w5", tokenizer=tokenizer)
    assert treated.compile_insertions(config).spans.tokens[0] == 5
    _, config = token_run(tmp_path, inserting(canaries), "insertions.eos=nothing", tokenizer=tokenizer)
    with pytest.raises(PlanError, match="has no token 'nothing'"):
        treated.compile_insertions(config)
    with pytest.raises(DataError, match=r"data\.files: .*absent matches no file"):
        token_run(tmp_path, files=[str(tmp_path / "absent")])
