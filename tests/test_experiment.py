import contextlib
import json
from pathlib import Path

import pytest

from paribus import config as configs
from paribus import experiment
from paribus.errors import ConfigError, Diverged, RunError, StoreError
from paribus.evals.results import read_result, result_path
from paribus.models.hf import build_model
from paribus.run_config import RunConfig
from paribus.rundir import RunDir
from tiny_runs import coins_run, text_run, text_store


def test_a_run_leaves_what_the_run_directory_promises(tmp_path):
    run, config = coins_run(tmp_path)
    assert experiment.run(run, config).state == "done"
    assert run.is_done
    assert run.status()["state"] == "done"
    assert configs.load(run.config_path, RunConfig) == config
    facts = json.loads(run.provenance_path.read_text())
    assert facts["data"]["total_tokens"] == 6 * 8 * 16
    assert facts["data"]["unique_tokens"] is None
    assert len(facts["attempts"]) == 1
    assert facts["attempts"][0]["packages"]["torch"]
    assert run.stream_path.stat().st_size == 8 * 6
    result = read_result(result_path(run.evals, "optimum", 6))
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    logged = next(line for line in lines if "evaluation/optimum/kl" in line)
    assert logged["evaluation/optimum/kl"] == result.summary["kl"]
    assert result.summary["kl"] > 0


def test_a_run_counts_its_passes_over_unique_text(tmp_path):
    run, config = text_run(tmp_path, windows={"kind": "chunks"})
    experiment.run(run, config)
    data = json.loads(run.provenance_path.read_text())["data"]
    assert data["passes"] == pytest.approx(data["total_tokens"] / data["unique_tokens"])
    assert data["categories"] == ["a"]


def test_the_same_run_has_the_same_identity_wherever_its_store_lies(tmp_path):
    here, there = text_store(tmp_path / "here"), text_store(tmp_path / "there")
    run, config = text_run(tmp_path, store=here)
    moved = config.model_copy(update={"data": config.data.model_copy(update={"store": str(there)})})
    assert experiment.place(moved).path == run.path


def test_a_run_goes_on_where_its_store_has_moved(tmp_path):
    run, config = text_run(tmp_path)
    experiment.run(run, config)
    (run.path / "DONE").unlink()
    (tmp_path / "store").rename(tmp_path / "moved")
    again, changed = experiment.open_run(run.path, [f"data.store={tmp_path / 'moved'}"])
    assert experiment.run(again, changed).state == "done"
    other = text_store(tmp_path / "other", seed=1)
    with pytest.raises(RunError, match=r"what it reads changed.*\n  data\.store: "):
        experiment.open_run(run.path, [f"data.store={other}"])


def test_other_pretrained_weights_are_another_run(tmp_path):
    def pretrained(seed):
        build_model(coins_run(tmp_path)[1].model, 4, 16, seed).save_pretrained(tmp_path / "model")
        model = {"kind": "pretrained", "path": str(tmp_path / "model")}
        config = coins_run(tmp_path)[1]
        config = configs.from_mapping({**config.model_dump(mode="json"), "model": model}, RunConfig)
        return experiment.place(config), config

    run, config = pretrained(0)
    experiment.run(run, config)
    assert pretrained(0)[0].path == run.path
    assert pretrained(1)[0].path != run.path
    (run.path / "DONE").unlink()
    with pytest.raises(RunError, match="what it reads changed since the run began"):
        experiment.run(run, config)


def test_a_pretrained_model_of_another_tokenizer_is_refused(tmp_path):
    config = text_run(tmp_path)[1]
    folder = tmp_path / "model"
    build_model(config.model, 280, 16, 0).save_pretrained(folder)
    model = {"kind": "pretrained", "path": str(folder)}
    config = configs.from_mapping({**config.model_dump(mode="json"), "model": model}, RunConfig)
    (folder / "tokenizer.json").write_bytes((tmp_path / "store" / "tokenizer.json").read_bytes())
    assert experiment.run(experiment.place(config), config).state == "done"
    other = text_store(tmp_path / "other", seed=1)
    (folder / "tokenizer.json").write_bytes((other / "tokenizer.json").read_bytes())
    (experiment.place(config).path / "DONE").unlink()
    with pytest.raises(StoreError, match="made by another tokenizer"):
        experiment.run(experiment.place(config), config)


def test_two_ranks_of_the_single_engine_write_one_directory(tmp_path, monkeypatch):
    run, config = coins_run(tmp_path)
    for variable, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match="single is one process, but 2 ranks were started"):
        experiment.run(run, config)
    monkeypatch.setenv("WORLD_SIZE", "1")
    with run.lock(), pytest.raises(RunError, match="in use by"):
        experiment.run(run, config)


def test_a_process_that_comes_too_late_deletes_what_the_other_has_begun(tmp_path):
    """Between a look at the folder and its lock another process makes it, and begins."""
    run, config = coins_run(tmp_path)

    class Raced(RunDir):
        @contextlib.contextmanager
        def lock(self):
            with run.lock(), super().lock():
                yield

    with pytest.raises(RunError, match="in use by"):
        experiment.run(Raced(run.path), config)
    assert run.path.exists()


@pytest.mark.parametrize("override", ["name=../escaped", "name=a/b", "study=a/../../b", "study=/tmp", "name=.."])
def test_a_run_leaves_its_folder_by_its_name(tmp_path, override):
    with pytest.raises(ConfigError, match=r"it names a folder: no .* is expected"):
        coins_run(tmp_path, override)


def test_a_killed_run_records_the_checkpoint_that_it_goes_on_from(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.run(run, config)
    (run.path / "DONE").unlink()
    run.set_status("running")  # what a killed process leaves behind
    experiment.run(run, config)
    attempts = json.loads(run.provenance_path.read_text())["attempts"]
    assert [attempt["resumes_from"] for attempt in attempts] == [None, 6]


def test_another_learning_rate_is_another_directory_and_other_threads_are_not(tmp_path):
    run, _ = coins_run(tmp_path)
    assert coins_run(tmp_path, "train.optimizer.lr=1e-4")[0].path != run.path
    assert coins_run(tmp_path, "launch.threads=2")[0].path == run.path


def test_resuming_with_a_changed_config_names_the_keys_with_both_values(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    with pytest.raises(
        RunError, match=r"holds another run.*\n  train\.optimizer\.lr: 0\.003 in the directory, 0\.5 asked for$"
    ):
        experiment.open_run(run.path, ["train.optimizer.lr=0.5"])
    assert configs.load(run.config_path, RunConfig) == config


def test_where_and_how_may_change_on_resume(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    _, changed = experiment.open_run(run.path, ["launch.threads=2"])
    assert changed.launch.threads == 2


def test_a_run_whose_store_changed_is_refused(tmp_path):
    run, config = text_run(tmp_path)
    experiment.run(run, config)
    record = json.loads(run.provenance_path.read_text())
    record["stores"]["data"] = "0" * 64
    (run.path / "DONE").unlink()
    run.provenance_path.write_text(json.dumps(record))
    with pytest.raises(RunError, match="what it reads changed since the run began"):
        experiment.run(run, config)


def test_a_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(StoreError, match=r"no store here.*paribus prepare"):
        text_run(tmp_path, store=tmp_path / "absent")


def test_a_loss_that_is_not_finite_stops_the_run_as_diverged(tmp_path):
    run, config = coins_run(tmp_path, "train.optimizer.lr=1e30", "train.clip_norm=null")
    with pytest.raises(Diverged, match=r"step \d+: the .* is not finite.*window ids \d+"):
        experiment.run(run, config)
    assert run.status()["state"] == "diverged"
    assert not run.is_done
    assert len(json.loads((run.path / "diverged.json").read_text())["window_ids"]) == 8


def test_a_run_that_another_process_finished_meanwhile_is_left_as_it_is(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.run(run, config)
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.name != ".lock"}
    assert experiment.run(run, config).state == "done"
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*") if p.name != ".lock"} == before


def test_a_run_in_use_by_another_holder_is_refused(tmp_path):
    run, config = coins_run(tmp_path)
    experiment.hold(run, config)
    with run.lock(), pytest.raises(RunError, match="in use by process"):
        experiment.run(RunDir(run.path), config)


def test_six_steps_are_four_and_two_bit_for_bit_evaluations_included(tmp_path):
    """The last checkpoint and DONE are taken away, as if the run had been killed after step 4."""
    run, config = coins_run(tmp_path, "evals.optimum.every=2", "train.checkpoints.every=2")
    experiment.run(run, config)
    whole = {p: p.read_bytes() for p in _results(run)}
    for name in ("DONE", "checkpoints/step-000006"):
        _remove(run.path / name)
    experiment.run(run, config)
    assert {p: p.read_bytes() for p in _results(run)} == whole
    assert len(json.loads(run.provenance_path.read_text())["attempts"]) == 2


def test_a_plan_tells_the_tokens_and_writes_nothing(tmp_path):
    run, config = text_run(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    lines = experiment.plan(run, config)
    assert "6 steps of 8 windows of 16 predictions: 768 tokens" in lines[1]
    assert sorted(tmp_path.rglob("*")) == before


def _results(run: RunDir) -> list[Path]:
    weights = sorted(run.checkpoints.rglob("*.safetensors"))
    return [run.metrics_path, run.stream_path, *weights, *sorted(run.evals.rglob("*.json"))]


def _remove(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _remove(child)
        path.rmdir()
    else:
        path.unlink()


@pytest.mark.parametrize(
    "override",
    [
        "train.early_stopping={evaluation: tset, patience: 1}",
        "train.early_stopping={evaluation: test, patience: 1}",
        "train.schedule={kind: plateau, evaluation: causality}",
        "train.checkpoints={best: 1, best_evaluation: absent}",
    ],
)
def test_following_an_evaluation_that_never_comes_is_refused(tmp_path, override):
    """`test` exists, but only after the last step: it could stop nothing."""
    with pytest.raises(ConfigError, match="is no evaluation of kind loss with `every`; those are: none"):
        text_run(tmp_path, override)


def test_an_evaluation_that_does_not_fit_the_data_fails_before_the_first_step(tmp_path):
    run, config = text_run(tmp_path, "evals.optimum={kind: bayes}")
    with pytest.raises(ConfigError, match=r"evals\.optimum: an evaluation of kind bayes needs a synthetic source"):
        experiment.run(run, config)
    assert not run.path.exists()
    experiment.hold(run, config)  # as a sweep does: there it is kept, and says why
    with pytest.raises(ConfigError):
        experiment.run(run, config)
    assert run.status()["state"] == "failed"
