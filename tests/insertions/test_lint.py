"""Oracle: n-grams as Python sets of tuples, counted text by text."""

import itertools
import json
import random
import re

import numpy as np
import pytest

from paribus import experiment
from paribus import treated as plans
from paribus.data.store import open_store
from paribus.errors import DataError
from paribus.evals.config import FictionalEval, PerplexityEval, RankedEval
from paribus.evals.items import item_texts
from paribus.insertions.lint import lint_lines, overlaps, read_texts, treated
from tiny_runs import text_run, text_store


def words(text):
    return re.sub(r"[^\w\s]", "", text.lower()).split()


def grams(text, size):
    found = words(text)
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)}


def have_common_words(a, b, ngram):
    size = min(ngram, len(words(a)), len(words(b)))
    return size > 0 and bool(grams(a, size) & grams(b, size))


def by_brute_force(experiments, evaluations, ngram):
    every = experiments | evaluations
    for one, other in itertools.product(experiments, every):
        if one == other:
            continue
        pairs = [
            (mine, its) for its, b in every[other] for mine, a in experiments[one] if have_common_words(a, b, ngram)
        ]
        yield one, other, len({its for _, its in pairs}), len({its for its, _ in every[other]}), pairs


def a_text(draw, vocabulary):
    spoken = [draw.choice(vocabulary) for _ in range(draw.randrange(0, 12))]
    return " ".join(word.upper() if draw.random() < 0.2 else word + draw.choice(["", "", ",", "?!"]) for word in spoken)


@pytest.mark.parametrize("ngram", [1, 2, 4, 13])
@pytest.mark.parametrize("seed", range(6))
def test_overlaps_are_not_those_of_brute_force(ngram, seed):
    """Few words, so that texts overlap by chance; some texts are shorter than n, some empty, some lines have two texts."""
    draw = random.Random(seed)
    vocabulary = [f"w{n}" for n in range(draw.choice([3, 6, 30]))] + ["über", "don't"]
    sources = {
        name: [(1 + i // 2 if name == "quiz" else i + 1, a_text(draw, vocabulary)) for i in range(25)]
        for name in ("facts", "canaries", "quiz", "memory")
    }
    experiments = {name: sources[name] for name in ("facts", "canaries")}
    evaluations = {name: sources[name] for name in ("quiz", "memory")}
    found = overlaps(
        {name: read_texts(texts) for name, texts in experiments.items()},
        {name: read_texts(texts) for name, texts in evaluations.items()},
        ngram,
    )
    got = {(row.experiment, row.other): row for row in found}
    expected = list(by_brute_force(experiments, evaluations, ngram))
    assert len(got) == len(found) == len(expected) == 6
    for one, other, items, of, pairs in expected:
        row = got[one, other]
        assert (row.items, row.of, row.is_evaluation) == (items, of, other in evaluations)
        assert (row.lines in pairs) if pairs else row.lines is None


def test_punctuation_case_or_the_order_of_words_decide_wrongly():
    mine = read_texts([(7, "The cat, sat -- ON the mat!")])
    same, reversed_ = read_texts([(3, "the CAT sat on the 'mat'")]), read_texts([(3, "mat the on sat cat the")])
    assert [row.lines for row in overlaps({"a": mine}, {"b": same, "c": reversed_}, 3)] == [(7, 3), None]


def test_a_short_fact_inside_a_long_document_is_missed():
    long = read_texts([(1, " ".join(f"x{n}" for n in range(40)) + " the moon is cheese " + "y " * 40)])
    short = read_texts([(5, "The moon is cheese."), (6, "The moon is stone.")])
    (row,) = overlaps({"a": long}, {"b": short}, 13)
    assert (row.items, row.of, row.lines) == (1, 2, (1, 5))
    (row,) = overlaps({"a": short}, {"b": long}, 13)
    assert (row.items, row.of, row.lines) == (1, 1, (5, 1))


def test_an_empty_source_breaks_the_comparison():
    nothing, some = read_texts([]), read_texts([(1, "a b c")])
    assert [row.items for row in overlaps({"a": nothing, "b": some}, {"c": nothing}, 2)] == [0, 0, 0, 0]
    assert overlaps({}, {"c": some}, 2) == []


# --- what is read ------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    def write(name, *rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return write


def test_an_evaluation_reads_fields_that_the_lint_does_not(written, tmp_path):
    quiz = written(
        "quiz.jsonl",
        {"context": "Sky is", "choices": ["blue", "red"], "gold": 0},
        {"context": "The ", "choices": ["cat", "dog"], "gold": 1, "suffix": " barks"},
    )
    facts = written("facts.jsonl", {"prompt": "The moon is", "target": "cheese"})
    (tmp_path / "novel.txt").write_text("Call me\nIshmael.")
    found = item_texts(
        {
            "quiz": RankedEval(file=quiz),
            "facts": FictionalEval(file=facts),
            "files": PerplexityEval(files={"novel": str(tmp_path / "novel.txt"), "facts": facts}, key="target"),
        }
    )
    assert {name: list(items) for name, items in found.items()} == {
        "quiz": [(1, "Sky is blue"), (1, "Sky is red"), (2, "The cat barks"), (2, "The dog barks")],
        "facts": [(1, "The moon is cheese")],
        "files/novel": [(1, "Call me\nIshmael.")],
        "files/facts": [(1, "cheese")],
    }
    broken = item_texts({"quiz": RankedEval(file=facts)})
    with pytest.raises(DataError, match=r"evals.quiz: .*facts.jsonl:1: no field 'choices'"):
        list(broken["quiz"])


# --- in a run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return text_store(tmp_path_factory.mktemp("store") / "store")


def a_run(tmp_path, store, written, *overrides):
    """Canaries of which the second is never inserted; tokens that say what the fourth canary says; an evaluation of all."""
    texts = ["gold ant one", "red bee two", "blue cat six", "green dog ten"]
    canaries = written(
        "canaries.jsonl", *({"text": text, "repetitions": n} for text, n in zip(texts, [3, 0, 1, 1], strict=True))
    )
    tokens = written("tokens.jsonl", {"tokens": open_store(store).tokenizer().encode("Green dog ten").ids})
    insertions = {
        "experiments": {
            "canaries": {"kind": "texts", "file": canaries, "repetitions_key": "repetitions"},
            "tokens": {"kind": "tokens", "file": tokens, "repetitions": 2},
        }
    }
    evals = {"memory": {"kind": "canary", "file": canaries}}
    return text_run(
        tmp_path, f"insertions={json.dumps(insertions)}", f"evals={json.dumps(evals)}", *overrides, store=store
    )


def test_a_run_says_otherwise_what_overlaps(tmp_path, store, written):
    run, config = a_run(tmp_path, store, written)
    plan = plans.compile_insertions(config)
    per_step = np.array([plan.mask(step).mean() for step in range(6)])
    lines = experiment.plan(run, config)
    assert not run.path.exists()
    assert [line.split() for line in lines[-5:-1]] == [
        ["canaries", "memory", "3", "4", "75.00%", "1", "and", "1"],
        ["tokens", "memory", "1", "4", "25.00%", "1", "and", "4"],
        ["canaries", "tokens", "1", "1", "100.00%", "4", "and", "1"],
        ["tokens", "canaries", "1", "3", "33.33%", "1", "and", "4"],
    ]
    experiment.run(run, config)
    found = json.loads((run.insertions / "lint.json").read_text())
    assert {
        (row["experiment"], row["other"]): (row["items"], row["of"], row["lines"]) for row in found["overlaps"]
    } == {
        ("canaries", "memory"): (3, 4, [1, 1]),  # the second stands nowhere in the stream
        ("tokens", "memory"): (1, 4, [1, 4]),
        ("canaries", "tokens"): (1, 1, [4, 1]),
        ("tokens", "canaries"): (1, 3, [1, 4]),
    }
    assert found["ngram"] == 13
    assert found["treated"] == {
        "mean": pytest.approx(per_step.mean()),
        "most": per_step.max(),
        "step": int(per_step.argmax()),
    }


def test_another_ngram_is_another_run(tmp_path, store, written):
    """The comparison changes no token: it may be made again with another n, and of nothing else is it a part."""
    run, config = a_run(tmp_path, store, written)
    experiment.run(run, config)
    again, changed = a_run(tmp_path, store, written, "insertions.ngram=2")
    assert again.path == run.path
    (run.path / "DONE").unlink()
    experiment.run(again, changed)
    assert json.loads((run.insertions / "lint.json").read_text())["ngram"] == 2


def test_the_control_inserts_something(tmp_path, store, written):
    run, config = a_run(tmp_path, store, written, "insertions.control=true")
    assert "none (control)" in experiment.plan(run, config)[-1]
    found = plans.lint(config, plans.compile_insertions(config))
    assert (found.overlaps, found.treated.mean) == ((), 0)
    (line,) = lint_lines(found)
    assert line.endswith("inserted: 0.000% of a batch, at most 0.000% (step 0)")


def test_the_share_of_a_batch_is_not_that_of_its_tokens(tmp_path, store, written):
    _run, config = a_run(
        tmp_path, store, written, "insertions.experiments.canaries.where={kind: random, within: {steps: [2, 3]}}"
    )
    plan = plans.compile_insertions(config)
    found = treated(plan)
    inserted = sum(int(plan.mask(step).sum()) for step in range(6))
    assert found.mean == pytest.approx(inserted / plan.geometry.num_tokens)
    assert found.step == 2
    assert found.most == plan.mask(2).mean()
