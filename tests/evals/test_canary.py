"""Oracles: each text alone in a plain pass, a table of probabilities, and exposure by sorting all candidates."""

import math
import random

import numpy as np
import pytest
import torch

from evals.text_models import Bigrams, bigrams, context, model, one_by_one, write_lines
from paribus import experiment
from paribus.data.config import CoinsData, TokenFilesData
from paribus.data.store import open_store
from paribus.errors import ConfigError, DataError, RunError
from paribus.evals.build import EvalContext, build_evaluation, evaluate
from paribus.evals.canary import canaries, drawn
from paribus.evals.config import CanaryEval, ReferenceDraws, ReferenceFile
from paribus.rundir import file_sha256
from tiny_runs import text_run

WORDS = ["ant", "bee", "red", "blue", "Zürich", "1984", "☃", "one two", "cat\n"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    rng = random.Random(0)
    rows = [
        {"text": " ".join(rng.choices(WORDS, k=rng.randint(1, 12))) + "!", "repetitions": 2 ** (i % 3 * 2)}
        for i in range(23)
    ]
    return write_lines(tmp_path_factory.mktemp("canaries") / "canaries.jsonl", rows)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("prefix", ["", "The secret: "])
def test_every_canary_has_the_likelihood_that_it_has_alone(text_store_path, lines, kind, prefix):
    tiny, where = model(kind), context(text_store_path, start_token=True)
    config = CanaryEval(file=lines, batch_size=7, prefix=prefix)
    record = evaluate(config, tiny, where).record
    asked = canaries(config, where)
    truth = np.array([one_by_one(tiny, row.given, row.scored) for row in asked.rows])
    np.testing.assert_allclose(record["items"]["nll_sum"], -truth, rtol=1e-5)
    assert all(row.given[0] == 0 for row in asked.rows)
    tokenizer = open_store(text_store_path).tokenizer()
    texts = [tokenizer.decode(row.scored) for row in asked.rows]
    assert [len(text.encode()) for text in texts] == [
        size + (1 if prefix else 0) for size in record["items"]["bytes"]
    ]  # the prefix's last blank is scored with the canary, and no byte of it


def test_a_batch_of_seven_equals_batches_of_one_and_a_second_call(text_store_path, lines):
    tiny, where = model(), context(text_store_path)
    settings = {"file": lines, "group_key": "repetitions", "references": ReferenceDraws(num=20)}
    found = [evaluate(CanaryEval(batch_size=size, **settings), tiny, where) for size in (1, 7, 7)]
    assert found[1].record == found[2].record
    assert found[0].summary == pytest.approx(found[1].summary, rel=1e-5)
    np.testing.assert_allclose(
        found[0].record["items"]["nll_sum"], found[1].record["items"]["nll_sum"], rtol=1e-5, atol=1e-5
    )


def test_numbers_are_those_of_a_table_of_probabilities(text_store_path, tmp_path):
    tokenizer = open_store(text_store_path).tokenizer()
    a, b, c = (tokenizer.token_to_id(letter) for letter in "ABC")
    probability = bigrams({(0, a): 0.5, (a, b): 0.25, (b, c): 0.125})
    file = write_lines(tmp_path / "c.jsonl", [{"text": "ABC", "n": 10}, {"text": "A", "n": 9}, {"text": "AB", "n": 9}])
    truth = [math.log(64), math.log(2), math.log(8)]
    config = CanaryEval(file=file, group_key="n", start_token=True)
    record = evaluate(config, Bigrams(probability), context(text_store_path)).record
    assert record["items"]["nll_sum"] == pytest.approx(truth, rel=1e-6)
    assert record["by_group"]["groups"] == ["9", "10"]
    assert record["by_group"]["count"] == [2, 1]
    assert record["summary"]["nll_sum/9"] == pytest.approx((truth[1] + truth[2]) / 2)
    assert record["summary"]["nll_token"] == pytest.approx((truth[0] / 3 + truth[1] + truth[2] / 2) / 3)
    assert record["by_group"]["nll_sum"]["error"] == [pytest.approx(abs(truth[1] - truth[2]) / 2), None]
    assert record["inputs"] == {"file": file_sha256(tmp_path / "c.jsonl")}


def test_without_a_start_token_the_first_token_is_given(text_store_path, lines):
    asked = canaries(CanaryEval(file=lines), context(text_store_path))
    with_start = canaries(CanaryEval(file=lines, start_token=True), context(text_store_path))
    tokenizer = open_store(text_store_path).tokenizer()
    for bare, full in zip(asked.rows, with_start.rows, strict=True):
        assert bare.given + bare.scored == full.scored
        first = tokenizer.decode(bare.given)
        assert "�" in first or full.num_bytes - bare.num_bytes == len(first.encode())


@pytest.mark.parametrize("references", ["file", "draws"])
def test_exposure_is_what_sorting_all_candidates_gives(text_store_path, lines, tmp_path, references):
    tiny, where = model(seed=1), context(text_store_path, start_token=True)
    if references == "file":
        rng = random.Random(1)
        texts = ["".join(rng.choices("abc 019", k=rng.randint(4, 30))) for _ in range(200)]
        texts.append(canary_text := "ant red!")
        given = ReferenceFile(
            file=write_lines(tmp_path / "r.jsonl", [{"secret": text} for text in texts]), key="secret"
        )
        lines = write_lines(tmp_path / "c.jsonl", [{"text": canary_text}, {"text": "bee 09!"}, {"text": "aaaaaaa"}])
    else:
        given = ReferenceDraws(num=50, seed=3)
    config = CanaryEval(file=lines, references=given)
    record, asked = evaluate(config, tiny, where).record, canaries(config, where)
    for number, row in enumerate(asked.rows):
        rivals = [
            other
            for other in asked.references
            if other.scored != row.scored and (references == "file" or len(other.scored) == len(row.scored))
        ]
        ranked = sorted([row, *rivals], key=lambda r: -one_by_one(tiny, r.given, r.scored))
        rank = next(place for place, other in enumerate(ranked, 1) if other is row)
        assert record["items"]["rank"][number] == rank
        assert record["items"]["candidates"][number] == len(rivals) + 1
        assert record["items"]["exposure"][number] == pytest.approx(math.log2(len(rivals) + 1) - math.log2(rank))


def test_a_model_that_cannot_tell_canaries_apart_exposes_nothing(text_store_path, lines):
    config = CanaryEval(file=lines, references=ReferenceDraws(num=8), start_token=True)
    record = evaluate(config, Bigrams(np.full((280, 280), 1 / 280)), context(text_store_path)).record
    assert record["summary"]["exposure"] == 0


def test_drawn_references_of_a_length_do_not_depend_on_the_other_lengths(text_store_path, lines):
    rows = canaries(CanaryEval(file=lines, start_token=True), context(text_store_path)).rows
    tokens = {token for row in rows for token in row.scored}
    size = len(rows[0].scored)
    longest = max(rows, key=lambda row: len(row.scored))
    every = [row.scored for row in drawn(ReferenceDraws(num=30), rows, is_first_given=False)]
    extra = longest._replace(scored=longest.scored + longest.scored[:1])
    more = [row.scored for row in drawn(ReferenceDraws(num=30), [*rows, extra], is_first_given=False)]
    assert [ids for ids in every if len(ids) == size] == [ids for ids in more if len(ids) == size]
    assert {token for ids in every for token in ids} <= tokens
    assert len([ids for ids in every if len(ids) == size]) == 30


def test_scoring_leaves_training_mode_and_random_state(text_store_path, lines):
    tiny = model()
    tiny.train()
    tiny.model.layers[0].eval()
    state = torch.random.get_rng_state()
    evaluate(CanaryEval(file=lines), tiny, context(text_store_path))
    assert tiny.training
    assert not tiny.model.layers[0].training
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "good"}, {"txt": "bad"}], r":2: no field 'text' \(found: txt\)"),
        ([{"text": 3}], ":1: field 'text': expected text, found int"),
        ([["text"]], ":1: found list, expected an object"),
        ([{"text": "good"}, {"text": ""}], ":2: an empty text"),
        ([{"text": "q"}], ":1: one token, and nothing before it: nothing to score; say start_token: true"),
        ([], "no items"),
    ],
)
def test_bad_lines_are_named_with_file_and_line(text_store_path, tmp_path, rows, message):
    file = write_lines(tmp_path / "bad.jsonl", rows)
    with pytest.raises(DataError, match=message) as raised:
        build_evaluation(CanaryEval(file=file), context(text_store_path))
    assert str(raised.value).startswith(file)


@pytest.mark.parametrize("start_token", [True, False])
def test_texts_are_read_with_the_tokenizer_of_token_files(text_store_path, lines, tmp_path, start_token):
    """The same tokenizer, and the end-of-text token where a store has its start token: the same rows."""
    keys = {"dtype": "uint16", "sequence_length": 17, "vocab_size": 280, "eos": 0}
    data = TokenFilesData(files=["tokens.npy"], tokenizer=str(text_store_path / "tokenizer.json"), **keys)
    config = CanaryEval(file=lines, start_token=start_token)
    assert canaries(config, EvalContext(data)).rows == canaries(config, context(text_store_path)).rows
    with pytest.raises(ConfigError, match=r"name one in data\.tokenizer"):
        canaries(config, EvalContext(data.model_copy(update={"tokenizer": None})))


def test_what_does_not_fit_is_one_clear_line(text_store_path, lines, tmp_path):
    with pytest.raises(ConfigError, match="texts need a tokenizer, but data of kind coins have none"):
        build_evaluation(CanaryEval(file=lines), EvalContext(CoinsData(num_components=2, window=8)))
    with pytest.raises(DataError, match=r"no items in \[99, 120\)"):
        build_evaluation(CanaryEval(file=lines, items=(99, 120)), context(text_store_path))
    long = write_lines(tmp_path / "long.jsonl", [{"text": "x"}, {"text": "ant bee " * 900}])
    with pytest.raises(DataError, match=r"long.jsonl:2: \d+ tokens, but the model has 1024 positions"):
        evaluate(CanaryEval(file=long, start_token=True), model("gpt2"), context(text_store_path))
    with pytest.raises(ValueError, match="first < stop"):
        CanaryEval(file=lines, items=(3, 3))


def test_a_range_of_items_is_what_its_lines_are(text_store_path, lines):
    where = context(text_store_path)
    whole, part = canaries(CanaryEval(file=lines), where), canaries(CanaryEval(file=lines, items=(4, 9)), where)
    assert part.rows == whole.rows[4:9]
    assert part.lines == [5, 6, 7, 8, 9]


def test_a_runs_identity_is_the_content_of_the_file_and_not_its_name(tmp_path):
    rows = [{"text": "ant bee"}, {"text": "red cat"}]
    file, copy = write_lines(tmp_path / "a.jsonl", rows), write_lines(tmp_path / "b.jsonl", rows)
    setting = "evals.canaries={{kind: canary, file: {}, references: {{kind: file, file: {}}}}}".format
    directory, config = text_run(tmp_path, setting(file, file))
    store = config.data.store
    assert text_run(tmp_path, setting(copy, copy), store=store)[0].path == directory.path
    other = write_lines(tmp_path / "c.jsonl", rows[:1])
    assert text_run(tmp_path, setting(file, other), store=store)[0].path != directory.path
    assert text_run(tmp_path, setting(other, file), store=store)[0].path != directory.path
    with pytest.raises(RunError, match=r"evals.canaries.references.file: .*nowhere.jsonl: cannot be read"):
        text_run(tmp_path, setting(file, tmp_path / "nowhere.jsonl"), store=store)
    experiment.run(directory, config)
    assert (directory.evals / "canaries" / "step-000006.json").exists()
    write_lines(tmp_path / "a.jsonl", rows[::-1])
    with pytest.raises(RunError, match=r"what it reads changed since the run began(?s:.*)evals.canaries.file"):
        experiment.refuse_changes(directory, config)
