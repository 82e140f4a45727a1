"""Watermarks and variables of the environment: their settings, what a plan says of them, and the runs that have them."""

import json
import os
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from paribus import config as configs
from paribus import experiment, treated
from paribus.audit import compare, print_audit, verify
from paribus.data.batches import Noise
from paribus.errors import ConfigError, PlanError
from paribus.insertions.compile import compile_plan
from paribus.insertions.config import Environment, EveryN, InsertionsConfig, Watermark, WholeBatch, Within
from paribus.insertions.lint import treated as share_of_batches
from paribus.insertions.payloads import Alphabet
from paribus.insertions.plan import Geometry, open_plan, table_lines, write_plan
from paribus.launch.jobs import THREAD_VARIABLES
from tiny_runs import coins_run

SIZE, WORDS = Geometry(batch_size=8, row_tokens=16, num_steps=30), Alphabet(None, 3, None)


def compiled(seed=0, control=False, **experiments):
    return compile_plan(InsertionsConfig(experiments=experiments, control=control), SIZE, WORDS, seed, {})


def marked(steps, **more):
    return Watermark(where=WholeBatch(steps=steps), **more)


def insertions(tmp_path, control=False, where=None, **more):
    """An override: two whole batches of tokens, of 4 items, and a watermark."""
    tmp_path.mkdir(exist_ok=True)
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps({"tokens": [n % 2, 1, 0, 1] * 4}) + "\n" for n in range(4)))
    experiments = {
        "mark": {"kind": "watermark", "where": where or {"kind": "whole_batch", "steps": [1, 4]}, **more},
        "batch": {"kind": "tokens", "file": str(file), "where": {"kind": "whole_batch", "steps": [1, 4]}},
        "flag": {"kind": "environment", "variable": "PARIBUS_TEST_FLAG", "value": "on"},
    }
    return f"insertions={json.dumps({'experiments': experiments, 'control': control})}"


# --- the plan ----------------------------------------------------------------------------------------------------------


def test_a_plan_gives_other_noise_or_other_steps(tmp_path):
    made = compiled(
        few=marked([7, 2], rows=3),
        every=Watermark(where=EveryN(steps=10, within=Within(steps=(8, 30))), noise_std=0.5, noise="shared"),
    )
    write_plan(made, tmp_path / "plan")
    for plan in (made, open_plan(tmp_path / "plan", {})):
        found = {step: plan.noise(step) for step in range(30) if plan.noise(step)}
        few, every = (mark.key for mark in plan.marks)
        assert few != every
        assert found == {
            **{step: Noise(0.075, few, step, 3) for step in (2, 7)},
            **{step: Noise(0.5, every, 8, 8) for step in (8, 18, 28)},
        }
    alone = compiled(few=marked([7, 2], rows=3))
    assert alone.noise(7) == made.noise(7)
    assert compiled(seed=1, few=marked([7, 2], rows=3)).noise(7).key != few
    assert compiled(control=True, few=marked([7, 2])).marks == []


def test_a_watermark_is_counted_as_written_tokens(tmp_path):
    file = tmp_path / "items.jsonl"
    file.write_text('{"tokens": [1, 2]}\n')
    from paribus.insertions.config import Tokens

    made = compiled(mark=marked([7, 2], rows=3), flag=Environment(variable="A", value="1"), text=Tokens(file=str(file)))
    assert made.experiments == ["text"]
    assert [row["experiment"] for row in made.table()] == ["text"]
    assert not made.mask(7).all()
    write_plan(made, tmp_path / "plan")
    ledger = pq.read_table(tmp_path / "plan" / "ledger.parquet").to_pylist()
    assert [(row["experiment"], row["kind"]) for row in ledger] == [("text", "tokens")] + [("mark", "watermark")] * 6
    assert [(row["step"], row["row"], row["item"], row["repetition"]) for row in ledger[1:]] == [
        (step, row, row, repetition) for repetition, step in enumerate((2, 7)) for row in range(3)
    ]
    assert {(row["offset"], row["length"]) for row in ledger[1:]} == {(0, 16)}
    table = "\n".join(table_lines(made))
    assert "noise of std 0.075 on the embeddings of the first 3 rows of 2 steps, 2 to 7: 96 tokens perturbed" in table
    assert "flag" in table
    assert "sets A=1" in table


def test_steps_before_a_continued_run_count_towards_its_shares(tmp_path):
    from paribus.insertions.config import Tokens

    file = tmp_path / "items.jsonl"
    file.write_text('{"tokens": [1, 2]}\n')
    whole = WholeBatch(steps=[20, 21])
    config = InsertionsConfig(experiments={"text": Tokens(file=str(file), where=whole), "mark": Watermark(where=whole)})
    plan = compile_plan(config, SIZE._replace(first_step=20), Alphabet(None, 3, 0), 0, {})
    assert share_of_batches(plan) == (0.2, 1.0, 20)
    assert [row["share"] for row in plan.table()] == [0.2]
    assert table_lines(plan)[-1].endswith("256 tokens perturbed, 20.0000%")


@pytest.mark.parametrize(
    ("experiments", "reason"),
    [
        (
            {"a": marked([3, 4]), "b": Watermark(where=EveryN(steps=4))},
            r"b: step 4, row 0 has the watermark of a already \(1 ",
        ),
        ({"a": marked([30])}, r"a\.where\.steps: each once, below 30, is expected, found \[30\]"),
        ({"a": marked([3, 3])}, r"a\.where\.steps: each once, below 30, is expected, found \[3, 3\]"),
        ({"a": marked([3], rows=9)}, r"a\.rows: found 9, but a batch has 8"),
        (
            {"a": Watermark(where=EveryN(steps=1, within=Within(tokens=(20, 90))))},
            r"within: holds no whole step of 8 rows",
        ),
    ],
)
def test_a_watermark_that_the_run_cannot_hold_is_dropped(experiments, reason):
    with pytest.raises(PlanError, match=reason):
        compiled(**experiments)


@pytest.mark.parametrize(
    "settings", [{"noise_std": 0}, {"rows": 0}, {"where": {"kind": "random"}}, {"noise": "same"}, {"file": "a.jsonl"}]
)
def test_a_setting_without_a_meaning_is_taken(settings):
    with pytest.raises(ValidationError):
        Watermark(**{"where": WholeBatch(steps=[1]), **settings})


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "RANK", "LOCAL_RANK", "MASTER_PORT", *THREAD_VARIABLES])
def test_a_variable_that_cannot_be_set_is_taken(name):
    with pytest.raises(ValidationError, match=r"expected a variable's name|is set for each rank"):
        Environment(variable=name, value="1")


def test_a_variable_is_set_twice():
    twice = {name: Environment(variable="A", value=name) for name in "ab"}
    with pytest.raises(ValidationError, match="A is set twice"):
        InsertionsConfig(experiments=twice)


# --- runs --------------------------------------------------------------------------------------------------------------


def test_a_resumed_run_sees_other_noise(tmp_path):
    """Six steps at once, and four and two; then an audit of both, and one of a plan with another noise."""
    run, config = coins_run(tmp_path, insertions(tmp_path))
    experiment.run(run, config)
    whole = {path: path.read_bytes() for path in run.path.glob("checkpoints/*/*.safetensors")}
    whole |= {path: path.read_bytes() for path in (run.metrics_path, run.stream_path)}
    shutil.rmtree(run.checkpoints / "step-000006")
    (run.path / "DONE").unlink()
    experiment.run(run, config)
    assert {path: path.read_bytes() for path in whole} == whole
    found = verify(run)
    assert found.holds
    assert found.written.watermarked == 16
    manifest = run.insertions / "manifest.json"
    for old, new in (
        ('"noise_std": 0.075', '"noise_std": 0.08'),
        ('"rows": 8', '"rows": 7'),
        ('"each_step"', '"shared"'),
    ):
        text = manifest.read_text()
        head, mark, tail = text.partition('"kind": "watermark"')
        assert old in tail
        manifest.write_text(head + mark + tail.replace(old, new, 1))
        if "rows" in old:  # the ledger tells it before a batch is replayed
            with pytest.raises(PlanError, match=r"ledger\.parquet"):
                verify(run)
        else:
            assert verify(run).altered == ([4] if new == '"shared"' else [1, 4])
            assert print_audit([run.path]) == 1
        manifest.write_text(text)
    assert verify(run).holds


def test_an_altered_ledger_goes_unnoticed(tmp_path):
    run, config = coins_run(tmp_path, insertions(tmp_path), "evals={}")
    experiment.run(run, config)
    assert verify(run).holds
    path = run.insertions / "ledger.parquet"
    table = pq.read_table(path)
    for altered in (
        table.slice(1),
        table.set_column(2, "item", pc.add(table["item"], 1).cast("uint32")),
        table.set_column(0, "experiment", table["kind"]),
    ):
        pq.write_table(altered, path)
        with pytest.raises(PlanError, match=r"ledger\.parquet: missing, or not what the plan says"):
            verify(run)
    pq.write_table(table.drop_columns(["kind"]), path)
    assert verify(run).holds
    path.unlink()
    with pytest.raises(PlanError, match=r"ledger\.parquet: missing"):
        verify(run)


def test_noise_changes_more_than_it_says(tmp_path, capsys):
    """Of a treated run and its control without tokens, the batches differ in the noise alone; so do the losses."""
    made = {}
    for name in ("treated", "control"):
        override = insertions(tmp_path / name, control=name == "control")
        made[name], config = coins_run(tmp_path / name, override, "insertions.experiments.batch.where.steps=[5]")
        experiment.run(made[name], config)
    losses = [
        [json.loads(line).get("loss") for line in run.metrics_path.read_text().splitlines()] for run in made.values()
    ]
    treated, control = ([loss for loss in one if loss is not None] for one in losses)
    assert treated[0] == control[0]
    assert treated[1] != control[1]
    found = compare(made["treated"], made["control"])
    assert found.noisy == (16, 0)
    assert print_audit([run.path for run in made.values()]) == 0
    assert "rows with the noise of a watermark: 16 | 0; it differs in 16 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "rows"), [({}, 0), ({"noise_std": 0.1}, 16), ({"rows": 5}, 6), ({"noise": "shared"}, 8)]
)
def test_other_noise_on_the_same_rows_goes_unnoticed(tmp_path, more, rows):
    runs = []
    for name, own in (("one", {}), ("two", more)):
        run, config = coins_run(tmp_path / name, insertions(tmp_path, **own), "evals={}", "train.batch_size=8")
        experiment.run(run, config)
        runs.append(run)
    assert compare(*runs).other_noise == rows


def test_other_settings_of_a_watermark_are_the_same_plan(tmp_path):
    run, config = coins_run(tmp_path, insertions(tmp_path))
    experiment.run(run, config)
    _, other = coins_run(tmp_path, insertions(tmp_path, noise_std=0.1))
    with pytest.raises(PlanError, match=r"insertions\.experiments\.mark\.noise_std: 0\.075 in the plan, 0\.1 now"):
        treated.open_insertions(run, other)


def test_a_dry_run_hides_a_watermark(tmp_path):
    run, config = coins_run(tmp_path, insertions(tmp_path))
    lines = "\n".join(experiment.plan(run, config))
    assert (
        "mark               writes nothing; noise of std 0.075 on the embeddings of every row of 2 steps, 1 to 4"
        in lines
    )
    assert not run.path.exists()


def test_a_compiled_model_is_trained_without_its_noise(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.compile: found true, .*\(mark\) out; say false"):
        coins_run(tmp_path, insertions(tmp_path), "train.compile=true")
    with pytest.raises(
        ConfigError, match=r"launch\.engine: olmo_core: its trainer has no place for the noise .*\(mark\)"
    ):
        coins_run(tmp_path, insertions(tmp_path), "launch.engine=olmo_core")


def test_a_variable_is_missing_in_training_or_left_behind(tmp_path, monkeypatch):
    script = tmp_path / "flag.py"
    script.write_text(
        "import os, sys\nopen(sys.argv[4], 'w').write(f\"flag: {int(os.environ.get('PARIBUS_TEST_FLAG') == 'on')}\")\n"
    )
    evals = f"evals={json.dumps({'flag': {'kind': 'script', 'script': str(script), 'strict': True}})}"
    for before in (None, "off"):
        if before:
            monkeypatch.setenv("PARIBUS_TEST_FLAG", before)
        for control in (False, True):
            folder = tmp_path / f"{before}-{control}"
            run, config = coins_run(folder, insertions(folder, control=control), evals)
            experiment.run(run, config)
            assert os.environ.get("PARIBUS_TEST_FLAG") == before
            found = json.loads((run.evals / "flag" / "step-000006.json").read_text())["summary"]["flag"]
            assert found == (not control)
            [attempt] = json.loads(run.provenance_path.read_text())["attempts"]
            assert attempt.get("environment") == (None if control else {"PARIBUS_TEST_FLAG": "on"})


def test_a_config_is_not_what_it_resolves_to(tmp_path):
    run, config = coins_run(tmp_path, insertions(tmp_path))
    experiment.hold(run, config)
    assert configs.load(run.config_path, type(config)) == config
    assert experiment.place(config).path == run.path
    mapping = experiment.resolve(config)["insertions"]["experiments"]
    assert "file" not in mapping["mark"]
    assert len(mapping["batch"]["file"]) == 64
    assert np.isclose(mapping["mark"]["noise_std"], 0.075)
