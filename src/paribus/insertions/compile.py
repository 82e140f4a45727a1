"""From the settings of insertions to a plan: read, repeat, place, sort, lay out the tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paribus.data.permutation import nth_key, shuffle_key
from paribus.errors import PlanError
from paribus.insertions.config import (
    Hdf5,
    InsertionsConfig,
    WholeBatch,
    Writer,
)
from paribus.insertions.dynamic import Dynamic
from paribus.insertions.hdf5 import map_items
from paribus.insertions.packing import Bins, Copies, Intervals, place
from paribus.insertions.payloads import NOTHING, Alphabet, Items, read_items
from paribus.insertions.plan import Geometry, Plan, Spans, make_manifest
from paribus.insertions.wanted import Ints, Wanted, count_up, marks, want

_COPIES_AT_ONCE = 2**14  # whose tokens are laid out together: their indices stay in the cache


def compile_plan(
    config: InsertionsConfig, geometry: Geometry, alphabet: Alphabet, seed: int, base: Mapping[str, Any]
) -> Plan:
    """Compile the insertions of a run; with `control`, none. Deterministic: a function of the arguments alone.

    Raises PlanError for an item that cannot be used, places that overlap or leave the run, and for more copies than there
    is room for: it names the experiments and how many items and tokens do not fit."""
    names = {} if config.control else config.writers
    items = {name: _items(name, one, alphabet, geometry) for name, one in names.items()}
    whole = [step for one in names.values() if isinstance(one.where, WholeBatch) for step in one.where.steps]
    wanted = {name: want(name, one, items[name], geometry, seed, whole) for name, one in names.items()}
    starts = _place(wanted, items, geometry, seed)
    if missing := _shortfall(wanted, starts):
        raise PlanError(
            f"insertions: no room in the rows that are open to them for {missing} (a row has {geometry.row_tokens:,} "
            "tokens); widen `within`, lower `repetitions`, or train longer"
        )
    spans = _lay_out(list(names), wanted, items, starts, alphabet)
    facts = {name: _facts(one, items[name], wanted[name]) for name, one in names.items()}
    if not config.control:  # the spans count those above: what writes no tokens stands behind them
        facts |= {mark.name: mark.to_json() for mark in marks(config.watermarks, geometry, seed)}
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
    own = Wanted(num, nothing + step // every, nothing - 1, span, nothing, nothing + span.num_rows, items.lengths)
    start, length = _taken((plan, *others), step, stop)
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


def _taken(plans: Sequence[Plan], step: int, stop: int) -> tuple[Ints, Ints]:
    """(start, length) of what nothing more can be written over in steps [step, stop): spans, and watermarked rows.

    A watermark is tested on the tokens of its rows: those are settled by the run's plan, the first of `plans`."""
    size = plans[0].geometry
    marked = np.array(
        [at * size.batch_size + row for mark in plans[0].marks for at in mark.steps for row in range(mark.rows)],
        np.int64,
    )
    marked = marked[(marked >= step * size.batch_size) & (marked < stop * size.batch_size)]
    spans = [(one.spans.start[some], one.spans.length[some]) for one in plans for some in [one.of_steps(step, stop)]]
    start, length = (np.concatenate(parts) for parts in zip(*spans, strict=True))
    open_ = ~np.isin(start // size.row_tokens, marked)
    full = np.full(len(marked), size.row_tokens)
    return np.concatenate([start[open_], marked * size.row_tokens]), np.concatenate([length[open_], full])


def _facts(config: Writer, items: Items, wanted: Wanted) -> dict[str, Any]:
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


def _place(wanted: Mapping[str, Wanted], items: Mapping[str, Items], geometry: Geometry, seed: int) -> dict[str, Ints]:
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


def _keys(name: str, wanted: Wanted, items: Items, seed: int) -> NDArray[np.uint64]:
    return nth_key(nth_key(shuffle_key(seed, f"insertion: {name}"), items.line[wanted.item]), wanted.repetition)


def _shortfall(wanted: Mapping[str, Wanted], starts: Mapping[str, Ints]) -> str:
    """What found no room: items and tokens of each experiment; empty when all did."""
    lacking = {name: starts[name] < 0 for name in wanted if (starts[name] < 0).any()}
    return "; ".join(
        f"{name}: {own.sum():,} items, {wanted[name].length[own].sum():,} tokens" for name, own in lacking.items()
    )


def _lay_out(
    names: list[str],
    wanted: Mapping[str, Wanted],
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
        inside = count_up(written[some])
        tokens[np.repeat(offsets[:-1][some], written[some]) + inside] = pool[
            np.repeat(source[some], written[some]) + inside
        ]
    return Spans(start[order], offsets, tokens, experiment[order], item[order], repetition[order])
