"""Windows a second from a cached memory map: paribus against a per-sample Dataset and torch's DataLoader.

    python benchmarks/windows_throughput.py

Both read the same file of uint16 tokens, in turns. Ours makes whole batches: draws, gather, int32, targets, window ids.
Two peers stand against it, both with torch's default collation and the better of 0 and 2 workers: `slice` does the least
that a per-sample loader can do (a random start anywhere, a slice of the map, int64), `same draw` picks category, document
and start as we do, and returns tokens and targets. The rate of each side is that of its best turn: on a shared machine
the others tell what else was running.
"""

import argparse
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch.utils.data import DataLoader, Dataset

from paribus.data.config import ChunkWindows, ConstantTotal, ConstantUnique, RandomWindows, Seeds, TextData
from paribus.data.store import Store, open_store
from paribus.data.windows import text_stream
from paribus.data.writer import Entry, Recipe, StoreWriter

WINDOW, BATCH = 100, 256
CATEGORIES, DOCUMENTS, VOCABULARY = 11, 10_000, 50_254
ENDLESS = 10**9
LAWS = {
    "random, by component": RandomWindows(),
    "random, uniform documents": RandomWindows(documents="uniform"),
    "chunks, all": ChunkWindows(),
    "chunks, constant total": ChunkWindows(design=ConstantTotal(chunks=250_000)),
    "chunks, constant unique": ChunkWindows(design=ConstantUnique(chunks=200_000)),
}


class Slices(Dataset[torch.Tensor]):
    """A random slice of the file a call."""

    def __init__(self, store: Store) -> None:
        self.tokens = np.memmap(store.path / store.manifest.shards[0], np.uint16, "r")

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, _: int) -> torch.Tensor:
        start = np.random.randint(0, len(self.tokens) - WINDOW)
        return torch.from_numpy(self.tokens[start : start + WINDOW + 1].astype(np.int64))


class Draws(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """A random category, a start in its documents, tokens and targets a call."""

    def __init__(self, store: Store) -> None:
        self.tokens = np.memmap(store.path / store.manifest.shards[0], np.uint16, "r")
        table = store.documents
        self.documents = []
        for category in range(len(store.categories)):
            rows = np.flatnonzero((table.category == category) & (table.length > WINDOW))
            ends = np.cumsum(table.length[rows] - WINDOW)
            self.documents.append((ends.tolist(), (table.offset[rows] + table.length[rows] - WINDOW - ends).tolist()))

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, _: int) -> tuple[torch.Tensor, torch.Tensor]:
        ends, shifts = self.documents[np.random.randint(len(self.documents))]
        number = np.random.randint(ends[-1])
        start = number + shifts[bisect_right(ends, number)]
        window = torch.from_numpy(self.tokens[start : start + WINDOW + 1].astype(np.int64))
        return window[:-1], window[1:]


def write_store(path: Path, num_tokens: int) -> Store:
    """Documents of log-normal lengths in as many categories as the study has, random tokens; left in the page cache."""
    generator = np.random.default_rng(0)
    sizes = generator.lognormal(0, 1, DOCUMENTS)
    lengths = np.maximum(sizes / sizes.sum() * num_tokens, 20).astype(np.int64)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    with StoreWriter(path, tokenizer, Recipe("benchmark", start_token_id=0)) as writer:
        for i, length in enumerate(lengths):
            entry = Entry(f"d{i}", f"c{i % CATEGORIES:02d}", "train", int(length))
            writer.append(entry, generator.integers(0, VOCABULARY, length))
    store = open_store(path)
    (path / store.manifest.shards[0]).read_bytes()
    return store


def ours(store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    for name, windows in LAWS.items():
        data = TextData(store=str(store.path), window=WINDOW, windows=windows)
        batches, steps = text_stream(data, Seeds(), BATCH).batches, iter(range(ENDLESS))
        yield f"paribus: {name}", lambda batches=batches, steps=steps: batches(next(steps))


def peers(store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    for name, dataset in (("slice", Slices(store)), ("same draw", Draws(store))):
        for workers in (0, 2):
            loader = iter(DataLoader(dataset, BATCH, num_workers=workers))
            yield f"DataLoader: {name}, {workers} workers", lambda loader=loader: next(loader)


def windows_per_s(make: Callable[[], object], seconds: float) -> float:
    for _ in range(8):  # what workers had made ready while the others ran
        make()
    began, batches = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        make()
        batches += 1
    return batches * BATCH / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=50_000_000)
    parser.add_argument("--turns", type=int, default=100, help="of 30 ms for each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder) / "store", arguments.tokens)
        sides = dict([*ours(store), *peers(store)])
        for make in sides.values():
            windows_per_s(make, 0.5)  # workers start, pages are mapped
        rates = dict.fromkeys(sides, 0.0)
        for _ in range(arguments.turns):
            for name, make in sides.items():
                rates[name] = max(rates[name], windows_per_s(make, 0.03))
    print(f"{arguments.tokens:,} tokens, {DOCUMENTS:,} documents, windows of {WINDOW + 1} tokens, batches of {BATCH}")
    for name, rate in rates.items():
        print(f"{name}: {rate / 1e6:.3f} M windows/s")
    best = {kind: max(rate for name, rate in rates.items() if f": {kind}," in name) for kind in ("slice", "same draw")}
    for name, rate in rates.items():
        if name.startswith("paribus"):
            ratios = ", ".join(f"{rate / peer:.1f} x DataLoader ({kind})" for kind, peer in best.items())
            print(f"{name}: {ratios}")


if __name__ == "__main__":
    main()
