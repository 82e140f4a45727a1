"""The arithmetic of one optimizer step, which every engine shares: accumulate, measure, clip, update."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from paribus.data.batches import Batch, Noise
from paribus.errors import ConfigError
from paribus.models.noise import normal, through
from paribus.objectives.objective import Objective
from paribus.train.config import TrainConfig
from paribus.train.engine import StepReport

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Share(NamedTuple):
    """How one rank takes part in a step."""

    rank: int
    world: int
    device: torch.device
    reduce: Callable[[Tensor], None] = lambda sums: None  # sums a tensor over ranks, in place
    gradient_factor: float = 1.0  # undoes the mean over ranks that ddp and fsdp2 take of the gradients
    without_sync: Callable[[], AbstractContextManager[None]] = nullcontext  # around all but the last micro-batch


class Update:
    """One rank's side of the optimizer steps of one model. `forward` is the module to call: wrapped, where ddp wraps."""

    def __init__(self, config: TrainConfig, forward: nn.Module, optimizer: torch.optim.Optimizer, share: Share) -> None:
        if config.batch_size % share.world:
            raise ConfigError(
                f"train.batch_size: {config.batch_size} windows cannot be cut evenly over {share.world} ranks"
            )
        self._config, self._forward, self.optimizer, self._share = config, forward, optimizer, share
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scale = LossScale(config.precision == "fp16")

    def step(self, objective: Objective, batch: Batch, lr: float, seed: int) -> StepReport:
        """One optimizer step on the global batch; see Engine.step."""
        weight = objective.weight(batch)
        factor = self.scale.value / weight * self._share.gradient_factor
        sums, names = self._accumulate(objective, batch, seed, factor)
        self._share.reduce(sums)
        grads = [p.grad for p in self._parameters if p.grad is not None]
        norms = whole(torch.nn.utils.get_total_norm(grads)).double().view(1) / self.scale.value
        loss, *more, norm = torch.cat([sums / weight, norms]).tolist()  # waits for the device
        update = self._judge(loss, norm)
        if update == "applied":
            self._apply(grads, norm, lr)
        self.optimizer.zero_grad(set_to_none=True)
        return StepReport(loss, norm, dict(zip(names, more, strict=True)), update)

    def _accumulate(self, objective: Objective, batch: Batch, seed: int, factor: float) -> tuple[Tensor, list[str]]:
        """Run this rank's micro-batches; return its sums (the loss first, fp64) and the names of the others.

        Dropout is seeded by the step and the micro-batch's first row in the global batch: resuming needs no random state."""
        share, rows = self._share, self._config.batch_size // self._share.world
        size = min(self._config.micro_batch_size or rows, rows)
        starts = range(share.rank * rows, (share.rank + 1) * rows, size)
        sums: Tensor | None = None
        names: list[str] = []
        for start in starts:
            micro = batch.rows(start, min(start + size, starts.stop))
            _seed_dropout(seed + start, share.device)
            with nullcontext() if start == starts[-1] else share.without_sync():
                loss, more = self._loss(objective, micro)
                torch.autograd.backward(loss * factor)
            names = list(more)
            part = torch.stack([loss.detach(), *more.values()]).double()
            sums = part if sums is None else sums + part
        assert sums is not None
        return sums, names

    def _loss(self, objective: Objective, micro: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self._share.device
        tokens_BT, targets_BT = (torch.from_numpy(x).to(device, torch.int64) for x in (micro.tokens, micro.targets))
        dtype = DTYPES[self._config.precision]
        with (
            _noisy(self._forward, micro.noise),
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        ):
            loss, more = objective(self._forward, tokens_BT, targets_BT)
        return loss, dict(more)

    def _judge(self, loss: float, norm: float) -> Literal["applied", "skipped", "refused"]:
        """Whether to update. Every rank sees the same numbers, so every rank judges alike."""
        if not math.isfinite(loss):
            return "refused"
        if math.isfinite(norm):
            return "applied"
        return "skipped" if self.scale.overflowed() else "refused"

    def _apply(self, grads: list[Tensor], norm: float, lr: float) -> None:
        """Clip, take the loss scale out of the gradients, and update."""
        clip = self._config.clip_norm
        factor = (min(1.0, clip / (norm + 1e-6)) if clip else 1.0) / self.scale.value  # as torch's clip_grad_norm_ does
        if factor != 1.0:
            torch._foreach_mul_(grads, factor)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.scale.succeeded()


class LossScale:
    """The factor that keeps fp16 gradients from vanishing: halved by an overflow, doubled after 2,000 good steps.

    2**16 and 2,000 are PyTorch's defaults; the method is Micikevicius et al. 2018, section 3.2. Off, it stays 1."""

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self.value = 2.0**16 if is_on else 1.0
        self.good_steps = 0

    def overflowed(self) -> bool:
        """Halve, and say whether that can help: at 1 the gradients themselves are at fault."""
        if self.value <= 1.0:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """Count a good step; double after enough of them."""
        self.good_steps += self.is_on
        if self.good_steps == 2000:
            self.value, self.good_steps = self.value * 2, 0

    def tensors(self) -> dict[str, Tensor]:
        """Its state, as part of a checkpoint; none while it is off."""
        state = torch.tensor([self.value, self.good_steps], dtype=torch.float64)
        return {"loss_scale": state} if self.is_on else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        if self.is_on and "loss_scale" in tensors:
            value, good_steps = tensors["loss_scale"].tolist()
            self.value, self.good_steps = float(value), int(good_steps)


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor's full value, on every rank; any other tensor as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _noisy(model: nn.Module, noise: Noise | None) -> AbstractContextManager[None]:
    """Around a forward pass: adds the noise to the input embeddings of the rows that it is for."""
    if noise is None or noise.num_rows <= noise.row:
        return nullcontext()

    def add(e_BTD: Tensor) -> Tensor:
        size, positions, dimensions = e_BTD.shape
        count = noise.of(size)
        rows = range(noise.row, noise.row + count)
        w_BTD = normal(noise.key, [noise.step] * count, rows, positions, dimensions, e_BTD.device) * noise.std
        return torch.cat([e_BTD[:count] + w_BTD.to(e_BTD.dtype), e_BTD[count:]])

    return through(model, add)


def _seed_dropout(seed: int, device: torch.device) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
