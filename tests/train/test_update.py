"""One step: accumulation, clipping, precisions, and the judgement of what is not finite."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from counting_runs import VOCAB, WITH_DROPOUT, counting, settings
from torch import Tensor, nn

from paribus.data.batches import IGNORE, Batch, Noise
from paribus.models.config import Preset
from paribus.models.hf import build_model
from paribus.models.noise import normal
from paribus.objectives.next_token import NextTokenLoss
from paribus.train.config import LaunchConfig
from paribus.train.engine import Engine, StepReport, build_engine
from paribus.train.update import LossScale

MICRO = Preset(name="micro-neox")


def engine_of(model: Any = MICRO, **changes: Any) -> Engine:
    engine = build_engine(LaunchConfig(threads=1), settings(**{"batch_size": 64, **changes}))
    engine.prepare(build_model(model, VOCAB, 16, seed=0))
    return engine


def ragged(batch: Batch) -> Batch:
    """Rows with unequal numbers of targets: a mean of means would differ from the mean."""
    targets = batch.targets.copy()
    for row in range(len(targets)):
        targets[row, : row % 16] = IGNORE
    return batch._replace(targets=targets)


def three_steps(engine: Engine) -> list[StepReport]:
    stream = counting(batch_size=64)
    return [engine.step(NextTokenLoss(), ragged(stream.batches(step)), 1e-3, seed=step) for step in range(3)]


@pytest.mark.parametrize("size", [16, 24])  # 4 equal micro-batches; 24, 24, 16
def test_64_at_once_differ_from_micro_batches(size: int) -> None:
    once, parts = engine_of(), engine_of(micro_batch_size=size)
    for whole, part in zip(three_steps(once), three_steps(parts), strict=True):
        assert part.loss == pytest.approx(whole.loss, abs=1e-6)
        assert part.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    for name, weight in once.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], weight, rtol=0, atol=1e-5)


NOISE = Noise(0.3, 2**63 + 5, 17, 20)


@pytest.mark.parametrize("size", [64, 16])  # the noisy rows end inside the second micro-batch of 16
def test_noise_reaches_other_rows_or_other_values(size: int) -> None:
    """Oracle: the model called on embeddings, with noise that was generated in one piece."""
    engine = engine_of(micro_batch_size=size)
    batch = ragged(counting(batch_size=64).batches(0))._replace(noise=NOISE)
    tokens_BT, targets_BT = (torch.from_numpy(array).long() for array in (batch.tokens, batch.targets))
    e_BTD = engine.model.get_input_embeddings()(tokens_BT).detach()
    w_BTD = normal(NOISE.key, [17] * 20, range(20), 16, e_BTD.shape[2], e_BTD.device)
    noisy_BTD = torch.cat([e_BTD[:20] + 0.3 * w_BTD, e_BTD[20:]])
    logits_BTV = engine.model(inputs_embeds=noisy_BTD).logits.detach()
    expected = nn.functional.cross_entropy(logits_BTV.flatten(0, 1).double(), targets_BT.flatten(), ignore_index=IGNORE)
    assert engine.step(NextTokenLoss(), batch, 1e-3, seed=0).loss == pytest.approx(expected.item(), abs=1e-6)
    assert not engine.model.get_input_embeddings()._forward_hooks  # an evaluation after it sees none


def test_noise_depends_on_the_micro_batch() -> None:
    engines = [engine_of(micro_batch_size=size) for size in (64, 16, 24)]
    batch = counting(batch_size=64).batches(0)._replace(noise=NOISE)
    first, *others = [engine.step(NextTokenLoss(), batch, 1e-3, seed=0) for engine in engines]
    plain = engine_of().step(NextTokenLoss(), batch._replace(noise=None), 1e-3, seed=0)
    for other in others:
        assert other.loss == pytest.approx(first.loss, abs=1e-6)
        assert other.grad_norm == pytest.approx(first.grad_norm, rel=1e-5)
    assert abs(first.loss - plain.loss) > 1e-3


def test_the_loss_is_another_mean_than_that_of_all_targets() -> None:
    engine = engine_of(micro_batch_size=16)
    batch = ragged(counting(batch_size=64).batches(0))
    tokens_BT, targets_BT = (torch.from_numpy(array).long() for array in (batch.tokens, batch.targets))
    logits_BTV = engine.model(input_ids=tokens_BT).logits.detach()
    expected = nn.functional.cross_entropy(logits_BTV.flatten(0, 1).double(), targets_BT.flatten(), ignore_index=IGNORE)
    assert engine.step(NextTokenLoss(), batch, 1e-3, seed=0).loss == pytest.approx(expected.item(), abs=1e-6)


def test_gradients_are_clipped_to_another_norm_or_measured_after_clipping() -> None:
    free, clipped = engine_of(clip_norm=None), engine_of(clip_norm=0.01)
    seen: dict[str, float] = {}
    for name, engine in (("free", free), ("clipped", clipped)):
        optimizer = engine._update.optimizer  # type: ignore[attr-defined]
        optimizer.register_step_pre_hook(lambda opt, *_, name=name: seen.update({name: norm_of(opt)}))
    reports = [engine.step(NextTokenLoss(), counting(64).batches(0), 1e-3, 0) for engine in (free, clipped)]
    assert reports[0].grad_norm == reports[1].grad_norm == pytest.approx(seen["free"], rel=1e-6)
    assert seen["clipped"] == pytest.approx(0.01, rel=1e-3)


def norm_of(optimizer: torch.optim.Optimizer) -> float:
    grads = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return float(torch.cat(grads).double().norm())


def test_dropout_is_not_a_function_of_the_seed_and_the_row() -> None:
    batch = counting(batch_size=64).batches(0)
    losses = []
    for seed in (1, 1, 2):
        engine = engine_of(WITH_DROPOUT, micro_batch_size=16)
        torch.manual_seed(len(losses))
        losses.append(engine.step(NextTokenLoss(), batch, 1e-3, seed).loss)
    assert losses[0] == losses[1] != losses[2]


def test_checkpointed_gradients_differ() -> None:
    plain, checkpointed = engine_of(WITH_DROPOUT), engine_of(WITH_DROPOUT, gradient_checkpointing=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.model.modules())
    assert three_steps(plain) == three_steps(checkpointed)


@pytest.mark.slow  # the compiler takes a minute
def test_compiled_steps_differ_by_more_than_rounding() -> None:
    for one, other in zip(three_steps(engine_of()), three_steps(engine_of(compile=True)), strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_change_more_than_rounding(precision: str) -> None:
    exact, rounded = three_steps(engine_of()), three_steps(engine_of(precision=precision))
    for one, other in zip(exact, rounded, strict=True):
        assert other.update == "applied"
        assert other.loss == pytest.approx(one.loss, abs=0.02)
        assert other.loss != one.loss
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=0.05)


class Steep(NextTokenLoss):
    """Next-token loss whose gradient's norm overflows (in its squares) while the loss scale is above `limit`."""

    def __init__(self, limit: float) -> None:
        self._slope = torch.finfo(torch.float32).max ** 0.5 * 32 / limit  # 32 targets: the divisor

    def __call__(self, model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, more = super().__call__(model, tokens_BT, targets_BT)
        weight = next(model.parameters()).flatten()[0]
        return loss + (weight - weight.detach()) * self._slope, more


def test_an_overflow_of_fp16_changes_weights_or_ends_the_run() -> None:
    engine = engine_of(precision="fp16", batch_size=2)
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    batch = counting(batch_size=2).batches(0)
    updates = [engine.step(Steep(2.0**14.5), batch, 1e-3, 0).update for _ in range(2)]
    assert updates == ["skipped", "skipped"]  # at 2**16 and 2**15
    assert all(torch.equal(before[name], value) for name, value in engine.model.state_dict().items())
    assert engine.step(Steep(2.0**14.5), batch, 1e-3, 0).update == "applied"  # at 2**14


def test_an_infinite_gradient_of_fp16_is_skipped_for_ever() -> None:
    engine = engine_of(precision="fp16", batch_size=2)
    batch = counting(batch_size=2).batches(0)
    updates = [engine.step(Steep(0.5), batch, 1e-3, 0).update for _ in range(18)]
    assert updates == ["skipped"] * 16 + ["refused"] * 2


def test_a_loss_scale_forgets_its_state() -> None:
    scale, other = LossScale(True), LossScale(True)
    for _ in range(1999):
        scale.succeeded()
    other.restore(scale.tensors())
    other.succeeded()
    assert (scale.value, other.value) == (2.0**16, 2.0**17)
    assert other.overflowed()
    assert (other.value, other.good_steps) == (2.0**16, 0)
    assert LossScale(False).tensors() == {}
