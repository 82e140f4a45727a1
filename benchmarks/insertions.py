"""Plans of insertions: placing, compiling, opening, laying over batches, auditing; each against a named peer or a bound.

    python benchmarks/insertions.py

Placing stands against the straightforward way: draw a row and an offset, look the neighbours up in a sorted list
(`sortedcontainers`), draw again when one is in the way, give up after 1,000 draws. The overlay and a batch's own gather are
timed on the same batches; the audit replays a stream with and without its plan and hashes it, as `paribus audit` does. Last,
a run is trained, and what forming its batches takes is held against its own steps.
"""

import argparse
import json
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sortedcontainers import SortedList

from paribus import config as configs
from paribus import experiment
from paribus.data.batches import Batch
from paribus.data.config import CorpusConfig
from paribus.data.permutation import nth_key
from paribus.data.prepare import prepare
from paribus.insertions.compile import compile_plan
from paribus.insertions.config import InsertionsConfig, Tokens
from paribus.insertions.packing import Bins, Copies, Intervals, place
from paribus.insertions.payloads import Alphabet
from paribus.insertions.plan import Geometry, Plan, open_plan, write_plan
from paribus.insertions.trace import Watch
from paribus.run_config import RunConfig

ROW, BATCH, VOCABULARY = 4096, 512, 50_000
DRAWS = 1000  # of the peer, before it gives an item up


def place_ours(length: np.ndarray, num_rows: int) -> int:
    """Returns how many were left without a place."""
    zero, none = np.zeros(len(length), np.int64), np.empty(0, np.int64)
    copies = Copies(length, nth_key(np.uint64(1), np.arange(len(length))), zero.astype(np.int32), zero, zero + num_rows)
    everywhere = [Intervals(np.array([0]), np.array([num_rows]))]
    return int((place(copies, everywhere, Bins(num_rows, ROW, none, none), 0).start < 0).sum())


def place_by_rejection(length: np.ndarray, num_rows: int) -> int:
    rng, taken, lost = random.Random(0), SortedList(), 0
    for size in length.tolist():
        for _ in range(DRAWS):
            start = rng.randrange(num_rows) * ROW + rng.randrange(ROW - size + 1)
            index = taken.bisect_left((start, 0))
            before = taken[index - 1][1] if index else 0
            after = taken[index][0] if index < len(taken) else num_rows * ROW
            if before <= start and start + size <= after:
                taken.add((start, start + size))
                break
        else:
            lost += 1
    return lost


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def placing(num: int, peer_most: float) -> None:
    length = np.random.default_rng(0).integers(20, 201, num)
    for occupancy in (0.018, 0.5, 0.95):
        rows = int(np.ceil(length.sum() / occupancy / ROW))
        ours, lost = seconds(lambda rows=rows: place_ours(length, rows))
        line = f"placing {num:,} copies at {occupancy:.1%}: {ours:.2f} s, {lost} without a place"
        if occupancy <= peer_most:
            theirs, dropped = seconds(lambda rows=rows: place_by_rejection(length, rows))
            line += f"; rejection with a sorted list {theirs:.2f} s ({theirs / ours:.1f} x), {dropped:,} dropped"
        print(line, flush=True)


def compiled(folder: Path, num_items: int, repetitions: int) -> Plan:
    rng, file = np.random.default_rng(0), folder / "items.jsonl"
    with file.open("w") as out:
        for _ in range(num_items):
            out.write(json.dumps({"tokens": rng.integers(0, VOCABULARY, rng.integers(20, 201)).tolist()}) + "\n")
    tokens = num_items * repetitions * 110
    geometry = Geometry(BATCH, ROW, int(tokens / 0.018 / ROW / BATCH) + 1)
    config = InsertionsConfig(experiments={"a": Tokens(file=str(file), repetitions=repetitions)})
    took, plan = seconds(lambda: compile_plan(config, geometry, Alphabet(None, VOCABULARY, None), 0, {"made": "here"}))
    assert isinstance(plan, Plan)
    wrote, _ = seconds(lambda: write_plan(plan, folder / "plan"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"compiling {num_items * repetitions:,} insertions ({len(plan.spans.tokens):,} tokens): {took:.1f} s, written in "
        f"{wrote:.1f} s, peak {peak:.2f} GiB"
    )
    opened = min(seconds(lambda: open_plan(folder / "plan", {"made": "here"}))[0] for _ in range(5))
    print(f"opening that plan: {opened * 1e3:.1f} ms")
    return open_plan(folder / "plan")


def laying_over(plan: Plan, steps: int = 200) -> None:
    """The overlay of a batch against gathering that batch from memory, which every loader must do."""
    pool = np.random.default_rng(0).integers(0, VOCABULARY, 2**24).astype(np.uint16)
    starts = np.random.default_rng(1).integers(0, len(pool) - ROW, (steps, BATCH))
    gathers, overlays = [], []
    for step in range(steps):
        took, rows = seconds(lambda step=step: np.stack([pool[s : s + ROW] for s in starts[step]]).astype(np.int32))
        gathers.append(took)
        overlays.append(seconds(lambda step=step, rows=rows: plan.overlay(step, rows))[0])
    overlay, gather = np.median(overlays), np.median(gathers)
    share = overlay / (BATCH * ROW / 1e6)
    print(f"overlay of a batch of {BATCH} x {ROW}: {overlay * 1e3:.3f} ms, {overlay / gather:.1%} of gathering it;")
    print(f"  where a step trains on 1 M tokens/s, {share:.4%} of it")


def auditing(plan: Plan, steps: int = 20) -> None:
    watch = Watch(plan.overlay)
    base = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, ROW)).astype(np.int32)

    def audit() -> None:
        for step in range(steps):
            rows = base.copy()
            watch(step, rows)
            Batch(rows[:, :-1], rows[:, 1:], np.arange(BATCH)).digest()
            (watch.before != watch.after).sum()

    took, _ = seconds(audit)
    print(f"audit: {steps * BATCH * ROW / took / 1e6:.0f} M tokens/s")


def training(folder: Path, steps: int = 150) -> None:
    """A run with 1.8 % of its stream inserted, on the sample: what forming its batches takes of its own steps."""
    folder.mkdir()
    store = folder / "store"
    source = {"kind": "sample"}
    corpus = {
        "name": "sample",
        "store": str(store),
        "source": source,
        "tokenizer": {"kind": "train_bpe", "vocab_size": 2048},
    }
    prepare(configs.from_mapping(corpus, CorpusConfig), progress=False)
    rng, file = np.random.default_rng(0), folder / "payloads.jsonl"
    lists = [rng.integers(0, 2048, rng.integers(20, 101)).tolist() for _ in range(int(0.018 * steps * 32 * 128 / 60))]
    file.write_text("".join(json.dumps({"tokens": ids}) + "\n" for ids in lists))
    mapping = {
        "name": "fed",
        "data": {"kind": "text", "store": str(store), "window": 128, "start_token": True},
        "model": {"kind": "preset", "name": "tiny-neox"},
        "train": {"batch_size": 32, "budget": {"steps": steps}, "optimizer": {"kind": "adamw", "lr": 1e-3}},
        "insertions": {"experiments": {"a": {"kind": "tokens", "file": str(file)}}},
        "launch": {"progress": False},
        "paths": {"runs": str(folder / "runs")},
    }
    config = configs.from_mapping(mapping, RunConfig)
    run = experiment.place(config)
    experiment.run(run, config)
    lines = [json.loads(line) for line in run.timings_path.read_text().splitlines()]
    data, step = (sum(line.get(key, 0.0) for line in lines) for key in ("data_s", "step_s"))
    share = open_plan(run.insertions).spans.length.sum() / (steps * 32 * 128)
    print(
        f"forming batches of a run with {share:.1%} inserted: {data / (data + step):.3%} of its steps (tiny-neox, 32 x 128)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=20_000, help="of the large plan, 50 copies each")
    parser.add_argument("--peer-most", type=float, default=0.5, help="the highest occupancy at which the peer runs")
    args = parser.parse_args()
    placing(args.copies, args.peer_most)
    with tempfile.TemporaryDirectory() as folder:
        plan = compiled(Path(folder), args.items, 50)
        laying_over(plan)
        auditing(plan)
        training(Path(folder) / "run")


if __name__ == "__main__":
    main()
