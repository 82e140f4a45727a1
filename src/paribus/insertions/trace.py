"""What a plan did to the rows of a step: every span with what stood there before, and whatever it does not explain.

Dimension key: B rows of S tokens."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import Overlay, untouched
from paribus.insertions.plan import Plan

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Rows = NDArray[np.int32]


class Change(NamedTuple):
    """One planned span as it was applied."""

    step: int
    row: int
    offset: int
    experiment: str
    item: int  # line of the experiment's file
    repetition: int
    old: list[int]
    new: list[int]

    def to_json(self, tokenizer: "Tokenizer | None" = None) -> dict[str, Any]:
        """As an object; with a tokenizer, the decoded texts beside the ids."""
        sides = {"old_text": self.old, "new_text": self.new} if tokenizer is not None else {}
        texts = {name: tokenizer.decode(ids, skip_special_tokens=False) for name, ids in sides.items() if tokenizer}
        return {**self._asdict(), **texts}


class Foreign(NamedTuple):
    """One token that neither the base stream nor the plan explains."""

    step: int
    row: int
    offset: int
    found: int
    expected: int


class Watch:
    """An overlay that keeps the rows of the last step as they were before and after the plan was written over them."""

    def __init__(self, overlay: Overlay = untouched) -> None:
        self._overlay = overlay
        self.before: Rows = np.empty((0, 0), np.int32)
        self.after: Rows = np.empty((0, 0), np.int32)

    def __call__(self, step: int, rows_BS: Rows) -> None:
        self.before = rows_BS.copy()
        self._overlay(step, rows_BS)
        self.after = rows_BS.copy()


def changes(plan: Plan, step: int, before_BS: Rows) -> Iterator[Change]:
    """Every span that the plan writes over these rows, in training order."""
    some, spans, names = plan.of_step(step), plan.spans, plan.experiments
    for number in range(some.start, some.stop):
        low, high = int(spans.offsets[number]), int(spans.offsets[number + 1])
        _, row, offset = plan.place(int(spans.start[number]))
        yield Change(
            step,
            row,
            offset,
            names[int(spans.experiment[number])],
            int(spans.item[number]),
            int(spans.repetition[number]),
            before_BS[row, offset : offset + high - low].tolist(),
            spans.tokens[low:high].tolist(),
        )


def foreign(plan: Plan | None, step: int, before_BS: Rows, consumed_BS: Rows, limit: int = 100) -> list[Foreign]:
    """The first tokens of a step that are neither what the base stream holds nor what the plan writes over it."""
    expected = before_BS.copy()
    if plan is not None:
        plan.overlay(step, expected)
    places = np.argwhere(expected != consumed_BS)[:limit].tolist()
    return [
        Foreign(step, row, offset, int(consumed_BS[row, offset]), int(expected[row, offset])) for row, offset in places
    ]
