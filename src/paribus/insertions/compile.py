"""From the settings of insertions to a plan: read, repeat, place, sort, lay out the tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.generators import generator
from paribus.data.permutation import nth_key, shuffle_key
from paribus.errors import PlanError
from paribus.insertions.config import (
    EveryN,
    Explicit,
    Hdf5,
    InsertionsConfig,
    Random,
    Watermark,
    WholeBatch,
    Within,
    Writer,
)
from paribus.insertions.dynamic import Dynamic
from paribus.insertions.hdf5 import map_items
from paribus.insertions.packing import Bins, Copies, Intervals, place
from paribus.insertions.payloads import NOTHING, Alphabet, Items, read_items
from paribus.insertions.plan import Geometry, Plan, Spans, make_manifest
from paribus.insertions.watermarks import Mark, noise_key

Ints = NDArray[np.int64]
_COPIES_AT_ONCE = 2**14  # whose tokens are laid out together: their indices stay in the cache
_CHOSEN = 2**40  # numbers the draw of which items get one copy more, apart from those of the copies


class _Wanted(NamedTuple):
    """The copies of one experiment, before they have places; `start` is -1 unless the place is given."""

    item: Ints  # (N,): index into the experiment's items
    repetition: Ints  # (N,)
    start: Ints  # (N,)
    span: Intervals  # rows open to the others
    first: Ints  # (N,): the rows of the span that each may take
    choices: Ints  # (N,): how many
    length: Ints  # (N,): tokens, those that fill up the row included


def compile_plan(
    config: InsertionsConfig, geometry: Geometry, alphabet: Alphabet, seed: int, base: Mapping[str, Any]
) -> Plan:
    """Compile the insertions of a run; with `control`, none. Deterministic: a function of the arguments alone.

    Raises PlanError for an item that cannot be used, places that overlap or leave the run, and for more copies than there
    is room for: it names the experiments and how many items and tokens do not fit."""
    names = {} if config.control else config.writers
    items = {name: _items(name, one, alphabet, geometry) for name, one in names.items()}
    whole = [step for one in names.values() if isinstance(one.where, WholeBatch) for step in one.where.steps]
    wanted = {name: _want(name, one, items[name], geometry, seed, whole) for name, one in names.items()}
    starts = _place(wanted, items, geometry, seed)
    if missing := _shortfall(wanted, starts):
        raise PlanError(
            f"insertions: no room in the rows that are open to them for {missing} (a row has {geometry.row_tokens:,} "
            "tokens); widen `within`, lower `repetitions`, or train longer"
        )
    spans = _lay_out(list(names), wanted, items, starts, alphabet)
    facts = {name: _facts(one, items[name], wanted[name]) for name, one in names.items()}
    if not config.control:  # the spans count those above: what writes no tokens stands behind them
        facts |= {mark.name: mark.to_json() for mark in _marks(config.watermarks, geometry, seed)}
        facts |= {name: one.model_dump(mode="json") for name, one in config.environments.items()}
    return Plan(spans, geometry, make_manifest(spans, geometry, base, facts))


def compile_segment(
    name: str, step: int, plan: Plan, items: Items, others: Sequence[Plan], seed: int, base: Mapping[str, Any]
) -> Plan:
    """Compile what an experiment of dynamic control writes into its segment that begins at `step`: each item once.

    plan: the run's own; others: segments that reach into these steps. Nothing that they write is written over.
    `repetition` is the number of the segment. Deterministic: a function of the arguments alone.
    Raises PlanError, with items and tokens, for more than there is room for."""
    size, every = plan.geometry, plan.manifest["experiments"][name]["every"]
    stop = min(step + every, size.num_steps)
    span = Intervals(np.array([step * size.batch_size]), np.array([stop * size.batch_size]))
    num = np.arange(len(items.line))
    nothing = np.zeros(len(num), np.int64)
    own = _Wanted(num, nothing + step // every, nothing - 1, span, nothing, nothing + span.num_rows, items.lengths)
    taken = [
        (one.spans.start[some], one.spans.length[some])
        for one in (plan, *others)
        for some in [one.of_steps(step, stop)]
    ]
    start, length = (np.concatenate(parts) for parts in zip(*taken, strict=True))
    fixed = own._replace(item=nothing[:0], repetition=nothing[:0], start=start, length=length)
    starts = _place({name: own, "": fixed}, {name: items, "": NOTHING}, size, seed)
    if missing := _shortfall({name: own}, starts):
        rows = f"{span.num_rows:,} rows of {size.row_tokens:,} tokens, {length.sum():,} of them taken"
        raise PlanError(
            f"no room for {missing}, of {len(num):,} in steps [{step:,}, {stop:,}) ({rows}); give fewer or shorter texts"
        )
    spans = _lay_out([name], {name: own}, {name: items}, starts, Alphabet(None, 0, None))
    number = plan.experiments.index(name)
    spans = spans._replace(experiment=np.full(len(num), number, np.uint16))
    facts = {other: plan.manifest["experiments"][other] for other in plan.experiments}
    return Plan(spans, size, make_manifest(spans, size, base, facts))


def _facts(config: Writer, items: Items, wanted: _Wanted) -> dict[str, Any]:
    """What the manifest says of an experiment."""
    if isinstance(config, Dynamic):
        return {"kind": config.kind, "every": config.every, "initial_state": config.initial_state}
    return {"kind": config.kind, "items": len(items.line), "copies": len(wanted.item)}


def _items(name: str, config: Writer, alphabet: Alphabet, geometry: Geometry) -> Items:
    if isinstance(config, Dynamic):
        if geometry.first_step % config.every:
            raise PlanError(
                f"insertions.experiments.{name}.every: the run goes on at step {geometry.first_step:,}; a divisor of that "
                f"is expected, so that a segment begins there, found {config.every}"
            )
        return NOTHING  # its texts are not known before its steps come
    if isinstance(config, Hdf5):
        return map_items(config, alphabet, geometry)
    return read_items(config, alphabet, geometry.row_tokens)


def _want(name: str, config: Writer, items: Items, geometry: Geometry, seed: int, whole: Sequence[int]) -> _Wanted:
    """Which copies an experiment wants, and which rows each may take; whole: steps that are replaced altogether."""
    match config.where:
        case Explicit():
            return _explicit(name, items, geometry)
        case WholeBatch(steps=steps):
            return _whole_batches(name, items, steps, geometry)
        case EveryN(steps=every, within=within):
            return _every(name, items, every, _rows(name, within, "all", geometry), geometry)
        case None:
            nothing = np.zeros(0, np.int64)
            return _Wanted(nothing, nothing, nothing, _all_rows(geometry), nothing, nothing, nothing)
        case Random() as where:
            span = _rows(name, where.within, where.epochs, geometry)
            item, repetition = _repeat(name, items, seed)
            if where.min_gap_steps > 1:
                open_ = np.setdiff1d(_steps_inside(span, geometry), np.array(whole, np.int64))
                step = _spread(name, items, item, open_, where.min_gap_steps, seed)
                return _in_steps(item, repetition, step, items, geometry)
            nothing = np.zeros(len(item), np.int64)
            return _Wanted(item, repetition, nothing - 1, span, nothing, nothing + span.num_rows, items.lengths[item])


def _marks(config: Mapping[str, Watermark], geometry: Geometry, seed: int) -> list[Mark]:
    """Raises PlanError for steps and rows that the run does not have, and for two watermarks on one step."""
    marks, owner = [], dict[int, str]()
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
        marks.append(Mark(name, tuple(steps), rows, one.noise_std, noise_key(seed, name), one.noise == "shared"))
    return marks


def _repeat(name: str, items: Items, seed: int) -> tuple[Ints, Ints]:
    """(item, repetition) of every copy; of the items with the same fraction, that share of them gets one more."""
    whole = np.floor(items.repetitions).astype(np.int64)
    fraction = items.repetitions - whole
    draw = nth_key(shuffle_key(seed, f"insertion: {name}"), items.line + _CHOSEN)
    for share in np.unique(fraction[fraction > 0]):
        own = np.flatnonzero(fraction == share)
        chosen = own[np.argsort(draw[own])[: round(float(share) * len(own))]]
        whole[chosen] += 1
    return np.repeat(np.arange(len(whole)), whole), _count_up(whole)


def _count_up(counts: Ints) -> Ints:
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


def _in_steps(item: Ints, repetition: Ints, step: Ints, items: Items, geometry: Geometry) -> _Wanted:
    """Copies that may take any row of their own step."""
    size = geometry.batch_size
    nowhere, count = np.full(len(item), -1), np.full(len(item), size)
    return _Wanted(item, repetition, nowhere, _all_rows(geometry), step * size, count, items.lengths[item])


def _every(name: str, items: Items, every: int, span: Intervals, geometry: Geometry) -> _Wanted:
    if (items.repetitions != 1).any():
        raise PlanError(f"insertions.experiments.{name}: `every` says how often: repetitions must be 1")
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


def _explicit(name: str, items: Items, geometry: Geometry) -> _Wanted:
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
    return _Wanted(item, _count_up(counts), start, _all_rows(geometry), nothing, nothing, length)


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


def _whole_batches(name: str, items: Items, steps: list[int], geometry: Geometry) -> _Wanted:
    """One item a row, in turn; the rest of the row is end-of-text."""
    size = geometry.batch_size
    row = (np.array(_whole_steps(name, steps, geometry))[:, None] * size + np.arange(size)).ravel()
    number = np.arange(len(row))
    item, repetition = number % len(items.line), number // len(items.line)
    nothing = np.zeros(len(row), np.int64)
    full = np.full(len(row), geometry.row_tokens)
    return _Wanted(item, repetition, row * geometry.row_tokens, _all_rows(geometry), nothing, nothing, full)


def _place(wanted: Mapping[str, _Wanted], items: Mapping[str, Items], geometry: Geometry, seed: int) -> dict[str, Ints]:
    """The start of every copy of every experiment: those that are given, then the others around them; -1: no room."""
    fixed_start = np.concatenate([np.empty(0, np.int64), *(one.start[one.start >= 0] for one in wanted.values())])
    fixed_length = np.concatenate([np.empty(0, np.int64), *(one.length[one.start >= 0] for one in wanted.values())])
    order = np.argsort(fixed_start, kind="stable")
    fixed_start, fixed_length = fixed_start[order], fixed_length[order]
    overlap = np.flatnonzero(fixed_start[1:] < (fixed_start + fixed_length)[:-1])
    if len(overlap):
        first, second = fixed_start[overlap[0] : overlap[0] + 2]
        raise PlanError(f"insertions: the copies at positions {first:,} and {second:,} overlap; both places are given")
    free = {name: np.flatnonzero(one.start < 0) for name, one in wanted.items()}
    keys = {name: _keys(name, wanted[name], items[name], seed)[own] for name, own in free.items()}
    copies = Copies(
        *(
            np.concatenate([np.empty(0, dtype), *columns])
            for dtype, columns in (
                (np.int64, [wanted[name].length[own] for name, own in free.items()]),
                (np.uint64, list(keys.values())),
                (np.int32, [np.full(len(own), n, np.int32) for n, own in enumerate(free.values())]),
                (np.int64, [wanted[name].first[own] for name, own in free.items()]),
                (np.int64, [wanted[name].choices[own] for name, own in free.items()]),
            )
        )
    )
    bins = Bins(geometry.num_rows, geometry.row_tokens, fixed_start, fixed_length)
    found = place(copies, [one.span for one in wanted.values()], bins, seed).start
    starts = {name: one.start.copy() for name, one in wanted.items()}
    for name, own, part in (
        zip(free, free.values(), np.split(found, np.cumsum([len(own) for own in free.values()])[:-1]), strict=True)
        if free
        else ()
    ):
        starts[name][own] = part
    return starts


def _keys(name: str, wanted: _Wanted, items: Items, seed: int) -> NDArray[np.uint64]:
    return nth_key(nth_key(shuffle_key(seed, f"insertion: {name}"), items.line[wanted.item]), wanted.repetition)


def _shortfall(wanted: Mapping[str, _Wanted], starts: Mapping[str, Ints]) -> str:
    """What found no room: items and tokens of each experiment; empty when all did."""
    lacking = {name: starts[name] < 0 for name in wanted if (starts[name] < 0).any()}
    return "; ".join(
        f"{name}: {own.sum():,} items, {wanted[name].length[own].sum():,} tokens" for name, own in lacking.items()
    )


def _lay_out(
    names: list[str],
    wanted: Mapping[str, _Wanted],
    items: Mapping[str, Items],
    starts: Mapping[str, Ints],
    alphabet: Alphabet,
) -> Spans:
    """Sort all copies by their start and write their tokens one after another."""

    def joined(dtype: Any, parts: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate([np.empty(0, dtype), *(part.astype(dtype, copy=False) for part in parts)])

    base = np.cumsum([0, *(len(items[name].tokens) for name in names)])
    pool = joined(np.uint32, [items[name].tokens for name in names])
    start = joined(np.int64, [starts[name] for name in names])
    source = joined(np.int64, [items[name].offsets[wanted[name].item] + base[n] for n, name in enumerate(names)])
    written = joined(np.int64, [items[name].lengths[wanted[name].item] for name in names])
    length = joined(np.int64, [wanted[name].length for name in names])
    experiment = joined(np.uint16, [np.full(len(wanted[name].item), n) for n, name in enumerate(names)])
    item = joined(np.uint32, [items[name].line[wanted[name].item] for name in names])
    repetition = joined(np.uint32, [wanted[name].repetition for name in names])
    order = np.argsort(start, kind="stable")
    length, source, written = length[order], source[order], written[order]
    offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    tokens = np.full(int(offsets[-1]), alphabet.eos or 0, np.uint32)
    if (written < length).any() and alphabet.eos is None:
        raise PlanError(
            "insertions: whole batches fill rows up with end-of-text, and the tokenizer has none; name one (`eos`)"
        )
    for first in range(0, len(order), _COPIES_AT_ONCE):
        some = slice(first, first + _COPIES_AT_ONCE)
        inside = _count_up(written[some])
        tokens[np.repeat(offsets[:-1][some], written[some]) + inside] = pool[
            np.repeat(source[some], written[some]) + inside
        ]
    return Spans(start[order], offsets, tokens, experiment[order], item[order], repetition[order])
