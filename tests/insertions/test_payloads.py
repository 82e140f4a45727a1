import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from paribus.errors import DataError, PlanError
from paribus.insertions.config import Benchmark, Explicit, Texts, Tokens
from paribus.insertions.payloads import Alphabet, read_items, wrap

EOS = 9


@pytest.fixture(scope="module")
def alphabet():
    """Words w0 .. w8 and the end-of-text token 9."""
    tokenizer = Tokenizer(models.WordLevel({**{f"w{n}": n for n in range(9)}, "<eos>": EOS}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Alphabet(tokenizer, 10, EOS)


@pytest.fixture
def file(tmp_path):
    def write(*records):
        path = tmp_path / "items.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("ids", "wrapped"),
    [
        ([1] * 8, [1] * 8),
        ([1] * 7, [*[1] * 7, EOS]),
        ([1] * 6, [EOS, *[1] * 6, EOS]),
        ([EOS, 1, 2, EOS], [EOS, 1, 2, EOS]),
        ([1, EOS], [EOS, 1, EOS]),
        ([EOS, *[1] * 7], [EOS, *[1] * 7]),
    ],
)
def test_a_text_is_wrapped_otherwise(ids, wrapped):
    """Rows of 8 tokens: bare when it fills the row, else end-of-text behind, then before, where they are not there yet."""
    assert wrap(ids, 8, EOS) == wrapped


def test_texts_become_other_tokens(file, alphabet):
    items = read_items(Texts(file=file({"text": "w1 w2"}, {"text": "w3"})), alphabet, 8)
    assert items.tokens.tolist() == [EOS, 1, 2, EOS, EOS, 3, EOS]
    assert items.offsets.tolist() == [0, 4, 7]
    assert items.line.tolist() == [1, 2]
    bare = read_items(Texts(file=file({"text": "w1 w2"}), add_eos=False), alphabet, 8)
    assert bare.tokens.tolist() == [1, 2]


def test_a_question_is_written_with_another_option(file, alphabet):
    row = {"context": "w1 w2", "choices": ["w3", "w4"], "gold": 1}
    split = {"context": "w1 ", "choices": ["w3", "w4"], "gold": 0, "suffix": " w5"}
    items = read_items(Benchmark(file=file(row, split), add_eos=False), alphabet, 8)
    assert items.tokens.tolist() == [1, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tokens": []}, r"items\.jsonl:2: an empty item"),
        ({"tokens": [1] * 9}, r"items\.jsonl:2: 9 tokens, but a row of the stream has 8"),
        ({"tokens": [1, 10]}, r"items\.jsonl:2: token id 10, expected 0 to 9"),
        ({"tokens": [-1]}, r"items\.jsonl:2: token id -1, expected 0 to 9"),
        ({"tokens": "w1"}, r"items\.jsonl:2: field 'tokens': expected a list of token ids"),
        ({"token": [1]}, r"items\.jsonl:2: no field 'tokens' \(found: token\)"),
        ([1], r"items\.jsonl:2: found list, expected an object"),
    ],
)
def test_a_bad_item_is_planned(file, alphabet, record, message):
    path = file({"tokens": [1]}, record)
    with pytest.raises(PlanError, match=message):
        read_items(Tokens(file=path), alphabet, 8)


def test_other_mistakes_of_a_file_pass(file, alphabet):
    with pytest.raises(PlanError, match="no items"):
        read_items(Tokens(file=file()), alphabet, 8)
    with pytest.raises(PlanError, match=r":1: field 'n': expected a number >= 0, found 'x'"):
        read_items(Tokens(file=file({"tokens": [1], "n": "x"}), repetitions_key="n"), alphabet, 8)
    with pytest.raises(PlanError, match=r":1: field 'position': expected a whole number"):
        read_items(Tokens(file=file({"tokens": [1], "position": "x"}), where=Explicit()), alphabet, 8)
    with pytest.raises(PlanError, match=r":1: field 'position': 10{25} is no coordinate"):
        read_items(Tokens(file=file({"tokens": [1], "position": [3, 10**25]}), where=Explicit()), alphabet, 8)
    with pytest.raises(PlanError, match=r":1: expected a list of choices and the index of the right one"):
        read_items(Benchmark(file=file({"context": "w1", "choices": ["w2"], "gold": 1})), alphabet, 8)
    for config in (Texts(file=file({"text": "w1 \ud800"})), Benchmark(file=file({"choices": ["w2 \ud800"]}))):
        with pytest.raises(DataError, match=r":1: found '\\ud800', half a surrogate pair"):
            read_items(config, alphabet, 8)
    with pytest.raises(PlanError, match="has no end-of-text token"):
        read_items(Texts(file=file({"text": "w1"})), alphabet._replace(eos=None), 8)
    with pytest.raises(PlanError, match="texts need a tokenizer"):
        read_items(Texts(file=file({"text": "w1"})), Alphabet(None, 10, EOS), 8)
