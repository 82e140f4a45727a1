"""Oracles for what a model says by itself: generate() text by text, exhaustive subsequences, a table of probabilities."""

import itertools
import random

import pytest
import torch

from evals.text_models import Bigrams, bigrams, context, model, one_by_one, write_lines
from paribus.data.store import open_store
from paribus.errors import DataError
from paribus.evals.build import build_evaluation, evaluate
from paribus.evals.config import ExtractionEval, FictionalEval, VerbatimEval
from paribus.evals.extraction import common_subsequence, recall, split

TEXTS = [" ".join(random.Random(i).choices(["ant", "bee", "red", "1984", "Zürich"], k=14)) for i in range(9)]


@pytest.fixture
def tokenizer(text_store_path):
    return open_store(text_store_path).tokenizer()


def generated(tiny, given, num) -> list[int]:
    tiny.generation_config.eos_token_id = tiny.generation_config.pad_token_id = None
    prompt = torch.tensor([given])
    whole = tiny.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=num)
    return whole[0, len(given) :].tolist()


def parrot(tokenizer, text):
    """A model that after each token of `text` (all different) says the next one."""
    ids = tokenizer.encode(text).ids
    assert len(set(ids)) == len(ids)
    return Bigrams(bigrams(dict.fromkeys(itertools.pairwise(ids), 0.9))), ids


# --- verbatim ------------------------------------------------------------------------------------------------------------


def test_matching_tokens_are_those_of_generate(text_store_path, tokenizer, tmp_path):
    """Half of the texts are changed into what the model itself would say, up to a known token."""
    tiny, rows, truth = model().eval(), [], []
    for number, text in enumerate(TEXTS):
        ids = tokenizer.encode(text).ids[:16]
        said = generated(tiny, [0, *ids[:6]], 10)
        if number % 2:
            ids[6 : 6 + number] = said[:number]
        whole = tokenizer.decode(ids)
        if tokenizer.encode(whole).ids == ids:  # not every list of tokens is what its text encodes to
            rows.append({"text": whole, "odd": number % 2})
            truth.append(next((i for i in range(10) if ids[6 + i] != said[i]), 10))
    assert len(rows) >= 4
    config = VerbatimEval(
        file=write_lines(tmp_path / "t.jsonl", rows),
        prompt_tokens=6,
        continuation_tokens=10,
        group_key="odd",
        start_token=True,
        batch_size=3,
    )
    record = evaluate(config, tiny, context(text_store_path)).record
    assert record["items"]["matching"] == truth
    assert record["summary"]["matching"] == pytest.approx(sum(truth) / len(truth))
    assert record["summary"]["exact"] == pytest.approx(sum(n == 10 for n in truth) / len(truth))


def test_a_model_that_repeats_a_text_has_it_verbatim_and_no_other(text_store_path, tokenizer, tmp_path):
    parrots, ids = parrot(tokenizer, "abcdefghijkl")
    other = tokenizer.decode(ids[:7]) + "XYZ" + tokenizer.decode(ids[10:])
    rows = [{"text": "abcdefghijkl", "n": 64}, {"text": other, "n": 0}]
    settings = {"file": write_lines(tmp_path / "t.jsonl", rows), "group_key": "n"}
    config = VerbatimEval(prompt_tokens=4, continuation_tokens=len(ids) - 4, **settings)
    summary = evaluate(config, parrots, context(text_store_path)).summary
    assert summary == {
        "exact": 0.5,
        "matching": (len(ids) - 4 + 3) / 2,
        "exact/0": 0,
        "matching/0": 3,
        "exact/64": 1,
        "matching/64": len(ids) - 4,
    }
    with pytest.raises(DataError, match=rf"t.jsonl:1: {len(ids)} tokens, expected at least 4 \+ {len(ids) - 3}; lower"):
        build_evaluation(
            VerbatimEval(prompt_tokens=4, continuation_tokens=len(ids) - 3, **settings), context(text_store_path)
        )


# --- extraction ----------------------------------------------------------------------------------------------------------


def longest_common(a, b) -> int:
    """By all subsequences of `a`, the longest first."""

    def holds(sequence) -> bool:
        rest = iter(b)
        return all(element in rest for element in sequence)

    return next(n for n in range(len(a), -1, -1) if any(map(holds, itertools.combinations(a, n))))


def test_the_common_subsequence_is_the_longest_of_all():
    strings = ["".join(s) for n in range(5) for s in itertools.product("abc", repeat=n)]
    rng = random.Random(0)
    pairs = [(rng.choice(strings), rng.choice(strings)) for _ in range(2000)]
    pairs += [("".join(rng.choices("abcd", k=10)), "".join(rng.choices("abcd", k=12))) for _ in range(60)]
    assert all(common_subsequence(a, b) == longest_common(a, b) for a, b in pairs)
    assert common_subsequence(list(range(300)), list(range(0, 300, 2))) == 150  # beyond a machine word


def test_recall_is_over_the_reference_and_words_have_no_case_and_no_marks():
    assert split("The cat's HAT, 3_5: Über!") == ["the", "cat", "s", "hat", "3", "5", "über"]
    assert (
        recall(split("the police killed the gunman"), split("police kill the gunman")) == 0.75
    )  # Lin 2004, section 3.1
    assert recall("ab", "abcd") == 0.5


@pytest.mark.parametrize("unit", ["words", "tokens"])
def test_extraction_is_recall_of_what_generate_says(text_store_path, tokenizer, tmp_path, unit):
    tiny, rng, rows = model(seed=2).eval(), random.Random(0), []
    for number, text in enumerate(TEXTS):
        said = tokenizer.decode(generated(tiny, [0, *tokenizer.encode(text).ids], 12))
        pieces = said.split() or ["x"]
        kept = [piece if rng.random() < 0.7 else "other" for piece in pieces] if number % 2 else pieces
        rows.append({"prompt": text + " ", "reference": " ".join(kept) + " z"})
    config = ExtractionEval(
        file=write_lines(tmp_path / "p.jsonl", rows),
        unit=unit,
        threshold=0.5,
        max_tokens=30,
        batch_size=4,
        start_token=True,
    )
    record = evaluate(config, tiny, context(text_store_path)).record
    truth = []
    for row, continuation in zip(rows, record["items"]["continuation"], strict=True):
        prompt = tokenizer.encode(row["prompt"].rstrip()).ids
        said = generated(tiny, [0, *prompt], 30)
        assert tokenizer.decode(said) == continuation
        reference = tokenizer.encode(row["prompt"].rstrip() + "  " + row["reference"]).ids[len(prompt) :]
        a, b = (said, reference) if unit == "tokens" else (split(tokenizer.decode(said)), split(row["reference"]))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, j in itertools.product(range(len(a)), range(len(b))):
            table[i + 1][j + 1] = table[i][j] + 1 if a[i] == b[j] else max(table[i][j + 1], table[i + 1][j])
        truth.append(table[-1][-1] / len(b))
    assert record["items"]["rouge_l"] == pytest.approx(truth)
    assert record["summary"]["rouge_l"] == pytest.approx(sum(truth) / len(truth))
    assert record["summary"]["extracted"] == pytest.approx(sum(r > 0.5 for r in truth) / len(truth))


def test_as_many_tokens_are_decoded_as_the_reference_has(text_store_path, tokenizer, tmp_path):
    parrots, _ = parrot(tokenizer, "abc defghijkl")
    file = write_lines(tmp_path / "p.jsonl", [{"prompt": "abc", "reference": "defgh"}])
    record = evaluate(ExtractionEval(file=file), parrots, context(text_store_path)).record
    assert record["items"]["continuation"] == [" defgh"]
    assert record["summary"] == {"rouge_l": 1, "extracted": 1}
    empty = write_lines(tmp_path / "e.jsonl", [{"prompt": "abc", "reference": "..."}])
    with pytest.raises(DataError, match=r"e.jsonl:1: field 'reference': no word in it"):
        build_evaluation(ExtractionEval(file=empty), context(text_store_path))


# --- fictional -----------------------------------------------------------------------------------------------------------


def test_the_probability_of_a_fact_is_that_of_all_its_tokens(text_store_path, tokenizer, tmp_path):
    ids = tokenizer.encode("ab cdx").ids
    assert len(ids) == len(set(ids))
    table = bigrams(dict(zip(itertools.pairwise(ids), [0.9, 0.5, 0.4, 0.3, 0.6][: len(ids) - 1], strict=True)))
    rows = [{"prompt": "ab", "target": "cd"}, {"prompt": "ab ", "target": "dc"}]
    record = evaluate(
        FictionalEval(file=write_lines(tmp_path / "f.jsonl", rows), max_tokens=6),
        Bigrams(table),
        context(text_store_path),
    ).record
    before = len(tokenizer.encode("ab").ids)
    target = tokenizer.encode("ab cd").ids[before:]
    truth = 1.0
    for pair in itertools.pairwise([ids[before - 1], *target]):
        truth *= table[pair]
    assert record["items"]["log_probability"][0] == pytest.approx(torch.tensor(truth).log().item(), rel=1e-5)
    assert truth > 0.05
    assert record["summary"]["contains"] == 0.5
    assert " cd" in record["items"]["continuation"][0]


def test_probabilities_are_those_of_each_text_alone(text_store_path, tokenizer, tmp_path):
    tiny = model("gpt_neox")
    rows = [{"prompt": text, "target": word} for text in TEXTS for word in ("elk", "1984 fox", "☃")]
    file = write_lines(tmp_path / "f.jsonl", rows)
    found = [
        evaluate(FictionalEval(file=file, batch_size=n, start_token=True, max_tokens=5), tiny, context(text_store_path))
        for n in (1, 7)
    ]
    assert found[0].summary == pytest.approx(found[1].summary, rel=1e-5)
    truth = []
    for row in rows:
        given = tokenizer.encode(row["prompt"]).ids
        truth.append(
            one_by_one(tiny, [0, *given], tokenizer.encode(f"{row['prompt']} {row['target']}").ids[len(given) :])
        )
    assert found[1].record["items"]["log_probability"] == pytest.approx(truth, rel=1e-5)
    assert found[1].summary["probability"] == pytest.approx(torch.tensor(truth).exp().mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "", "target": "x"}, "nothing stands before"),
        ({"prompt": "p", "target": " "}, "field 'target': an empty target"),
        ({"prompt": "p"}, "no field 'target'"),
    ],
)
def test_facts_that_cannot_be_asked_are_named_with_file_and_line(text_store_path, tmp_path, row, message):
    file = write_lines(tmp_path / "bad.jsonl", [{"prompt": "p", "target": "t"}, row])
    with pytest.raises(DataError, match=f"bad.jsonl:2: {message}"):
        build_evaluation(FictionalEval(file=file), context(text_store_path))
