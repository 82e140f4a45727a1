"""Independent windows: the law by which a category, a document of it and a start are drawn."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.config import RandomWindows
from paribus.data.mixture import shares
from paribus.data.numbered import uniform
from paribus.data.places import Places


class Draws(NamedTuple):
    """K categories of window starts with their chances."""

    places: Places
    share: NDArray[np.float64]  # (K,): the chance of each category
    is_by_document: bool  # inside a category every document is equally likely, not every start
    seed: int

    def positions(self, first: int, stop: int) -> NDArray[np.int64]:
        """Where the windows first .. stop - 1 of a run begin."""
        places = self.places
        draws = uniform(self.seed, "windows", first, stop, 3 if self.is_by_document else 2).T
        category = np.cumsum(self.share)[:-1].searchsorted(draws[0], side="right")
        if not self.is_by_document:
            return places.positions(_pick(places.bounds, category, draws[1]))
        document = _pick(places.documents, category, draws[1])
        return places.offset[document] + _pick(places.first, document, draws[2]) - places.first[document]

    def expected_targets(self, window: int, num_windows: int) -> float:
        """How many different tokens the first so many windows predict, in expectation.

        A token that m of its document's starts reach, each of chance q, is missed with probability (1 - m q)^windows.
        """
        of_start, starts = self._chance_of_a_start(), np.diff(self.places.first)
        most = np.minimum(window, starts)  # starts that reach a token far from both ends of its document

        def seen(chance_of_a_token: NDArray[np.float64]) -> NDArray[np.float64]:
            with np.errstate(divide="ignore"):  # a token that every window predicts: log of zero
                chance: NDArray[np.float64] = -np.expm1(num_windows * np.log1p(-np.minimum(chance_of_a_token, 1)))
            return chance

        total = ((abs(starts - window) + 1) * seen(most * of_start)).sum()
        for reach in range(1, int(most.max())):
            total += 2 * seen(reach * of_start[most > reach]).sum()
        return float(total)

    def facts(self) -> dict[str, Any]:
        names, sizes = self.places.categories, self.places.sizes()
        return {
            "window_starts": dict(zip(names, sizes.tolist(), strict=True)),
            "shares": dict(zip(names, self.share.tolist(), strict=True)),
        }

    def _chance_of_a_start(self) -> NDArray[np.float64]:
        """(D,) the chance of each single start of a document."""
        documents = np.diff(self.places.documents)
        if self.is_by_document:
            return np.repeat(self.share / documents, documents) / np.diff(self.places.first)
        return np.repeat(self.share / self.places.sizes(), documents)


def weigh(config: RandomWindows, places: Places, seed: int) -> Draws:
    """Raises DataError when explicit weights do not name exactly the categories."""
    share = shares(config.weights, places.categories, np.diff(places.documents), places.sizes())
    return Draws(places, share, config.documents == "uniform", seed)


def _pick(bounds: NDArray[np.int64], group: NDArray[np.int64], draw: NDArray[np.float64]) -> NDArray[np.int64]:
    """The member of each group, bounds[group] to bounds[group + 1], that a number of [0, 1) stands for."""
    # a draw has 53 bits: a group of 2^40 members favours none by more than one part in 2^13
    chosen: NDArray[np.int64] = bounds[group] + (np.diff(bounds)[group] * draw).astype(np.int64)
    return chosen
