import gzip
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from paribus.data.config import Sample, TokenizerFile, TokenizerHub, TrainBpe
from paribus.data.corpus import documents
from paribus.data.tokenizer import (
    fingerprint,
    load_tokenizer,
    read_tokenizer,
    start_token_id,
    token_bytes,
    train_bpe,
    vocab_size,
)
from paribus.errors import DataError


def texts():
    return (document.text for document in documents(Sample(), "validation"))


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TrainBpe(vocab_size=600, special_tokens=["<|start|>", "<|pad|>"]), texts())


def no_texts():
    raise AssertionError("a tokenizer that is read needs no corpus")


def test_special_tokens_come_first_then_every_byte_then_merges(bpe):
    assert vocab_size(bpe) == 600
    assert [bpe.id_to_token(index) for index in (0, 1)] == ["<|start|>", "<|pad|>"]
    assert {bpe.id_to_token(index) for index in range(2, 258)} == set(pre_tokenizers.ByteLevel.alphabet())
    assert all(len(bpe.id_to_token(index)) > 1 for index in range(258, 600))


PRINT = """
from test_tokenizer import TrainBpe, fingerprint, texts, train_bpe
print(fingerprint(train_bpe(TrainBpe(vocab_size=600, special_tokens=["<|start|>", "<|pad|>"]), texts())))
"""


def test_the_same_corpus_gives_the_same_tokenizer_in_any_process(bpe, request):
    def elsewhere(threads):
        environment = {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        command = [sys.executable, "-c", PRINT]
        return subprocess.run(
            command, env=environment, cwd=request.path.parent, check=True, capture_output=True, text=True
        ).stdout

    assert elsewhere("1").strip() == elsewhere("3").strip() == fingerprint(bpe)
    assert fingerprint(
        train_bpe(TrainBpe(vocab_size=601, special_tokens=["<|start|>", "<|pad|>"]), texts())
    ) != fingerprint(bpe)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_every_text_survives_and_its_tokens_stand_for_its_bytes(bpe, text):
    ids = bpe.encode(text, add_special_tokens=False).ids
    assert bpe.decode(ids, skip_special_tokens=False) == text
    sizes = token_bytes(bpe)
    assert sizes[ids].sum() == len(text.encode())


def test_token_bytes_of_special_and_of_added_tokens(bpe):
    tokenizer = Tokenizer.from_str(bpe.to_str())
    tokenizer.add_tokens([AddedToken("größe  ", normalized=False)])  # as GPT-NeoX has runs of spaces
    tokenizer.add_special_tokens([AddedToken("<|end|>")])
    sizes = token_bytes(tokenizer)
    assert (sizes.dtype, sizes.shape) == (np.int32, (602,))
    assert sizes[[0, 1, 600, 601]].tolist() == [0, 0, 9, 0]
    text = "eine größe  mehr"
    assert sizes[tokenizer.encode(text).ids].sum() == len(text.encode())


def test_token_bytes_are_unknown_without_bytes():
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    assert token_bytes(tokenizer) is None
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert token_bytes(tokenizer) is None
    split = pre_tokenizers.Split(" ", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert token_bytes(tokenizer).tolist() == [1]


def test_a_tokenizer_is_the_same_from_file_archive_and_folder(bpe, tmp_path):
    text = bpe.to_str(pretty=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "tokenizer.json").write_text(text)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "tokenizer.json.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain", "plain/tokenizer.json", "packed", "packed/tokenizer.json.gz"):
        tokenizer = load_tokenizer(TokenizerFile(path=str(tmp_path / name)), no_texts)
        assert fingerprint(tokenizer) == fingerprint(bpe)


def test_truncation_and_padding_of_a_file_are_switched_off(bpe, tmp_path):
    tokenizer = Tokenizer.from_str(bpe.to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read_tokenizer(tmp_path)
    assert fingerprint(found) == fingerprint(bpe)
    assert found.encode("a longer text than three").ids == bpe.encode("a longer text than three").ids


def test_the_fingerprint_sees_every_part(bpe):
    changes = {
        "normalizer": lambda tokenizer: setattr(tokenizer, "normalizer", normalizers.NFC()),
        "processor": lambda tokenizer: setattr(tokenizer, "post_processor", processors.ByteLevel()),
        "token": lambda tokenizer: tokenizer.add_tokens(["xyzzy"]),
    }
    seen = {fingerprint(bpe)}
    for change in changes.values():
        tokenizer = Tokenizer.from_str(bpe.to_str())
        change(tokenizer)
        seen.add(fingerprint(tokenizer))
    assert len(seen) == 1 + len(changes)


def test_the_start_token_is_the_named_one_else_the_first_special_but_not_the_unknown_or_padding(bpe):
    assert start_token_id(bpe) == 0
    assert start_token_id(bpe, "<|pad|>") == 1
    with pytest.raises(DataError, match=r"beginning_of_document: the tokenizer has no token '<s>'"):
        start_token_id(bpe, "<s>")
    assert start_token_id(Tokenizer(models.WordLevel({"a": 0}))) is None
    llama = Tokenizer(models.BPE({"<unk>": 0, "<s>": 1}, [], unk_token="<unk>"))
    llama.add_special_tokens(["<unk>", "<s>"])
    assert start_token_id(llama) == 1
    olmo = Tokenizer(models.WordLevel({"a": 0}))
    olmo.add_special_tokens(["<|padding|>", "<|endoftext|>"])
    assert start_token_id(olmo) == 2


def test_a_vocabulary_with_holes_is_as_long_as_its_largest_id():
    assert vocab_size(Tokenizer(models.WordLevel({"a": 0, "b": 7}))) == 8


def test_a_corpus_too_small_for_the_vocabulary_is_refused():
    with pytest.raises(DataError, match=r"split 'train' has too little text for a vocabulary of 300: it gives \d+"):
        train_bpe(TrainBpe(vocab_size=300), iter(["abc abc"]))


def test_a_mistake_in_the_corpus_reaches_the_user_through_the_training():
    def broken():
        yield "text"
        raise DataError("file:17: no field 'text'")

    with pytest.raises(DataError, match="file:17: no field 'text'"):
        train_bpe(TrainBpe(vocab_size=300), broken())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent", None, "no tokenizer here; expected tokenizer.json or tokenizer.json.gz"),
        ("a.json", b"{}", "not a tokenizer of the `tokenizers` library"),
        ("a.json", b"\xff", "cannot be read"),
        ("a.json.gz", b"{}", "cannot be read"),
        ("a.json.gz", gzip.compress(b"{}" * 100, mtime=0)[:-9], "cannot be read"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_tokenizer(TokenizerFile(path=str(tmp_path / name)), no_texts)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_the_hub_out_of_reach_is_one_line(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="tokenizer owner/name: the Hugging Face hub cannot be reached") as caught:
        load_tokenizer(TokenizerHub(name="owner/name"), no_texts)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="tokenizer no//name: the hub does not give"):
        load_tokenizer(TokenizerHub(name="no//name"), no_texts)
