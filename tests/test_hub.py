"""A checkpoint pushed to a hub on loopback, and every way in which it cannot be."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.hub_server import TOKEN, hub
from paribus import experiment
from paribus.errors import CheckpointError, ConfigError, RemoteError
from paribus.hub import as_hf, push_model
from paribus.rundir import RunDir
from paribus.train.checkpoint import load_model
from tiny_runs import text_run

Files = dict[str, dict[str, dict[str, bytes]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run, config = text_run(tmp_path_factory.mktemp("run"))
    experiment.run(run, config)
    return run


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    kept: Files = {}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with hub(kept) as address:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield kept


def test_a_view_of_a_checkpoint_holds_another_model_or_stays(run: RunDir) -> None:
    expected = load_model(run.checkpoints / "step-000004").state_dict()
    with as_hf(run.path, step=4) as view:
        found = AutoModelForCausalLM.from_pretrained(view).state_dict()
        assert AutoTokenizer.from_pretrained(view).decode([5]) != ""
        with as_hf(view) as again:  # and of what save_pretrained wrote
            assert (again / "model.safetensors").read_bytes() == (view / "model.safetensors").read_bytes()
    assert not view.exists()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    with pytest.raises(CheckpointError, match="no checkpoint of step 5"), as_hf(run.path, step=5):
        pass


def test_another_model_is_uploaded(run: RunDir, repositories: Files, tmp_path: Path) -> None:
    pushed = push_model(run, "hf://me/model", step=4, private=True)
    files = repositories["me/model"]["main"]
    assert files["visibility"] == b"private"
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found, expected = AutoModelForCausalLM.from_pretrained(tmp_path), load_model(run.checkpoints / "step-000004")
    tensors = expected.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.state_dict().items())
    assert AutoTokenizer.from_pretrained(tmp_path).decode([5]) != ""
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert f"`{run.path.name}`, trained with paribus, after 4 of 6 steps" in card
    assert "batch_size: 8" in card
    assert str(run.path.parent) not in card
    assert pushed.line().endswith("step 4 of the run")
    push_model(run, "hf://me/model")  # the final one, over it
    end = load_model(run.checkpoints / "step-000006").state_dict()
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    found = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, end[name]) for name, tensor in found.state_dict().items())


def test_a_mistake_leaves_a_repository(run: RunDir, repositories: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("hf://model", "hf://me/model/more", "hf://me/mo del"):
        with pytest.raises(ConfigError, match="hf://USER/NAME is expected"):
            push_model(run, url)
    with pytest.raises(CheckpointError, match="no checkpoint of step 5; it has checkpoints of the steps 4, 6"):
        push_model(run, "hf://me/model", step=5)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(RemoteError, match="the hub did not take it") as caught:
        push_model(run, "hf://me/model")
    assert "\n" not in str(caught.value)
    assert not repositories


def test_offline_is_more_than_a_line(run: RunDir, repositories: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match=r"the hub did not take it \(offline") as caught:
        push_model(run, "hf://me/model")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RemoteError, match="HF_HUB_OFFLINE is set"):
        push_model(run, "hf://me/model")


def test_without_a_token_there_is_more_than_a_line(run: RunDir, tmp_path: Path) -> None:
    """As typed; and what belongs to s3:// is refused."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    push = [sys.executable, "-m", "paribus", "push", str(run.path)]
    for more, url, what in (
        ([], "hf://me/model", "no token of the hub"),
        (["--delete-local"], "hf://me/model", "are for s3:// only"),
        (["--private"], "s3://bucket/prefix", "are for hf:// only"),
    ):
        done = subprocess.run(
            [*push, url, *more], env=environment | {"HF_HOME": str(tmp_path)}, capture_output=True, check=False
        )
        assert done.returncode == 2, done.stderr.decode()
        assert done.stderr.decode().count("\n") == 1, done.stderr.decode()
        assert done.stderr.decode().startswith(f"paribus: {url}: ")
        assert what in done.stderr.decode()
