"""The command line as a user meets it: what each mistake looks like, and what exit code it has."""

import gzip
import json
import subprocess
import sys
import time

import pytest

from paribus import __version__, cli, experiment
from tiny_runs import coins_run, text_run


@pytest.fixture
def paribus(monkeypatch, capfd):
    """Run a command line in this process; returns (exit code, stdout, stderr)."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["paribus", *map(str, args)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        code = stopped.value.code
        return (code or 0, *capfd.readouterr())

    return run


@pytest.fixture
def asked(tmp_path):
    """A function that writes a small run's YAML with changes, and returns its path."""

    def write(make=coins_run, **changes):
        _, config = make(tmp_path)
        mapping = config.model_dump(mode="json")
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = mapping
            for parent in parents:
                section = section[parent]
            section[last] = value
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps(mapping, indent=1))
        return path

    return write


def refused(result, *expected):
    """Exit code 2, nothing on stdout, one line on stderr that holds every expected piece, no traceback."""
    code, out, err = result
    lines = [line for line in err.splitlines() if line.startswith("paribus: ")]
    assert code == 2, err
    assert out == ""
    assert "Traceback" not in err
    assert len(lines) == 1
    for piece in expected:
        assert piece in err, err


def test_help_imports_nothing_heavy():
    loaded = "import sys, paribus.cli; print(*{m.split('.')[0] for m in sys.modules})"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "pydantic", "polars", "pyarrow", "altair", "yaml"} & set(modules)


def test_every_verb_has_help_with_an_example_or_a_sentence(paribus):
    code, out, _ = paribus("--help")
    assert code == 0
    for verb in (
        "prepare",
        "train",
        "eval",
        "sweep",
        "status",
        "report",
        "study",
        "show",
        "audit",
        "push",
        "pull",
        "schema",
    ):
        assert verb in out
        assert paribus(verb, "--help")[0] == 0


def test_a_whole_session(paribus, asked, tmp_path):
    """train, again, show, audit, status, eval, report: each says what to do next."""
    path = asked()
    code, out, err = paribus("train", path)
    assert code == 0, err
    run = out.splitlines()[-1].removeprefix("next: paribus report ")
    assert "done already" in paribus("train", path)[1]
    assert paribus("show", run, path) == (0, "no key differs\n", "")
    assert "every batch is the one that was consumed" in paribus("audit", run)[1]
    code, out, _ = paribus("status", tmp_path / "runs", "--json")
    assert code == 0
    assert json.loads(out)
    (tmp_path / "eval.yaml").write_text("evals: {again: {kind: bayes, sequences: 12}}")
    code, out, err = paribus("eval", run, tmp_path / "eval.yaml", "--steps", "all")
    assert code == 0, err
    assert out.count("evals/again/step-") == 2
    code, out, err = paribus("report", tmp_path / "runs", "-o", tmp_path / "report.html")
    assert code == 0, err
    assert "<html" in (tmp_path / "report.html").read_text()


def test_dry_runs_write_nothing(paribus, asked, tmp_path):
    path = asked()
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = paribus("train", path, "--dry-run")
    assert code == 0
    assert "6 steps of 8 windows" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_studys_dry_run_tells_its_runs_and_writes_nothing(paribus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = paribus("study", "ergodic", "smoke", "--dry-run")
    assert code == 0, err
    assert "would be prepared here first" in out.splitlines()[0]
    assert out.count("runs/ergodic-smoke/") == 7
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_at_any_depth(paribus, asked):
    refused(paribus("train", asked(train__optimizer__lrr=1.0)), "run.yaml:", "train.optimizer.lrr", "lr")
    refused(paribus("train", asked(), "train.optimiser.lr=1"), "command line", "optimizer")


def test_a_wrong_type_and_an_unknown_kind(paribus, asked):
    refused(paribus("train", asked(train__batch_size="many")), "run.yaml:", 'found "many", expected a whole number')
    refused(paribus("train", asked(data__kind="coin")), "run.yaml:", "data", "coins")


def test_a_missing_file_and_an_unset_variable(paribus, asked, tmp_path, monkeypatch):
    refused(paribus("train", tmp_path / "absent.yaml"), "absent.yaml")
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    refused(paribus("train", asked(name="${NOT_SET_ANYWHERE}")), "run.yaml:", "NOT_SET_ANYWHERE")


@pytest.mark.parametrize("k", [0, 12])
def test_a_k_that_no_corpus_has(paribus, asked, k):
    path = asked(make=text_run, data__categories={"kind": "nested", "k": k})
    refused(paribus("train", path), "k", str(k))


def test_a_category_that_does_not_exist(paribus, asked):
    path = asked(make=text_run, data__categories={"kind": "explicit", "names": ["aa"]})
    refused(paribus("train", path), "aa", "a, b, c")


def test_a_window_longer_than_every_document(paribus, asked):
    refused(paribus("train", asked(make=text_run, data__window=5000)), "a window of 5000", "the longest document")


def test_a_truncated_and_an_altered_shard(paribus, asked, tmp_path):
    path = asked(make=text_run)
    shard = tmp_path / "store" / "tokens-00000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    refused(paribus("train", path), "tokens-00000.bin: truncated")
    shard.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    refused(paribus("train", path), "tokens-00000.bin: altered")


def test_resuming_with_a_changed_config(paribus, tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    refused(
        paribus("train", run.path, "train.batch_size=9"), "holds another run", "train.batch_size: 8 in the directory, 9"
    )


def test_a_flipped_byte_in_a_checkpoint(paribus, tmp_path):
    run, config = coins_run(tmp_path)
    experiment.run(run, config)
    (run.path / "DONE").unlink()
    weights = run.checkpoints / "step-000006" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    refused(paribus("train", run.path), "step-000006/model.safetensors: damaged", "delete step-000006")


HOLD = """
import sys, time
from paribus.rundir import RunDir
with RunDir(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_directory_in_use_by_another_process(paribus, tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused(paribus("train", run.path), f"in use by process {holder.pid}")
    finally:
        holder.kill()
        holder.wait()


def test_a_loss_that_is_not_finite_exits_with_1(paribus, asked):
    code, _, err = paribus("train", asked(train__optimizer__lr=1e30, train__clip_norm=None))
    assert code == 1
    assert "is not finite" in err
    assert "window ids" in err


def corpus(tmp_path, content, **changes):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    mapping = {
        "name": "c",
        "store": str(tmp_path / "made"),
        "source": {"kind": "jsonl", "files": {"train": [str(tmp_path / "a.jsonl.gz")]}},
        "tokenizer": {"kind": "train_bpe", "vocab_size": 260},
        **changes,
    }
    (tmp_path / "corpus.yaml").write_text(json.dumps(mapping))
    return tmp_path / "corpus.yaml"


def test_a_missing_field_in_line_17_of_a_corpus(paribus, tmp_path):
    rows = [{"id": i, "text": "some words", "category": "x"} for i in range(30)]
    del rows[16]["text"]
    content = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    refused(paribus("prepare", corpus(tmp_path, content)), "a.jsonl.gz:17", "text")
    assert not (tmp_path / "made").exists()


def test_a_broken_gzip(paribus, tmp_path):
    content = gzip.compress(json.dumps({"id": "1", "text": "some words", "category": "x"}).encode())[:-9]
    refused(paribus("prepare", corpus(tmp_path, content)), "a.jsonl.gz")
    assert not (tmp_path / "made").exists()


def test_a_store_that_was_made_with_another_tokenizer(paribus, tmp_path):
    rows = [{"id": str(i), "text": "some words", "category": "x"} for i in range(30)]
    content = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    assert paribus("prepare", corpus(tmp_path, content))[0] == 0
    other = corpus(tmp_path, content, tokenizer={"kind": "train_bpe", "vocab_size": 261})
    refused(paribus("prepare", other), "tokenizer.vocab_size", "260", "261")


def test_an_unknown_study_size_and_schema(paribus):
    refused(paribus("study", "ergodik"), "ergodic")
    refused(paribus("study", "ergodic", "huge"), "smoke", "paper")
    refused(paribus("schema", "runs"), "run, corpus")


def test_the_schema_names_the_settings(paribus):
    code, out, _ = paribus("schema", "run")
    assert code == 0
    assert "optimizer" in json.dumps(json.loads(out))


def test_an_edited_config_trains_another_run_under_the_same_name(paribus, tmp_path):
    run, config = coins_run(tmp_path)
    experiment.run(run, config)
    (run.path / "DONE").unlink()
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("lr: 0.003", "lr: 0.002"))
    refused(
        paribus("train", run.path), "holds another run", "train.optimizer.lr: 0.003 in the directory, 0.002 asked for"
    )
    refused(paribus("audit", run.path), "train.optimizer.lr: 0.003 in the directory, 0.002 asked for")
    run.config_path.write_text(text)
    assert paribus("train", run.path)[0] == 0


@pytest.mark.parametrize(
    ("make", "overrides", "message"),
    [
        (text_run, ["data.window=5000"], "data: window: a window of 5000"),
        (text_run, ["evals.test.window=5000"], "evals.test: window: a window of 5000"),
        (text_run, ["data.categories.names=[z]"], "data: categories.names: no category 'z'"),
        (coins_run, ["train.budget.steps=null", "train.budget.epochs=2"], "have no epochs"),
        (coins_run, ["train.budget.tokens=1000"], "found steps and tokens; make the others null"),
        (coins_run, ["launch.engine=ddp", "launch.num_processes=3"], "8 windows cannot be cut evenly over"),
    ],
)
def test_a_mistake_that_shows_late_leaves_a_run_behind(paribus, asked, tmp_path, make, overrides, message):
    path = asked(make=make)
    refused(paribus("train", path, *overrides), message)
    assert not any((tmp_path / "runs").rglob("*-*"))


def test_a_folder_that_must_not_be_written(paribus, asked, tmp_path):
    refused(paribus("train", asked(), "paths.runs=/proc/runs"), "/proc/runs/small/coins-", "cannot be written")


def test_a_model_that_is_not_there(paribus, tmp_path):
    file = tmp_path / "eval.yaml"
    file.write_text("evals: {again: {kind: causality}}")
    refused(paribus("eval", tmp_path / "nosuch", file), "nosuch: no such folder")
    refused(paribus("eval", tmp_path, file), "holds neither config.yaml (a run) nor config.json (a model)")


def test_the_version_and_settings_that_show_takes(paribus, asked):
    assert paribus("--version") == (0, f"paribus {__version__}\n", "")
    path = asked()
    assert "lr: 0.5" in paribus("show", path, "train.optimizer.lr=0.5")[1]
    assert paribus("show", path, path, "seeds.order=3") == (0, "no key differs\n", "")
    refused(paribus("study", "ergodc", "smoke"), 'did you mean "ergodic"?')


def test_a_checkpoint_that_does_not_exist(paribus, tmp_path):
    run, config = coins_run(tmp_path)
    experiment.run(run, config)
    (tmp_path / "eval.yaml").write_text("evals: {again: {kind: bayes, sequences: 12}}")
    refused(paribus("eval", run.path, tmp_path / "eval.yaml", "--steps", "5"), "found checkpoints [4, 6]")


def test_an_evaluation_overwrites_the_result_of_other_settings(paribus, tmp_path):
    run, config = coins_run(tmp_path)
    experiment.run(run, config)
    held = (run.evals / "optimum" / "step-000006.json").read_bytes()
    file = tmp_path / "eval.yaml"
    file.write_text("evals: {optimum: {kind: bayes, sequences: 6}}")
    refused(
        paribus("eval", run.path, file), "made with other settings (sequences: 30 there, 6 asked for", "another name"
    )
    file.write_text("evals: {optimum: {kind: bayes, sequences: 30, batch_size: 16, every: 2}}")
    assert paribus("eval", run.path, file)[0] == 0
    assert (run.evals / "optimum" / "step-000006.json").read_bytes() != b""
    assert (
        json.loads(held)["summary"] == json.loads((run.evals / "optimum" / "step-000006.json").read_bytes())["summary"]
    )


def scripted(tmp_path, body):
    """The override that adds an evaluation by a script; it is called at steps 3 and 6."""
    (tmp_path / "check.py").write_text(f"import sys\n{body}\n")
    return f"evals.mine={{kind: script, script: {tmp_path / 'check.py'}, every: 3}}"


FAILS_ONCE = """
from pathlib import Path
mark = Path(__file__).with_name("called")
if not mark.exists():
    mark.touch()
    sys.exit("no such benchmark")
Path(sys.argv[sys.argv.index("--results-yaml") + 1]).write_text("score: 1")
"""


def test_a_script_that_failed_leaves_no_mark_or_the_wrong_exit_code(paribus, asked, tmp_path, monkeypatch):
    """Without --strict: exit 0, and status and report show it. With: exit 1, also of a run that was done already."""
    command = ["train", asked(), scripted(tmp_path, FAILS_ONCE)]
    code, out, _ = paribus(*command)
    assert code == 0
    run = out.splitlines()[-1].removeprefix("next: paribus report ")
    told = f"evals.mine, step 3: {tmp_path / 'check.py'}: exit code 1; stderr ends: no such benchmark"
    (view,) = json.loads(paribus("status", run, "--json")[1])
    assert (view["state"], view["failed_evaluations"]) == ("done", [told])
    monkeypatch.setenv("COLUMNS", "400")
    assert "no such benchmark" in paribus("status", run)[1]
    page = tmp_path / "report.html"
    assert paribus("report", run, "-o", page)[0] == 0
    assert "Evaluations by a script that failed" in page.read_text()
    code, out, err = paribus(*command, "--strict")
    assert (code, err) == (1, f"paribus: {told}\n")
    assert "done already" in out
    assert json.loads((tmp_path / run / "STATUS.json").read_text())["state"] == "done"


def test_eval_and_sweep_take_a_failed_script_for_a_success(paribus, asked, tmp_path):
    path, setting = asked(), scripted(tmp_path, "sys.exit('gone')")
    run = paribus("train", path)[1].splitlines()[-1].removeprefix("next: paribus report ")
    file = tmp_path / "eval.yaml"
    file.write_text(f"evals: {{{setting.removeprefix('evals.').replace('=', ': ').replace(', every: 3', '')}}}")
    code, out, err = paribus("eval", run, file)
    assert (code, "failed 1" in out) == (0, True), err
    code, _, err = paribus("eval", run, file, "--strict")
    assert (code, err.splitlines()[-1].startswith("paribus: evals.mine, step 6: ")) == (1, True)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(json.dumps({"base": "run.yaml", "grid": {"seeds.order": [0]}}))
    assert paribus("sweep", sweep, setting)[0] == 0
    code, _, err = paribus("sweep", sweep, setting, "--strict")
    assert code == 1
    assert "evals.mine, step 3" in err


def test_a_run_directory_outlives_the_run_or_is_deleted_too_early(paribus, asked, tmp_path):
    path = asked()
    code, out, err = paribus("train", path, "--delete-run-directory")
    assert code == 0, err
    (line,) = out.splitlines()
    assert line.startswith(f"deleted: {tmp_path / 'runs'}/small/coins-")
    assert "files" in line
    assert not list((tmp_path / "runs").rglob("coins-*"))
    code, _, _ = paribus("train", path, "train.optimizer.lr=1e30", "train.clip_norm=null", "--delete-run-directory")
    assert code == 1
    assert list((tmp_path / "runs").rglob("STATUS.json")), "what went wrong can still be read"
    code, out, _ = paribus("train", path, "seeds.order=1")
    run = out.splitlines()[-1].removeprefix("next: paribus report ")
    refused(paribus("train", path, "seeds.order=1", "--delete-run-directory"), run, "is there already")
    refused(paribus("train", run, "--delete-run-directory"), "is there already")
    assert (tmp_path / run / "DONE").exists()


@pytest.mark.slow
def test_help_takes_less_than_a_third_of_a_second():
    def seconds():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "paribus", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.3
