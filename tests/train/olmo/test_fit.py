"""Runs under OLMo-core's own trainer, as `paribus train` starts them: the audit, our own engine as the oracle, crashes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paribus import experiment
from paribus.audit import verify
from paribus.models.config import Architecture
from paribus.models.hf import build_model
from paribus.rundir import RunDir, complete, step_of
from paribus.train.checkpoint import load_model
from tiny_runs import TRAIN, token_files, token_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("olmo_core") is None, reason="the extra `olmo` is not installed"),
]
STEPS, EVERY = 80, 20  # of 8 rows, 40 rows an epoch: 16 epochs, most of them crossed between checkpoints
OLMO_CORE = ("launch.engine=olmo_core", "launch.retry_wait_s=0.2")
WAYS = {
    "model": {
        "kind": "architecture",
        "model_type": "olmo2",
        "config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    },
    "train": {
        **TRAIN,
        "budget": {"steps": STEPS},
        "schedule": {"kind": "cosine", "warmup_steps": 5},
        "checkpoints": {"every": EVERY, "keep_last": 0},
    },
    "evals": {"heldout": {"kind": "loss", "windows_per_category": 8, "every": 40}},
}


def olmo_run(folder, *overrides):
    """A run of an OLMo-2 with insertions, its config file below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "canaries.jsonl").write_text('{"tokens": [5, 6, 7, 8, 9]}\n{"tokens": [30, 20, 10]}\n')
    (heldout,) = token_files(folder, {"heldout.npy": 20 * 17}, seed=1)
    canaries = {"kind": "tokens", "file": str(folder / "canaries.jsonl"), "repetitions": 25}
    given = {
        **WAYS,
        "data.order": {"kind": "olmo_core"},
        "data.heldout_files": [str(heldout)],
        "insertions": {"experiments": {"canaries": canaries}},
    }
    asked = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    return token_run(folder, *asked, *overrides)


def start(folder, *overrides):
    """`paribus train` of the run, in a process."""
    run, config = olmo_run(folder, *OLMO_CORE, *overrides)
    experiment.create(config)
    command = [sys.executable, "-m", "paribus", "train", str(run.path)]
    return run, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    """(exit code, what it said)"""
    said = process.communicate(timeout=240)[1]
    return process.returncode, said


def lines_of(run, key="loss"):
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    return np.array([line[key] for line in lines if key in line])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run under OLMo-core on one rank."""
    run, process = start(tmp_path_factory.mktemp("trained"))
    code, said = finish(process)
    assert code == 0, said
    return run


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The same run by our own loop."""
    run, config = olmo_run(tmp_path_factory.mktemp("single"))
    assert experiment.run(run, config).state == "done"
    return run


def test_what_the_trainers_model_was_called_with_is_what_the_plan_says(trained, tmp_path):
    found = verify(trained, tmp_path / "spans.jsonl")
    assert found.holds, found.line()
    assert found.steps == STEPS
    assert found.written.spans == 50
    assert found.written.tokens == 25 * 5 + 25 * 3
    assert len((tmp_path / "spans.jsonl").read_text().splitlines()) == 50


def test_our_own_engine_reads_the_same_and_learns_the_same(trained, single):
    assert trained.path.name == single.path.name  # the engine is no part of what a run is
    assert trained.stream_path.read_bytes() == single.stream_path.read_bytes()
    for key in ("loss", "grad_norm", "evaluation/heldout/loss"):
        np.testing.assert_allclose(lines_of(trained, key), lines_of(single, key), rtol=1e-3)
    assert abs(lines_of(trained) - lines_of(single))[0] < 1e-5
    np.testing.assert_allclose(lines_of(trained, "lr"), lines_of(single, "lr"), rtol=1e-12)
    np.testing.assert_array_equal(lines_of(trained, "tokens"), lines_of(single, "tokens"))
    assert lines_of(trained)[-1] < 0.9 * lines_of(trained)[0]


def test_its_checkpoints_are_those_of_every_engine(trained, single):
    assert [folder.name for folder in complete(trained.checkpoints)] == [
        folder.name for folder in complete(single.checkpoints)
    ]
    for folder in complete(trained.checkpoints):
        other = single.checkpoints / folder.name
        assert {file.name for file in folder.iterdir()} == {file.name for file in other.iterdir()}
        for file in ("model.safetensors", "optimizer.safetensors"):
            found, expected = load_file(folder / file), load_file(other / file)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-3 * float(tensor.abs().max()))
    assert load_model(folder).config.model_type == "olmo2"


def test_two_ranks_read_the_same_and_learn_the_same(trained, tmp_path):
    run, process = start(tmp_path, "launch.num_processes=2", "train.micro_batch_size=2")
    code, said = finish(process)
    assert code == 0, said
    assert verify(run).holds
    assert run.stream_path.read_bytes() == trained.stream_path.read_bytes()
    np.testing.assert_allclose(lines_of(run), lines_of(trained), rtol=1e-3)


def rank_of(run):
    """The process that holds the run; 0 while none does."""
    lock = run.path / ".lock"
    found = re.match(r"process (\d+) ", lock.read_text()) if lock.exists() else None
    return int(found[1]) if found else 0


def at_step(run, process, step, not_by=0):
    """Wait until a rank other than `not_by` has taken so many steps; its process id."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        rank = rank_of(run)
        if rank not in (0, not_by) and run.stream_path.exists() and run.stream_path.stat().st_size >= 8 * step:
            return rank
        time.sleep(0.002)
    raise AssertionError(f"it ended before step {step}: {process.poll()}")


def kill(rank):
    os.kill(rank, signal.SIGKILL)
    return rank


def test_a_trainer_that_is_killed_twice_goes_on_each_time_and_ends_bit_for_bit_the_same(trained, tmp_path):
    run, process = start(tmp_path)
    first = kill(at_step(run, process, 30))
    while run.stream_path.stat().st_size > 8 * 25 and process.poll() is None:  # until it is cut back to step 20
        time.sleep(0.002)
    kill(at_step(run, process, 50, not_by=first))
    code, said = finish(process)
    assert code == 0, said
    attempts = json.loads(run.provenance_path.read_text())["attempts"]
    assert [attempt["exit_code"] for attempt in attempts] == [137, 137, 0]
    assert [attempt["reason"] for attempt in attempts] == ["killed by SIGKILL", "killed by SIGKILL", "done"]
    assert [attempt["resumes_from"] for attempt in attempts] == [None, 20, 40]
    for attempt, wait_s in zip(attempts, (0.2, 0.4), strict=False):
        assert wait_s <= attempt["retried_after_s"] < 1.25 * wait_s
    for file in ("metrics.jsonl", "stream.u64"):
        assert (run.path / file).read_bytes() == (trained.path / file).read_bytes(), file
    last = complete(run.checkpoints)[-1]
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (last / file).read_bytes() == (trained.checkpoints / last.name / file).read_bytes()


def test_a_stop_writes_a_checkpoint_and_is_not_retried(trained, tmp_path):
    run, process = start(tmp_path)
    at_step(run, process, 30)
    process.send_signal(signal.SIGTERM)
    code, said = finish(process)
    assert code == 128 + signal.SIGTERM, said
    assert run.status()["state"] == "stopped"
    stopped = step_of(complete(run.checkpoints)[-1])
    assert 30 <= stopped < STEPS
    assert "attempt 2" not in said
    code, said = finish(
        subprocess.Popen([sys.executable, "-m", "paribus", "train", run.path], stderr=subprocess.PIPE, text=True)
    )
    assert code == 0, said
    assert run.metrics_path.read_bytes() == trained.metrics_path.read_bytes()


def cut_back(run, folder, step):
    """A copy of a finished run as it was at a step."""
    shutil.copytree(run.path, folder / run.path.name)
    copy = RunDir(folder / run.path.name)
    (copy.path / "DONE").unlink()
    for checkpoint in complete(copy.checkpoints):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)
    return copy


@pytest.mark.parametrize("engine", ["single", "olmo_core"])
def test_a_run_goes_on_under_the_other_engine(trained, single, tmp_path, engine):
    begun, expected = (trained, single) if engine == "single" else (single, trained)
    run = cut_back(begun, tmp_path, 40)
    command = [sys.executable, "-m", "paribus", "train", str(run.path), f"launch.engine={engine}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert verify(run).holds
    np.testing.assert_allclose(lines_of(run), lines_of(expected), rtol=1e-3)


def test_a_mistake_is_tried_once_and_leaves_nothing(tmp_path):
    other = build_model(Architecture(model_type="gpt2", config={"n_embd": 16, "n_layer": 1, "n_head": 2}), 40, 16, 0)
    other.save_pretrained(tmp_path / "gpt2")
    path = json.dumps(str(tmp_path / "gpt2"))
    run, config = olmo_run(tmp_path, *OLMO_CORE, f'model={{"kind": "pretrained", "path": {path}}}')
    asked = tmp_path / "run.yaml"
    asked.write_text(config.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "paribus", "train", asked], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("paribus: model: launch.engine: olmo_core trains olmo2, found gpt2\n") == 1
    assert "attempt" not in done.stderr
    assert not Path(run.path).exists()


def test_a_loss_that_is_not_finite_ends_the_run_before_the_update(tmp_path):
    run, process = start(tmp_path, "train.optimizer.lr=1e30")
    code, said = finish(process)
    assert code == 1, said
    assert run.status()["state"] == "diverged"
    assert "attempt 2" not in said
    assert len(json.loads((run.path / "diverged.json").read_text())["window_ids"]) == 8
