"""Runs with dynamic control: what is recorded is what is used, once; resumed bit for bit; audited to the token."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from ranks import on_ranks

from control.steering import COUNT, RANDOM, SCRIPT, WEIGHTS
from paribus import experiment, treated
from paribus.audit import compare, print_audit, verify
from paribus.errors import ConfigError, PlanError, RunError, RunFailed
from paribus.insertions.plan import write_ledger
from paribus.insertions.segments import Segments
from paribus.rundir import RunDir
from tiny_runs import coins_run, text_run, text_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return text_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Scripts, canaries, a probe and its texts."""
    folder = tmp_path_factory.mktemp("files")
    for name, body in (
        ("random", RANDOM),
        ("count", COUNT),
        ("weights", f"out({{'seen': {WEIGHTS}}}, [{WEIGHTS}[:4]])"),
    ):
        (folder / f"{name}.py").write_text(SCRIPT + body)
    records = {
        "canaries": [{"text": f"gold ant {n}"} for n in range(6)],
        "probe": [{"prompt": f"ant {n}", "target": "bee"} for n in range(5)],
        "texts": [{"text": f"ant {n} bee"} for n in range(5)],
    }
    for name, found in records.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    return folder


def controllers(files):
    return {
        "random": {"kind": "script", "script": str(files / "random.py")},
        "count": {"kind": "script", "script": str(files / "count.py")},
        "weights": {"kind": "script", "script": str(files / "weights.py")},
        "python": {"kind": "python", "call": "control.steering:by_weights"},
        "proportional": {
            "kind": "proportional",
            "probe": str(files / "probe.jsonl"),
            "texts": str(files / "texts.jsonl"),
            "target": 0.9,
        },
    }


def steered(folder, store, files, every, *overrides, control=False, canaries=False, steps=10):
    """A run of 10 steps, a checkpoint at 3, 6, 9 and 10; every: name of a controller -> steps of its segments."""
    known = controllers(files)
    section = {
        name: {"kind": "dynamic", "every": n, "controller": known[name]}
        | ({"initial_state": {"n": 4}} if name == "proportional" else {})
        for name, n in every.items()
    }
    if canaries:
        section = {"canaries": {"kind": "texts", "file": str(files / "canaries.jsonl"), "repetitions": 2}} | section
    insertions = {"experiments": section, "control": control}
    checkpoints = "train.checkpoints={every: 3, keep_last: 0}"
    asked = [f"train.budget.steps={steps}", checkpoints, f"insertions={json.dumps(insertions)}", "evals={}", *overrides]
    return text_run(folder, *asked, store=store)


def trained(path):
    """Begin or resume the run in a directory; a function that ranks can call."""
    run = RunDir(path)
    experiment.run(run, experiment.load(run))


def cut(whole, path, step, *, forgets):
    """The run as a kill after this step left it; forgets: its controllers had not decided since."""
    shutil.copytree(whole, path)
    (path / "DONE").unlink()
    for folder in (path / "checkpoints").glob("step-*"):
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    for folder in (path / "control").glob("*/step-*") if forgets else ():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)


def content(path):
    """Every file that is a function of the config; of sharded checkpoints the gathered weights."""
    kept = [path / "metrics.jsonl", path / "stream.u64"]
    kept += [file for name in ("control", "insertions", "checkpoints") for file in (path / name).rglob("*")]
    return {str(file.relative_to(path)): file.read_bytes() for file in kept if file.is_file() and not is_sharded(file)}


def is_sharded(file):
    """Whether bytes may differ where no tensor does: shards, and the manifest with their hashes."""
    shards = next((folder / "distributed" for folder in file.parents if folder.parent.name == "checkpoints"), None)
    return shards is not None and shards.exists() and (shards in file.parents or file.name == "manifest.json")


def assert_same(one, other):
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name] != b[name]] == []


def test_ten_steps_differ_from_six_plus_four(tmp_path, store, files):
    run, config = steered(tmp_path, store, files, {"weights": 4, "python": 3, "proportional": 5}, canaries=True)
    experiment.run(run, config)
    for step in (3, 6):
        cut(run.path, tmp_path / f"after-{step}", step, forgets=True)
        trained(tmp_path / f"after-{step}")
        assert_same(run.path, tmp_path / f"after-{step}")


@pytest.mark.parametrize("engine", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_ranks_decide_apart_or_differently_after_a_kill(tmp_path, store, files, engine):
    """Each segment equals that of one process: a look at the model is the same on any engine."""
    every = {"count": 4, "python": 3, "proportional": 5}
    run, config = steered(
        tmp_path, store, files, every, f"launch.engine={engine}", "launch.num_processes=2", canaries=True
    )
    experiment.hold(run, config)
    on_ranks(2, trained, run.path)
    cut(run.path, tmp_path / "cut", 6, forgets=True)
    on_ranks(2, trained, tmp_path / "cut")
    assert_same(run.path, tmp_path / "cut")
    assert verify(run).holds
    alone, config = steered(tmp_path, store, files, every, "name=alone", canaries=True)
    experiment.run(alone, config)
    same = [f"control/{name}/step-000000/tokens.npy" for name in every]
    assert all((run.path / file).read_bytes() == (alone.path / file).read_bytes() for file in same)


def test_what_chance_decided_is_decided_again(tmp_path, store, files):
    run, config = steered(tmp_path, store, files, {"random": 2})
    experiment.run(run, config)
    cut(run.path, tmp_path / "cut", 6, forgets=False)
    trained(tmp_path / "cut")
    assert_same(run.path, tmp_path / "cut")
    cut(run.path, tmp_path / "forgotten", 6, forgets=True)
    trained(tmp_path / "forgotten")
    assert content(run.path)["stream.u64"] != content(tmp_path / "forgotten")["stream.u64"], "the test would see it"
    assert verify(RunDir(tmp_path / "forgotten")).holds


def test_spans_overlap_or_leave_their_segment(tmp_path, store, files):
    """Two controllers in turn, around canaries that take a good part of the stream."""
    run, config = steered(tmp_path, store, files, {"count": 4, "python": 3}, canaries=True)
    experiment.run(run, config)
    plan = treated.written(run, config, 10)
    spans = plan.spans
    assert (spans.start[1:] >= (spans.start + spans.length)[:-1]).all()
    assert (spans.start % 16 + spans.length <= 16).all()
    write_ledger(plan, tmp_path / "ledger.parquet")
    ledger = pl.read_parquet(tmp_path / "ledger.parquet")
    assert dict(ledger.group_by("experiment").len().iter_rows()) == {"canaries": 12, "count": 9, "python": 8}
    assert not ledger.select("experiment", "item", "repetition").is_duplicated().any()
    for name, every in (("count", 4), ("python", 3)):
        own = ledger.filter(pl.col("experiment") == name)
        assert (own["step"] // every == own["repetition"]).all()
        assert set(own["repetition"]) == set(range(-(-10 // every)))
    metrics = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    seen = [
        (m["step"], m["control/count/num_prompts"], m["control/count/calls"])
        for m in metrics
        if "control/count/calls" in m
    ]
    assert seen == [(0, 3, 1), (4, 3, 2), (8, 3, 3)]
    assert [m["step"] for m in metrics if "control/python/words" in m] == [0, 3, 6, 9]


def test_a_function_that_spoils_its_copy_changes_the_run(tmp_path, store, files):
    run, config = steered(tmp_path, store, files, {"python": 5})
    experiment.run(run, config)
    spoiling = "insertions.experiments.python.controller.args.spoils=true"
    other, config = steered(tmp_path, store, files, {"python": 5}, spoiling)
    experiment.run(other, config)
    one, two = content(run.path), content(other.path)
    assert run.path != other.path
    for name in ("metrics.jsonl", "checkpoints/step-000010/model.safetensors"):
        assert one[name] == two[name]


def test_no_texts_leave_no_record_or_other_tokens(tmp_path, store, files):
    none = "insertions.experiments.count.controller.args.num=0"
    run, config = steered(tmp_path, store, files, {"count": 4}, none)
    experiment.run(run, config)
    plain, config = text_run(tmp_path, "train.budget.steps=10", "evals={}", "name=plain", store=store)
    experiment.run(plain, config)
    assert run.stream_path.read_bytes() == plain.stream_path.read_bytes()
    assert len(list((run.control / "count").iterdir())) == 3
    assert verify(run).written.spans == 0


def test_texts_are_written_into_data_without_a_tokenizer(tmp_path):
    section = {
        "it": {"kind": "dynamic", "every": 2, "controller": {"kind": "python", "call": "control.steering:by_chance"}}
    }
    run, config = coins_run(tmp_path, f"insertions={json.dumps({'experiments': section})}")
    with pytest.raises(
        ConfigError, match=r"insertions\.experiments\.it: texts need a tokenizer, and the data, of kind coins"
    ):
        experiment.run(run, config)
    assert not run.path.exists()


def test_a_step_without_its_segment_is_made(tmp_path, store, files):
    run, config = steered(tmp_path, store, files, {"count": 4})
    segments = Segments(treated.compile_insertions(config), run.control)
    with pytest.raises(PlanError, match=r"step-000004: no such segment: what count decided at step 4 is not recorded"):
        segments.overlay(6, np.zeros((8, 16), np.int32))


def test_an_altered_segment_is_trained_on(tmp_path, store, files):
    run, config = steered(tmp_path, store, files, {"count": 4})
    experiment.run(run, config)
    cut(run.path, tmp_path / "cut", 6, forgets=False)
    tokens = tmp_path / "cut" / "control" / "count" / "step-000004" / "tokens.npy"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-4] + bytes([whole[-4] ^ 1]) + whole[-3:])
    with pytest.raises(PlanError, match=r"step-000004/tokens\.npy: sha256 .* altered"):
        trained(tmp_path / "cut")
    tokens.write_bytes(whole)
    trained(tmp_path / "cut")
    assert content(tmp_path / "cut") == content(run.path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, store, files):
    """A steered run and its matched control."""
    folder = tmp_path_factory.mktemp("pair")
    made = {}
    for control in (False, True):
        made[control], config = steered(folder, store, files, {"count": 4}, control=control, canaries=True)
        experiment.run(made[control], config)
    return made[False], made[True]


def test_an_audit_hides_what_a_controller_wrote(pair, tmp_path, capsys):
    out = tmp_path / "spans.jsonl"
    assert print_audit([pair[0].path], out) == 0
    assert "insertions: 21 spans, " in capsys.readouterr().out
    spans = [json.loads(line) for line in out.read_text().splitlines()]
    texts = [s["new_text"] for s in spans if (s["experiment"], s["item"], s["repetition"]) == ("count", 2, 1)]
    assert texts == ["<|endoftext|>gold ant 4 1<|endoftext|>"]
    assert print_audit([path.path for path in pair]) == 0
    assert "cause: insertion in " in capsys.readouterr().out
    assert set(compare(*pair).causes) == {"insertion"}
    assert not pair[1].control.exists()


def test_an_altered_record_passes_the_audit(pair, tmp_path):
    def altered(name, alter):
        path = tmp_path / name
        shutil.copytree(pair[0].path, path)
        alter(path / "control" / "count" / "step-000004")
        return RunDir(path)

    def flip(file):
        whole = bytearray(file.read_bytes())
        whole[-2] ^= 1
        file.write_bytes(whole)

    def state(folder):
        manifest = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(manifest.replace('"calls": 2', '"calls": 3'))

    def rename(folder):
        shutil.move(folder, folder.with_name("step-000008x"))

    with pytest.raises(PlanError, match=r"step-000004/tokens\.npy: sha256 .* altered"):
        verify(altered("token", lambda folder: flip(folder / "tokens.npy")))
    with pytest.raises(PlanError, match=r"step-000004/prompts\.jsonl: sha256 .* altered"):
        verify(altered("prompt", lambda folder: flip(folder / "prompts.jsonl")))
    with pytest.raises(
        PlanError, match=r"step-000008: recorded for something else.*\n  state\.calls: 2 .*\n  previous: "
    ):
        verify(altered("state", state))
    with pytest.raises(PlanError, match=r"step-000004: no such segment"):
        verify(altered("missing", shutil.rmtree))
    with pytest.raises(PlanError, match=r"step-000004: no such segment"):
        verify(altered("moved", rename))


def test_a_failure_leaves_half_a_segment_or_loses_steps(tmp_path, store, files):
    """Fails at step 6, is mended, goes on: the run that a script without the mistake gives."""
    own = tmp_path / "files"
    shutil.copytree(files, own)
    script = own / "count.py"
    script.write_text(SCRIPT + f"if step == 6: sys.exit('out of ideas')\n{COUNT}")
    run, config = steered(tmp_path, store, own, {"count": 2})
    with pytest.raises(
        RunFailed, match=r"count: step 6: .*count\.py: exit code 1; stderr ends: out of ideas; once that"
    ) as e:
        experiment.run(run, config)
    assert "\n" not in str(e.value)
    assert run.status()["state"] == "failed"
    assert sorted(path.name for path in (run.control / "count").iterdir()) == [
        "step-000000",
        "step-000002",
        "step-000004",
    ]
    with pytest.raises(RunFailed):
        trained(run.path)
    script.write_text(SCRIPT + COUNT)
    trained(run.path)
    assert run.is_done
    assert verify(run).holds
    whole, config = steered(tmp_path, store, files, {"count": 2}, "name=whole")
    experiment.run(whole, config)
    for name in ("metrics.jsonl", "stream.u64", "checkpoints/step-000010/model.safetensors"):
        assert content(run.path)[name] == content(whole.path)[name]
    decided = [json.loads((run.control / f"count/step-00000{n}/manifest.json").read_text()) for n in (4, 6)]
    assert len({one["decision"]["controller"]["script"] for one in decided}) == 2
    script.write_text(SCRIPT + COUNT + "\n")  # of a run that did not fail nothing may change
    with pytest.raises(
        RunError, match=r"bring the old content back.*\n  insertions\.experiments\.count\.controller\.script: "
    ):
        experiment.refuse_changes(run, experiment.load(run))


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (
            "out({}, ['gold ant'] * 40)",
            r"no room for it: \d+ items, \d+ tokens, of 40 in steps \[0, 2\) \(16 rows of 16",
        ),
        ("out({}, ['gold', ''])", "text 2: an empty item"),
        ("out({}, ['gold ant ' * 40])", r"text 1: \d+ tokens, but a row of the stream has 16"),
    ],
)
def test_texts_that_do_not_fit_are_dropped(tmp_path, store, files, body, failure):
    own = tmp_path / "files"
    own.mkdir()
    (own / "count.py").write_text(SCRIPT + body)
    run, config = steered(tmp_path, store, own, {"count": 2})
    with pytest.raises(RunFailed, match=f"experiments.count: step 0: {failure.replace('for it', 'for count')}"):
        experiment.run(run, config)
    assert run.status()["state"] == "failed"
    assert not run.control.exists() or not list(run.control.rglob("step-*"))


def test_a_dry_run_says_nothing_of_the_controller(tmp_path, store, files):
    run, config = steered(tmp_path, store, files, {"count": 4}, canaries=True)
    lines = [" ".join(line.split()) for line in experiment.plan(run, config)]
    assert "count every 4 steps, decided by its controller: unknown tokens" in lines
    assert not run.path.exists()


def test_a_run_that_goes_on_from_another_begins_its_own_segments(tmp_path, store, files):
    """Its segments lie at the steps of the stream that it continues, and the first one is given the initial state."""
    first, config = steered(tmp_path / "first", store, files, {"count": 3}, steps=6)
    experiment.run(first, config)
    origin = [f'model={{"kind": "pretrained", "path": "{first.path}", "step": 6}}', "start.data=continued"]
    rest, config = steered(tmp_path / "rest", store, files, {"count": 2}, *origin, steps=4)
    experiment.run(rest, config)
    assert sorted(path.name for path in (rest.control / "count").iterdir()) == ["step-000006", "step-000008"]
    found = verify(rest)
    assert found.holds
    assert found.written.spans > 0
    plan = treated.written(rest, config, 10)
    assert int(plan.spans.start.min()) >= plan.geometry.first_row * plan.geometry.row_tokens
    other, config = steered(tmp_path / "other", store, files, {"count": 4}, *origin, steps=4)
    with pytest.raises(PlanError, match="goes on at step 6; a divisor of that"):
        experiment.run(other, config)
    assert not other.path.exists()


def test_a_text_is_written_over_a_watermarked_row(tmp_path, store, files):
    """Rows 0 to 5 of every other step are watermarked, on tokens that the run's own plan settles: the others take all."""
    section = {
        "mark": {"kind": "watermark", "where": {"kind": "every", "steps": 2}, "rows": 6},
        "count": {"kind": "dynamic", "every": 2, "controller": controllers(files)["count"]},
    }
    run, config = text_run(tmp_path, f"insertions={json.dumps({'experiments': section})}", "evals={}", store=store)
    experiment.run(run, config)
    assert verify(run).holds
    step, row = np.divmod(treated.written(run, config, 6).spans.start // 16, 8)
    assert len(step) > 0
    assert not ((step % 2 == 0) & (row < 6)).any()
