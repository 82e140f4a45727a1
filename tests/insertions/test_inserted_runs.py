"""Runs with insertions: what stands in the stream, what an audit says of it, and that nothing else moves."""

import json

import numpy as np
import pytest

from paribus import experiment, treated
from paribus.audit import compare, print_audit, verify
from paribus.data.batches import untouched
from paribus.data.stream import build_stream
from paribus.errors import PlanError, RunError
from paribus.insertions.trace import Watch, changes, foreign
from tiny_runs import text_run, text_store

CHUNKS = {"windows": {"kind": "chunks"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return text_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def canaries(tmp_path_factory):
    path = tmp_path_factory.mktemp("canaries") / "canaries.jsonl"
    path.write_text("".join(json.dumps({"text": f"gold ant {n}"}) + "\n" for n in range(6)))
    return path


def inserting(file, **more):
    experiments = {"canaries": {"kind": "texts", "file": str(file), "repetitions": 2, **more.pop("options", {})}}
    return f"insertions={json.dumps({'experiments': experiments, **more})}"


def streams(config):
    """(rows before, rows after) as functions of the step, and the plan."""
    plan = treated.compile_insertions(config)
    watch = Watch(plan.overlay)
    stream = build_stream(config.data, config.seeds, config.train.batch_size, watch)

    def rows(step):
        stream.batches(step)
        return watch.before, watch.after

    return rows, plan, stream


@pytest.mark.parametrize("start_token", [True, False])
def test_insertions_miss_their_place_in_inputs_or_targets(tmp_path, store, canaries, start_token):
    """Row token o is target o with a start token, else target o - 1; it is input o + 1, else input o."""
    _, config = text_run(tmp_path, inserting(canaries), store=store, start_token=start_token)
    rows, plan, stream = streams(config)
    plain = build_stream(config.data, config.seeds, config.train.batch_size)
    for step in range(6):
        before, after = rows(step)
        batch, was = stream.batches(step), plain.batches(step)
        mask = plan.mask(step)
        assert before.shape == after.shape == (8, 16 if start_token else 17) == mask.shape
        assert not (before != after)[~mask].any()
        for change in changes(plan, step, before):
            span = slice(change.offset, change.offset + len(change.new))
            assert after[change.row, span].tolist() == change.new
            assert before[change.row, span].tolist() == change.old
        seen = after if start_token else after[:, 1:]
        np.testing.assert_array_equal(batch.targets, seen)
        np.testing.assert_array_equal(batch.tokens[:, 1:], after[:, :-1] if start_token else after[:, 1:-1])
        np.testing.assert_array_equal(batch.window_ids, was.window_ids)
    assert plan.spans.length.sum() == sum(plan.mask(step).sum() for step in range(6))


def test_an_empty_plan_changes_a_byte(tmp_path, store, canaries):
    """200 steps, more than two epochs, in two halves: the control's stream is that of the run without insertions."""
    common = {"store": store, **CHUNKS}
    plain, config = text_run(tmp_path, "train.budget.steps=200", "name=plain", **common)
    control, controlled = text_run(tmp_path, "train.budget.steps=200", inserting(canaries, control=True), **common)
    assert build_stream(config.data, config.seeds, 8).windows_per_epoch * 2 < 200 * 8
    experiment.run(plain, config)
    short = controlled.model_copy(update={"train": controlled.train.model_copy(update={"micro_batch_size": 2})})
    experiment.run(control, controlled)
    other = experiment.place(short)
    experiment.run(other, short)
    assert plain.stream_path.read_bytes() == control.stream_path.read_bytes() == other.stream_path.read_bytes()
    assert plain.metrics_path.read_bytes() == control.metrics_path.read_bytes()


def test_epoch_one_reaches_into_another(tmp_path, store, canaries):
    where = {"kind": "random", "epochs": [1]}
    overrides = ["train.budget={epochs: 3}", inserting(canaries, options={"where": where, "repetitions": 3})]
    _, config = text_run(tmp_path, *overrides, store=store, **CHUNKS)
    rows, plan, stream = streams(config)
    per_epoch = stream.windows_per_epoch
    planned = {(int(row), int(offset)) for row, offset in zip(*np.divmod(plan.spans.start, 16), strict=True)}
    assert len(planned) == 18
    assert all(per_epoch <= row < 2 * per_epoch for row, _ in planned)
    for step in range(plan.geometry.num_steps):
        before, after = rows(step)
        differ = np.argwhere(before != after)
        for row, offset in differ.tolist():
            assert per_epoch <= step * 8 + row < 2 * per_epoch
            assert plan.mask(step)[row, offset]


def test_an_audit_misses_what_nobody_planned(tmp_path, store, canaries):
    """A flipped token inside a span and outside, a shift by one, two swapped rows: each with step, row and offset."""
    _, config = text_run(tmp_path, inserting(canaries), store=store)
    rows, plan, _ = streams(config)
    step = int(plan.place(int(plan.spans.start[0]))[0])
    before, after = rows(step)
    assert foreign(plan, step, before, after) == []
    _, row, offset = plan.place(int(plan.spans.start[0]))
    outside = np.argwhere(~plan.mask(step))[5].tolist()
    for spot in ([row, offset], outside):
        tampered = after.copy()
        tampered[tuple(spot)] ^= 1
        [found] = foreign(plan, step, before, tampered)
        assert [found.step, found.row, found.offset] == [step, *spot]
        assert (found.found, found.expected) == (tampered[tuple(spot)], after[tuple(spot)])
    shifted = np.roll(after.reshape(-1), 1).reshape(after.shape)
    assert foreign(plan, step, before, shifted)[0][:3] == (step, *np.argwhere(shifted != after)[0].tolist())
    swapped = after[[1, 0, *range(2, 8)]]
    assert {found.row for found in foreign(plan, step, before, swapped)} == {0, 1}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, store, canaries):
    """A treated run and its matched control."""
    folder = tmp_path_factory.mktemp("pair")
    made = {
        name: text_run(folder, inserting(canaries, control=name == "control"), store=store)
        for name in ("treated", "control")
    }
    for run, config in made.values():
        experiment.run(run, config)
    return {name: run for name, (run, _) in made.items()}


def test_an_inserted_run_hides_a_span(pair, tmp_path, capsys):
    out = tmp_path / "spans.jsonl"
    assert print_audit([pair["treated"].path], out) == 0
    assert "insertions: 12 spans, " in capsys.readouterr().out
    spans = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(spans) == 12
    assert {(span["experiment"], span["item"], span["repetition"]) for span in spans} == {
        ("canaries", line, copy) for line in range(1, 7) for copy in (0, 1)
    }
    assert all(f"gold ant {span['item'] - 1}" in span["new_text"] for span in spans)
    found = verify(pair["treated"])
    assert found.written.tokens == sum(len(span["new"]) for span in spans)
    assert found.written.changed == sum(a != b for span in spans for a, b in zip(span["old"], span["new"], strict=True))


def test_a_run_and_its_control_differ_in_more_than_the_insertions(pair, capsys):
    found = compare(pair["treated"], pair["control"])
    assert [key for key, _, _ in found.keys] == ["insertions.control"]
    assert set(found.causes) == {"insertion"}
    assert print_audit([pair["treated"].path, pair["control"].path]) == 0
    assert "cause: insertion in " in capsys.readouterr().out


def test_an_altered_plan_passes(pair):
    plan = pair["treated"].insertions / "tokens.npy"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    try:
        with pytest.raises(PlanError, match=r"tokens\.npy: sha256 .* altered"):
            verify(pair["treated"])
    finally:
        plan.write_bytes(whole)


def test_an_altered_plan_is_trained_on(tmp_path, store, canaries):
    run, config = text_run(tmp_path, inserting(canaries), store=store)
    experiment.run(run, config)
    (run.path / "DONE").unlink()
    plan = run.insertions / "tokens.npy"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    with pytest.raises(PlanError, match=r"insertions/tokens\.npy: sha256 .* altered"):
        experiment.run(run, config)
    plan.write_bytes(whole)
    experiment.run(run, config)


def test_a_plan_for_another_stream_is_laid_over_this_one(tmp_path, store, canaries):
    run, config = text_run(tmp_path, inserting(canaries), store=store)
    experiment.run(run, config)
    other = config.model_copy(update={"seeds": config.seeds.model_copy(update={"order": 1})})
    with pytest.raises(PlanError, match=r"made for another stream.*\n  seeds\.order: 0 in the plan, 1 now"):
        treated.open_insertions(run, other)
    assert treated.open_insertions(
        run, config.model_copy(update={"seeds": config.seeds.model_copy(update={"weights": 9})})
    )


def test_other_payloads_are_the_same_run(tmp_path, store):
    file = tmp_path / "items.jsonl"
    file.write_text('{"text": "ant"}\n')
    run, config = text_run(tmp_path, inserting(file), store=store)
    experiment.run(run, config)
    file.write_text('{"text": "bee"}\n')
    assert experiment.place(config).path != run.path
    (run.path / "DONE").unlink()
    with pytest.raises(RunError, match=r"insertions\.experiments\.canaries\.file: "):
        experiment.run(run, config)


def test_a_dry_run_writes_a_plan(tmp_path, store, canaries):
    run, config = text_run(tmp_path, inserting(canaries), store=store)
    lines = experiment.plan(run, config)
    assert lines[-2].split()[:3] == ["canaries", "6", "12"]
    assert not run.path.exists()


def test_nothing_is_written_over_the_untouched(store):
    rows = np.arange(6, dtype=np.int32).reshape(2, 3)
    untouched(0, rows)
    assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_leaving_an_experiment_out_moves_the_others_or_is_not_the_run_that_never_had_it(tmp_path, store, canaries):
    def a_run(names, **more):
        experiments = {name: {"kind": "texts", "file": str(canaries), "repetitions": 3} for name in names}
        insertions = json.dumps({"experiments": experiments, **more})
        return text_run(tmp_path, f"insertions={insertions}", "train.budget.steps=60", store=store)

    (full, config), (one, without) = a_run("abc"), a_run("abc", without=["b"])
    never, _ = a_run("ac")
    assert one.path == never.path != full.path
    all_of_them, rest = treated.compile_insertions(config), treated.compile_insertions(without)
    assert rest.experiments == ["a", "c"]

    def places(plan):
        names = [plan.experiments[number] for number in plan.spans.experiment]
        copies = zip(names, plan.spans.item, plan.spans.repetition, plan.spans.start, strict=True)
        return {(name, int(item), int(copy)): int(start) for name, item, copy, start in copies}

    before, after = places(all_of_them), places(rest)
    assert after.keys() == {copy for copy in before if copy[0] != "b"}
    moved = [copy for copy, start in after.items() if before[copy] != start]
    assert len(moved) <= 4  # of 36: those that had to give way to a copy of b
