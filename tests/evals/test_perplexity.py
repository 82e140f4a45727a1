"""Oracles: each token predicted by itself from the context that the stride rule gives it, a table, and a real text."""

import gzip
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from evals.text_models import Bigrams, bigrams, context, model, write_lines
from paribus.data.store import open_store
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import ConfigError, DataError
from paribus.evals.build import build_evaluation, evaluate
from paribus.evals.config import PerplexityEval
from paribus.evals.perplexity import cut
from paribus.evals.texts import Row

DATA = os.environ.get("PARIBUS_DATA")
TEXT = "Ants, bees and 1984 ☃ red foxes went to Zürich. " * 9


def token_by_token(tiny, ids, start, window, stride) -> tuple[float, int]:
    """(nats, tokens): every prediction in a pass of its own, with the context of the first window that holds it."""
    nats, first = 0.0, 0 if start else 1
    for t in range(first, len(ids)):
        place = t - first  # of the prediction
        begin = 0 if place < window else -(-(place - window + 1) // stride) * stride
        given = [*start, *ids[begin:t]] if start else ids[begin:t]
        with torch.no_grad():
            logits = tiny.eval()(input_ids=torch.tensor([given])).logits[0, -1].double()
        nats -= torch.log_softmax(logits, -1)[ids[t]].item()
    return nats, len(ids) - first


@pytest.mark.parametrize(("window", "stride"), [(20, 20), (20, 5), (20, 13), (1000, 1000), (7, 1)])
@pytest.mark.parametrize("start_token", [False, True])
def test_every_token_is_predicted_once_from_the_context_that_the_rule_gives(
    text_store_path, tmp_path, window, stride, start_token
):
    tiny = model("gpt2")
    (tmp_path / "a.txt").write_text(TEXT)
    config = PerplexityEval(files={"a": str(tmp_path / "a.txt")}, window=window, stride=stride, batch_size=7)
    record = evaluate(config, tiny, context(text_store_path, start_token=start_token)).record
    tokenizer = open_store(text_store_path).tokenizer()
    ids = tokenizer.encode(TEXT).ids
    nats, tokens = token_by_token(tiny, ids, [0] if start_token else [], window, stride)
    found, summary = record["files"]["a"], record["summary"]
    num_bytes = len(TEXT.encode()) - (0 if start_token else len(tokenizer.decode(ids[:1])))
    assert (found["tokens"], found["bytes"]) == (tokens, num_bytes)
    assert summary["nll/a"] == pytest.approx(nats / tokens, rel=1e-5)
    assert summary["perplexity/a"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert summary["bits_per_byte/a"] == pytest.approx(nats / num_bytes / math.log(2), rel=1e-5)


def test_windows_start_at_multiples_of_the_stride_and_score_what_is_new():
    document = Row("f", [0], list(range(1, 11)), 10)
    anew = cut(document, 4, 3, starts_anew=True)
    assert [(row.given, row.scored) for row in anew] == [
        ([0], [1, 2, 3, 4]),
        ([0, 4], [5, 6, 7]),
        ([0, 7], [8, 9, 10]),
    ]
    runs_on = cut(document, 4, 2, starts_anew=False)
    assert [row.scored for row in runs_on] == [[1, 2, 3, 4], [5, 6], [7, 8], [9, 10]]
    assert [row.given for row in runs_on] == [[0], [2, 3, 4], [4, 5, 6], [6, 7, 8]]


def test_files_and_documents_are_counted_apart(text_store_path, tmp_path):
    tokenizer = open_store(text_store_path).tokenizer()
    a, b = (tokenizer.token_to_id(letter) for letter in "AB")
    table = Bigrams(bigrams({(0, a): 0.5, (a, b): 0.25}))
    (tmp_path / "plain.txt").write_text("A")
    with gzip.open(tmp_path / "ab.txt.gz", "wt") as file:
        file.write("AB")
    lines = write_lines(tmp_path / "two.jsonl", [{"story": "A"}, {"story": "AB"}])
    files = {"plain": str(tmp_path / "plain.txt"), "packed": str(tmp_path / "ab.txt.gz"), "lines": lines}
    config = PerplexityEval(files=files, key="story", start_token=True)
    record = evaluate(config, table, context(text_store_path)).record
    expected = {"plain": math.log(2), "packed": math.log(8) / 2, "lines": math.log(16) / 3}
    assert {name: record["summary"][f"nll/{name}"] for name in files} == pytest.approx(expected, rel=1e-6)
    assert record["files"]["lines"]["bytes"] == 3
    assert set(record["inputs"]) == {f"files.{name}" for name in files}


def test_batches_of_one_and_seven_agree(text_store_path, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    tiny, where = model("llama"), context(text_store_path)
    found = [
        evaluate(PerplexityEval(files={"a": str(tmp_path / "a.txt")}, stride=9, batch_size=n), tiny, where).summary
        for n in (1, 7)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_what_cannot_be_read_or_does_not_fit_is_one_clear_line(text_store_path, tmp_path):
    def built(content: bytes, name="a.txt", **settings):
        (tmp_path / name).write_bytes(content)
        return build_evaluation(PerplexityEval(files={"a": str(tmp_path / name)}, **settings), context(text_store_path))

    with pytest.raises(DataError, match=r"a.txt: not UTF-8: byte 0xff at 2"):
        built(b"ab\xff")
    with pytest.raises(DataError, match=r"a.txt: an empty text"):
        built(b"")
    with pytest.raises(DataError, match=r"b.txt.gz: cannot be read"):
        built(b"no gzip", "b.txt.gz")
    with pytest.raises(DataError, match=r"c.jsonl:1: no field 'text'"):
        built(b'{"txt": "a"}\n', "c.jsonl")
    with pytest.raises(ConfigError, match="gaps between windows of 32"):
        built(b"abc", stride=33)
    with pytest.raises(ValueError, match="at most the window of 8"):
        PerplexityEval(files={"a": "a.txt"}, window=8, stride=9)
    score = built(b"ant bee 1984 " * 400, window=2000)
    with pytest.raises(DataError, match="window: 2000 predictions, but the model has 1024 positions"):
        score(model("gpt2"), 0)


@pytest.mark.slow
@pytest.mark.skipif(DATA is None, reason="PARIBUS_DATA is not set")
def test_a_real_model_has_its_documented_loss_on_stories(tmp_path):
    """stories260K: 1.25 nats a token on the first 256 tokens of the stories it was not shown (shared data, section 6)."""
    folder = Path(DATA) / "models" / "stories260K"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    start = tokenizer.token_to_id("<s>")
    with StoreWriter(tmp_path / "store", tokenizer, Recipe("stories", start_token_id=start)) as writer:
        writer.append(Entry("d", "all", "train", 0), np.arange(3, 99))
    with gzip.open(Path(DATA) / "data" / "longform" / "tinystories.jsonl.gz") as lines:
        stories = [row for row in map(json.loads, lines) if row["part"].startswith("first 10,000")][:100]
    texts = [tokenizer.decode(tokenizer.encode(row["text"], add_special_tokens=False).ids[:255]) for row in stories]
    file = write_lines(tmp_path / "s.jsonl", [{"text": text} for text in texts])
    llama = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    summary = evaluate(
        PerplexityEval(files={"stories": file}, window=256), llama, context(tmp_path / "store", start_token=True)
    ).summary
    assert summary["nll/stories"] == pytest.approx(1.25, abs=0.08)
