"""Next-token cross-entropy in nats."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paribus.data.batches import IGNORE, Batch


class NextTokenLoss:
    """Cross-entropy of each target given the tokens before it; targets that are IGNORE take no part."""

    def weight(self, batch: Batch) -> float:
        """The number of targets; 1 for a batch that has none, whose loss is then 0."""
        return float(max((batch.targets != IGNORE).sum(), 1))

    def __call__(self, model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The sum over targets, in fp32 whatever the autocast: 16-bit logits lose the tail of a large vocabulary."""
        logits_BTV = model(input_ids=tokens_BT).logits
        with torch.autocast(logits_BTV.device.type, enabled=False):
            loss = F.cross_entropy(
                logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
            )
        return loss, {}
