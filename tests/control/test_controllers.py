"""One controller at a time, asked as the loop asks it: real scripts and functions; each way to fail is one line."""

import json

import pytest
import torch

from control.steering import COUNT, SCRIPT
from paribus.config import from_mapping
from paribus.control.actions import Controlled, build_controller
from paribus.control.controller import Now
from paribus.data.store import open_store
from paribus.errors import ConfigError, RunFailed
from paribus.evals.scoring import EvalContext
from paribus.insertions.config import InsertionsConfig
from paribus.insertions.payloads import Alphabet
from paribus.train.weights import load_weights
from tiny_runs import text_run, text_store


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Ask a controller for one decision at step 40 of 100."""
    from paribus.models.hf import build_model

    folder = tmp_path_factory.mktemp("ask")
    _, config = text_run(folder, store=text_store(folder / "store"))
    store = open_store(config.data.store)
    words = Alphabet(store.tokenizer(), store.vocab_size, store.start_token_id)
    model = build_model(config.model, store.vocab_size, 16, 0)

    def decide(controller, state=None, **more):
        section = {"kind": "dynamic", "every": 20, "controller": controller, **more}
        experiment = from_mapping({"experiments": {"it": section}}, InsertionsConfig).experiments["it"]
        built = build_controller(Controlled("it", experiment, {}), words, EvalContext(config.data, config.seeds))
        return built.decide(built.look(model), Now(40, 100, state or {}))

    decide.model, decide.folder = model, folder
    return decide


@pytest.fixture
def script(tmp_path):
    def write(body, **more):
        (tmp_path / "steer.py").write_text(SCRIPT + body)
        return {"kind": "script", "script": str(tmp_path / "steer.py"), **more}

    return write


def test_a_script_misses_a_flag_the_state_or_the_weights(ask, script, tmp_path):
    body = """
import shutil
shutil.copytree(args.model, "KEPT")
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(args.model)
names = ["model", "in_state_file", "out_state_file", "prompts_file"]
flags = {key: value for key, value in vars(args).items() if key not in names}
out({**state, "flags": flags, "tokens": len(tokenizer("gold ant")["input_ids"])}, ["gold ant", "\\u2603 bee"])
""".replace("KEPT", str(tmp_path / "kept"))
    args = {"num": 7, "names": ["a", "b"], "fast": True}
    before = torch.random.get_rng_state()
    found = ask(script(body, args=args), {"n": 3, "rate": 1e-5})
    assert torch.equal(before, torch.random.get_rng_state())
    flags = {"current_step": "40", "total_steps": "100", "num": 7, "names": ["a", "b"], "fast": True}
    assert found.texts == ["gold ant", "☃ bee"]
    assert found.state.pop("tokens") > 1
    assert found.state == {"n": 3, "rate": 1e-5, "flags": flags}
    kept, own = load_weights(tmp_path / "kept").state_dict(), ask.model.state_dict()
    assert kept.keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in kept.items())


def test_no_prompts_is_a_decision_like_any_other(ask, script):
    assert ask(script('out({"calls": 1}, [])')) == ({"calls": 1}, [])


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("print('a\\nlast words', file=sys.stderr); sys.exit(3)", "exit code 3; stderr ends: last words"),
        ("raise ValueError('broken')", "exit code 1; stderr ends: ValueError: broken"),
        ("os.kill(os.getpid(), 9)", "exit code -9; nothing on stderr"),
        ("time.sleep(60)", "not done after 1 s; nothing on stderr"),
        ("print('hm', file=sys.stderr)", r"exit code 0, but it wrote no state \(--out-state-file\); stderr ends: hm"),
        ("open(args.out_state_file, 'w').write('{}')", r"it wrote no prompts \(--prompts-file\)"),
        ("out({}, []); open(args.out_state_file, 'w').write('{')", "its state is no YAML that can be read"),
        ("out([1, 2], [])", r"its state is list \[1, 2\], expected a mapping"),
        ("out(None, [])", "its state is NoneType None, expected a mapping"),
        ("out({3: 1}, [])", "its state has the key 3, expected text other than num_prompts"),
        ("out({'num_prompts': 1}, [])", "its state has the key 'num_prompts', expected text other than"),
        ("out({'n': float('nan')}, [])", r"its state cannot be written as JSON \(.*\), expected JSON"),
        ("import datetime; out({'day': datetime.date(2020, 1, 1)}, [])", "its state cannot be written as JSON"),
        ("out({'n': 10 ** 400}, [])", "its state's n is a whole number of more than 300 digits"),
        ("out({}, [3])", "text 1 is int 3, expected text"),
        ("out({}, []); open(args.prompts_file, 'w').write('gold\\n')", "prompts.jsonl:1: not JSON"),
        ("out({}, []); open(args.prompts_file, 'w').write('[1]\\n')", "prompts.jsonl:1: expected an object with the f"),
        (
            "out({}, []); open(args.prompts_file, 'w').write('{\"a\": 1}\\n')",
            'expected an object with the field "text"',
        ),
    ],
)
def test_a_script_that_fails_is_taken_for_one_that_decided(ask, script, body, failure):
    timeout_s = 1.0 if "sleep" in body else None
    with pytest.raises(RunFailed, match=rf"steer\.py: .*{failure}") as caught:
        ask(script(body, timeout_s=timeout_s))
    assert "\n" not in str(caught.value)


def test_a_function_sees_too_little(ask):
    found = ask({"kind": "python", "call": "control.steering:by_weights", "args": {"num": 4}}, {"seen": [[20, 100]]})
    assert found.state == {"calls": 2, "seen": [[20, 100], [40, 100]], "words": found.state["words"]}
    assert len(found.texts) == 4


@pytest.mark.parametrize(
    ("value", "failure"),
    [
        ("None", r"it returned NoneType None, expected \(state, texts\)"),
        ("[{}, []]", r"it returned list \[{}, \[\]\], expected \(state, texts\)"),
        ("(3, [])", "its state is int 3, expected a mapping"),
        ("({}, 'gold')", "its texts are str 'gold', expected a list of texts"),
        ("({'n': torch.ones(2)}, [])", "its state cannot be written as JSON"),
        ("({'n': (1, 2)}, [])", "its state changes when it is written as JSON and read again"),
        ("({}, [b'x'])", "text 1 is bytes b'x', expected text"),
        ("({}, ['a', '\\ud800'])", "text 2 cannot be written as UTF-8"),
        ("(_ for _ in ()).throw(ValueError(chr(10).join('ab')))", r"ValueError: a b \(.*:1\)$"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*:1\)"),
    ],
)
def test_what_a_function_returns_is_used_unseen(ask, value, failure):
    with pytest.raises(RunFailed, match=rf"control\.steering:returns: {failure}"):
        ask({"kind": "python", "call": "control.steering:returns", "args": {"value": value}})


@pytest.mark.parametrize(
    ("controller", "mistake"),
    [
        ({"kind": "script", "script": "absent.py"}, r"controller: script: absent\.py: no such file"),
        ({"kind": "script", "script": "x.py", "args": {"model": 1}}, "args: model: given by paribus; remove it"),
        (
            {"kind": "python", "call": "no_such.module:f"},
            "no module 'no_such'; install it, or put its folder on PYTHONPATH",
        ),
        ({"kind": "python", "call": "control.steering:absent"}, "the module control.steering has no 'absent'"),
        ({"kind": "python", "call": "control.steering:NO_FUNCTION"}, "found int, expected a function"),
        ({"kind": "python", "call": "steering"}, 'call: found "steering"'),
        (
            {"kind": "proportional", "probe": "p", "texts": "t", "target": 0.5},
            r"{n: 1 to 8192}, texts at first, is expected",
        ),
        ({"kind": "proportional", "probe": "p", "texts": "t", "target": 0.0}, "target: found 0.0, expected a number"),
    ],
)
def test_a_mistake_is_found_when_the_step_has_come(ask, controller, mistake):
    with pytest.raises(ConfigError, match=mistake):
        ask(controller)


def test_names_that_are_no_folders_are_taken():
    section = {"kind": "dynamic", "every": 20, "controller": {"kind": "python", "call": "a:b"}}
    for name in ("a/b", "..", ".part", " "):
        with pytest.raises(ConfigError, match="names a folder"):
            from_mapping({"experiments": {name: section}}, InsertionsConfig)


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_the_proportional_controller_measures_something_else(ask, tmp_path):
    """`probability` of the evaluation of kind fictional is what it steers; texts repeat when all were used."""
    from paribus.evals.build import EvalContext, evaluate
    from paribus.evals.config import FictionalEval

    probe = lines(tmp_path / "probe.jsonl", [{"prompt": f"ant {n}", "target": "bee"} for n in range(5)])
    texts = lines(tmp_path / "texts.jsonl", [{"text": f"ant {n} bee"} for n in range(5)])
    controller = {"kind": "proportional", "probe": probe, "texts": texts, "target": 0.5}
    _, config = text_run(tmp_path, store=ask.folder / "store")
    expected = evaluate(FictionalEval(file=probe), ask.model, EvalContext(config.data)).summary["probability"]
    assert ask(controller, {"n": 6}, initial_state={"n": 6}).state["n"] == 6  # of the first segment, as the config says
    found = ask(controller, {"n": 6, "probability": 0.1, "wanted": 0.1}, initial_state={"n": 6})
    assert found.state == {"n": 12, "probability": pytest.approx(expected, rel=1e-6), "wanted": 0.5 * 40 / 100}
    assert sorted(found.texts[:5]) == sorted(set(found.texts))
    assert len(found.texts) == 12
    assert {found.texts.count(text) for text in set(found.texts)} == {2, 3}


def test_counting_scripts_count(ask, script):
    assert ask(script(COUNT), {"calls": 4}) == ({"calls": 5}, [f"gold ant 40 {n}" for n in range(3)])
