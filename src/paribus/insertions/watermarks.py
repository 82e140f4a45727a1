"""Watermarks as a plan holds them: which rows of which steps get which noise. No token is written."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from paribus.data.batches import Batch, Noise, Stream
from paribus.data.generators import key


class Mark(NamedTuple):
    """One watermark: Gaussian noise on the input embeddings of the first rows of its steps."""

    name: str
    steps: tuple[int, ...]  # ascending
    rows: int
    std: float
    key: int
    is_shared: bool  # every step gets the noise of the first

    @classmethod
    def from_json(cls, name: str, facts: Mapping[str, Any]) -> "Mark":
        steps, is_shared = tuple(facts["steps"]), facts["noise"] == "shared"
        return cls(name, steps, facts["rows"], facts["noise_std"], int(facts["key"], 16), is_shared)

    def to_json(self) -> dict[str, Any]:
        noise = "shared" if self.is_shared else "each_step"
        facts = {"steps": list(self.steps), "rows": self.rows, "noise_std": self.std, "noise": noise}
        return {"kind": "watermark", **facts, "key": f"{self.key:016x}"}

    def counter(self, step: int) -> int:
        """The step whose noise a step gets."""
        return self.steps[0] if self.is_shared else step

    def noise(self, step: int) -> Noise:
        return Noise(self.std, self.key, self.counter(step), self.rows)


def noise_key(seed: int, name: str) -> int:
    """What the noise of an experiment is generated from."""
    return key(seed, f"watermark: {name}") % 2**64


def null_key(seed: int, name: str, number: int) -> int:
    """A key whose noise no run is trained with: what a statistic of the true noise is compared with."""
    return key(seed, f"null of watermark: {name}", number) % 2**64


def with_noise(stream: Stream, noise: Callable[[int], Noise | None]) -> Stream:
    """The stream whose batches carry the noise of their step."""

    def batches(step: int) -> Batch:
        return stream.batches(step)._replace(noise=noise(step))

    return stream._replace(batches=batches)


class Treatment(NamedTuple):
    """What a run with insertions reads; of a control, what the treated run would have read in its place."""

    stream: Stream  # insertions and noise included
    marks: Sequence[Mark]
    unseen: frozenset[str]  # those that this run is not trained on
