"""Non-overlapping chunks: which of them make up an epoch, and their order in it."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.config import AllChunks, ConstantTotal, ConstantUnique, Design
from paribus.data.permutation import nth_key, permute, shuffle_key
from paribus.data.places import Places
from paribus.errors import DataError

Numbers = NDArray[np.int64]


class Epochs(NamedTuple):
    """A design applied to K categories of chunks: every epoch has the same number of slots of each, in its own order."""

    design: Design
    places: Places
    quota: Numbers  # (K,): slots of each category in an epoch
    order_key: np.uint64
    category_keys: NDArray[np.uint64]  # (K,)

    @property
    def slots(self) -> int:
        return int(self.quota.sum())

    def positions(self, first: int, stop: int) -> Numbers:
        """Where the windows first .. stop - 1 of a run begin."""
        return self.places.positions(self.chunks(first, stop))

    def chunks(self, first: int, stop: int) -> Numbers:
        """The places of the windows first .. stop - 1, counted through all epochs."""
        number = np.arange(first, stop)
        epoch = number // self.slots
        is_within_one = first // self.slots == (stop - 1) // self.slots
        order = nth_key(self.order_key, first // self.slots if is_within_one else epoch)  # a single key is faster
        slot = permute(number - epoch * self.slots, self.slots, order)
        if isinstance(self.design, AllChunks):
            return slot  # the quota are the sizes: slots and places are numbered alike
        category, rank = self._dealt(slot)
        keys, sizes = self.category_keys[category], self.places.sizes()[category]
        if isinstance(self.design, ConstantTotal):  # a category counts on over the epochs; each pass has its own order
            rank += epoch * self.quota[category]
            passes = rank // sizes
            rank -= passes * sizes
            keys = nth_key(keys, passes)
        return self.places.bounds[category] + permute(rank, sizes, keys)

    def num_distinct(self, num_windows: int | None = None) -> int:
        """How many chunks the first so many windows hold; None: all windows of an endless run."""
        if not isinstance(self.design, ConstantTotal):
            return self.slots if num_windows is None else min(num_windows, self.slots)
        if num_windows is None:
            return int(self.places.bounds[-1])
        epochs = num_windows // self.slots
        seen = np.zeros(self.places.bounds[-1], bool)
        seen[self.chunks(epochs * self.slots, num_windows)] = True
        for bound, size, quota, key in zip(
            self.places.bounds, self.places.sizes(), self.quota, self.category_keys, strict=False
        ):
            first_pass = np.arange(min(size, epochs * quota))
            seen[bound + permute(first_pass, size, nth_key(key, 0))] = True
        return int(seen.sum())

    def facts(self) -> dict[str, Any]:
        names = self.places.categories
        return {
            "design": self.design.kind,
            "chunks": dict(zip(names, self.places.sizes().tolist(), strict=True)),
            "quota": dict(zip(names, self.quota.tolist(), strict=True)),
            "chunks_per_epoch": self.slots,
        }

    def _dealt(self, slot: Numbers) -> tuple[Numbers, Numbers]:
        """The category of each slot of an epoch, and its rank among the slots of that category."""
        ends = np.cumsum(self.quota)
        category = ends.searchsorted(slot, side="right")
        return category, slot - (ends - self.quota)[category]


def plan_epochs(design: Design, places: Places, seed: int) -> Epochs:
    """Apply a design. Raises DataError when it takes less than a chunk of each category, or more than there are."""
    keys = [shuffle_key(seed, "chunks of a category: " + name) for name in places.categories]
    epochs = Epochs(design, places, _quota(design, places), shuffle_key(seed, "order of chunks"), np.array(keys))
    if isinstance(design, ConstantUnique):
        _check_enough(design, epochs)
    return epochs


def _quota(design: Design, places: Places) -> Numbers:
    sizes = places.sizes()
    if isinstance(design, AllChunks):
        return sizes
    if (quota := design.chunks // len(sizes)) < 1:
        raise DataError(
            f"windows.design.chunks: found {design.chunks}, expected at least {len(sizes)}: one for each category"
        )
    return np.full_like(sizes, quota)


def _check_enough(design: ConstantUnique, epochs: Epochs) -> None:
    sizes = dict(zip(epochs.places.categories, epochs.places.sizes().tolist(), strict=True))
    quota = int(epochs.quota[0])
    short = [f"{name} has {size:,} ({quota - size:,} short)" for name, size in sizes.items() if size < quota]
    if short:
        raise DataError(
            f"windows.design.chunks: {design.chunks:,} over {len(sizes)} categories takes {quota:,} chunks of each, but "
            f"{', '.join(short)}; at most {min(sizes.values()) * len(sizes):,} are possible, or use constant_total"
        )
