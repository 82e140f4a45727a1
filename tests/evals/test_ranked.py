"""Oracles: a direct loop by lm-evaluation-harness's definitions, a table whose ranking is known, and real questions."""

import gzip
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from evals.text_models import Bigrams, bigrams, context, model, one_by_one, write_lines
from paribus.data.store import open_store
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import DataError
from paribus.evals.build import build_evaluation, evaluate
from paribus.evals.config import RankedEval
from paribus.evals.ranked import shortened
from paribus.evals.texts import Row

DATA = os.environ.get("PARIBUS_DATA")


def harness(tiny, encode, start, rows, limit=10**9) -> np.ndarray:
    """(N, 3) whether acc, acc_norm, acc_bytes count each question, question by question and choice by choice.

    loglikelihood of (context, delimiter + choice) with the pair encoded as `_encode_pair` does it, cut to the last
    `limit` + 1 tokens; acc_norm divides by len(choice), acc_bytes by its UTF-8 bytes (`process_results`)."""
    right = []
    for row in rows:
        scores, sizes = [], []
        for choice in row["choices"]:
            before, text = row["context"], " " + choice
            if "suffix" in row:
                before, text = before + choice, row["suffix"]
            blanks = len(before) - len(before.rstrip())
            if blanks:
                before, text = before[:-blanks], before[-blanks:] + text
            given = encode(before)
            scored = encode(before + text)[len(given) :]
            whole = [*start, *given, *scored][-(limit + 1) :]
            scores.append(one_by_one(tiny, whole[: -len(scored)], scored))
            measured = row.get("suffix", choice)
            sizes.append((1, len(measured), len(measured.encode())))
        right.append(np.argmax(np.array(scores)[:, None] / np.array(sizes), 0) == row["gold"])
    return np.array(right)


def quiz(num=40, suffix=False):
    rng = random.Random(0)
    words = ["ant", "bee", "Zürich", "red", "1984", "☃", "gray fox", "x"]
    for number in range(num):
        choices = [" ".join(rng.choices(words, k=rng.randint(1, 6))) for _ in range(rng.randint(2, 5))]
        row = {"context": " ".join(rng.choices(words, k=9)) + rng.choice(["", ":", " ", "\n"]), "choices": choices}
        row |= {"gold": rng.randrange(len(choices)), "half": number % 2}
        yield row | ({"suffix": " " + rng.choice(words) + "."} if suffix else {})


@pytest.mark.parametrize("suffix", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_accuracies_are_those_of_a_direct_loop(text_store_path, tmp_path, suffix, batch_size):
    tiny, rows = model(), list(quiz(suffix=suffix))
    config = RankedEval(file=write_lines(tmp_path / "q.jsonl", rows), batch_size=batch_size, group_key="half")
    record = evaluate(config, tiny, context(text_store_path)).record
    tokenizer = open_store(text_store_path).tokenizer()
    right = harness(tiny, lambda text: tokenizer.encode(text).ids, [], rows)
    half = np.array([row["half"] for row in rows])
    for place, metric in enumerate(("acc", "acc_char", "acc_bytes")):
        choice = np.array(record["items"][f"choice_{metric}"])
        np.testing.assert_array_equal(choice == record["items"]["gold"], right[:, place])
        mean = right[:, place].mean()
        assert record["summary"][metric] == record[metric]["mean"] == pytest.approx(mean)
        assert record[metric]["error"] == pytest.approx(math.sqrt(mean * (1 - mean) / (len(rows) - 1)))
        assert record["summary"][f"{metric}/1"] == pytest.approx(right[half == 1, place].mean())
    if suffix:
        assert record["acc"] == record["acc_char"] == record["acc_bytes"]
    else:
        assert len({json.dumps(record["items"][f"choice_{m}"]) for m in ("acc", "acc_char", "acc_bytes")}) == 3


def test_long_and_short_choices_rank_as_the_table_says(text_store_path, tmp_path):
    """P(A) = .9 x .5 is more than P(BBBB) = .9 x .4 x .8^3, but not by character."""
    tokenizer = open_store(text_store_path).tokenizer()
    blank, (a, b, c) = tokenizer.encode(" ").ids[0], (tokenizer.token_to_id(letter) for letter in "ABC")
    table = bigrams({(c, blank): 0.9, (blank, a): 0.5, (blank, b): 0.4, (b, b): 0.8})
    row = {"context": "C", "choices": ["A", "BBBB"], "gold": 1}
    record = evaluate(
        RankedEval(file=write_lines(tmp_path / "q.jsonl", [row])), Bigrams(table), context(text_store_path)
    ).record
    assert [record["items"][f"choice_{m}"] for m in ("acc", "acc_char", "acc_bytes")] == [[0], [1], [1]]
    bits = -math.log2(0.9 * 0.4 * 0.8**3) / 4
    assert record["summary"]["gold_bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert record["acc"] == {"mean": 0.0, "error": None}


def test_a_long_context_loses_its_first_tokens_as_in_the_harness(text_store_path, tmp_path):
    tiny = model("gpt2")
    rows = [{"context": "ant 1984 " * 700 + "so", "choices": ["red", "blue ☃"], "gold": n} for n in (0, 1)]
    record = evaluate(
        RankedEval(file=write_lines(tmp_path / "q.jsonl", rows), start_token=True), tiny, context(text_store_path)
    ).record
    tokenizer = open_store(text_store_path).tokenizer()
    right = harness(tiny, lambda text: tokenizer.encode(text).ids, [0], rows, limit=1024)
    assert record["shortened"] == 4
    assert [record["summary"][m] for m in ("acc", "acc_char", "acc_bytes")] == right.mean(0).tolist()
    assert shortened(Row("", [1, 2, 3], [4, 5], 2), 3) == Row("", [2, 3], [4, 5], 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gold": 2}, "field 'gold': expected 0 to 1, found 2"),
        ({"gold": "a"}, "field 'gold': expected 0 to 1, found 'a'"),
        ({"gold": True}, "field 'gold': expected 0 to 1, found True"),
        ({"choices": ["a", ""]}, "field 'choices': expected a list of texts, none empty"),
        ({"choices": []}, "field 'choices'"),
        ({"context": 3}, "field 'context': expected text, found int"),
        ({"context": " "}, "nothing stands before"),
        ({"suffix": ""}, "'' has no token of its own"),
    ],
)
def test_questions_of_another_form_are_named_with_file_and_line(text_store_path, tmp_path, change, message):
    good = {"context": "c", "choices": ["a", "b"], "gold": 1}
    file = write_lines(tmp_path / "q.jsonl", [good, good | change])
    with pytest.raises(DataError, match=f"q.jsonl:2: {message}"):
        build_evaluation(RankedEval(file=file), context(text_store_path))


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="PARIBUS_DATA is not set")
@pytest.mark.parametrize("task", ["piqa_validation", "winogrande_validation", "arc_easy_test"])
def test_real_questions_on_a_real_model_are_ranked_as_a_direct_loop_ranks_them(tmp_path, task):
    """stories260K, trained on children's stories; its tokenizer, its start token, 40 questions of each task."""
    folder, file = Path(DATA) / "models" / "stories260K", Path(DATA) / "data" / "eval" / f"{task}.jsonl.gz"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = tokenizer.token_to_id("<s>")
    with StoreWriter(tmp_path / "store", tokenizer, Recipe("stories", start_token_id=start)) as writer:
        writer.append(Entry("d", "all", "train", 0), np.arange(3, 99))
    stories = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    where = context(tmp_path / "store", start_token=True)
    record = evaluate(RankedEval(file=str(file), items=(10, 50)), stories, where).record
    with gzip.open(file) as lines:
        rows = [json.loads(line) for line in lines][10:50]
    right = harness(
        stories, lambda text: tokenizer.encode(text, add_special_tokens=False).ids, [start], rows, limit=512
    )
    assert [record["summary"][m] for m in ("acc", "acc_char", "acc_bytes")] == pytest.approx(right.mean(0).tolist())
    assert record["items"]["line"] == list(range(11, 51))
