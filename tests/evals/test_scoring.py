"""Oracles: torch's own cross-entropy in float64, the model's and the generators' states before and after."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from paribus.data.config import CoinsData
from paribus.data.generators import generator
from paribus.evals.scoring import EvalContext, forward, score, scoring, token_losses

CONTEXT = EvalContext(CoinsData(num_components=2, window=24))


def rows(n: int) -> np.ndarray:
    return generator(0, "test").integers(0, 40, (n, 24), dtype=np.int32)


def test_losses_are_those_of_float64_cross_entropy_and_masked_targets_cost_nothing():
    draw = generator(0, "test")
    logits = torch.from_numpy(draw.normal(0, 3, (5, 7, 600_000 // 35)).astype(np.float32))
    targets = torch.from_numpy(draw.integers(0, logits.shape[-1], (5, 7)))
    targets[2, 3:] = -100
    found = token_losses(logits, targets)
    truth = F.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="none").view(5, 7)
    assert found.dtype == torch.float32
    assert (found[2, 3:] == 0).all()
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-6)


def test_half_precision_logits_are_summed_in_fp32():
    logits = torch.zeros(1, 1, 50_000, dtype=torch.bfloat16)
    assert token_losses(logits, torch.zeros(1, 1, dtype=torch.long)).item() == pytest.approx(np.log(50_000), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_rows_keep_their_order_for_any_batch_size(tiny_models, batch_size):
    tokens = rows(10)
    found = score(tiny_models["llama"], tokens, batch_size, lambda logits, _: logits[:, :, :5], CONTEXT)
    with torch.inference_mode():
        truth = tiny_models["llama"](input_ids=torch.from_numpy(tokens).long()).logits[:, :, :5]
    np.testing.assert_allclose(found, truth, atol=2e-6)


def test_measures_see_the_rows_that_the_logits_belong_to(tiny_models):
    seen = []
    score(
        tiny_models["gpt2"], rows(7), 3, lambda x, r: (seen.append((r.start, r.stop, len(x))), x[:, 0, 0])[1], CONTEXT
    )
    assert seen == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]


def test_scoring_leaves_no_trace_on_model_and_generators(micro):
    """Dropout is on, and one module was frozen in evaluation mode: both must be as before, and weights trainable."""
    micro.train()
    micro.gpt_neox.layers[0].eval()
    modes = [module.training for module in micro.modules()]
    weights = {name: value.clone() for name, value in micro.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    score(micro, rows(6) % 3, 4, lambda logits, _: logits[:, 0], CONTEXT)
    assert [module.training for module in micro.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()
    assert all(torch.equal(weights[name], value) for name, value in micro.state_dict().items())
    assert torch.is_grad_enabled()
    micro(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()


def test_a_failing_measure_leaves_the_model_in_training_mode(micro):
    micro.train()

    def fail(logits, rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(micro, rows(2) % 3, 2, fail, CONTEXT)
    assert all(module.training for module in micro.modules())


def test_dropout_is_off_so_that_two_passes_agree_bit_for_bit(micro):
    for module in micro.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    micro.train()
    first, second = (score(micro, rows(6) % 3, 4, lambda x, _: x[:, -1], CONTEXT) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_precision_is_that_of_the_context(tiny_models):
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        context = CONTEXT._replace(precision=precision)
        with scoring(tiny_models["gpt_neox"], context):
            assert forward(tiny_models["gpt_neox"], rows(2), context).dtype == dtype


def test_the_progress_bar_goes_to_its_console_and_nowhere_else(tiny_models, capsys):
    console = Console(stderr=True, force_terminal=True, width=80)
    score(tiny_models["gpt2"], rows(4), 2, lambda x, _: x[:, 0, 0], CONTEXT._replace(console=console))
    score(tiny_models["gpt2"], rows(4), 2, lambda x, _: x[:, 0, 0], CONTEXT)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "evaluating" in captured.err
