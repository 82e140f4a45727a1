import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from paribus.data import writer as writer_module
from paribus.data.store import open_store
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import DataError, StoreError


def words(size: int) -> Tokenizer:
    """A tokenizer whose vocabulary has `size` entries."""
    return Tokenizer(models.WordLevel({f"w{index}": index for index in range(size)}, unk_token="w0"))


def write(path, documents, size=1000, **recipe):
    """Write `documents`, a list of (category, split, tokens), and open the store."""
    with StoreWriter(path, words(size), Recipe("toy", **recipe)) as writer:
        for index, (category, split, tokens) in enumerate(documents):
            writer.append(Entry(f"d{index}", category, split, 2 * len(tokens)), tokens)
    return open_store(path, verify=True)


def toy(seed=0, count=40):
    generator = np.random.default_rng(seed)
    return [
        (
            f"c{generator.integers(4)}",
            ["train", "test"][index % 2],
            generator.integers(0, 1000, generator.integers(1, 60)),
        )
        for index in range(count)
    ]


@pytest.mark.parametrize("shard_tokens", [1, 50, 300, 10**9])
def test_what_is_written_is_read_whatever_the_shards(tmp_path, shard_tokens):
    documents = toy()
    store = write(tmp_path / "s", documents, shard_tokens=shard_tokens)
    flat = np.concatenate([tokens for _, _, tokens in documents])
    table = store.documents
    assert np.array_equal(np.concatenate(store.shards), flat)
    assert all(len(shard) >= min(shard_tokens, len(flat)) for shard in store.shards[:-1])
    assert np.array_equal(table.length, [len(tokens) for _, _, tokens in documents])
    assert np.array_equal(table.offset, np.cumsum(table.length) - table.length)
    assert np.array_equal(table.num_bytes, 2 * table.length)
    assert [(store.categories[c], store.splits[s]) for c, s in zip(table.category, table.split, strict=True)] == [
        (category, split) for category, split, _ in documents
    ]
    generator = np.random.default_rng(1)
    rows = generator.integers(0, len(documents), 500)
    length = 7
    rows = rows[table.length[rows] >= length]
    starts = table.offset[rows] + generator.integers(0, table.length[rows] - length + 1)
    gathered = store.gather(starts, length)
    assert gathered.dtype == np.int32
    assert np.array_equal(gathered, flat[starts[:, None] + np.arange(length)])
    assert np.array_equal(store.document_at(starts), rows)
    assert store.gather(starts[:0], length).shape == (0, length)


def test_a_window_that_leaves_the_store_or_crosses_a_shard_is_refused(tmp_path):
    store = write(tmp_path / "s", [("c", "train", [1] * 10), ("c", "train", [2] * 10)], shard_tokens=10)
    assert len(store.shards) == 2
    for start, length in [(-1, 2), (19, 2), (20, 1), (8, 4), (0, 11), (0, 21)]:
        with pytest.raises(IndexError):
            store.gather(np.array([start]), length)


def test_the_fingerprint_is_of_the_content_not_of_folder_or_shards(tmp_path):
    documents = toy()
    first = write(tmp_path / "a", documents)
    assert write(tmp_path / "b", documents, shard_tokens=50).fingerprint == first.fingerprint
    category, split, tokens = documents[3]
    changed = {
        "tokens": (category, split, (tokens + 1) % 1000),
        "category": ("c9", split, tokens),
        "split": (category, "validation", tokens),
    }
    others = [write(tmp_path / key, [*documents[:3], new, *documents[4:]]).fingerprint for key, new in changed.items()]
    others.append(write(tmp_path / "vocabulary", documents, size=1001).fingerprint)
    others.append(write(tmp_path / "start", documents, start_token_id=3).fingerprint)
    assert len({first.fingerprint, *others}) == 1 + len(others)


def test_counts_add_up(tmp_path):
    documents = toy()
    store = write(tmp_path / "s", documents)
    for split in ("train", "test"):
        for category in store.categories:
            lengths = [len(tokens) for c, s, tokens in documents if (c, s) == (category, split)]
            amount = store.manifest.counts[split].get(category)
            assert (amount.documents, amount.tokens, amount.bytes) == (len(lengths), sum(lengths), 2 * sum(lengths))
            assert np.array_equal(store.documents.length[store.rows(split, [category])], lengths)
    assert sorted([*store.rows("train"), *store.rows("test")]) == list(range(len(documents)))
    with pytest.raises(DataError, match=r"no split 'dev'; it has train, test"):
        store.rows("dev")
    with pytest.raises(DataError, match=r"no category 'c7'; it has c0, c1, c2, c3"):
        store.rows("train", ["c1", "c7"])


@pytest.mark.parametrize(("size", "dtype"), [(2**16, "uint16"), (2**16 + 1, "uint32")])
def test_the_largest_id_survives_and_the_next_is_refused_at_write_time(tmp_path, size, dtype):
    store = write(tmp_path / "s", [("c", "train", [0, size - 1])], size=size)
    assert store.manifest.dtype == dtype
    assert store.gather(np.array([0]), 2).tolist() == [[0, size - 1]]
    with pytest.raises(DataError, match=rf"train: document 'd1': token id {size} is outside"):
        write(tmp_path / "t", [("c", "train", [1, 2]), ("c", "train", [1, size])], size=size)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_id_that_would_wrap_around_is_refused(tmp_path):
    for wrong in (-1, 2**16, 2**16 + 5):
        with pytest.raises(
            DataError, match=rf"train: document 'd0': token id {wrong} is outside the vocabulary \[0, 9\)"
        ):
            write(tmp_path / "t", [("c", "train", [1, wrong, 2])], size=9)


def test_ids_are_unique_within_a_split_only(tmp_path):
    with StoreWriter(tmp_path / "s", words(9), Recipe("toy")) as writer:
        writer.append(Entry("a", "c", "train", 1), [1])
        writer.append(Entry("a", "c", "test", 1), [1])
        with pytest.raises(DataError, match="train: two documents have the id 'a'"):
            writer.append(Entry("a", "c", "train", 1), [2])
    assert open_store(tmp_path / "s").num_tokens == 2


def test_a_table_packed_in_several_pieces_keeps_every_category(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "TABLE_ROWS", 100)
    count = 730
    with StoreWriter(tmp_path / "s", words(9), Recipe("toy")) as writer:
        entries = [Entry(f"{index}", "z" if index < 5 else f"c{index // 300}", "train", 1) for index in range(count)]
        writer.extend(entries, np.zeros(count), np.ones(count, np.int64))
    store = open_store(tmp_path / "s")
    assert store.documents.id == [entry.id for entry in entries]
    assert [store.categories[code] for code in store.documents.category] == [entry.category for entry in entries]


def damage_cut(file):
    file.write_bytes(file.read_bytes()[:-2])


def damage_flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["tokens-00001.bin", "documents.parquet", "tokenizer.json"])
def test_a_truncated_missing_or_altered_file_is_named(tmp_path, name):
    write(tmp_path / "s", toy(), shard_tokens=200)
    file = tmp_path / "s" / name
    whole = file.read_bytes()
    damage_flip(file)
    open_store(tmp_path / "s")
    with pytest.raises(StoreError, match=rf"{name}: altered: found SHA-256"):
        open_store(tmp_path / "s", verify=True)
    file.write_bytes(whole[:-2])
    with pytest.raises(
        StoreError, match=rf"{name}: truncated: found {len(whole) - 2:,} bytes, expected {len(whole):,}"
    ):
        open_store(tmp_path / "s")
    file.unlink()
    with pytest.raises(StoreError, match=rf"{name}: missing"):
        open_store(tmp_path / "s")


def test_no_store_and_a_foreign_manifest_are_one_line(tmp_path):
    with pytest.raises(StoreError, match=r"absent: no store here \(no manifest\.json\)"):
        open_store(tmp_path / "absent")
    write(tmp_path / "s", toy())
    file = tmp_path / "s" / "manifest.json"
    for content in ("{", json.dumps(json.loads(file.read_text()) | {"version": 2})):
        file.write_text(content)
        with pytest.raises(StoreError, match="not a manifest that this version reads") as caught:
            open_store(tmp_path / "s")
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_differs_is_refused(tmp_path):
    store = write(tmp_path / "s", toy())
    store.check_tokenizer(words(1000))
    store.check_tokenizer(store.tokenizer())
    with pytest.raises(StoreError, match=r"made by another tokenizer: .*1,001 entries.*1,000 entries"):
        store.check_tokenizer(words(1001))


def test_an_existing_store_is_never_overwritten(tmp_path):
    before = write(tmp_path / "s", toy(0)).fingerprint
    with pytest.raises(StoreError, match="exists already"):
        write(tmp_path / "s", toy(1))
    assert open_store(tmp_path / "s", verify=True).fingerprint == before


def test_a_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path / "s", [("c", "train", [1, 2]), ("c", "train", None)])
    with (
        pytest.raises(DataError, match="nothing to store: the corpus has none"),
        StoreWriter(tmp_path / "s", words(9), Recipe("toy")),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


HOLD = """
import sys, time
from tokenizers import Tokenizer, models
from paribus.data.writer import Entry, Recipe, StoreWriter
with StoreWriter(sys.argv[1], Tokenizer(models.WordLevel({"a": 0})), Recipe("toy")) as writer:
    writer.append(Entry("a", "c", "train", 1), [0] * 10**6)
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_no_store_and_the_next_one_clears_up_but_two_at_once_are_refused(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "s"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "writing\n"
    with pytest.raises(StoreError, match="another process is writing it"):
        write(tmp_path / "s", toy())
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".s.part"]
    (tmp_path / ".s.part" / "tokens-00001.bin").write_bytes(b"the killed one had come further")
    assert len(write(tmp_path / "s", toy()).shards) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


FILL = """
import resource, sys
from tokenizers import Tokenizer, models
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import DataError
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        with StoreWriter(sys.argv[1], Tokenizer(models.WordLevel({"a": 0})), Recipe("toy")) as writer:
            for index in range(1000 if limit > 10_000 else 1):
                writer.append(Entry(str(index), "c", "train", 1), [0] * (10_000 if limit > 10_000 else 1))
    except DataError as error:
        print(error)
"""


def test_a_full_device_is_one_line_and_leaves_nothing(tmp_path):
    """The limits strike the tokenizer, the table and the shard, a block, the shard's last block, and the manifest."""
    limits = [0, 1_000, 5_000_000, 20_000_000 - 1, 1_500]
    command = [sys.executable, "-c", FILL, tmp_path / "s", *map(str, limits)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(limits)
    assert all(line.startswith(f"{tmp_path}: no space left on the device: s had ") for line in lines)
    assert list(tmp_path.iterdir()) == []
