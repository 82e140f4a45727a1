"""Oracles: the law of each draw (chi-square), tokens that name their document, and a bitmap of what was predicted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from toy_stores import deviation, ids_of, make_store

from paribus.data.batches import IGNORE
from paribus.data.config import (
    ChunkWindows,
    ConstantTotal,
    ConstantUnique,
    ExplicitCategories,
    NestedCategories,
    RandomWindows,
    Seeds,
    TextData,
)
from paribus.data.windows import View, categories_of, frozen_windows, text_stream, unique_tokens
from paribus.errors import DataError, StoreError


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Categories a, b, c with 10, 100 and 1000 documents of 101 to 160 tokens, and as many that are too short."""
    generator = np.random.default_rng(0)
    documents = [
        (name, split, int(generator.integers(*bounds)))
        for name, number in (("a", 10), ("b", 100), ("c", 1000))
        for split, bounds in (("train", (101, 161)), ("train", (1, 101)), ("test", (101, 161)))
        for _ in range(number)
    ]
    generator.shuffle(documents)
    documents = [(name, split, int(length)) for name, split, length in documents]
    return make_store(tmp_path_factory.mktemp("mixed") / "store", documents, shard_tokens=30_000)


def stream_of(store, batch_size=1000, seeds=None, **settings):
    settings = {"window": 100} | settings
    return text_stream(TextData(store=str(store.path), **settings), seeds or Seeds(), batch_size)


def rows_of(store, ids):
    return store.document_at(ids)


def test_categories_drawn_alike_are_not_drawn_by_their_size(mixed):
    stream = stream_of(mixed)
    rows = rows_of(mixed, ids_of(stream, 300))
    counts = np.bincount(mixed.documents.category[rows], minlength=3)
    assert counts.sum() == 300_000
    assert np.abs(counts / 300_000 - 1 / 3).max() < 0.004
    assert stream.categories == ("a", "b", "c")


def test_documents_that_are_too_short_or_held_out_are_never_drawn_and_the_short_are_counted(mixed):
    stream = stream_of(mixed)
    rows = np.unique(rows_of(mixed, ids_of(stream, 100)))
    assert (mixed.documents.length[rows] >= 101).all()
    assert {mixed.splits[split] for split in mixed.documents.split[rows]} == {"train"}
    assert len(rows) > 1000
    assert stream.facts["too_short"] == {"a": 10, "b": 100, "c": 1000}
    assert stream.facts["documents"] == {"a": 10, "b": 100, "c": 1000}
    assert sum(stream.facts["window_starts"].values()) == int((mixed.documents.length[mixed_rows(mixed)] - 100).sum())


def mixed_rows(store):
    rows = store.rows("train")
    return rows[store.documents.length[rows] >= 101]


@pytest.mark.parametrize("weights", ["document", "token", {"a": 1.0, "b": 5.0, "c": 2.0}])
def test_a_category_is_drawn_with_the_share_that_its_weight_says(mixed, weights):
    stream = stream_of(mixed, windows=RandomWindows(weights=weights))
    rows = rows_of(mixed, ids_of(stream, 100))
    long = mixed_rows(mixed)
    category = mixed.documents.category[long]
    mass = {
        "document": lambda: np.bincount(category),
        "token": lambda: np.bincount(category, mixed.documents.length[long] - 100),
    }.get(weights if isinstance(weights, str) else "", lambda: np.array([1, 5, 2]))()
    assert abs(deviation(np.bincount(mixed.documents.category[rows]), mass / mass.sum())) < 4
    assert list(stream.facts["shares"].values()) == pytest.approx(list(mass / mass.sum()))


@pytest.mark.parametrize("documents", ["token", "uniform"])
@pytest.mark.parametrize("start_token", [False, True])
def test_starts_are_uniform_on_both_closed_ends(tmp_path, documents, start_token):
    read = 5 if start_token else 6
    lengths = [read, read + 9, read - 1, read + 2]
    store = make_store(tmp_path / "s", [("x", "train", length) for length in lengths])
    windows = RandomWindows(documents=documents)
    ids = ids_of(stream_of(store, window=5, start_token=start_token, windows=windows), 100)
    starts = [1, 10, 0, 3]
    offsets = store.documents.offset
    possible = np.concatenate([offset + np.arange(n) for offset, n in zip(offsets, starts, strict=True)])
    chance = np.repeat([1 / 14 if documents == "token" else 1 / (3 * max(n, 1)) for n in starts], starts)
    counts = np.array([(ids == start).sum() for start in possible])
    assert counts.sum() == len(ids)
    assert abs(deviation(counts, chance)) < 4


@pytest.mark.parametrize("windows", [RandomWindows(), RandomWindows(documents="uniform"), ChunkWindows()])
@pytest.mark.parametrize("start_token", [False, True])
def test_no_window_crosses_a_document_and_targets_follow_tokens(mixed, windows, start_token):
    stream = stream_of(mixed, windows=windows, start_token=start_token, window=30, batch_size=64)
    flat = np.concatenate(mixed.shards).astype(np.int64)
    for step in range(50):
        tokens, targets, ids, _ = stream.batches(step)
        assert tokens.shape == targets.shape == (64, 30)
        assert tokens.dtype == targets.dtype == np.int32
        assert ids.dtype == np.int64
        at = ids[:, None] + np.arange(30)
        assert np.array_equal(targets, flat[at if start_token else at + 1])
        assert (targets == targets[:, :1]).all()  # all tokens of a document are alike
        assert (targets[:, 0] == rows_of(mixed, ids) + 1).all()
        if start_token:
            assert (tokens[:, 0] == 0).all()
            assert np.array_equal(tokens[:, 1:], targets[:, :-1])
        else:
            assert np.array_equal(tokens, flat[at])
        assert (targets != IGNORE).all()


@pytest.mark.parametrize("windows", [RandomWindows(), ChunkWindows()])
def test_a_batch_depends_only_on_the_config_and_the_step(mixed, windows):
    stream, again = (stream_of(mixed, windows=windows, batch_size=16) for _ in range(2))
    backwards = [again.batches(step).digest() for step in reversed(range(20))]
    digests = [stream.batches(step).digest() for step in range(20)]
    assert digests == backwards[::-1]
    assert len(set(digests)) == 20
    for seeds in (Seeds(categories=1), Seeds(weights=1), Seeds(labels=1)):
        assert stream_of(mixed, windows=windows, batch_size=16, seeds=seeds).batches(3).digest() == digests[3]
    other = stream_of(mixed, windows=windows, batch_size=16, seeds=Seeds(order=1))
    assert other.batches(3).digest() != digests[3]


@pytest.mark.parametrize("windows", [RandomWindows(), ChunkWindows(design=ConstantTotal(chunks=90))])
@pytest.mark.parametrize("batch_size", [1, 7, 96, 20_000])
def test_the_batch_size_only_cuts_the_sequence_of_windows(mixed, windows, batch_size):
    settings = {"windows": windows, "window": 30}
    ids, cut = ids_of(stream_of(mixed, 16, **settings), 12), stream_of(mixed, batch_size, **settings)
    assert np.array_equal(ids_of(cut, -(-192 // batch_size))[:192], ids)


@settings(max_examples=20, deadline=None)
@given(batch_size=st.integers(40, 5000), seed=st.integers(0, 2**32))
def test_every_chunk_comes_once_an_epoch_whatever_the_batch_size(mixed, batch_size, seed):
    stream = stream_of(mixed, batch_size, Seeds(order=seed), windows=ChunkWindows(), window=20)
    slots = stream.windows_per_epoch
    ids = ids_of(stream, -(-2 * slots // batch_size))
    first, second = ids[:slots], ids[slots : 2 * slots]
    assert len(np.unique(first)) == slots
    assert np.array_equal(np.sort(first), np.sort(second))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("start_token", [False, True])
def test_chunks_predict_no_token_twice_and_waste_less_than_a_window_of_each_document(mixed, start_token):
    stream = stream_of(mixed, 100, windows=ChunkWindows(), window=20, start_token=start_token)
    slots = stream.windows_per_epoch
    ids = ids_of(stream, -(-slots // 100))[:slots]
    predicted = np.bincount((ids[:, None] + np.arange(20) + (not start_token)).ravel(), minlength=mixed.num_tokens)
    assert predicted.max() == 1
    assert stream.unique_tokens == slots * 20 == predicted.sum()
    per_document = np.add.reduceat(predicted, mixed.documents.offset)[mixed.rows("train")]
    left = mixed.documents.length[mixed.rows("train")] - per_document - (not start_token)
    assert left.min() >= 0
    assert left.max() < 20


def predicted_tokens(store, stream, num_steps, window, start_token=False):
    """Brute force: mark every target of the first steps."""
    seen = np.zeros(store.num_tokens + 1, bool)
    seen[ids_of(stream, num_steps)[:, None] + np.arange(window) + (not start_token)] = True
    return int(seen.sum())


@pytest.mark.parametrize("start_token", [False, True])
def test_unique_tokens_of_random_windows_are_all_that_they_can_reach(tmp_path, start_token):
    store = make_store(tmp_path / "s", [("x", "train", n) for n in (4, 5, 6, 7, 12, 30)])
    stream = stream_of(store, window=5, start_token=start_token, batch_size=1000)
    assert stream.unique_tokens == predicted_tokens(store, stream, 20, 5, start_token)
    assert stream.windows_per_epoch is None


@pytest.mark.parametrize("documents", ["token", "uniform"])
def test_the_unique_tokens_of_a_short_run_are_those_that_a_replay_counts(mixed, documents):
    settings = {"windows": RandomWindows(documents=documents), "window": 40}
    counts = [
        predicted_tokens(mixed, stream_of(mixed, seeds=Seeds(order=seed), **settings), 2, 40) for seed in range(20)
    ]
    config = TextData(store=str(mixed.path), **settings)
    error = np.std(counts, ddof=1) / np.sqrt(20)
    assert abs(unique_tokens(config, Seeds(), 2000) - np.mean(counts)) < 4 * error
    assert unique_tokens(config, Seeds(), 0) == 0
    assert unique_tokens(config, Seeds(), 10**12) == stream_of(mixed, **settings).unique_tokens


@pytest.mark.parametrize("design", [ChunkWindows().design, ConstantTotal(chunks=90), ConstantUnique(chunks=60)])
@pytest.mark.parametrize("num_steps", [0, 1, 5, 9, 10, 14, 40])
def test_the_unique_tokens_of_chunks_are_those_that_a_replay_counts(mixed, design, num_steps):
    settings = {"windows": ChunkWindows(design=design), "window": 30}
    stream = stream_of(mixed, 10, **settings)
    counted = predicted_tokens(mixed, stream, num_steps, 30) if num_steps else 0
    assert unique_tokens(TextData(store=str(mixed.path), **settings), Seeds(), 10 * num_steps) == counted


def test_dealing_labels_anew_moves_documents_between_categories_and_keeps_the_counts(mixed):
    shuffled = stream_of(mixed, labels="shuffled", categories=ExplicitCategories(names=["a", "b"]))
    ids = ids_of(shuffled, 20)
    assert set(categories_of(mixed, ids, labels_seed=0)) == {"a", "b"}
    assert set(categories_of(mixed, ids)) == {"a", "b", "c"}
    drawn = np.unique(rows_of(mixed, ids))
    assert len(drawn) < 200
    total = {name: shuffled.facts["documents"][name] + shuffled.facts["too_short"][name] for name in "ab"}
    assert total == {"a": 20, "b": 200}
    other = stream_of(mixed, labels="shuffled", seeds=Seeds(labels=1), categories=ExplicitCategories(names=["a", "b"]))
    assert set(drawn) != set(rows_of(mixed, ids_of(other, 20)))


def test_frozen_windows_do_not_depend_on_the_other_categories(mixed):
    view = View("test", 50)
    together = frozen_windows(mixed, view, ["a", "b", "c"], 40, seed=3)
    alone = frozen_windows(mixed, view, ["b"], 60, seed=3)
    assert together.categories == ("a", "b", "c")
    assert np.array_equal(together.batch.window_ids[40:80], alone.batch.window_ids[:40])
    assert np.array_equal(together.batch.targets[40:80], alone.batch.targets[:40])
    assert np.array_equal(together.category, np.repeat([0, 1, 2], 40))
    assert categories_of(mixed, together.batch.window_ids) == ["a"] * 40 + ["b"] * 40 + ["c"] * 40
    assert not np.array_equal(alone.batch.window_ids, frozen_windows(mixed, view, ["b"], 60, seed=4).batch.window_ids)


def test_frozen_windows_repeat_no_start_while_others_are_left(tmp_path):
    documents = [("x", "test", 10), ("x", "test", 3), ("x", "train", 50), ("x", "test", 6)]
    store = make_store(tmp_path / "s", documents)
    view = View("test", 4)  # 6 + 0 + 2 starts
    ids = frozen_windows(store, view, ["x"], 8, seed=0).batch.window_ids
    assert sorted(ids) == [0, 1, 2, 3, 4, 5, 63, 64]
    more = frozen_windows(store, view, ["x"], 20, seed=0).batch.window_ids
    assert np.array_equal(more[:8], ids)
    assert set(np.unique(more, return_counts=True)[1]) == {2, 3}


def test_frozen_windows_follow_the_labels_that_were_dealt(mixed):
    dealt = frozen_windows(mixed, View("test", 50, labels_seed=5), ["a"], 30, seed=0).batch.window_ids
    assert set(categories_of(mixed, dealt, labels_seed=5)) == {"a"}
    assert len(set(categories_of(mixed, dealt))) > 1


def test_target_bytes_are_those_of_the_targets(tmp_path):
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(sorted(letters))} | {"ab": 256}, [("a", "b")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    store = make_store(tmp_path / "s", [("x", "test", 20)] * 256, tokenizer=tokenizer)
    frozen = frozen_windows(store, View("test", 4), ["x"], 4096, seed=0)
    assert np.array_equal(frozen.target_bytes, np.where(frozen.batch.targets == 256, 2, 1))
    assert (frozen.batch.targets == 256).any()
    assert (
        frozen_windows(make_store(tmp_path / "t", [("x", "test", 9)]), View("test", 4), ["x"], 2, 0).target_bytes
        is None
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 160}, "window: a window of 160 predictions reads 161 tokens, .*'train' has 1"),
        ({"window": 200, "start_token": True}, "reads 200 tokens, but the longest .* choose a window of at most 1"),
        ({"split": "dev"}, "no split 'dev'; it has t"),
        ({"categories": ExplicitCategories(names=["d"])}, "no category 'd'; the categories are a, b, c"),
        ({"categories": NestedCategories(k=4)}, "categories.k: found 4, expected 1 to 3: the categories are a, b, c"),
        ({"windows": RandomWindows(weights={"a": 1.0})}, "no weight for b, c"),
        ({"windows": ChunkWindows(design=ConstantTotal(chunks=2))}, "found 2, expected at least 3"),
        (
            {"windows": ChunkWindows(design=ConstantUnique(chunks=300))},
            r"300 over 3 categories takes 100 chunks of each, but a has 10 \(90 short\); at most 30 are possible",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(mixed, settings, message):
    with pytest.raises(DataError, match=message) as error:
        stream_of(mixed, **settings)
    assert "\n" not in str(error.value)


def test_no_category_is_left_out_in_silence(tmp_path):
    store = make_store(tmp_path / "s", [("long", "train", 50), ("short", "train", 5), ("absent", "test", 50)])
    with pytest.raises(DataError, match="absent, short: no document of split 'train' is long enough"):
        stream_of(store, window=10)
    only = ExplicitCategories(names=["long"])
    assert stream_of(store, window=10, categories=only).categories == ("long",)
    with pytest.raises(DataError, match="no category 'logn'; did you mean long"):
        frozen_windows(store, View("test", 4), ["logn"], 5, 0)


def test_no_start_token_is_made_up(tmp_path):
    store = make_store(tmp_path / "s", [("x", "train", 50)], start_token_id=None)
    with pytest.raises(DataError, match=r"start_token: .* no special token .*; set start_token: false, or prepare"):
        stream_of(store, window=10, start_token=True)
    with pytest.raises(StoreError):
        text_stream(TextData(store=str(tmp_path / "none"), window=10), Seeds(), 4)


@pytest.mark.parametrize(
    ("windows", "recorded"),
    [
        (RandomWindows(), "3ac6c6873ad7cdbb"),
        (ChunkWindows(), "3be46689831ae118"),
        (ChunkWindows(design=ConstantTotal(chunks=90)), "d554155b6edd2b88"),
        (ChunkWindows(design=ConstantUnique(chunks=30)), "4cc61b75519a9935"),
    ],
)
def test_the_windows_of_a_recorded_config_stay(tmp_path, windows, recorded):
    """Made by printing the left side. A change means that published configs give other tokens: raise the major version."""
    documents = [(name, "train", 40 + 7 * i) for i, name in enumerate("abcabcabc")]
    store = make_store(tmp_path / "s", documents)
    stream = stream_of(store, 8, Seeds(order=1), windows=windows, window=9)
    assert stream.batches(5).digest().hex() == recorded


def test_the_frozen_windows_of_a_recorded_seed_stay(tmp_path):
    """Made by printing the left side. A change means that published evaluations score other windows."""
    store = make_store(tmp_path / "s", [(name, "test", 40 + 7 * i) for i, name in enumerate("abcabcabc")])
    frozen = frozen_windows(store, View("test", 9, start_token=True), ["a", "c"], 8, seed=2)
    assert frozen.batch.digest().hex() == "7d2885ba16d8042b"
