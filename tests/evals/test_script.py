"""Oracles: real scripts in real processes: what they saw of the model, and one line for each way to fail."""

import json
import os

import pytest
import torch

from evals.text_models import context, model
from paribus import experiment
from paribus.data.config import CoinsData
from paribus.data.store import open_store
from paribus.errors import ConfigError, RunError, RunFailed
from paribus.evals.build import EvalContext, build_evaluation, evaluate
from paribus.evals.config import ScriptEval
from paribus.script import arguments
from tiny_runs import coins_run, token_run

HEAD = """
import argparse, json, sys
parser = argparse.ArgumentParser()
parser.add_argument("--model"); parser.add_argument("--results-yaml")
parser.add_argument("--num", type=int); parser.add_argument("--names", nargs="*")
parser.add_argument("--fast", action="store_true")
args = parser.parse_args()
"""


@pytest.fixture
def written(tmp_path):
    def write(body: str, name="check.py") -> str:
        (tmp_path / name).write_text(HEAD + body)
        return str(tmp_path / name)

    return write


def coins() -> EvalContext:
    return EvalContext(CoinsData(num_components=2, window=24))


def test_a_script_lacks_the_tokenizer_of_token_files(text_store_path, written, tmp_path):
    file = written("""
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(args.model)
open(args.results_yaml, "w").write(f"tokens: {len(tokenizer)}\\neos: {tokenizer.eos_token_id}\\n")
""")
    tokenizer = open_store(text_store_path).tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    _, config = token_run(tmp_path, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=size, eos=3)
    found = evaluate(ScriptEval(script=file, strict=True), model(), EvalContext(config.data)).summary
    assert found == {"tokens": size, "eos": 3, "failed": 0}


def test_a_script_loads_the_weights_as_they_are_and_the_stores_tokenizer(text_store_path, written):
    tiny = model()
    with torch.no_grad():
        tiny.model.norm.weight.mul_(1.5)  # not what the model was built with
    file = written("""
import torch, yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(args.model)
tokenizer = AutoTokenizer.from_pretrained(args.model)
ids = tokenizer("ant bee 1984 \u2603")["input_ids"]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits
found = {"sum": logits.double().sum().item(), "tokens": len(ids), "first": ids[0], "num": args.num, "fast": int(args.fast)}
found |= {"names": len(args.names), "eos": tokenizer.eos_token_id}
yaml.safe_dump(found, open(args.results_yaml, "w"))
""")
    config = ScriptEval(script=file, args={"num": 3, "names": ["a", "b"], "fast": True})
    before = torch.random.get_rng_state()
    tiny.train()
    result = evaluate(config, tiny, context(text_store_path))
    assert tiny.training
    assert torch.equal(before, torch.random.get_rng_state())
    ids = open_store(text_store_path).tokenizer().encode("ant bee 1984 ☃").ids
    with torch.no_grad():
        total = tiny.eval()(input_ids=torch.tensor([ids])).logits.double().sum().item()
    assert result.summary == {
        "sum": pytest.approx(total, rel=1e-5),
        "tokens": len(ids),
        "first": ids[0],
        "num": 3,
        "fast": 1,
        "names": 2,
        "eos": 0,
        "failed": 0,
    }
    assert result.record["failure"] is None
    assert set(result.record["inputs"]) == {"script"}


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("print('a\\nlast words', file=sys.stderr); sys.exit(3)", "exit code 3; stderr ends: last words"),
        ("raise ValueError('broken')", "exit code 1; stderr ends: ValueError: broken"),
        ("print('hm', file=sys.stderr)", "exit code 0, but it wrote no results; stderr ends: hm"),
        ("open(args.results_yaml, 'w')", "exit code 0, but its results are empty, no mapping; nothing on stderr"),
        ("open(args.results_yaml, 'w').write('[1, 2]')", "exit code 0, but its results are a list, no mapping"),
        ("open(args.results_yaml, 'w').write('a: {b: 1}')", "its metric a: found \"{'b': 1}\", expected a number"),
        ("open(args.results_yaml, 'w').write('a: .nan')", "its metric a: found nan, expected a finite number"),
        ("open(args.results_yaml, 'w').write('a: true')", "its metric a: found 'True', expected a number"),
        ("open(args.results_yaml, 'w').write('a: good')", "its metric a: found 'good', expected a number"),
        ("open(args.results_yaml, 'w').write('a: ' + '9' * 5000)", "its results are no YAML that can be read"),
        ("open(args.results_yaml, 'w').write('a: 1' + '0' * 400)", "expected a finite number"),
        ("open(args.results_yaml, 'w').write('3: 1')", "3 is no name for a metric"),
        ("open(args.results_yaml, 'w').write('failed: 0')", "'failed' is no name for a metric"),
        ("open(args.results_yaml, 'w').write('{')", "its results are no YAML that can be read"),
        ("open(args.results_yaml, 'wb').write(b'\\xff\\xfe\\xfa')", "its results are no YAML that can be read"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9; nothing on stderr"),
        ("import time; time.sleep(60)", "not done after 1 s; nothing on stderr"),
    ],
)
def test_every_way_to_fail_marks_the_run_in_one_line_or_ends_it(written, micro, capsys, body, failure):
    file = written(body)
    timeout_s = 1.0 if "sleep" in body else None
    result = evaluate(ScriptEval(script=file, timeout_s=timeout_s), micro, coins())
    assert result.summary == {"failed": 1}
    assert failure in result.record["failure"]
    assert result.record["failure"].startswith(f"{file}: ")
    assert "\n" not in result.record["failure"]
    assert capsys.readouterr().err == f"paribus: warning: {result.record['failure']}\n"
    if "exit(3)" in body:
        with pytest.raises(RunFailed, match=r"check.py: exit code 3; stderr ends: last words"):
            evaluate(ScriptEval(script=file, strict=True), micro, coins())


def test_numbers_that_yaml_1_1_takes_for_text_are_numbers(written, micro):
    file = written("open(args.results_yaml, 'w').write('a: 1e-5\\nb: -3\\nc: 2.5\\n')")
    assert evaluate(ScriptEval(script=file), micro, coins()).summary == {"a": 1e-5, "b": -3, "c": 2.5, "failed": 0}


def test_the_view_is_gone_afterwards_and_no_rank_is_seen(written, micro, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("KEPT", "yes")
    file = written(f"""
import os
open({str(tmp_path / "seen")!r}, "w").write(json.dumps([args.model, os.listdir(args.model), sorted(os.environ)]))
open(args.results_yaml, "w").write("a: 1")
""")
    evaluate(ScriptEval(script=file), micro, coins())
    folder, held, names = json.loads((tmp_path / "seen").read_text())
    assert not os.path.exists(folder)  # noqa: PTH110
    assert {"config.json", "model.safetensors"} <= set(held)
    assert not [name for name in held if "tokenizer" in name]  # coins have none
    assert "KEPT" in names
    assert not {"WORLD_SIZE", "LOCAL_RANK"} & set(names)


def test_an_executable_is_run_as_it_is_and_a_text_is_refused(written, micro, tmp_path):
    file = tmp_path / "check.sh"
    file.write_text('#!/bin/sh\nwhile [ "$1" != --results-yaml ]; do shift; done\necho "a: 7" > "$2"\n')
    with pytest.raises(ConfigError, match=r"neither a .py file nor executable"):
        build_evaluation(ScriptEval(script=str(file)), coins())
    file.chmod(0o755)
    assert evaluate(ScriptEval(script=str(file)), micro, coins()).summary["a"] == 7
    with pytest.raises(ConfigError, match=r"nowhere.py: no such file"):
        build_evaluation(ScriptEval(script=str(tmp_path / "nowhere.py")), coins())
    with pytest.raises(ValueError, match="model: given by paribus"):
        ScriptEval(script="a.py", args={"model": "x"})


def test_arguments_are_words_in_the_order_of_the_mapping():
    config = ScriptEval(
        script="a.py", args={"z": 1, "a": "b c", "on": True, "off": False, "many": [1, 2.5], "none": []}
    )
    assert arguments(config.args) == ["--z", "1", "--a", "b c", "--on", "--many", "1", "2.5", "--none"]


def test_a_run_logs_a_scripts_metrics_and_is_another_run_when_the_script_changes(written, tmp_path):
    file = written("open(args.results_yaml, 'w').write('score: 0.25')")
    setting = f"evals.mine={{kind: script, script: {file}, every: 3}}"
    directory, config = coins_run(tmp_path, setting)
    experiment.run(directory, config)
    rows = [json.loads(line) for line in directory.metrics_path.read_text().splitlines()]
    found = {row["step"]: row["evaluation/mine/score"] for row in rows if "evaluation/mine/score" in row}
    assert found == {3: 0.25, 6: 0.25}
    assert json.loads((directory.evals / "mine" / "step-000003.json").read_text())["summary"]["failed"] == 0
    written("open(args.results_yaml, 'w').write('score: 0.5')")
    assert coins_run(tmp_path, setting)[0].path != directory.path
    with pytest.raises(RunError, match=r"evals.mine.script"):
        experiment.refuse_changes(directory, config)


def test_a_strict_failure_ends_the_run_with_its_line(written, tmp_path):
    file = written("sys.exit('no such benchmark')")
    directory, config = coins_run(tmp_path, f"evals.mine={{kind: script, script: {file}, strict: true}}")
    with pytest.raises(RunFailed, match=r"check.py: exit code 1; stderr ends: no such benchmark"):
        experiment.run(directory, config)
    assert directory.status()["state"] == "failed"


def test_a_full_device_is_a_failure_like_any_other(written, micro, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))  # no folder can be made below a file
    result = evaluate(ScriptEval(script=written("")), micro, coins())
    assert "check.py: no room for the model's folder: Not a directory" in result.record["failure"]
