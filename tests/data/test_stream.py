"""Every kind of `data:` section through the one seam."""

import numpy as np
import pytest
from toy_stores import make_store

from paribus.data.config import (
    ChunkWindows,
    CoinsData,
    HiddenMarkovData,
    MarkovData,
    OlmoCoreOrder,
    OlmoOrder,
    PermutationOrder,
    Seeds,
    TextData,
    TokenFilesData,
)
from paribus.data.stream import build_stream

WINDOW = 6


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    documents = [(name, "train", 30 + i) for i, name in enumerate("abab")]
    return make_store(tmp_path_factory.mktemp("store") / "store", documents)


def token_files(path, order):
    """The shard of the store, whose documents have no separators, as a token file."""
    size = {"dtype": "uint16", "sequence_length": WINDOW + 1, "vocab_size": 5, "eos": 0}
    return TokenFilesData(files=[f"{path}/tokens-00000.bin"], order=order, **size)


KINDS = {
    "random": lambda path: TextData(store=path, window=WINDOW),
    "chunks": lambda path: TextData(store=path, window=WINDOW, windows=ChunkWindows(), start_token=True),
    "token_files": lambda path: token_files(path, PermutationOrder()),
    "olmo": lambda path: token_files(path, OlmoOrder()),
    "olmo_core": lambda path: token_files(path, OlmoCoreOrder()),
    "coins": lambda path: CoinsData(num_components=3, window=WINDOW),
    "markov": lambda path: MarkovData(num_components=3, num_symbols=4, window=WINDOW),
    "hidden_markov": lambda path: HiddenMarkovData(num_components=3, num_states=2, num_symbols=4, window=WINDOW),
}


@pytest.fixture(params=KINDS)
def data(request, store):
    return KINDS[request.param](str(store.path))


def test_no_batch_breaks_the_seam(data):
    stream = build_stream(data, Seeds(), 5)
    assert stream.window == WINDOW
    assert stream.categories
    for step in (0, 3, 10_000):
        tokens, targets, ids, _ = stream.batches(step)
        assert tokens.shape == targets.shape == (5, WINDOW)
        assert ids.shape == (5,)
        assert (tokens.dtype, targets.dtype, ids.dtype) == (np.int32, np.int32, np.int64)
        assert min(tokens.min(), targets.min()) >= 0
        assert max(tokens.max(), targets.max()) < stream.vocab_size
        assert np.array_equal(tokens[:, 1:], targets[:, :-1])


def test_what_a_batch_is_does_not_depend_on_what_was_done_to_another(data):
    stream, untouched = build_stream(data, Seeds(), 5), build_stream(data, Seeds(), 5)
    for step in (0, 1):
        batch = stream.batches(step)
        batch.targets[:] = 0
        batch.window_ids[:] = -7
        for again in (step, step + 1):
            assert stream.batches(again).digest() == untouched.batches(again).digest()


def test_only_the_order_seed_changes_the_windows(data):
    def digest(seeds):
        return build_stream(data, seeds, 5).batches(2).digest()

    assert digest(Seeds(weights=1, labels=1, categories=1)) == digest(Seeds())
    assert digest(Seeds(order=1)) != digest(Seeds())
