import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from paribus.data import encode
from paribus.data.config import CorpusConfig, Folder, Jsonl, OriginalFiles, Sample, TokenizerFile, TrainBpe
from paribus.data.corpus import documents
from paribus.data.prepare import check, prepare
from paribus.data.store import open_store
from paribus.errors import DataError, StoreError


@pytest.fixture
def corpus(tmp_path):
    """A function that writes a corpus of {split: [(id, text)]} and gives its config: a token for every letter."""
    letters = Tokenizer(models.BPE({letter: index for index, letter in enumerate("?abcdefghij ")}, [], unk_token="?"))
    letters.add_special_tokens(["<bos>"])
    letters.save(str(tmp_path / "tokenizer.json"))

    def write(splits, **other):
        files = {}
        for split, texts in splits.items():
            lines = [json.dumps({"id": name, "text": text, "category": f"c{len(name)}"}) for name, text in texts]
            (tmp_path / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
            files[split] = [str(tmp_path / f"{split}.jsonl")]
        settings = {"tokenizer": TokenizerFile(path=str(tmp_path / "tokenizer.json")), **other}
        return CorpusConfig(name="toy", store=str(tmp_path / "store"), source=Jsonl(files=files), **settings)

    return write


def make(config):
    return prepare(config, progress=False)


def contents(store):
    """split -> [(id, tokens)]"""
    table, tokens = store.documents, np.concatenate(store.shards)
    found = {split: [] for split in store.splits}
    for name, split, offset, length in zip(table.id, table.split, table.offset, table.length, strict=True):
        found[store.splits[split]].append((name, tokens[offset : offset + length].tolist()))
    return found


def ids(store):
    return {split: [name for name, _ in rows] for split, rows in contents(store).items()}


def test_the_store_holds_the_tokens_of_every_document_in_the_order_of_the_splits(corpus):
    store = make(corpus({"test": [("q", "ba")], "train": [("x", "abc"), ("yy", "a!")]}))
    assert contents(store) == {"train": [("x", [1, 2, 3]), ("yy", [1, 0])], "test": [("q", [2, 1])]}
    assert store.documents.num_bytes.tolist() == [3, 2, 2]
    assert store.categories == ("c1", "c2")
    assert store.manifest.start_token_id == 12
    assert sorted(name.rsplit("/")[-1] for name in store.manifest.inputs) == [
        "test.jsonl",
        "tokenizer.json",
        "train.jsonl",
    ]


def test_empty_and_short_documents_are_left_out_and_counted(corpus):
    splits = {"train": [("a", ""), ("b", " \n\t"), ("c", "ab"), ("d", "abc"), ("e", "abcd")], "test": [("f", "abcdef")]}
    store = make(corpus(splits, min_tokens=3))
    assert ids(store) == {"train": ["d", "e"], "test": ["f"]}
    skipped = store.manifest.skipped
    assert (skipped["train"].empty, skipped["train"].short, skipped["train"].duplicate) == (2, 1, 0)
    assert (skipped["test"].empty, skipped["test"].short, skipped["test"].duplicate) == (0, 0, 0)


def test_a_corpus_with_nothing_to_keep_is_refused_with_the_account(corpus, tmp_path):
    with pytest.raises(DataError, match="nothing to store: train: 1 empty, 1 short, 0 duplicate"):
        make(corpus({"train": [("a", ""), ("b", "ab")]}, min_tokens=3))
    assert not (tmp_path / "store").exists()


DUPLICATES = {
    "train": [("a", "aaa"), ("b", "bbb"), ("c", "ccc"), ("d", "aaa"), ("e", "ddd")],
    "validation": [("f", "fff"), ("g", "ccc"), ("h", "bbb")],
    "test": [("i", "aaa"), ("j", "bbb"), ("k", "iii"), ("l", "iii")],
}


def test_of_texts_in_two_splits_the_held_out_copy_stays(corpus):
    store = make(corpus(DUPLICATES, duplicates="drop"))
    assert ids(store) == {"train": ["e"], "validation": ["f", "g"], "test": ["i", "j", "k", "l"]}
    assert {split: skipped.duplicate for split, skipped in store.manifest.skipped.items()} == {
        "train": 4,
        "validation": 1,
        "test": 0,
    }
    assert store.manifest.repeated == {"train": 0, "validation": 0, "test": 1}


@pytest.mark.parametrize("tokenizer", [None, TrainBpe(vocab_size=257)])
def test_texts_in_two_splits_are_refused_with_both_ids_and_their_count(corpus, tmp_path, tokenizer):
    other = {"tokenizer": tokenizer} if tokenizer else {}
    with pytest.raises(DataError, match=r"train 'a' and test 'i' are the same text; so it is with 5 documents in all"):
        make(corpus(DUPLICATES, **other))
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / ".store.part").exists()


def test_the_tokenizer_is_not_trained_on_held_out_text(corpus):
    splits = {"train": [("a", "xyz " * 50), ("b", "abc" * 20)], "test": [("c", "xyz " * 50)]}
    store = make(corpus(splits, tokenizer=TrainBpe(vocab_size=258), duplicates="drop"))
    assert store.tokenizer().id_to_token(257) == "ab"  # the most frequent pair of what is left


def test_a_limit_keeps_the_first_documents_and_counts_nothing_beyond(corpus, monkeypatch):
    """Whatever was read ahead by other threads."""
    monkeypatch.setattr(encode, "BATCH_CHARS", 20)
    train = [("a", ""), *[(f"d{index}", "abc" * (1 + index % 3)) for index in range(200)], ("z", "")]
    for threads in (1, 3):
        config = corpus({"train": train}, max_documents_per_split=7, min_tokens=4, num_threads=threads)
        store = make(config)
        assert ids(store) == {"train": ["d1", "d2", "d4", "d5", "d7", "d8", "d10"]}
        skipped = store.manifest.skipped["train"]
        assert (skipped.empty, skipped.short, store.manifest.repeated["train"]) == (1, 4, 5)
        shutil.rmtree(config.store)


def test_the_beginning_of_a_document_is_marked_and_not_counted_as_its_text(corpus):
    store = make(corpus({"train": [("a", "ab"), ("b", ""), ("c", "a")]}, beginning_of_document="<bos>", min_tokens=1))
    assert contents(store) == {"train": [("a", [12, 1, 2]), ("c", [12, 1])]}
    assert store.documents.num_bytes.tolist() == [2, 1]


def test_the_number_of_threads_changes_nothing(corpus, monkeypatch):
    monkeypatch.setattr(encode, "BATCH_CHARS", 50)
    generator = np.random.default_rng(0)
    train = [(f"d{index}", "".join(generator.choice(list("abcdefghij "), index % 40))) for index in range(500)]
    seen = set()
    for threads in (1, 2, 5):
        config = corpus({"train": train}, num_threads=threads)
        store = make(config)
        seen.add((store.fingerprint, store.manifest.model_dump_json(exclude={"files"})))
        shutil.rmtree(config.store)
    assert len(seen) == 1


def test_preparing_again_verifies_and_writes_nothing(corpus, tmp_path):
    config = corpus({"train": [("a", "abc")]})
    first = make(config)
    times = {file.name: file.stat().st_mtime_ns for file in first.path.iterdir()}
    again = make(config.model_copy(update={"num_threads": 1, "name": "another"}))
    assert again.fingerprint == first.fingerprint
    assert {file.name: file.stat().st_mtime_ns for file in first.path.iterdir()} == times
    content = bytearray((first.path / "tokens-00000.bin").read_bytes())
    content[0] ^= 1
    (first.path / "tokens-00000.bin").write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"tokens-00000\.bin: altered"):
        make(config)


def test_a_store_of_other_settings_is_refused_and_the_keys_are_shown(corpus):
    config = corpus({"train": [("a", "abc")]})
    make(config)
    other = config.model_copy(update={"min_tokens": 2, "tokenizer": TrainBpe(vocab_size=300)})
    with pytest.raises(StoreError) as caught:
        make(other)
    message = str(caught.value)
    assert "made from other settings" in message
    assert "min_tokens: made with 1, found 2" in message
    assert "tokenizer.kind: made with 'file', found 'train_bpe'" in message
    assert "tokenizer.vocab_size: made with nothing, found 300" in message
    assert "\n" not in message


def test_a_store_of_other_input_is_refused_but_input_that_is_gone_is_not_missed(corpus, tmp_path):
    config = corpus({"train": [("a", "abc")]})
    make(config)
    corpus({"train": [("a", "abd")]})
    with pytest.raises(StoreError, match=r"made from other input: \S+train\.jsonl changed or came later"):
        make(config)
    corpus({"train": [("a", "abc")]})
    make(config)
    Tokenizer(models.WordLevel({"a": 0})).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StoreError, match=r"made from other input: \S+tokenizer\.json changed"):
        make(config)
    (tmp_path / "train.jsonl").unlink()
    make(config)


def test_a_folder_that_is_no_store_is_left_alone(corpus, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="exists and is no store"):
        make(corpus({"train": [("a", "abc")]}))
    assert [file.name for file in (tmp_path / "store").iterdir()] == ["thesis.tex"]
    (tmp_path / "store" / "thesis.tex").unlink()
    assert make(corpus({"train": [("a", "abc")]})).num_tokens == 3


def test_a_changed_file_of_a_folder_is_noticed(corpus, tmp_path):
    (tmp_path / "texts/train/x").mkdir(parents=True)
    (tmp_path / "texts/train/x/1.txt").write_text("abc")
    config = corpus({}).model_copy(update={"source": Folder(path=str(tmp_path / "texts"))})
    assert make(config).documents.id == ["x/1"]
    make(config)
    (tmp_path / "texts/train/x/1.txt").write_text("abd")
    with pytest.raises(StoreError, match="made from other input"):
        make(config)


def test_mistakes_in_the_corpus_leave_nothing_behind(corpus, tmp_path):
    config = corpus({"train": [("a", "abc"), ("a", "abd")]})
    with pytest.raises(DataError, match="train: two documents have the id 'a'"):
        make(config)
    (tmp_path / "train.jsonl").write_text(
        '{"id": "a", "text": "t", "category": "c"}\n' * 16 + '{"id": "b", "body": "t"}\n'
    )
    with pytest.raises(DataError, match=r"train\.jsonl:17: no field 'text' \(found: id, body\)"):
        make(config)
    with pytest.raises(DataError, match=r"tokenizer\.split: no split 'dev'; the corpus has train"):
        make(corpus({"train": [("a", "abc")]}, tokenizer=TrainBpe(vocab_size=300, split="dev")))
    with pytest.raises(DataError, match="beginning_of_document: the tokenizer has no token '<s>'"):
        make(corpus({"train": [("a", "abc")]}, beginning_of_document="<s>"))
    assert not [path for path in tmp_path.iterdir() if "store" in path.name]


def test_a_look_at_a_corpus_is_silent_about_what_prepare_would_refuse(corpus, tmp_path):
    config = corpus({"train": [("a", "abc")]})
    check(config)
    absent = str(tmp_path / "absent")
    for change, message in (
        ({"source": Jsonl(files={"train": [absent]})}, rf"^source\.files\.train: {absent} matches no file"),
        ({"source": Folder(path=absent)}, rf"^source\.path: no folder {absent}"),
        ({"source": OriginalFiles(path=absent)}, rf"^source\.path: {absent}/tokens\.bin: missing"),
        ({"tokenizer": TokenizerFile(path=absent)}, rf"^tokenizer\.path: {absent}: no tokenizer here"),
        ({"tokenizer": TrainBpe(vocab_size=300, split="dev")}, r"^tokenizer\.split: no split 'dev'"),
    ):
        with pytest.raises(DataError, match=message):
            check(config.model_copy(update=change))
    (tmp_path / "texts/train").mkdir(parents=True)
    with pytest.raises(DataError, match="no texts here"):
        check(config.model_copy(update={"source": Folder(path=str(tmp_path / "texts"))}))
    assert not [path for path in tmp_path.iterdir() if "store" in path.name]


def test_a_look_at_a_store_that_is_there_asks_for_its_input_or_takes_other_settings(corpus, tmp_path):
    config = corpus({"train": [("a", "abc")]})
    make(config)
    (tmp_path / "train.jsonl").unlink()
    check(config)
    with pytest.raises(StoreError, match="made from other settings: min_tokens: made with 1, found 2"):
        check(config.model_copy(update={"min_tokens": 2}))
    with pytest.raises(StoreError, match="exists and is no store"):
        check(config.model_copy(update={"store": str(tmp_path)}))


def test_the_sample_is_whole_in_its_store(tmp_path):
    tokenizer = TrainBpe(vocab_size=1000, split="validation")
    store = make(
        CorpusConfig(
            name="sample", store=str(tmp_path / "s"), source=Sample(), tokenizer=tokenizer, max_documents_per_split=100
        )
    )
    for split in ("train", "validation", "test"):
        texts = [document.text for document in documents(Sample(), split)][:100]
        rows = store.rows(split)
        assert store.documents.num_bytes[rows].tolist() == [len(text.encode()) for text in texts]
        for row in rows[::7]:
            start, length = store.documents.offset[row : row + 1], int(store.documents.length[row])
            assert store.tokenizer().decode(store.gather(start, length)[0].tolist()) == texts[row - rows[0]]


@given(st.lists(st.integers(0, 9)), st.integers(1, 4))
def test_mapping_on_threads_keeps_the_order(items, threads):
    def slow(item):
        time.sleep(0.0005 * (item % 3))
        return -item

    assert list(encode.in_order(slow, items, threads)) == [-item for item in items]


def test_mapping_on_threads_reads_only_a_little_ahead_and_passes_errors_on():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    mapped = encode.in_order(lambda item: item, items(), 3)
    assert [next(mapped) for _ in range(5)] == list(range(5))
    assert len(taken) <= 5 + 2 * 3 + 1
    mapped.close()
    with pytest.raises(ZeroDivisionError):
        list(encode.in_order(lambda item: 1 // item, [1, 1, 0, 1], 2))


KILLED = """
import sys
from paribus.data.config import CorpusConfig, Sample, TokenizerFile
from paribus.data.prepare import prepare
config = CorpusConfig(name="s", store=sys.argv[1], source=Sample(), tokenizer=TokenizerFile(path=sys.argv[2]), num_threads=1,
                      max_documents_per_split=2000)
prepare(config, progress=False)
"""


def test_a_preparation_that_is_killed_leaves_no_store_and_the_next_one_makes_it(corpus, tmp_path):
    config = corpus({})
    command = [sys.executable, "-c", KILLED, tmp_path / "store", config.tokenizer.path]
    process = subprocess.Popen(command)
    tokens = tmp_path / ".store.part" / "tokens-00000.bin"
    while not (tokens.exists() and tokens.stat().st_size > 2**19):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "store").exists()
    subprocess.run(command, check=True)
    assert not (tmp_path / ".store.part").exists()
    assert open_store(tmp_path / "store", verify=True).documents.split.tolist().count(0) == 2000


FULL = """
import resource
from paribus.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, -1))
try:
    exec(open(0).read())
except DataError as error:
    print(error)
"""


def test_a_full_device_is_one_line_and_leaves_nothing(corpus, tmp_path):
    config = corpus({})
    command = [sys.executable, "-c", FULL, tmp_path / "store", config.tokenizer.path]
    done = subprocess.run(command, input=KILLED, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path}: no space left on the device: store had ")
    assert done.stdout.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_file_system_is_one_line_and_leaves_nothing(corpus, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        config = CorpusConfig(
            name="s",
            store=str(folder / "store"),
            source=Sample(),
            tokenizer=TokenizerFile(path=corpus({}).tokenizer.path),
        )
        with pytest.raises(
            DataError, match=rf"{folder}: no space left on the device: store had \S+ bytes and needs at least"
        ):
            make(config)
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", folder], check=True)
