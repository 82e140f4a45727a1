"""Runs that go on from a checkpoint: against the uninterrupted run, bit for bit, and against theory where they differ."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from paribus import experiment, treated
from paribus.audit import compare, verify
from paribus.errors import CheckpointError, ConfigError, ParibusError, PlanError, RunError
from paribus.identity import resolve
from paribus.launch.status import view
from paribus.run_config import RunConfig
from paribus.rundir import RunDir
from paribus.train.checkpoint import load_model
from paribus.train.config import Cosine
from paribus.train.optim import lr_factor
from tiny_runs import token_run

ALL = ("start.optimizer=continued", "start.schedule=continued", "start.data=continued")
STEADY = ("train.schedule.kind=cosine", "train.schedule.warmup_steps=2", "train.clip_norm=0.05")


def lines(run: RunDir) -> dict[int, dict[str, Any]]:
    found = map(json.loads, run.metrics_path.read_text().splitlines())
    return {line["step"]: line for line in found if "loss" in line}


def weights(run: RunDir, step: int) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints / f"step-{step:06d}" / "model.safetensors")


def same_weights(one: RunDir, other: RunDir, step: int) -> bool:
    pairs = weights(one, step), weights(other, step)
    return pairs[0].keys() == pairs[1].keys() and all(torch.equal(t, pairs[1][name]) for name, t in pairs[0].items())


def trained(make: Callable[..., Any], folder: Path, *overrides: str) -> RunDir:
    run, config = make(folder, *overrides)
    experiment.run(run, config)
    return run


def from_(run: RunDir, *overrides: str) -> tuple[str, ...]:
    """The settings of a run that goes on from another one."""
    return (f'model={{"kind": "pretrained", "path": "{run.path}"}}', *overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Ten steps, with checkpoints after 4, 6, 8 and 10. The rate and the data of none depend on where it ends."""
    every = ("train.checkpoints.every=2", "train.checkpoints.keep_last=4")
    return trained(token_run, tmp_path_factory.mktemp("whole"), *STEADY, *every, "train.budget.steps=10")


def test_six_and_four_steps_differ_from_ten(whole: RunDir, tmp_path: Path) -> None:
    rest = trained(token_run, tmp_path, *STEADY, *ALL, *from_(whole, "model.step=6", "train.budget.steps=4"))
    assert same_weights(whole, rest, 10)
    optimizers = [load_file(run.checkpoints / "step-000010" / "optimizer.safetensors") for run in (whole, rest)]
    assert all(torch.equal(tensor, optimizers[1][name]) for name, tensor in optimizers[0].items())
    assert rest.stream_path.read_bytes() == whole.stream_path.read_bytes()[6 * 8 :]
    expected = {step: line for step, line in lines(whole).items() if step > 6}
    assert lines(rest) == expected
    assert len(expected) == 4
    verification = verify(rest)
    assert verification.holds
    assert (verification.steps, verification.expected_steps) == (4, 4)
    comparison = compare(whole, rest)
    assert (comparison.steps, comparison.first) == (4, None)
    seen = view(rest)
    assert (seen.step, seen.num_steps, seen.state) == (10, 10, "done")


def test_what_is_not_continued_is_continued_all_the_same(whole: RunDir, tmp_path: Path) -> None:
    run = trained(token_run, tmp_path, *STEADY, *from_(whole, "model.step=6", "train.budget.steps=4"))
    found = lines(run)
    assert list(found) == [1, 2, 3, 4]
    assert run.stream_path.read_bytes() == whole.stream_path.read_bytes()[: 4 * 8]
    schedule = Cosine(warmup_steps=2)
    assert [line["lr"] for line in found.values()] == [3e-3 * lr_factor(schedule, step, 4) for step in (1, 2, 3, 4)]
    before = load_model(whole.checkpoints / "step-000006")
    after = load_model(
        trained(
            token_run, tmp_path / "0", *STEADY, *from_(whole, "model.step=6", "train.checkpoints.initial=true")
        ).checkpoints
        / "step-000000"
    )
    assert all(torch.equal(t, after.state_dict()[name]) for name, t in before.state_dict().items())
    steps = load_file(run.checkpoints / "step-000004" / "optimizer.safetensors")
    assert {float(value) for name, value in steps.items() if name.startswith("step/")} == {4.0}


@pytest.mark.parametrize("data", ["restarted", "continued"])
@pytest.mark.parametrize("schedule", ["restarted", "continued"])
def test_a_rate_or_a_batch_belongs_to_another_step(whole: RunDir, tmp_path: Path, data: str, schedule: str) -> None:
    how = (f"start.data={data}", f"start.schedule={schedule}", "start.optimizer=fresh")
    run = trained(token_run, tmp_path, *STEADY, *how, *from_(whole, "model.step=6", "train.budget.steps=4"))
    first, before = (6 if data == "continued" else 0), (6 if schedule == "continued" else 0)
    expected = [3e-3 * lr_factor(Cosine(warmup_steps=2), before + n, before + 4) for n in (1, 2, 3, 4)]
    assert [line["lr"] for line in lines(run).values()] == expected
    assert list(lines(run)) == [first + n for n in (1, 2, 3, 4)]
    assert run.stream_path.read_bytes() == whole.stream_path.read_bytes()[first * 8 : (first + 4) * 8]


def test_a_restart_that_changes_nothing_has_another_name(whole: RunDir, tmp_path: Path) -> None:
    """A run keeps the identity that it had before there was a `start`: its resolved config does not mention it."""
    config = token_run(tmp_path)[1]
    assert "start" not in resolve(config)
    assert not {"step", "sha256"} & resolve(token_run(tmp_path, *from_(whole))[1])["model"].keys()

    def place(config: RunConfig) -> Path:
        return experiment.place(config).path

    by_step = token_run(tmp_path, *from_(whole, "model.step=6"))[1]
    by_folder = token_run(tmp_path, f'model={{"kind": "pretrained", "path": "{whole.checkpoints / "step-000006"}"}}')[1]
    assert place(by_step) == place(by_folder) != place(config)
    others = [token_run(tmp_path, *from_(whole, "model.step=6", how))[1] for how in ALL]
    others.append(token_run(tmp_path, *from_(whole, "model.step=4", ALL[2]))[1])
    assert len({place(other) for other in [by_step, *others]}) == 5


def refusal(*overrides: str, folder: Path, make: Callable[..., Any] = token_run) -> str:
    def plan() -> None:
        experiment.plan(*make(folder, *overrides))

    with pytest.raises(ParibusError) as caught:
        plan()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_step_is_guessed(whole: RunDir, tmp_path: Path) -> None:
    there = "checkpoints of the steps 4, 6, 8, 10"
    assert there in refusal(*from_(whole, "model.step=7"), folder=tmp_path)
    # a run that is done has a final checkpoint
    assert token_run(tmp_path, *from_(whole))[0].path == token_run(tmp_path, *from_(whole, "model.step=10"))[0].path
    (whole.path / "DONE").rename(whole.path / "GONE")
    try:
        assert there in (message := refusal(*from_(whole), folder=tmp_path))
        assert "not done" in message
    finally:
        (whole.path / "GONE").rename(whole.path / "DONE")


def test_what_is_not_there_is_continued(whole: RunDir, tmp_path: Path) -> None:
    load_model(whole.checkpoints / "step-000006").save_pretrained(tmp_path / "bare")
    bare = f'model={{"kind": "pretrained", "path": "{tmp_path / "bare"}"}}'
    assert "start.optimizer" in refusal(bare, ALL[0], folder=tmp_path)
    for how, key in zip(ALL[1:], ("schedule", "data"), strict=True):
        assert f"start.{key}: continued, but" in refusal(bare, how, folder=tmp_path)
    assert "continued needs the weights" in refusal(ALL[2], folder=tmp_path)
    assert "continued needs the weights" in refusal(*from_(whole, "model.init=scratch", ALL[2]), folder=tmp_path)
    assert "model.step" in refusal("model.kind=pretrained", "model.path=some/name", "model.step=3", folder=tmp_path)
    assert "step3-unsharded" in refusal(bare, "model.step=3", folder=tmp_path)
    assert "model.revision" in refusal(bare, "model.revision=main", folder=tmp_path)
    assert "model.sha256" in refusal(bare, 'model.sha256={"a": "b"}', folder=tmp_path)


def test_a_damaged_checkpoint_is_continued(whole: RunDir, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(whole.path, tmp_path / "copy")
    file = tmp_path / "copy" / "checkpoints" / "step-000006" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    run, config = token_run(tmp_path, *from_(RunDir(tmp_path / "copy"), "model.step=6", *ALL))
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: damaged"):
        experiment.run(run, config)
    assert not run.path.exists()


CANARIES = 'insertions={{"experiments": {{"a": {{"kind": "tokens", "file": "{file}", "where": {where}}}}}}}'


def inserted(folder: Path, where: str) -> str:
    file = folder / "canaries.jsonl"
    # one canary of three tokens; explicit: in step 7, row 2, from offset 5 (8 rows of 17 tokens a batch)
    file.write_text(json.dumps({"tokens": [1, 2, 3], "position": (7 * 8 + 2) * 17 + 5}) + "\n")
    return CANARIES.format(file=file, where=where)


def test_the_coordinates_of_a_plan_begin_with_the_continuation(whole: RunDir, tmp_path: Path) -> None:
    """What is planned at a coordinate of the uninterrupted run stands at the same one in its continuation."""
    explicit = inserted(tmp_path, '{"kind": "explicit"}')
    ten = trained(token_run, tmp_path / "ten", *STEADY, "train.budget.steps=10", explicit)
    settings = from_(whole, "model.step=6", "train.budget.steps=4", explicit)
    four = trained(token_run, tmp_path / "four", *STEADY, *ALL, *settings)
    assert (
        four.stream_path.read_bytes()
        == ten.stream_path.read_bytes()[6 * 8 :]
        != whole.stream_path.read_bytes()[6 * 8 :]
    )
    found = verify(four)
    assert found.holds
    assert found.written is not None
    assert (found.written.spans, found.written.tokens) == (1, 3)


@pytest.mark.parametrize(
    ("where", "steps"),
    [
        ('{"kind": "random"}', range(6, 10)),
        ('{"kind": "random", "within": {"fraction": [0.5, 1.0]}}', range(8, 10)),
        ('{"kind": "random", "within": {"steps": [7, 9]}}', range(7, 9)),
        ('{"kind": "every", "steps": 3}', (6, 9)),
        ('{"kind": "whole_batch", "steps": [6, 9]}', (6, 9)),
    ],
)
def test_a_plan_reaches_beyond_the_runs_own_steps(whole: RunDir, tmp_path: Path, where: str, steps: Any) -> None:
    more = () if "random" not in where else ("insertions.experiments.a.repetitions=60",)
    settings = from_(whole, "model.step=6", "train.budget.steps=4", inserted(tmp_path, where), *more)
    plan = treated.compile_insertions(token_run(tmp_path, *ALL, *settings)[1])
    found = plan.spans.start // (8 * 17)
    assert set(found.tolist()) == set(steps)
    row = next(plan.table())
    assert row["share"] == pytest.approx(row["tokens"] / (4 * 8 * 17))
    assert np.diff(plan.spans.start).min(initial=17) >= 3


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ('{"kind": "random", "within": {"steps": [5, 8]}}', "begins at row 40, but the run begins at row 48: step 6"),
        ('{"kind": "random", "within": {"tokens": [0, 9000]}}', "ends at row"),
        ('{"kind": "whole_batch", "steps": [5]}', "from 6 and below 10"),
        ('{"kind": "explicit", "position_key": "early"}', "which begins at 816"),
    ],
)
def test_an_insertion_before_the_first_step_is_lost(whole: RunDir, tmp_path: Path, where: str, what: str) -> None:
    settings = from_(whole, "model.step=6", "train.budget.steps=4", inserted(tmp_path, where))
    (tmp_path / "canaries.jsonl").write_text('{"tokens": [1, 2, 3], "early": 810}\n')
    with pytest.raises(PlanError, match=what) as caught:
        treated.compile_insertions(token_run(tmp_path, *ALL, *settings)[1])
    assert "\n" not in str(caught.value)


def test_runs_without_a_common_step_are_equal(whole: RunDir, tmp_path: Path) -> None:
    short = trained(token_run, tmp_path, *STEADY, "train.budget.steps=4")
    rest = trained(token_run, tmp_path, *STEADY, *ALL, *from_(whole, "model.step=6", "train.budget.steps=4"))
    with pytest.raises(RunError, match="no step in common"):
        compare(short, rest)


def test_batches_of_another_size_are_continued_elsewhere(whole: RunDir, tmp_path: Path) -> None:
    run, config = token_run(tmp_path, *from_(whole, "start.data=continued", "train.batch_size=4"))
    with pytest.raises(ConfigError, match=r"took 8 windows a step and train.batch_size is 4") as caught:
        experiment.run(run, config)
    assert "\n" not in str(caught.value)
    assert not run.path.exists()
    trained(token_run, tmp_path, *from_(whole, "start.optimizer=continued", "train.batch_size=4"))
