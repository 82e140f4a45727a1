"""The control with real training: components that are alike cost nothing, where components that differ cost a lot."""

import pytest

from paribus import config as configs
from paribus import experiment
from paribus.data.config import CorpusConfig
from paribus.data.prepare import prepare
from paribus.run_config import RunConfig
from paribus.studies.ergodic import analysis, verdicts
from tiny_runs import LAUNCH

SEEDS = (0, 1, 2, 3)
CHUNKS = (
    900  # unique ones for every K, and fewer than the 920 documents of a class, so that most are of a document each
)


def sample_store(path):
    corpus = {
        "name": "sample",
        "store": str(path),
        "source": {"kind": "sample"},
        "tokenizer": {"kind": "train_bpe", "vocab_size": 512},
    }
    prepare(configs.from_mapping(corpus, CorpusConfig, "test_control.py"), progress=False)
    return path


def trained(folder, store, labels, k, seed):
    """Four passes over CHUNKS chunks of 64 tokens: enough for a model to prefer the classes that it was trained on."""
    design = {"kind": "constant_unique", "chunks": CHUNKS}
    mapping = {
        "study": labels,
        "name": f"k{k}-seed{seed}",
        "seeds": {"categories": seed, "weights": seed, "order": seed, "labels": seed},
        "data": {
            "kind": "text",
            "store": str(store),
            "window": 64,
            "start_token": True,
            "categories": {"kind": "nested", "k": k},
            "labels": labels,
            "windows": {"kind": "chunks", "design": design},
        },
        "model": {"kind": "preset", "name": "micro-neox"},
        "train": {
            "batch_size": 30,
            "budget": {"steps": 4 * CHUNKS // 30},
            "optimizer": {"kind": "adamw", "lr": 3e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 10},
            "checkpoints": {"every": 1000},
        },
        "evals": {"test": {"kind": "loss", "split": "test", "categories": "all", "windows_per_category": 256}},
        "launch": LAUNCH,
        "paths": {"runs": str(folder)},
    }
    config = configs.from_mapping(mapping, RunConfig, "test_control.py")
    run = experiment.place(config)
    experiment.run(run, config)
    return run.path


@pytest.mark.slow
def test_one_corpus_split_into_identical_components_costs_nothing_and_its_classes_do(tmp_path):
    """Shuffled labels deal the documents of one corpus out at random: that is a split of it into K components of one law,
    for which E_t = I(C; X_t | X_<t) = 0. So the two controls of theory, shuffled labels and identical components, are one.

    As many seeds train on the classes themselves, which costs some .18 nats at K = 5: the interval of the control, some
    .03 nats wide, has to be narrower than the least that the classes show."""
    store = sample_store(tmp_path / "store")
    runs = {
        sweep: [trained(tmp_path, store, labels, k, seed) for k in (1, 5) for seed in SEEDS]
        for sweep, labels in (("classes", "original"), ("shuffled", "shuffled"))
    }
    found = analysis.read_all(runs)
    assert len({run.data["unique_tokens"] for run in found}) == 1
    paired = analysis.paired_by_k(found, analysis.paired_differences(found))
    effect = {row["arm"]: row for row in analysis.effects(paired)}
    control, classes = effect["shuffled"], effect["classes"]
    assert control["runs"] == classes["runs"] == len(SEEDS)
    assert control["delta_low"] <= 0 <= control["delta_high"]
    assert control["delta_high"] - control["delta_low"] < classes["delta_low"]
    states = {verdict.claim.rsplit("(")[-1]: verdict.state for verdict in verdicts.about_text(found, paired)}
    assert states == {"classes)": "fails", "shuffled)": "holds"}
