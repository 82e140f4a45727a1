"""One contract for every engine: exact resume at its own world size, the same data and losses at any other."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from counting_runs import counting, metrics_of, settings, train
from ranks import on_ranks
from safetensors.torch import load_file

from paribus.data.batches import Batch, Noise, Stream
from paribus.errors import ConfigError
from paribus.insertions.watermarks import with_noise
from paribus.models.config import Architecture
from paribus.train.checkpoint import load_model
from paribus.train.config import Checkpoints, LaunchConfig
from paribus.train.engine import build_engine
from paribus.train.optim import build_optimizer
from paribus.train.update import Share, Update

ENGINES = [("single", 1), ("ddp", 2), ("fsdp2", 2)]
EVERY_3 = Checkpoints(every=3, keep_last=0)
TIED = Architecture(
    model_type="llama",
    config={
        "hidden_size": 18,  # a third dimension that two and four ranks cannot share evenly
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 30,
        "tie_word_embeddings": True,
    },
    vocab_multiple=1,
)


def run(path: Path, engine: str, world: int, **more: Any) -> None:
    """Train 10 steps in micro-batches of 2 on `world` ranks, with a checkpoint at 3, 6, 9 and 10."""
    launch = LaunchConfig(engine=engine, num_processes=world, threads=1, progress=False)
    stream = more.pop("stream", None) or watermarked()
    train(path, launch=launch, micro_batch_size=2, checkpoints=EVERY_3, stream=stream, **more)


def watermarked() -> Stream:
    """Two steps of three have noise on their first five rows, which end inside a micro-batch of the second of two ranks."""
    return with_noise(counting(), lambda step: Noise(0.3, 7, step, 5) if step % 3 else None)


def killed(path: Path, engine: str, world: int) -> None:
    """The same run, killed in the middle of step 9."""
    steady = watermarked()

    def batches(step: int) -> Batch:
        if step == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return steady.batches(step)

    run(path, engine, world, stream=steady._replace(batches=batches))


@pytest.mark.parametrize(
    ("engine", "world"),
    [pytest.param("single", 1, marks=pytest.mark.slow), ("ddp", 2), ("fsdp2", 2)],  # tests/train resumes the single one
)
def test_ten_steps_differ_from_six_plus_four(tmp_path: Path, engine: str, world: int) -> None:
    on_ranks(world, run, tmp_path / "whole", engine, world)
    assert any(on_ranks(world, killed, tmp_path / "broken", engine, world, may_fail=True))
    on_ranks(world, run, tmp_path / "broken", engine, world)
    for name in ("metrics.jsonl", "stream.u64"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    for step in (3, 6, 9, 10):
        same_tensors(*(tmp_path / which / "checkpoints" / f"step-{step:06d}" for which in ("whole", "broken")))
    run(tmp_path / "single", "single", 1)
    same_losses(tmp_path / "single", tmp_path / "whole")


def same_tensors(one: Path, other: Path) -> None:
    """Assert that two checkpoints hold the same files, and the same bits in each tensor."""
    files = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")) for folder in (one, other)]
    assert files[0] == files[1]
    assert "model.safetensors" in files[0]
    for name in files[0]:
        tensors, others = load_file(one / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[key]), (name, key)


def same_losses(one: Path, other: Path) -> None:
    """Assert the same data in each step, and the same losses, gradient norms and weights up to rounding."""
    assert (one / "stream.u64").read_bytes() == (other / "stream.u64").read_bytes()
    for line, expected in zip(metrics_of(one), metrics_of(other), strict=True):
        assert line == pytest.approx(expected, rel=2e-6)
    models = [load_model(run / "checkpoints/step-000010").state_dict() for run in (one, other)]
    for name, tensor in models[0].items():
        torch.testing.assert_close(tensor, models[1][name], rtol=0, atol=2e-5, msg=name)


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each engine a run killed after its checkpoint at step 6, and the whole run on one rank to compare with."""
    folder = tmp_path_factory.mktemp("dead")
    for engine, world in ENGINES:
        on_ranks(world, killed, folder / engine, engine, world, may_fail=True)
    on_ranks(1, run, folder / "whole", "single", 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "engine", "world"),
    [
        ("ddp", "single", 1),
        ("ddp", "ddp", 4),
        ("fsdp2", "fsdp2", 1),
        ("fsdp2", "fsdp2", 4),
        ("fsdp2", "single", 1),
        ("fsdp2", "ddp", 2),
        ("single", "fsdp2", 2),
        ("single", "ddp", 2),
    ],
)
def test_a_run_goes_astray_on_another_engine_or_world(
    dead: Path, tmp_path: Path, before: str, engine: str, world: int
) -> None:
    shutil.copytree(dead / before, tmp_path / "moved")
    on_ranks(world, run, tmp_path / "moved", engine, world)
    same_losses(dead / "whole", tmp_path / "moved")


def tied(path: Path, engine: str, world: int) -> None:
    run(path, engine, world, model=TIED)


@pytest.mark.slow
def test_shards_of_uneven_or_tied_weights_are_lost(tmp_path: Path) -> None:
    on_ranks(4, tied, tmp_path / "sharded", "fsdp2", 4)
    shutil.rmtree(tmp_path / "sharded" / "checkpoints" / "step-000010")
    shutil.rmtree(tmp_path / "sharded" / "checkpoints" / "step-000009")
    on_ranks(2, tied, tmp_path / "sharded", "fsdp2", 2)
    on_ranks(1, tied, tmp_path / "whole", "single", 1)
    same_losses(tmp_path / "whole", tmp_path / "sharded")


def terminated(path: Path, engine: str, world: int) -> None:
    """The same run; the last rank is told to end before its step 5."""
    steady = watermarked()

    def batches(step: int) -> Batch:
        if step == 4 and os.environ["RANK"] == str(world - 1) and not list(path.glob("checkpoints/step-000005")):
            os.kill(os.getpid(), signal.SIGTERM)
        return steady.batches(step)

    run(path, engine, world, stream=steady._replace(batches=batches))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "world"), ENGINES)
def test_ranks_disagree_on_the_step_to_stop_at(dead: Path, tmp_path: Path, engine: str, world: int) -> None:
    on_ranks(world, terminated, tmp_path, engine, world)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000003", "step-000005"]
    on_ranks(world, terminated, tmp_path, engine, world)
    same_losses(dead / "whole", tmp_path)


def test_rows_are_dealt_out_unevenly() -> None:
    config = settings(batch_size=9)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="9 windows cannot be cut evenly over 2 ranks"):
        Update(config, model, build_optimizer(model, config.optimizer), Share(0, 2, torch.device("cpu")))


@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_several_processes_without_torchrun_hang(engine: Literal["ddp", "fsdp2"]) -> None:
    with pytest.raises(ConfigError, match="must be started by torchrun"):
        build_engine(LaunchConfig(engine=engine, num_processes=2), settings())
