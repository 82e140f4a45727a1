"""Oracles: cross-entropy computed apart from the code under test, and conservation between all parts of the record."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from paribus.data.batches import IGNORE, Batch
from paribus.data.config import TextData
from paribus.data.generators import generator
from paribus.data.windows import FrozenWindows
from paribus.errors import Diverged
from paribus.evals.config import LossEval
from paribus.evals.loss import loss
from paribus.evals.results import read_result, write_result
from paribus.evals.scoring import EvalContext
from paribus.evals.statistics import paired_difference

NAMES = ("cs.AI", "cs.DS", "math.ST")
CONTEXT = EvalContext(TextData(store="unused", window=20))


def frozen(per_category: int = 9, masked: bool = False) -> FrozenWindows:
    draw = generator(0, "test")
    num = 3 * per_category
    read = draw.integers(0, 40, (num, 21), dtype=np.int32)
    tokens, targets = read[:, :-1], read[:, 1:]  # not contiguous, as windows of a store are
    if masked:
        targets = np.where(draw.random(targets.shape) < 0.2, IGNORE, targets).astype(np.int32)
    ids = draw.permutation(10_000)[:num].astype(np.int64)
    category = np.repeat(np.arange(3, dtype=np.int32), per_category)
    return FrozenWindows(
        Batch(tokens, targets, ids), category, NAMES, draw.integers(1, 6, targets.shape, dtype=np.int32)
    )


def reference(model, windows: FrozenWindows) -> np.ndarray:
    """(N, T) losses by one plain pass in float64; nan where none is taken."""
    tokens, targets = (torch.from_numpy(part.copy()).long() for part in windows.batch[:2])
    with torch.no_grad():
        logits = model.eval()(input_ids=tokens).logits.double()
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).numpy()
    return np.where(windows.batch.targets == IGNORE, np.nan, losses)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 27, 64])
def test_the_reported_loss_is_the_matrix_mean_for_any_batch_size(tiny_models, batch_size, masked):
    windows = frozen(masked=masked)
    truth = reference(tiny_models["gpt_neox"], windows)
    record = loss(LossEval(batch_size=batch_size), tiny_models["gpt_neox"], windows, CONTEXT).record
    matrix = {key: np.array(value) for key, value in record["matrix"].items()}
    assert record["loss"]["mean"] == pytest.approx(np.nanmean(truth), abs=1e-6)
    assert matrix["sum"].sum() / matrix["count"].sum() == pytest.approx(record["loss"]["mean"], abs=1e-6)
    assert record["loss"]["count"] == matrix["count"].sum() == np.isfinite(truth).sum()
    for category in range(3):
        rows = truth[windows.category == category]
        np.testing.assert_array_equal(matrix["count"][category], np.isfinite(rows).sum(0))
        np.testing.assert_allclose(matrix["sum"][category], np.nansum(rows, 0), atol=2e-5)
        np.testing.assert_allclose(matrix["square"][category], np.nansum(rows**2, 0), rtol=1e-5)


def test_every_metric_follows_from_the_losses(tiny_models):
    windows = frozen()
    truth = reference(tiny_models["llama"], windows)
    result = loss(LossEval(in_context=(3, 17)), tiny_models["llama"], windows, CONTEXT)
    record, summary = result.record, result.summary
    means = [truth[windows.category == c].mean() for c in range(3)]
    assert summary["perplexity"] == record["perplexity"] == pytest.approx(math.exp(truth.mean()), rel=1e-6)
    bits = truth.sum() / math.log(2) / windows.target_bytes.sum()
    assert summary["bits_per_byte"] == record["bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert [summary[f"loss/{name}"] for name in NAMES] == pytest.approx(means, abs=1e-6)
    assert summary["category_mean"] == pytest.approx(np.mean(means), abs=1e-6)
    assert summary["in_context"] == pytest.approx((truth[:, 2] - truth[:, 16]).mean(), abs=1e-6)
    gains = [truth[windows.category == c, 2] - truth[windows.category == c, 16] for c in range(3)]
    error = math.sqrt(sum(gain.var(ddof=1) / 9 for gain in gains)) / 3
    assert record["in_context"]["error"] == pytest.approx(error, rel=1e-4)
    np.testing.assert_allclose(record["by_position"]["mean"], truth.mean(0), atol=1e-6)
    np.testing.assert_allclose(record["by_category"]["mean"], means, atol=1e-6)
    assert record["by_category"]["windows"] == [9, 9, 9]
    assert record["by_category"]["count"] == [180, 180, 180]
    np.testing.assert_allclose(result.windows.loss, truth.mean(1), atol=1e-6)
    np.testing.assert_allclose(result.windows.bands["5-16"], truth[:, 4:16].mean(1), atol=1e-6)
    assert result.windows.category.tolist() == [NAMES[c] for c in windows.category]
    assert result.windows.window_id.tolist() == windows.batch.window_ids.tolist()


def test_without_bytes_or_context_the_record_says_null_and_tracks_nothing(tiny_models):
    windows = frozen()._replace(target_bytes=None)
    one = windows._replace(
        batch=Batch(windows.batch.tokens[:, :1], windows.batch.targets[:, :1], windows.batch.window_ids)
    )
    record = loss(LossEval(), tiny_models["gpt2"], one, CONTEXT).record
    assert record["bits_per_byte"] is None
    assert record["by_category"]["bits_per_byte"] is None
    assert record["in_context"] is None
    assert not {"bits_per_byte", "in_context"} & set(record["summary"])


def test_a_uniform_model_has_the_loss_of_theory(tiny_models):
    class Uniform(torch.nn.Module):
        def forward(self, input_ids, use_cache):
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 50)})

    record = loss(LossEval(), Uniform(), frozen(), CONTEXT).record
    assert record["loss"]["mean"] == pytest.approx(math.log(50), abs=1e-6)
    assert record["perplexity"] == pytest.approx(50, rel=1e-6)
    assert record["loss"]["error"] == pytest.approx(0, abs=1e-6)


def test_the_same_call_gives_the_same_bytes(tiny_models, tmp_path):
    paths = []
    for name in "ab":
        result = loss(LossEval(batch_size=5), tiny_models["gpt_neox"].train(), frozen(), CONTEXT)
        paths.append(write_result(tmp_path / name, "v", 1, result))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    again = read_result(paths[0])
    assert json.dumps(again.record) == json.dumps(result.record)
    np.testing.assert_array_equal(again.windows.loss, result.windows.loss)


def test_two_models_pair_on_their_window_tables(tiny_models):
    """The paired mean is the difference of the reported losses, its interval narrower than that of the losses."""
    a, b = (loss(LossEval(), tiny_models[kind], frozen(), CONTEXT) for kind in ("gpt_neox", "llama"))
    assert a.record["windows"]["fingerprint"] == b.record["windows"]["fingerprint"]
    paired = paired_difference(a.windows.loss, b.windows.loss, a.windows.category)
    assert paired.mean == pytest.approx(a.summary["loss"] - b.summary["loss"], abs=1e-6)
    assert paired.low < paired.mean < paired.high


def test_the_fingerprint_depends_on_every_token_target_and_id():
    batch = frozen().batch
    marks = {batch.digest()}
    for field in range(3):
        altered = [part.copy() for part in batch[:3]]
        altered[field].flat[-1] += 1
        marks.add(Batch(*altered).digest())
    assert len(marks) == 4
    assert Batch(*(np.ascontiguousarray(part) for part in batch[:3])).digest() in marks


def test_a_loss_that_is_not_finite_names_its_windows(tiny_models):
    windows = frozen()

    class Broken(torch.nn.Module):
        def forward(self, input_ids, use_cache):
            logits = torch.zeros(*input_ids.shape, 50)
            logits[input_ids[:, 0] == windows.batch.tokens[4, 0]] = float("nan")
            return type("Output", (), {"logits": logits})

    with pytest.raises(Diverged, match=str(windows.batch.window_ids[4])):
        loss(LossEval(), Broken(), windows, CONTEXT)
