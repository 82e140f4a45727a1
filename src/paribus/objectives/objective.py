"""The seam between an objective and the engines: sums over micro-batches, and the weight of the global batch."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from paribus.data.batches import Batch


class Objective(Protocol):
    """What a run minimises: sum of losses / weight of the global batch.

    An engine divides by the weight of the *global* batch, so neither micro-batches nor ranks change the mean."""

    def weight(self, batch: Batch) -> float:
        """How many losses the batch sums: the divisor that makes the sum a mean."""

    def __call__(self, model: nn.Module, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The summed loss of these rows, to differentiate, and further sums to log, detached; all scalars on the device.

        tokens_BT, targets_BT: (B, T) int64 on the model's device."""
