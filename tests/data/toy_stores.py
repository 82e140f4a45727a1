"""Stores whose tokens tell where they come from: every token of document d is d + 1; 0 is the start token."""

import numpy as np
from tokenizers import Tokenizer, models

from paribus.data.store import open_store
from paribus.data.writer import Entry, Recipe, StoreWriter


def make_store(path, documents, start_token_id=0, shard_tokens=2**28, tokenizer=None):
    """Write `documents`, a list of (category, split, length), and open the store."""
    tokenizer = tokenizer or Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(len(documents) + 1)}, unk_token="w0")
    )
    lengths = np.array([length for _, _, length in documents])
    entries = [Entry(f"d{i}", category, split, 0) for i, (category, split, _) in enumerate(documents)]
    recipe = Recipe("toy", start_token_id=start_token_id, shard_tokens=shard_tokens)
    with StoreWriter(path, tokenizer, recipe) as writer:
        writer.extend(entries, np.repeat(np.arange(len(documents)) + 1, lengths), lengths)
    return open_store(path)


def ids_of(stream, num_steps):
    """The window ids of the first steps, one after another."""
    return np.concatenate([stream.batches(step).window_ids for step in range(num_steps)])


def deviation(counts, chances=None):
    """Chi-square of counts against their chances (equal by default), in standard deviations from its mean."""
    counts = np.asarray(counts, float)
    expected = counts.sum() * (np.full(counts.size, 1 / counts.size) if chances is None else np.asarray(chances))
    free = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - free) / np.sqrt(2 * free)
