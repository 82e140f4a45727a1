import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from paribus.data.config import CorpusConfig, OriginalFiles, TokenizerFile, TrainBpe
from paribus.data.original import read_original, write_original
from paribus.data.prepare import prepare
from paribus.data.store import open_store
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import DataError

LENGTHS = {"train_0": 5, "train_7": 101, "test_0": 250}


def words(size=1000):
    return Tokenizer(models.WordLevel({f"w{index}": index for index in range(size)}))


@pytest.fixture
def original(tmp_path):
    """Three documents of 5, 101 and 250 tokens, in a store and in the three files."""
    tokens = np.random.default_rng(0).integers(0, 1000, 356)
    with StoreWriter(tmp_path / "store", words(), Recipe("toy")) as writer:
        begin = 0
        for paper, length in LENGTHS.items():
            entry = Entry(paper, "cs.PL" if paper == "train_7" else "math.AC", paper.split("_")[0], 0)
            writer.append(entry, tokens[begin : begin + length])
            begin += length
    write_original(open_store(tmp_path / "store"), tmp_path / "original")
    return tmp_path / "original", tokens


def config(folder, store, **other):
    words().save(str(folder.parent / "tokenizer.json"))
    tokenizer = TokenizerFile(path=str(folder.parent / "tokenizer.json"))
    return CorpusConfig(
        name="toy", store=str(store), source=OriginalFiles(path=str(folder)), **{"tokenizer": tokenizer, **other}
    )


def test_the_three_files_are_byte_for_byte_those_of_the_format(original):
    folder, tokens = original
    assert (folder / "tokens.bin").read_bytes() == tokens.astype("<u2").tobytes()
    assert (folder / "tokens.bin").stat().st_size == 712
    assert [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()] == [
        {"paper_id": "train_0", "cat": "math.AC", "offset": 0, "length": 5},
        {"paper_id": "train_7", "cat": "cs.PL", "offset": 5, "length": 101},
        {"paper_id": "test_0", "cat": "math.AC", "offset": 106, "length": 250},
    ]
    assert json.loads((folder / "splits.json").read_text()) == {"train": ["train_0", "train_7"], "test": ["test_0"]}
    assert sorted(file.name for file in folder.iterdir()) == ["index.jsonl", "splits.json", "tokens.bin"]


def test_the_three_files_survive_a_round_trip_through_a_store(original, tmp_path):
    folder, tokens = original
    store = prepare(config(folder, tmp_path / "again"), progress=False)
    assert np.array_equal(np.concatenate(store.shards), tokens)
    assert store.documents.id == list(LENGTHS)
    assert store.manifest.vocab_size == 1000
    write_original(store, tmp_path / "twice")
    for file in folder.iterdir():
        assert (tmp_path / "twice" / file.name).read_bytes() == file.read_bytes()


def test_documents_are_written_split_by_split_whatever_the_order_of_the_store(tmp_path):
    with StoreWriter(tmp_path / "s", words(), Recipe("toy")) as writer:
        for index in range(60):
            writer.append(Entry(f"d{index}", "c", ["train", "test"][index % 2], 0), [index] * (index % 7 + 1))
    write_original(open_store(tmp_path / "s"), tmp_path / "o")
    original = read_original(tmp_path / "o")
    order = [*range(0, 60, 2), *range(1, 60, 2)]
    assert original.splits == {
        "train": [f"d{index}" for index in order[:30]],
        "test": [f"d{index}" for index in order[30:]],
    }
    assert original.tokens.tolist() == [index for index in order for _ in range(index % 7 + 1)]
    for split in original.splits:
        for document in original.documents(split):
            index = int(document.id[1:])
            assert document.tokens.tolist() == [index] * (index % 7 + 1)


def test_bytes_are_counted_from_the_tokens(original, tmp_path):
    folder, _ = original
    store = prepare(config(folder, tmp_path / "again"), progress=False)
    tokenizer = words()
    for row, offset in enumerate(store.documents.offset):
        ids = store.gather(np.array([offset]), int(store.documents.length[row]))[0]
        assert store.documents.num_bytes[row] == len(tokenizer.decode(ids.tolist()).encode())


def test_the_tokens_of_another_tokenizer_are_refused(original, tmp_path):
    folder, tokens = original
    cfg = config(folder, tmp_path / "again")
    words(int(tokens.max())).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match=rf"token id {tokens.max()} is outside the vocabulary \[0, {tokens.max()}\)"):
        prepare(cfg, progress=False)
    with pytest.raises(DataError, match=r"tokenised already: tokenizer\.kind must be file or hub, found train_bpe"):
        prepare(config(folder, tmp_path / "again", tokenizer=TrainBpe(vocab_size=300)), progress=False)
    assert not (tmp_path / "again").exists()


def test_an_id_beyond_uint16_is_refused_at_write_time(tmp_path):
    for name, top in (("fits", 2**16 - 1), ("beyond", 2**16)):
        with StoreWriter(tmp_path / name, words(2**16 + 1), Recipe("toy")) as writer:
            writer.append(Entry("a", "c", "train", 0), [1, top])
    write_original(open_store(tmp_path / "fits"), tmp_path / "o")
    assert read_original(tmp_path / "o").tokens.tolist() == [1, 2**16 - 1]
    with pytest.raises(DataError, match=r"document 'a': token id 65536 is beyond uint16"):
        write_original(open_store(tmp_path / "beyond"), tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_an_id_in_two_splits_cannot_be_said_in_the_format(tmp_path):
    with StoreWriter(tmp_path / "s", words(), Recipe("toy")) as writer:
        for split in ("train", "test"):
            writer.append(Entry("same", "c", split, 0), [1])
    with pytest.raises(DataError, match="two splits share a document id"):
        write_original(open_store(tmp_path / "s"), tmp_path / "o")


def cut_tokens(folder):
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-2])


def half_token(folder):
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-1])


def no_length(folder):
    (folder / "index.jsonl").write_text('\n{"paper_id": "a", "cat": "b", "offset": 0}\n')


def twice(folder):
    (folder / "index.jsonl").write_text((folder / "index.jsonl").read_text().replace("train_7", "train_0"))


def unknown(folder):
    (folder / "splits.json").write_text('{"train": ["train_0", "train_7", "test_0", "x"]}')


def unlisted(folder):
    (folder / "splits.json").write_text('{"train": ["train_0", "train_7"]}')


def listed_twice(folder):
    (folder / "splits.json").write_text('{"train": ["train_0", "train_7"], "test": ["test_0", "train_0"]}')


def no_mapping(folder):
    (folder / "splits.json").write_text('["train_0"]')


def removed(folder):
    (folder / "index.jsonl").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_tokens, r"index\.jsonl:3: 'test_0' is at tokens \[106, 356\), but tokens\.bin has 355"),
        (half_token, r"tokens\.bin: found 711 bytes"),
        (no_length, r"index\.jsonl:2: found .*, expected paper_id and cat"),
        (twice, r"index\.jsonl:2: paper_id 'train_0' occurs a second time"),
        (unknown, r"splits\.json: 1 documents are in no line of index\.jsonl, the first is 'x'"),
        (unlisted, r"splits\.json: 1 documents are in no split, the first is 'test_0'"),
        (listed_twice, r"splits\.json: 1 documents are listed twice, the first is 'train_0'"),
        (no_mapping, r"splits\.json: expected split -> list of paper ids"),
        (removed, r"index\.jsonl: missing; expected the three files tokens\.bin, index\.jsonl, splits\.json"),
    ],
)
def test_files_that_do_not_fit_together_are_one_line(original, damage, message):
    folder, _ = original
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        read_original(folder)
    assert "\n" not in str(caught.value)
