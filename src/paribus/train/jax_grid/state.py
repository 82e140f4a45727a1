"""Where the runs of a program are: arrays with a leading axis of runs, on the host, in the order of the runs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Leaves = tuple[NDArray[np.float32], ...]  # L arrays (R, fan_in, fan_out)


@dataclass(frozen=True)
class State:
    """After `step` steps. Its arrays are not to be written."""

    step: int
    ended: NDArray[np.int32]  # (R,) the step whose loss was not to be gone on from; -1: the run goes on
    u: Leaves  # theta - theta_0
    moments: tuple[Leaves, ...]  # Adam's first and second; none for SGD


def to_numpy(state: State) -> dict[str, NDArray[np.generic]]:
    """Flat names for a safetensors file; `step` is a scalar array."""
    arrays: dict[str, NDArray[np.generic]] = {"step": np.asarray(state.step, np.int64), "ended": state.ended}
    for name, leaves in zip(("u", "first", "second"), (state.u, *state.moments), strict=False):
        arrays |= {f"{name}.{layer + 1}": leaf for layer, leaf in enumerate(leaves)}
    return arrays


def from_numpy(arrays: dict[str, NDArray[np.generic]]) -> State:
    """What `to_numpy` was given."""

    def leaves(name: str) -> Leaves:
        count = sum(key.startswith(f"{name}.") for key in arrays)
        return tuple(arrays[f"{name}.{layer + 1}"].astype(np.float32, copy=False) for layer in range(count))

    moments = (leaves("first"), leaves("second")) if "first.1" in arrays else ()
    return State(int(arrays["step"]), arrays["ended"].astype(np.int32, copy=False), leaves("u"), moments)
