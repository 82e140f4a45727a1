"""Which copies an experiment wants, and which rows each may take: repetitions, parts of the run, given places."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import generator
from paribus.data.permutation import nth_key, shuffle_key
from paribus.errors import PlanError
from paribus.insertions.config import EveryN, Explicit, Random, Watermark, WholeBatch, Within, Writer
from paribus.insertions.packing import Intervals
from paribus.insertions.payloads import Items
from paribus.insertions.plan import Geometry
from paribus.insertions.watermarks import Mark, noise_key

Ints = NDArray[np.int64]
_CHOSEN = 2**40  # numbers the draw of which items get one copy more, apart from those of the copies


class Wanted(NamedTuple):
    """The copies of one experiment, before they have places; `start` is -1 unless the place is given."""

    item: Ints  # (N,): index into the experiment's items
    repetition: Ints  # (N,)
    start: Ints  # (N,)
    span: Intervals  # rows open to the others
    first: Ints  # (N,): the rows of the span that each may take
    choices: Ints  # (N,): how many
    length: Ints  # (N,): tokens, those that fill up the row included


def want(name: str, config: Writer, items: Items, geometry: Geometry, seed: int, whole: Sequence[int]) -> Wanted:
    """Which copies an experiment wants, and which rows each may take; whole: steps that are replaced altogether."""
    match config.where:
        case Explicit():
            _refuse_repetitions(name, items, "explicit")
            return _explicit(name, items, geometry)
        case WholeBatch(steps=steps):
            _refuse_repetitions(name, items, "whole_batch")
            return _whole_batches(name, items, steps, geometry)
        case EveryN(steps=every, within=within):
            _refuse_repetitions(name, items, "every")
            return _every(items, every, _rows(name, within, "all", geometry), geometry)
        case None:
            nothing = np.zeros(0, np.int64)
            return Wanted(nothing, nothing, nothing, _all_rows(geometry), nothing, nothing, nothing)
        case Random() as where:
            span = _rows(name, where.within, where.epochs, geometry)
            item, repetition = _repeat(name, items, geometry, seed)
            if where.min_gap_steps:
                open_ = np.setdiff1d(_steps_inside(span, geometry), np.array(whole, np.int64))
                step = _spread(name, items, item, open_, where.min_gap_steps, seed)
                return _in_steps(item, repetition, step, items, geometry)
            nothing = np.zeros(len(item), np.int64)
            return Wanted(item, repetition, nothing - 1, span, nothing, nothing + span.num_rows, items.lengths[item])


def marks(config: Mapping[str, Watermark], geometry: Geometry, seed: int) -> list[Mark]:
    """The steps and rows of every watermark.

    Raises PlanError for steps and rows that the run does not have, and for two watermarks on one step."""
    found, owner = [], dict[int, str]()
    for name, one in config.items():
        where = f"insertions.experiments.{name}"
        match one.where:
            case WholeBatch(steps=given):
                steps = _whole_steps(name, given, geometry)
            case EveryN(steps=every, within=within):
                steps = _steps_inside(_rows(name, within, "all", geometry), geometry)[::every].tolist()
        if not steps:
            raise PlanError(f"{where}.where.within: holds no whole step of {geometry.batch_size} rows; widen it")
        if (rows := one.rows or geometry.batch_size) > geometry.batch_size:
            raise PlanError(f"{where}.rows: found {rows}, but a batch has {geometry.batch_size}; null means all")
        if twice := [step for step in steps if step in owner]:
            raise PlanError(
                f"{where}: step {twice[0]}, row 0 has the watermark of {owner[twice[0]]} already ({len(twice)} such steps); "
                "a row takes one"
            )
        owner |= dict.fromkeys(steps, name)
        found.append(Mark(name, tuple(steps), rows, one.noise_std, noise_key(seed, name), one.noise == "shared"))
    return found


def _repeat(name: str, items: Items, geometry: Geometry, seed: int) -> tuple[Ints, Ints]:
    """(item, repetition) of every copy; of the items with the same fraction, that share of them gets one more.

    Raises PlanError for more copies than the run has tokens, before there is an array of them."""
    if (asked := float(items.repetitions.sum())) > geometry.num_tokens:
        raise PlanError(
            f"insertions.experiments.{name}: no room for {asked:.6g} copies: the run has {geometry.num_tokens:,} tokens; "
            "lower the repetitions, or train longer"
        )
    whole = np.floor(items.repetitions).astype(np.int64)
    fraction = items.repetitions - whole
    draw = nth_key(shuffle_key(seed, f"insertion: {name}"), items.line + _CHOSEN)
    for share in np.unique(fraction[fraction > 0]):
        own = np.flatnonzero(fraction == share)
        chosen = own[np.argsort(draw[own])[: round(float(share) * len(own))]]
        whole[chosen] += 1
    return np.repeat(np.arange(len(whole)), whole), count_up(whole)


def count_up(counts: Ints) -> Ints:
    """0 .. count - 1 for each count, one after another."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)


def _rows(name: str, within: Within, epochs: Any, geometry: Geometry) -> Intervals:
    """The rows that a part of the run has. Raises PlanError when it is not inside the run, or has none."""
    size, where = geometry, f"insertions.experiments.{name}.where"
    first, stop = size.first_row, size.num_rows
    if within.steps is not None:
        first, stop = (step * size.batch_size for step in within.steps)
    elif within.tokens is not None:
        first, stop = -(-within.tokens[0] // size.row_tokens), within.tokens[1] // size.row_tokens
    elif within.fraction is not None:
        first, stop = (first + round(part * (stop - first)) for part in within.fraction)
    if stop > size.num_rows:
        raise PlanError(
            f"{where}.within: ends at row {stop:,}, but the run has {size.num_rows:,} rows: {size.num_steps:,} steps, "
            f"{size.num_tokens:,} tokens"
        )
    if first < size.first_row:
        raise PlanError(
            f"{where}.within: begins at row {first:,}, but the run begins at row {size.first_row:,}: step "
            f"{size.first_step:,}, token {size.first_row * size.row_tokens:,} of the stream that it continues"
        )
    intervals = [(first, stop)]
    if epochs != "all":
        if size.rows_per_epoch is None:
            raise PlanError(
                f"{where}.epochs: windows are drawn independently, so there are no epochs; use chunks, or `within`"
            )
        each = size.rows_per_epoch
        intervals = [(max(first, e * each), min(stop, (e + 1) * each)) for e in sorted(set(epochs))]
    kept = [(a, b) for a, b in intervals if a < b]
    if not kept:
        raise PlanError(
            f"{where}: no row of the run lies there; the run has {_own_steps(size)} of {size.batch_size} rows"
        )
    start, end = np.array(kept, np.int64).T
    return Intervals(start, end)


def _own_steps(geometry: Geometry) -> str:
    if not geometry.first_step:
        return f"{geometry.num_steps:,} steps"
    return f"the steps {geometry.first_step:,} to {geometry.num_steps - 1:,}"


def _steps_inside(span: Intervals, geometry: Geometry) -> Ints:
    """The steps all of whose rows lie in the span."""
    size = geometry.batch_size
    pieces = [np.arange(-(-a // size), b // size) for a, b in zip(span.start, span.stop, strict=True)]
    return np.concatenate(pieces).astype(np.int64)


def _all_rows(geometry: Geometry) -> Intervals:
    return Intervals(np.array([0]), np.array([geometry.num_rows]))


def _in_steps(item: Ints, repetition: Ints, step: Ints, items: Items, geometry: Geometry) -> Wanted:
    """Copies that may take any row of their own step."""
    size = geometry.batch_size
    nowhere, count = np.full(len(item), -1), np.full(len(item), size)
    return Wanted(item, repetition, nowhere, _all_rows(geometry), step * size, count, items.lengths[item])


def _refuse_repetitions(name: str, items: Items, kind: str) -> None:
    """Where the places say how often, another number would have no effect."""
    if (items.repetitions != 1).any():
        raise PlanError(f"insertions.experiments.{name}: `{kind}` says how often: repetitions must be 1")


def _every(items: Items, every: int, span: Intervals, geometry: Geometry) -> Wanted:
    steps = _steps_inside(span, geometry)[::every]
    num = len(items.line)
    return _in_steps(
        np.tile(np.arange(num), len(steps)),
        np.repeat(np.arange(len(steps)), num),
        np.repeat(steps, num),
        items,
        geometry,
    )


def _spread(name: str, items: Items, item: Ints, steps: Ints, gap: int, seed: int) -> Ints:
    """Draw the steps of each item's copies, at least `gap` apart; every such choice of steps is equally likely."""
    chosen = [np.empty(0, np.int64)]
    counts = np.bincount(item, minlength=len(items.line))
    for line, count in zip(items.line.tolist(), counts.tolist(), strict=True):
        free = len(steps) - (count - 1) * (gap - 1)
        if count and free < count:
            raise PlanError(
                f"insertions.experiments.{name}.where.min_gap_steps: {count} copies of line {line}, at least {gap} steps "
                f"apart, need {(count - 1) * gap + 1:,} steps, and {len(steps):,} are open to them"
            )
        draw = np.sort(generator(seed, f"gaps: {name}", line).choice(max(free, 0), count, replace=False))
        chosen.append(steps[draw + np.arange(count) * (gap - 1)])
    return np.concatenate(chosen)


def _explicit(name: str, items: Items, geometry: Geometry) -> Wanted:
    counts = np.array([len(positions) for positions in items.positions], np.int64)
    item, start = (
        np.repeat(np.arange(len(counts)), counts),
        np.array([p for own in items.positions for p in own], np.int64),
    )
    length = items.lengths[item]
    first = geometry.first_row * geometry.row_tokens
    outside = (start < first) | (start + length > geometry.num_tokens)
    crossing = start % geometry.row_tokens + length > geometry.row_tokens
    for wrong, what in (
        (
            outside,
            f"leaves the run of {geometry.num_tokens:,} tokens" + (f", which begins at {first:,}" if first else ""),
        ),
        (crossing, f"crosses the end of a row of {geometry.row_tokens:,} tokens"),
    ):
        if wrong.any():
            n = int(np.argmax(wrong))
            raise PlanError(
                f"insertions.experiments.{name}: {items.noun} {items.line[item[n]]}: the copy of {length[n]} tokens at "
                f"position {start[n]:,} {what}"
            )
    nothing = np.zeros(len(item), np.int64)
    return Wanted(item, count_up(counts), start, _all_rows(geometry), nothing, nothing, length)


def _whole_steps(name: str, steps: list[int], geometry: Geometry) -> list[int]:
    """Steps given by number, ascending."""
    beyond = [step for step in steps if not geometry.first_step <= step < geometry.num_steps]
    if beyond or len(set(steps)) < len(steps):
        from_ = f"from {geometry.first_step:,} and " if geometry.first_step else ""
        raise PlanError(
            f"insertions.experiments.{name}.where.steps: each once, {from_}below {geometry.num_steps:,}, is expected, "
            f"found {steps}"
        )
    return sorted(steps)


def _whole_batches(name: str, items: Items, steps: list[int], geometry: Geometry) -> Wanted:
    """One item a row, in turn; the rest of the row is end-of-text."""
    size = geometry.batch_size
    row = (np.array(_whole_steps(name, steps, geometry))[:, None] * size + np.arange(size)).ravel()
    number = np.arange(len(row))
    item, repetition = number % len(items.line), number // len(items.line)
    nothing = np.zeros(len(row), np.int64)
    full = np.full(len(row), geometry.row_tokens)
    return Wanted(item, repetition, row * geometry.row_tokens, _all_rows(geometry), nothing, nothing, full)
