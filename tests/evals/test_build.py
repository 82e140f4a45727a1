"""Oracles: windows that do not depend on what else is asked for, and one line for everything that does not fit."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from paribus.data.config import CoinsData, ExplicitCategories, MarkovData, NestedCategories, Seeds, TextData
from paribus.data.mixture import choose_categories
from paribus.data.store import open_store
from paribus.data.synthetic import synthetic_source
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import ConfigError, DataError, StoreError
from paribus.evals.build import EvalContext, build_evaluation, evaluate
from paribus.evals.config import BayesEval, CausalityEval, LossEval
from paribus.evals.frozen import loss_windows, source_sequences
from paribus.models.config import Architecture, Preset
from paribus.models.hf import build_model

NAMES = ("a", "b", "c", "d")


def make_store(path, size=50, seed=0):
    tokenizer = Tokenizer(models.WordLevel({f"w{index}": index for index in range(size)}, unk_token="w0"))
    draw = np.random.default_rng(seed)
    with StoreWriter(path, tokenizer, Recipe("toy", start_token_id=0)) as writer:
        for number in range(120):
            split = ("train", "validation", "test")[number % 3]
            entry = Entry(f"d{number}", NAMES[number // 3 % 4], split, 0)
            writer.append(entry, draw.integers(1, size, 40 + number % 7))
    return open_store(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("evals") / "store")


def text(store, **settings) -> TextData:
    return TextData(store=str(store.path), **({"window": 20} | settings))


def by_category(windows, name):
    rows = windows.category == windows.categories.index(name)
    return windows.batch.window_ids[rows].tolist()


def test_models_of_every_k_share_the_windows_of_a_category(store):
    """The point of frozen windows: K = 1, 2, 4 and an explicit list are paired window by window."""
    config, found = LossEval(windows_per_category=7), {}
    choices = [NestedCategories(k=k) for k in (1, 2, 4)] + [ExplicitCategories(names=["b", "d"])]
    for choice in choices:
        windows = loss_windows(config, text(store, categories=choice), Seeds(categories=3))
        assert windows.categories == choose_categories(choice, NAMES, 3)
        for name in windows.categories:
            assert found.setdefault(name, by_category(windows, name)) == by_category(windows, name)
    everything = loss_windows(
        LossEval(windows_per_category=7, categories="all"), text(store), Seeds(weights=9, order=9)
    )
    assert {name: by_category(everything, name) for name in NAMES} == found


def test_windows_come_from_the_split_that_is_asked_for(store):
    for split in ("validation", "test"):
        windows = loss_windows(LossEval(split=split, windows_per_category=30), text(store), Seeds())
        rows = store.document_at(windows.batch.window_ids)
        assert {store.splits[code] for code in store.documents.split[rows]} == {split}


def test_the_window_is_the_runs_own_unless_it_is_given(store):
    assert loss_windows(LossEval(), text(store), Seeds()).batch.tokens.shape == (4096, 20)
    assert loss_windows(LossEval(window=11), text(store), Seeds()).batch.tokens.shape == (4096, 11)
    source = CoinsData(num_components=3, window=9)
    assert loss_windows(LossEval(window=4, windows_per_category=2), source, Seeds()).batch.tokens.shape == (6, 4)


def test_sequences_of_a_component_do_not_depend_on_the_others_and_fewer_are_the_first():
    source = synthetic_source(MarkovData(num_components=4, num_symbols=3, window=6))
    all_four, one = source_sequences(source, range(4), 9, 6, 1), source_sequences(source, [2], 5, 6, 1)
    rows = np.flatnonzero(all_four.component == 2)[:5]
    for whole, part in zip(all_four.batch[:3], one.batch[:3], strict=True):
        np.testing.assert_array_equal(whole[rows], part)
    assert len(set(all_four.batch.window_ids.tolist())) == 36
    assert (all_four.batch.tokens[:, 0] == 3).all()
    np.testing.assert_array_equal(all_four.batch.tokens[:, 1:], all_four.symbols[:, :-1])


def test_components_of_a_source_are_scored_as_categories():
    data = CoinsData(num_components=3, window=12)
    windows = loss_windows(LossEval(categories=["component-02", "component-00"]), data, Seeds())
    assert windows.categories == ("component-02", "component-00")
    share = [windows.batch.targets[windows.category == index].mean() for index in range(2)]
    assert share == pytest.approx([0.75, 0.25], abs=0.02)


@pytest.mark.parametrize("kind", ["loss", "bayes", "causality"])
def test_every_kind_scores_a_real_model_of_a_synthetic_source(kind):
    data = CoinsData(num_components=3, window=12)
    config = {
        "loss": LossEval(windows_per_category=4),
        "bayes": BayesEval(sequences=9, batch_size=5),
        "causality": CausalityEval(sequences=2),
    }[kind]
    model = build_model(Preset(name="micro-neox"), 4, 12, 0)
    record = evaluate(config, model, EvalContext(data)).record
    assert record["kind"] == kind
    assert record["config"] == config.model_dump(mode="json")
    assert all(isinstance(value, float) for value in record["summary"].values())


def test_an_evaluation_is_built_once_and_scores_many_models(store):
    score = build_evaluation(LossEval(windows_per_category=3), EvalContext(text(store)))
    records = [score(build_model(Preset(name="micro-neox"), 50, 20, seed), 0).record for seed in (0, 1, 0)]
    assert records[0] == records[2]
    assert records[0]["windows"] == records[1]["windows"]
    assert records[0]["loss"] != records[1]["loss"]


def test_causality_of_a_text_run_uses_ids_of_its_store(store):
    model = build_model(Preset(name="micro-neox"), 50, 20, 0)
    assert evaluate(CausalityEval(), model, EvalContext(text(store))).record["is_causal"]


def test_a_store_of_another_tokenizer_is_refused(store, tmp_path):
    other = make_store(tmp_path / "other", size=51)
    with pytest.raises(StoreError, match="tokenizer"):
        loss_windows(LossEval(store=str(other.path)), text(store), Seeds())
    same = make_store(tmp_path / "same", seed=1)
    windows = loss_windows(LossEval(store=str(same.path), windows_per_category=2), text(store), Seeds())
    assert len(windows.category) == 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LossEval(in_context=(5, 21)), "beyond the window of 20"),
        (LossEval(categories=["a", "e"]), "no category 'e'"),
        (LossEval(split="dev"), "dev"),
        (LossEval(window=99), "99"),
        (BayesEval(), "needs a synthetic source"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_before_any_model_runs(store, config, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build_evaluation(config, EvalContext(text(store)))


def test_a_store_makes_no_sense_for_a_synthetic_source(store):
    with pytest.raises(ConfigError, match="no store"):
        loss_windows(LossEval(store=str(store.path)), CoinsData(num_components=2, window=4), Seeds())


@pytest.mark.parametrize("settings", [{"in_context": (5, 5)}, {"categories": ["a", "a"]}, {"categories": []}])
def test_settings_that_contradict_themselves_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        LossEval(**settings)


def test_windows_that_a_model_cannot_read_are_refused(store):
    small = build_model(Architecture(model_type="gpt2", config={"n_layer": 1, "n_embd": 8, "n_head": 1}), 10, 20, 0)
    context = EvalContext(text(store))
    small.config.vocab_size = 10
    with pytest.raises(DataError, match="beyond the model's vocabulary of 10"):
        evaluate(LossEval(windows_per_category=2), small, context)
    short = build_model(
        Architecture(model_type="gpt2", config={"n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 12}), 50, 12, 0
    )
    with pytest.raises(DataError, match="12 positions"):
        evaluate(LossEval(windows_per_category=2), short, context)
