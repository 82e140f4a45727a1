"""Every engine goes on from a checkpoint as the uninterrupted run went on, also when it is killed on the way."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import load_file

from models.olmo_reference import OLMO2, random_weights, write
from paribus import experiment
from paribus.data.token_files import TokenFiles
from tiny_runs import token_run

SETTINGS = ("train.schedule.kind=cosine", "train.schedule.warmup_steps=2", "train.checkpoints.every=2")
CONTINUED = ("start.optimizer=continued", "start.schedule=continued", "start.data=continued", "train.budget.steps=4")


def train(folder: Path, engine: str, world: int, origin: Path | None = None) -> None:
    """Ten steps with all checkpoints, or, from `origin`, four after its sixth."""
    launch = (f"launch.engine={engine}", f"launch.num_processes={world}")
    more: tuple[str, ...] = ("train.budget.steps=10", "train.checkpoints.keep_last=0")
    if origin is not None:
        more = (f'model={{"kind": "pretrained", "path": "{origin}", "step": 6}}', *CONTINUED)
    run, config = token_run(folder / os.environ.get("RANK", "0"), *SETTINGS, *launch, *more, f"paths.runs={folder}")
    experiment.run(run, config)


def killed(folder: Path, origin: Path) -> None:
    """The four steps, killed before the last of them: after the checkpoint of step 8."""
    read, left = TokenFiles.read, [3]

    def dying(files: TokenFiles, rows: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(files, rows)  # type: ignore[arg-type]

    TokenFiles.read = dying  # type: ignore[method-assign, assignment]
    train(folder, "single", 1, origin)


def only(folder: Path) -> Path:
    (found,) = folder.glob("small/tokens-*")
    return found


def same_end(whole: Path, rest: Path) -> None:
    """Assert the same last checkpoint, bit for bit, and the same batches of the last four steps."""
    for file in (whole / "checkpoints" / "step-000010").rglob("*.safetensors"):
        tensors, others = load_file(file), load_file(rest / file.relative_to(whole))
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items()), file.name
    assert (rest / "stream.u64").read_bytes() == (whole / "stream.u64").read_bytes()[6 * 8 :]
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (whole, rest)]
    assert [line for line in lines[0] if json.loads(line)["step"] > 6] == lines[1]


@pytest.mark.parametrize(("engine", "world"), [pytest.param("ddp", 2, marks=pytest.mark.slow), ("fsdp2", 2)])
def test_six_and_four_steps_differ_from_ten(tmp_path: Path, engine: str, world: int) -> None:
    on_ranks(world, train, tmp_path / "whole", engine, world)
    on_ranks(world, train, tmp_path / "rest", engine, world, only(tmp_path / "whole"))
    same_end(only(tmp_path / "whole"), only(tmp_path / "rest"))


def test_a_killed_continuation_differs_from_the_uninterrupted_run(tmp_path: Path) -> None:
    on_ranks(1, train, tmp_path / "whole", "single", 1)
    whole = only(tmp_path / "whole")
    assert on_ranks(1, killed, tmp_path / "rest", whole, may_fail=True) == [-signal.SIGKILL]
    assert [path.name for path in (only(tmp_path / "rest") / "checkpoints").iterdir()] == ["step-000008"]
    on_ranks(1, train, tmp_path / "rest", "single", 1, whole)
    same_end(whole, only(tmp_path / "rest"))


@pytest.mark.slow
def test_a_sharded_checkpoint_cannot_be_continued_on_one_rank(tmp_path: Path) -> None:
    on_ranks(2, train, tmp_path / "sharded", "fsdp2", 2)
    sharded = only(tmp_path / "sharded")
    on_ranks(1, train, tmp_path / "rest", "single", 1, sharded)
    rest = only(tmp_path / "rest")
    assert (rest / "stream.u64").read_bytes() == (sharded / "stream.u64").read_bytes()[6 * 8 :]
    ends = [load_file(run / "checkpoints" / "step-000010" / "model.safetensors") for run in (sharded, rest)]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=2e-5, msg=name)


def from_olmo(folder: Path, engine: str, world: int, origin: Path) -> None:
    more = (f'model={{"kind": "pretrained", "path": "{origin}"}}', *CONTINUED)
    launch = (f"launch.engine={engine}", f"launch.num_processes={world}")
    run, config = token_run(folder / os.environ.get("RANK", "0"), *SETTINGS, *launch, *more, f"paths.runs={folder}")
    experiment.run(run, config)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_ranks_begin_with_another_state_of_olmos_optimizer(tmp_path: Path, engine: str) -> None:
    weights = random_weights(OLMO2)
    names = sorted(weights)
    state = {n: {"step": torch.tensor(9.0), **moments(weights[name], n)} for n, name in enumerate(names)}
    optimizer = {"state": state, "param_groups": [{"params": list(state), "param_names": names}]}
    origin = write(tmp_path / "step9-unsharded", OLMO2, weights, "safetensors", optimizer)
    on_ranks(1, from_olmo, tmp_path / "one", "single", 1, origin)
    on_ranks(2, from_olmo, tmp_path / "two", engine, 2, origin)
    runs = [only(tmp_path / "one"), only(tmp_path / "two")]
    ends = [load_file(run / "checkpoints" / "step-000013" / "model.safetensors") for run in runs]
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=2e-5, msg=name)


def moments(like: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    first = torch.randn(like.shape, generator=draw) * 1e-2
    return {"exp_avg": first, "exp_avg_sq": first.square() + 1e-4}
