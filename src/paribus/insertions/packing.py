"""Where the copies of a plan go: random places that depend on nothing else while there is room, exact packing when not.

A place is a coordinate of the stream in training order: g = (step * B + row of the batch) * S + offset, S tokens a row.
Rows are numbered through all steps. A copy lies inside one row and overlaps no other.

Dimension key: N copies, F fixed spans, S tokens of a row."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import generator
from paribus.data.permutation import nth_key

Ints = NDArray[np.int64]
_HALF = np.uint64(32)
_ROW_ATTEMPTS = 48  # at 95 % occupancy a copy in fifty is left to best fit after them
_SEARCHED, _BRANCHES = 64, 50_000  # copies and branches up to which every packing is tried: a second at most
_OFFSET_ATTEMPTS = 12  # rows in which a copy still overlaps another are packed anew
_OFFSET_DRAWS = 2**20  # numbers the draws inside a row apart from those of the row


class Copies(NamedTuple):
    """N copies to place, each with the rows that it may take: `choices` of them, from the first-th row of its span on."""

    length: Ints  # (N,): tokens, 1 to S
    key: NDArray[
        np.uint64
    ]  # (N,): a hash of (seed, experiment, item, repetition); also its priority where two want a place
    span: NDArray[np.int32]  # (N,): index of the intervals of rows it may take
    first: Ints  # (N,): the first of them, counted inside those intervals
    choices: Ints  # (N,): how many

    def take(self, some: NDArray[np.integer] | NDArray[np.bool_]) -> "Copies":
        return Copies(self.length[some], self.key[some], self.span[some], self.first[some], self.choices[some])


class Intervals(NamedTuple):
    """Disjoint, ascending intervals of rows: [start, stop)."""

    start: Ints
    stop: Ints

    @property
    def num_rows(self) -> int:
        return int((self.stop - self.start).sum())

    def rows(self, number: Ints) -> Ints:
        """The rows that have these numbers when the rows of all intervals are counted."""
        ends = np.cumsum(self.stop - self.start)
        interval = ends.searchsorted(number, side="right")
        rows: Ints = self.start[interval] + number - (ends - (self.stop - self.start))[interval]
        return rows


class Bins:
    """Room to place copies in: a whole row, or what fixed spans leave of one.

    Bin n is row n where that row is untouched; the pieces of other rows are numbered after the last row."""

    def __init__(self, num_rows: int, row_tokens: int, fixed_start: Ints, fixed_length: Ints) -> None:
        """fixed_start: (F,) coordinates, sorted; fixed_length: (F,). They overlap nowhere and cross no row."""
        self.num_rows, self.row_tokens = num_rows, row_tokens
        rows = np.unique(fixed_start // row_tokens)
        # the pieces lie between the edges of a row and the spans inside it
        opens = np.sort(np.concatenate([rows * row_tokens, fixed_start + fixed_length]))
        closes = np.sort(np.concatenate([fixed_start, (rows + 1) * row_tokens]))
        is_real = closes > opens
        self.piece_start, self.piece_tokens = opens[is_real], (closes - opens)[is_real]
        self.cut_rows = rows
        self.empty()

    def empty(self) -> None:
        """Take every copy out again."""
        self.used = np.zeros(self.num_rows, np.int32)  # pages that nothing touches take no memory
        self.used[self.cut_rows] = self.row_tokens  # such a row is no bin: its pieces are
        self.piece_used = np.zeros(len(self.piece_start), np.int32)

    def at(self, row: Ints, offset: Ints, length: Ints) -> Ints:
        """The bin in which a copy at this place would lie; -1 where a fixed span is in its way."""
        bin_ = row.copy()
        cut = np.flatnonzero(np.isin(row, self.cut_rows)) if len(self.cut_rows) else self.cut_rows
        if len(cut) and not len(self.piece_start):
            bin_[cut] = -1
        elif len(cut):
            start = row[cut] * self.row_tokens + offset[cut]
            piece = self.piece_start.searchsorted(start, side="right") - 1
            fits = piece >= 0
            fits &= start + length[cut] <= self.piece_start[piece] + self.piece_tokens[piece]
            bin_[cut] = np.where(fits, self.num_rows + piece, -1)
        return bin_

    def start(self, bin_: Ints) -> Ints:
        """The first coordinate of each bin."""
        start = bin_ * self.row_tokens
        piece = bin_ >= self.num_rows
        start[piece] = self.piece_start[bin_[piece] - self.num_rows]
        return start

    def size(self, bin_: Ints) -> Ints:
        """How many tokens each bin holds when it is empty."""
        size = np.full(bin_.shape, self.row_tokens, np.int64)
        piece = bin_ >= self.num_rows
        size[piece] = self.piece_tokens[bin_[piece] - self.num_rows]
        return size

    def free(self, bin_: Ints) -> Ints:
        piece = bin_ >= self.num_rows
        used = np.empty(bin_.shape, np.int64)
        used[~piece] = self.used[bin_[~piece]]
        used[piece] = self.piece_used[bin_[piece] - self.num_rows]
        return self.size(bin_) - used

    def fill(self, bin_: Ints, length: Ints) -> None:
        """Take room; a bin may be named several times."""
        piece = bin_ >= self.num_rows
        np.add.at(self.used, bin_[~piece], length[~piece].astype(np.int32))
        np.add.at(self.piece_used, bin_[piece] - self.num_rows, length[piece].astype(np.int32))

    def of_rows(self, rows: Ints) -> Ints:
        """Every bin that lies in these rows and has room."""
        piece = np.flatnonzero(np.isin(self.piece_start // self.row_tokens, rows)) + self.num_rows
        bins = np.concatenate([rows[self.used[rows] < self.row_tokens], piece])
        return bins[self.free(bins) > 0]


class Placed(NamedTuple):
    start: Ints  # (N,): coordinates; -1: found no place
    num_packed: int  # copies that took the place that was left, not one of their own choice


def place(copies: Copies, spans: list[Intervals], bins: Bins, seed: int) -> Placed:
    """Place every copy inside a row of its own span; bins is filled.

    The place of a copy is a function of its key and an attempt: without another experiment it stays where it is, save
    where the two collide. Copies with few rows to choose from are served first. What finds no room by choice takes the
    bin that it fits best, the longest first; if that fails everything is packed so, from the beginning. Bin packing is
    NP-hard: of up to 64 copies the packings are searched, for more best fit may miss one that leaves next to no room."""
    bin_, offset = np.full(len(copies.length), -1), np.zeros(len(copies.length), np.int64)
    packed = np.zeros(len(copies.length), bool)
    for group in _by_choice(copies):
        some = copies.take(group)
        bin_[group], offset[group] = _choose_bins(some, spans, bins)
        left = group[bin_[group] < 0]
        packed[left] = True
        bin_[left] = _best_fit(copies.take(left), spans, bins)
    if (bin_ < 0).any():
        before = bin_
        bins.empty()
        bin_ = _best_fit(copies, spans, bins)
        packed[:] = True
        if (bin_ < 0).any():
            before = min(before, bin_, key=lambda found: int((found < 0).sum()))
            bins.empty()
            bin_ = _search(copies, spans, bins)
        if (bin_ < 0).any():  # report the attempt that placed most
            return Placed(before, 0)
    return Placed(_offsets(copies, bins, bin_, offset, packed, seed), int(packed.sum()))


def _by_choice(copies: Copies) -> Iterator[Ints]:
    """The copies that may take equally many rows, the choosiest first."""
    order = np.argsort(copies.choices, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(copies.choices[order])) + 1):
        if len(group):
            yield group


def _choose_bins(copies: Copies, spans: list[Intervals], bins: Bins) -> tuple[Ints, Ints]:
    """(bin, offset from its start) of each copy by its own draws; -1 for those that found no room."""
    bin_, offset = np.full(len(copies.length), -1), np.zeros(len(copies.length), np.int64)
    pending = np.argsort(copies.key)  # from here on a lower index is a higher priority
    for attempt in range(_ROW_ATTEMPTS):
        some = copies.take(pending)
        draw = nth_key(some.key, attempt)
        row = _rows(some, spans, some.first + _below(some.choices, draw >> _HALF))
        place_ = _below(bins.row_tokens - some.length + 1, draw & np.uint64(2**32 - 1))
        found = bins.at(row, place_, some.length)
        fits = _fitting(found, some.length, bins)
        bins.fill(found[fits], some.length[fits])
        bin_[pending[fits]] = found[fits]
        starts = bins.start(found[fits])
        offset[pending[fits]] = row[fits] * bins.row_tokens + place_[fits] - starts
        pending = pending[~fits]
        if not len(pending):
            break
    return bin_, offset


def _rows(copies: Copies, spans: list[Intervals], number: Ints) -> Ints:
    """The row that has a number among those of each copy's span."""
    if len(spans) == 1:
        return spans[0].rows(number)
    row = np.empty(len(number), np.int64)
    for index in np.unique(copies.span):
        own = copies.span == index
        row[own] = spans[index].rows(number[own])
    return row


def _below(bound: Ints, word: NDArray[np.uint64]) -> Ints:
    """32 random bits as a number below each bound (which is below 2^31)."""
    return (word * bound.astype(np.uint64) >> _HALF).astype(np.int64)


def _fitting(bin_: Ints, length: Ints, bins: Bins) -> NDArray[np.bool_]:
    """Which copies fit when those of a bin are let in one after another until the first is refused."""
    order = np.argsort(bin_, kind="stable")
    bin_, length = bin_[order], length[order]
    is_first = np.append(True, bin_[1:] != bin_[:-1])
    total = np.cumsum(length)
    begin = np.maximum.accumulate(np.where(is_first, total - length, 0))
    fits = np.zeros(len(order), bool)
    real = bin_ >= 0
    fits[order[real]] = (total - begin)[real] <= bins.free(bin_[real])
    return fits


def _best_fit(copies: Copies, spans: list[Intervals], bins: Bins) -> Ints:
    """Best fit decreasing, the copies with the fewest rows first; -1 for those that nothing is left for. Fills bins."""
    bin_ = np.full(len(copies.length), -1)
    order = np.lexsort((copies.key, -copies.length, copies.first, copies.span, copies.choices))
    window = np.stack([copies.span, copies.first, copies.choices], 1)[order]
    for members in np.split(order, np.flatnonzero((np.diff(window, axis=0) != 0).any(1)) + 1):
        if not len(members):
            continue
        first = members[0]
        numbers = np.arange(copies.first[first], copies.first[first] + copies.choices[first])
        candidates = bins.of_rows(spans[copies.span[first]].rows(numbers))
        room = sorted(zip(bins.free(candidates).tolist(), candidates.tolist(), strict=True))
        for member, length in zip(members.tolist(), copies.length[members].tolist(), strict=True):
            index = bisect_left(room, (length, -1))
            if index == len(room):
                continue
            free, bin_[member] = room.pop(index)
            if free > length:
                insort(room, (free - length, int(bin_[member])))
        placed = members[bin_[members] >= 0]
        bins.fill(bin_[placed], copies.length[placed])
    return bin_


def _search(copies: Copies, spans: list[Intervals], bins: Bins) -> Ints:
    """A packing of all copies into bins that are empty, found by trying them in turn, the longest first; all -1 if none is.

    Gives up for many copies, and after many branches. Bins that are alike are tried once. Fills bins."""
    nowhere = np.full(len(copies.length), -1)
    if len(nowhere) > _SEARCHED:
        return nowhere
    windows = list(zip(copies.span.tolist(), copies.first.tolist(), copies.choices.tolist(), strict=True))
    open_to = {
        window: bins.of_rows(spans[window[0]].rows(np.arange(window[1], window[1] + window[2]))).tolist()
        for window in set(windows)
    }
    reach = {b: tuple(b in open_to[window] for window in open_to) for found in open_to.values() for b in found}
    free = {b: int(bins.free(np.array([b]))[0]) for b in reach}
    lengths, order = copies.length.tolist(), np.argsort(-copies.length, kind="stable").tolist()
    chosen, branches = nowhere.copy(), 0

    def descend(depth: int) -> bool:
        nonlocal branches
        if depth == len(order):
            return True
        copy, tried = order[depth], set()
        for b in open_to[windows[copy]]:
            kind = (free[b], reach[b])
            if free[b] < lengths[copy] or kind in tried or branches >= _BRANCHES:
                continue
            tried.add(kind)
            branches += 1
            free[b] -= lengths[copy]
            chosen[copy] = b
            if descend(depth + 1):
                return True
            free[b] += lengths[copy]
        return False

    if not descend(0):
        return nowhere
    bins.fill(chosen, copies.length)
    return chosen


def _offsets(copies: Copies, bins: Bins, bin_: Ints, offset: Ints, packed: NDArray[np.bool_], seed: int) -> Ints:
    """The coordinates of copies whose bins have room for all of theirs: by draws, or by packing a bin anew."""
    base, slack = bins.start(bin_), bins.size(bin_) - copies.length
    start = base + offset
    draw = nth_key(copies.key, _OFFSET_DRAWS)
    start[packed] = base[packed] + _below(slack[packed] + 1, draw[packed] >> _HALF)
    priority = np.empty(len(start), np.int64)
    priority[np.argsort(copies.key)] = np.arange(len(start))
    pending = np.ones(len(start), bool)
    for attempt in range(1, _OFFSET_ATTEMPTS):
        pending = _losers(start, copies.length, priority, pending)
        if not pending.any():
            return start
        draw = nth_key(copies.key[pending], _OFFSET_DRAWS + attempt)
        start[pending] = base[pending] + _below(slack[pending] + 1, draw >> _HALF)
    pending = _losers(start, copies.length, priority, pending)
    again = np.flatnonzero(np.isin(bin_, np.unique(bin_[pending])))
    again = again[np.lexsort((nth_key(copies.key[again], _OFFSET_DRAWS - 1), bin_[again]))]
    for members in np.split(again, np.flatnonzero(np.diff(bin_[again])) + 1):
        if len(members):
            start[members] = _pack(bins, int(bin_[members[0]]), copies.length[members], seed)
    return start


def _losers(start: Ints, length: Ints, priority: Ints, pending: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which pending copies overlap one that has its place already, or another pending one of higher priority."""
    order = np.argsort(start, kind="stable")
    first, end = start[order], (start + length)[order]
    reach = first.searchsorted(end) - np.arange(len(order)) - 1  # how many that begin later a copy overlaps
    left = np.repeat(np.arange(len(order)), reach)
    right = left + 1 + np.arange(len(left)) - np.repeat(np.cumsum(reach) - reach, reach)
    left, right = order[left], order[right]
    rank = np.where(pending, priority, -1)
    loses = np.zeros(len(order), bool)
    loses[np.where(rank[left] > rank[right], left, right)] = True
    return loses & pending


def _pack(bins: Bins, bin_: int, length: Ints, seed: int) -> Ints:
    """All copies of a bin in this order, the room between them dealt out evenly: every way to do so is equally likely."""
    where = np.array([bin_])
    free = int(bins.size(where)[0] - length.sum())
    cuts = np.sort(generator(seed, "packing", bin_).choice(free + len(length), len(length), replace=False))
    gaps = cuts - np.arange(len(length))  # free tokens before each copy
    start: Ints = bins.start(where)[0] + gaps + np.cumsum(length) - length
    return start
