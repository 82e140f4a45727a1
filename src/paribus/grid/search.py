"""Searches over eta: each next trial is a pure function of the trials before it, so that a search resumes as it began."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from paribus.train.jax_grid.config import Bisection, Descending, GoldenSection, Search

_GOLDEN = (math.sqrt(5) - 1) / 2
_SLACK = 1e-9  # in log2 eta: what rounding may add up to


class Trial(NamedTuple):
    """An eta that was trained, and what came of it."""

    eta: float
    is_stable: bool  # it ended, and not above its initial loss
    loss: float  # final held-out loss; inf where it is not stable


class Found(NamedTuple):
    """The result of a search: eta with the interval that the search has narrowed it down to."""

    eta: float | None  # None: no trial was stable
    low: float
    high: float
    is_bracketed: bool  # False: it may lie beyond the range that was searched


def next_eta(search: Search, trials: Sequence[Trial]) -> float | None:
    """The eta to train next; None when the search has found what it looks for."""
    match search:
        case Bisection():
            return _bisect(search, trials)
        case GoldenSection():
            return _golden(search, trials)
        case Descending():
            return _descend(search, trials)


def outcome(search: Search, trials: Sequence[Trial]) -> Found:
    """What the trials of a search say: eta_max of a bisection or a descent, eta* of a golden-section search."""
    if isinstance(search, GoldenSection):
        return _minimum(search, trials)
    stable = [trial.eta for trial in trials if trial.is_stable]
    best = max(stable, default=None)
    above = [trial.eta for trial in trials if not trial.is_stable and (best is None or trial.eta > best)]
    lowest = min(trial.eta for trial in trials)
    return Found(best, best or lowest, min(above, default=math.inf), best is not None and bool(above))


def _bisect(search: Bisection, trials: Sequence[Trial]) -> float | None:
    """Both ends first; then the geometric mean of the largest stable eta and the smallest unstable one above it."""
    known = {trial.eta: trial.is_stable for trial in trials}
    for end in (search.high, search.low):
        if end not in known:
            return end
    if known[search.high] or not known[search.low]:
        return None
    low = max(eta for eta, is_stable in known.items() if is_stable)
    high = min(eta for eta, is_stable in known.items() if not is_stable and eta > low)
    return None if math.log2(high / low) <= search.tolerance_log2 + _SLACK else math.sqrt(low * high)


def _golden(search: GoldenSection, trials: Sequence[Trial]) -> float | None:
    """Golden-section search (Kiefer 1953) in log2 eta for the lowest loss; an unstable eta is worse than any stable one.

    Where both inner points are unstable, the minimum lies below them: eta_max bounds the stable ones from above."""
    losses = {trial.eta: trial.loss for trial in trials}
    low, high = math.log2(search.low), math.log2(search.high)
    while high - low > search.tolerance_log2 + _SLACK:
        inner = [math.exp2(high - _GOLDEN * (high - low)), math.exp2(low + _GOLDEN * (high - low))]
        for eta in inner:
            if _nearest(losses, eta) is None:
                return eta
        left, right = (losses[_known(losses, eta)] for eta in inner)
        if left <= right:
            high = math.log2(inner[1])
        else:
            low = math.log2(inner[0])
    return None


def _minimum(search: GoldenSection, trials: Sequence[Trial]) -> Found:
    best = min(trials, key=lambda trial: trial.loss)
    etas = sorted(trial.eta for trial in trials)
    place = etas.index(best.eta)
    low = etas[place - 1] if place else search.low
    high = etas[place + 1] if place + 1 < len(etas) else search.high
    if not math.isfinite(best.loss):
        return Found(None, low, high, False)
    return Found(best.eta, low, high, 0 < place < len(etas) - 1)


def _nearest(losses: dict[float, float], eta: float) -> float | None:
    """The trial at this eta, up to what rounding makes of golden sections that coincide."""
    return next((known for known in losses if abs(math.log2(known / eta)) < 1e-6), None)


def _known(losses: dict[float, float], eta: float) -> float:
    found = _nearest(losses, eta)
    assert found is not None
    return found


def _descend(search: Descending, trials: Sequence[Trial]) -> float | None:
    """Down the grid, `per_decade` a decade; the spec's two rules say when the stable ones are enough."""
    etas = descending_etas(search)
    if len(trials) == len(etas):
        return None
    stable = [trial.eta for trial in trials if trial.is_stable]
    following = etas[len(trials)]
    if stable and search.decades is not None and math.log10(max(stable) / following) > search.decades + _SLACK:
        return None
    row = [trial.is_stable for trial in trials[-(search.depth or 0) :]]
    if search.depth is not None and len(row) == search.depth and all(row):
        return None
    return following


def descending_etas(search: Descending) -> list[float]:
    """From `high` down to `low`, evenly in log eta."""
    count = math.floor(math.log10(search.high / search.low) * search.per_decade + _SLACK) + 1
    first = math.log10(search.high)
    return [math.pow(10.0, first - i / search.per_decade) for i in range(count)]
