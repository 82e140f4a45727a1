"""Watermarks are found where they were trained, and nowhere else. Oracles: a positive control, N(0, 1), autograd by hand."""

import json
import math
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from paribus import experiment, treated
from paribus.errors import ConfigError, RunError
from paribus.evals.build import build_evaluation, evaluate
from paribus.evals.config import WatermarkEval
from paribus.evals.scoring import EvalContext
from paribus.evals.watermark import judge
from paribus.evaluation import evaluate as evaluate_files
from paribus.models.noise import normal
from paribus.train.checkpoint import load_model
from tiny_runs import coins_run

sys.path.append(str(Path(__file__).parents[1] / "train"))

T, ROWS = 32, 8
MODEL = (
    "model.config={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 128}",
    "train.optimizer.lr=1e-3",
    f"data.window={T}",
)


def marked_run(folder, exposures, *overrides, before=2, items=ROWS, noise="shared", control=False, num_null=32):
    """A batch of random symbols, repeated in `exposures` steps under a watermark, and an evaluation of that."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "items.jsonl"
    draw = np.random.default_rng(0)
    file.write_text("".join(json.dumps({"tokens": draw.integers(0, 2, T).tolist()}) + "\n" for _ in range(items)))
    where = {"kind": "whole_batch", "steps": list(range(before, before + exposures))}
    experiments = {
        "batch": {"kind": "tokens", "file": str(file), "where": where},
        "mark": {"kind": "watermark", "where": where, "noise": noise},
    }
    evals = {"mark": {"kind": "watermark", "at_start": True, "num_null": num_null}}
    return coins_run(
        folder,
        f"insertions={json.dumps({'experiments': experiments, 'control': control})}",
        f"evals={json.dumps(evals)}",
        f"train.budget.steps={before + exposures}",
        "train.checkpoints.every=1000",
        *MODEL,
        *overrides,
    )


def record(run, step):
    return json.loads((run.evals / "mark" / f"step-{step:06d}.json").read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run with 40 exposures and its matched control."""
    folder, made = tmp_path_factory.mktemp("pair"), {}
    for name in ("treated", "control"):
        made[name] = marked_run(folder / name, 40, control=name == "control")
        experiment.run(*made[name])
    return made


def test_a_learned_watermark_is_not_found_or_has_the_other_sign(pair):
    run, _ = pair["treated"]
    before, after = record(run, 0), record(run, 42)
    assert before["by_exposures"]["exposures"] == [0]
    assert after["by_exposures"]["exposures"] == [40]
    assert after["summary"]["x"] > 1
    assert math.sqrt(ROWS) * after["summary"]["x"] > 4
    assert after["summary"]["p"] < 1e-4
    assert after["summary"]["x/40"] == after["summary"]["x"]
    assert after["overall"]["low"] > 0


def test_a_watermark_is_found_where_none_was_trained(pair):
    """In the model before training, in the control, and for noises that nobody was trained with."""
    treated, control = (record(pair[name][0], step) for name, step in (("treated", 42), ("control", 42)))
    for untouched in (record(pair["treated"][0], 0), control):
        assert abs(math.sqrt(ROWS) * untouched["summary"]["x"]) < 3.5
        assert untouched["by_exposures"]["exposures"] == [0]
    assert control["is_control"]
    for found in (treated, control):
        assert found["null"]["n"] == ROWS * 32
        assert abs(math.sqrt(ROWS * 32) * found["null"]["x"]) < 3.5
        assert abs(found["null"]["std"] - 1) < 0.15
        assert found["null"]["p"] > 0.001


def test_the_null_is_not_standard_normal(pair):
    """4,000 noises: the Kolmogorov-Smirnov test and the share beyond the threshold of one in a hundred."""
    run, config = pair["treated"]
    context = EvalContext(config.data, config.seeds, treatment=treated.treatment(run, config))
    model = load_model(run.checkpoints / "step-000042")
    found = evaluate(WatermarkEval(num_null=500), model, context, step=42).record
    assert found["null"]["p"] > 0.001
    assert abs(found["null"]["std"] - 1) < 4 / math.sqrt(2 * 4000)


def test_the_statistic_is_another_than_autograd_gives_by_hand(pair):
    run, config = pair["treated"]
    model = load_model(run.checkpoints / "step-000042").eval()
    treatment = treated.treatment(run, config)
    [mark], batch = treatment.marks, treatment.stream.batches(41)
    items = record(run, 42)["items"]
    assert items["step"] == [2] * ROWS
    assert items["row"] == list(range(ROWS))
    for row in (0, 5):
        tokens, targets = (torch.from_numpy(array[row].copy()).long() for array in (batch.tokens, batch.targets))
        e_1TD = model.get_input_embeddings()(tokens[None]).detach().requires_grad_()
        loss = cross_entropy(model(inputs_embeds=e_1TD).logits[0], targets)
        loss.backward()
        w_1TD = 0.075 * normal(mark.key, [2], [row], T, 32, torch.device("cpu"))
        expected = -float((e_1TD.grad * w_1TD).sum()) / (0.075 * float(e_1TD.grad.norm()))
        assert items["x"][row] == pytest.approx(expected, rel=1e-4)
        assert items["loss"][row] == pytest.approx(loss.item(), rel=1e-5)


def test_a_watermark_that_is_left_out_was_trained_on(tmp_path):
    """The run without it is tested on the rows and the noise of the full run, as one that never saw them."""
    full, without = (
        treated.treatment(*marked_run(tmp_path / name, 3, *more))
        for name, more in (("full", ()), ("without", ("insertions.without=[mark]",)))
    )
    assert (full.unseen, without.unseen) == (set(), {"mark"})
    assert full.marks == without.marks
    for one, other in zip(full.stream.batches(2), without.stream.batches(2), strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_an_evaluation_after_the_run_finds_something_else(pair, tmp_path):
    run, _ = pair["treated"]
    file = tmp_path / "eval.yaml"
    file.write_text("evals: {later: {kind: watermark, experiment: mark}}\n")
    [(path, summary)] = list(evaluate_files(run.path, file, []))
    assert path.name == "step-000042.json"
    assert summary == pytest.approx(record(run, 42)["summary"], rel=1e-4)


def test_scoring_leaves_a_trace_on_the_model(pair):
    run, config = pair["treated"]
    context = EvalContext(config.data, config.seeds, treatment=treated.treatment(run, config))
    model = load_model(run.checkpoints / "step-000042").train()
    score, random = build_evaluation(WatermarkEval(num_null=2), context), torch.get_rng_state()
    first = score(model, 42).record
    assert model.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert not model.get_input_embeddings()._forward_hooks
    assert score(model, 42).record == first
    other = evaluate(WatermarkEval(num_null=2, batch_size=3), model, context, step=42).record["items"]["x"]
    assert other == pytest.approx(first["items"]["x"], abs=1e-4)


def test_rows_of_steps_to_come_count_as_exposed(tmp_path):
    run, config = marked_run(tmp_path, 4, "evals.mark.every=4", noise="each_step")
    experiment.run(run, config)
    for step, exposures in ((0, [0] * 4), (4, [1, 1, 0, 0]), (6, [1] * 4)):
        items = record(run, step)["items"]
        assert items["step"] == np.repeat([2, 3, 4, 5], ROWS).tolist()
        assert items["exposures"] == np.repeat(exposures, ROWS).tolist()
    assert record(run, 4)["by_exposures"]["exposures"] == [0, 1]
    assert record(run, 4)["by_exposures"]["n"] == [16, 16]


@pytest.mark.parametrize(
    ("overrides", "more", "reason"),
    [
        (
            ["evals.mark.experiment=batch"],
            {},
            r"evals\.mark: experiment: found 'batch', but the watermarks .* are mark",
        ),
        (["insertions=null"], {}, r"evals\.mark: kind watermark needs a run whose insertions have a watermark"),
        ([], {"items": 5}, r"its noise is shared, but row 0 holds other tokens in step 3 than in step 2"),
        (
            ["insertions.experiments.more={kind: watermark, where: {kind: whole_batch, steps: [0]}}"],
            {},
            r"experiment: the run has the watermarks mark, more; name one",
        ),
    ],
)
def test_an_evaluation_that_cannot_be_made_begins(tmp_path, overrides, more, reason):
    run, config = marked_run(tmp_path, 2, *overrides, **more)
    with pytest.raises(ConfigError, match=reason):
        experiment.run(run, config)
    assert not run.path.exists()


def test_a_bare_model_has_a_watermark(pair, tmp_path):
    run, _ = pair["treated"]
    file = tmp_path / "eval.yaml"
    file.write_text("evals: {mark: {kind: watermark}}\ndata: {kind: coins, num_components: 3, window: 32}\n")
    with pytest.raises(ConfigError, match=r"evals\.mark: kind watermark needs a run .* not a bare model"):
        list(evaluate_files(run.checkpoints / "step-000042", file, []))


def test_other_settings_overwrite_a_result(pair, tmp_path):
    run, _ = pair["treated"]
    file = tmp_path / "eval.yaml"
    file.write_text("evals: {mark: {kind: watermark, num_null: 3}}\n")
    with pytest.raises(RunError, match=r"num_null: 32 there, 3 asked for"):
        list(evaluate_files(run.path, file, []))


def test_the_verdict_is_another():
    """100 values, 30 of them above 2.33: counts, the z-test and the predicted share."""
    x = np.repeat([3.0, -0.5], [30, 70])
    found, gauss = judge(x), NormalDist()
    assert (found["n"], found["x"], found["tpr"]) == (100, pytest.approx(0.55), 0.3)
    assert found["p"] == pytest.approx(1 - gauss.cdf(5.5))
    assert found["predicted_fnr"] == pytest.approx(gauss.cdf(2.3263479 - 0.55), abs=1e-7)
    assert found["low"] < 0.55 < found["high"]
    assert (found["tpr_low"], found["tpr_high"]) == pytest.approx((0.2189, 0.3958), abs=1e-4)
    one = judge(np.array([1.0]))
    assert (one["low"], one["high"]) == (None, None)


def trained(folder, engine, world):
    launch = f"launch={{engine: {engine}, num_processes: {world}, threads: 1, device: cpu, progress: false}}"
    run, config = marked_run(folder, 10, launch, "train.micro_batch_size=2", "evals.mark.batch_size=3")
    experiment.run(run, config)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_two_ranks_find_another_watermark(tmp_path, engine):
    from ranks import on_ranks

    on_ranks(1, trained, tmp_path / "one", "single", 1)
    on_ranks(2, trained, tmp_path / "two", engine, 2)
    [one], [two] = ([*(tmp_path / name / "runs" / "small").iterdir()] for name in ("one", "two"))
    assert (one / "stream.u64").read_bytes() == (two / "stream.u64").read_bytes()
    for step in (0, 12):
        found = [json.loads((path / "evals/mark" / f"step-{step:06d}.json").read_text()) for path in (one, two)]
        assert found[1]["items"]["x"] == pytest.approx(found[0]["items"]["x"], abs=2e-3)
        assert found[1]["null"] == pytest.approx(found[0]["null"], abs=2e-3)


@pytest.mark.slow
def test_more_exposures_leave_no_more_trace(tmp_path):
    """mu^ over 64 rows at 1, 10, 40 and 80 exposures was -.07, 1.01, 1.13 and 1.94, each +- .13, and -.11 in a control.

    Fewer of them here: four seeds of weights and noise, 32 rows."""
    means = []
    for exposures in (1, 10, 80):
        seeds = [(f"seeds.weights={seed}", f"seeds.insertions={seed}") for seed in range(4)]
        runs = [marked_run(tmp_path / f"{exposures}-{n}", exposures, *both) for n, both in enumerate(seeds)]
        for run, config in runs:
            experiment.run(run, config)
        means.append(np.mean([record(run, exposures + 2)["summary"]["x"] for run, _ in runs]))
    assert means[0] < 0.6 < means[1] < means[2]
    assert means[2] > 1.3
