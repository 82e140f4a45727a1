"""Checkpoint folders: whole or absent, verified file by file, and never the cause of a lost one."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from counting_runs import train, weights_of
from ranks import on_ranks

from paribus import rundir
from paribus.errors import CheckpointError, RunError
from paribus.train import checkpoint
from paribus.train.config import Budget, Checkpoints

FIVE_STEPS = Budget(steps=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(folder, budget=FIVE_STEPS, checkpoints=Checkpoints(every=2))
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Its newest checkpoint but one, step 4, without the final one: the run has a step to go."""
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/step-000005")
    return tmp_path / "run"


FILES = ["config.json", "generation_config.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def test_the_manifest_misses_a_file(run: Path) -> None:
    folder = run / "checkpoints/step-000005"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sorted(manifest["files"]) == FILES
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "manifest.json"])
    assert {path.stat().st_mode for path in folder.iterdir()} == {(folder / "state.json").stat().st_mode}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_trained_on(copy: Path, name: str) -> None:
    path = copy / "checkpoints/step-000004" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"sha256 \w{12}\.\.\. found") as caught:
        train(copy, budget=FIVE_STEPS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        checkpoint.load_model(path.parent)


def test_a_cut_or_missing_file_is_trained_on(copy: Path) -> None:
    folder = copy / "checkpoints/step-000004"
    for name, cut, expected in (("model.safetensors", 100, "bytes found"), ("state.json", 0, "bytes found")):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=f"{name}: damaged: {cut} {expected}"):
            train(copy, budget=FIVE_STEPS)
        (folder / name).write_bytes(whole)
    (folder / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: missing"):
        train(copy, budget=FIVE_STEPS)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest\.json: damaged"):
        train(copy, budget=FIVE_STEPS)
    (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        train(copy, budget=FIVE_STEPS)


def test_an_older_checkpoint_ends_elsewhere(copy: Path, run: Path) -> None:
    """What the messages advise: delete the damaged one, go on from the one before."""
    shutil.rmtree(copy / "checkpoints/step-000004")
    train(copy, budget=FIVE_STEPS, checkpoints=Checkpoints(every=2))
    for name, weight in weights_of(run, 5).items():
        assert torch.equal(weights_of(copy, 5)[name], weight)


def test_unfinished_checkpoints_are_taken_for_whole_or_left_behind(copy: Path) -> None:
    checkpoints = copy / "checkpoints"
    (checkpoints / "step-000007.tmp").mkdir()
    (checkpoints / "step-000002.old.tmp").mkdir()
    (checkpoints / "notes").mkdir()
    assert rundir.newest(checkpoints) == checkpoints / "step-000004"
    train(copy, budget=FIVE_STEPS)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["notes", "step-000002", "step-000004", "step-000005"]


def test_the_newest_is_the_last_by_name(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 20):
        rundir.folder_of(tmp_path, step).mkdir()
    newest = rundir.newest(tmp_path)
    assert newest is not None
    assert newest.name == "step-1000000"
    assert [rundir.step_of(path) for path in rundir.complete(tmp_path)] == [20, 999_999, 1_000_000]
    checkpoint.prune(tmp_path, {20})
    assert [rundir.step_of(path) for path in rundir.complete(tmp_path)] == [20, 1_000_000]
    assert rundir.newest(tmp_path / "nowhere") is None


def test_a_checkpoint_of_a_folder_evaluates_other_weights(run: Path) -> None:
    model = checkpoint.load_model(run / "checkpoints/step-000005")
    assert not model.training
    for name, weight in weights_of(run, 5).items():
        assert torch.equal(model.state_dict()[name], weight)


def without_space(path: Path, limit: int) -> None:
    """Train until a file would grow beyond `limit` bytes; the error must be one line, older checkpoints whole."""
    train(path, budget=Budget(steps=3), checkpoints=Checkpoints(every=1, keep_last=0))
    for step in (2, 3):
        shutil.rmtree(path / f"checkpoints/step-00000{step}", ignore_errors=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(RunError, match="step-000002: no space left on the device") as caught:
        train(path, budget=Budget(steps=3), checkpoints=Checkpoints(every=1))
    assert "\n" not in str(caught.value)
    assert [folder.name for folder in (path / "checkpoints").iterdir()] == ["step-000001"]
    checkpoint.verify(path / "checkpoints/step-000001")


@pytest.mark.parametrize(  # the weights do not fit; only the optimizer does not
    "limit", [pytest.param(2_000, marks=pytest.mark.slow), 30_000]
)
def test_a_full_device_damages_an_older_checkpoint(tmp_path: Path, limit: int) -> None:
    on_ranks(1, without_space, tmp_path, limit)
