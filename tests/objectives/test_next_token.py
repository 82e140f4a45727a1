"""Next-token loss against its definition."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paribus.data.batches import IGNORE, Batch
from paribus.objectives.build import build_objective
from paribus.objectives.config import NextToken


class Fixed(nn.Module):
    """A model whose logits are given."""

    def __init__(self, logits_BTV: Tensor) -> None:
        super().__init__()
        self.logits = logits_BTV

    def forward(self, input_ids: Tensor) -> "Fixed":
        return self


def test_the_loss_is_another_sum_than_minus_log_p_over_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BTV = torch.randn(3, 4, 7, generator=generator)
    targets_BT = torch.randint(0, 7, (3, 4), generator=generator)
    targets_BT[1, 2:] = IGNORE
    loss, more = build_objective(NextToken())(Fixed(logits_BTV), torch.zeros(3, 4, dtype=torch.int64), targets_BT)
    expected = 0.0
    for b in range(3):
        for t in range(4):
            if targets_BT[b, t] != IGNORE:
                p = np.exp(logits_BTV[b, t].double().numpy())
                expected -= float(np.log(p[targets_BT[b, t]] / p.sum()))
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert more == {}


def test_masked_targets_are_counted() -> None:
    targets = np.full((3, 4), IGNORE, np.int32)
    objective = build_objective(NextToken())
    batch = Batch(np.zeros((3, 4), np.int32), targets, np.arange(3))
    assert objective.weight(batch) == 1.0  # nothing to predict: a loss of 0, not of 0 / 0
    targets[0, :3] = 5
    assert objective.weight(batch) == 3.0


def test_a_16_bit_loss_loses_the_tail() -> None:
    logits_BTV = torch.linspace(-1, 1, 50_000).view(1, 1, -1)
    targets_BT = torch.zeros(1, 1, dtype=torch.int64)
    exact, _ = build_objective(NextToken())(Fixed(logits_BTV), targets_BT, targets_BT)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = build_objective(NextToken())(Fixed(logits_BTV.bfloat16()), targets_BT, targets_BT)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), abs=1e-4)
