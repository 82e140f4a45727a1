"""Runs that take a second: coins, token files, and text of three categories in a store of a few kilobytes."""

import json
import os
import random

import numpy as np

from paribus import config as configs
from paribus import experiment
from paribus.data.config import CorpusConfig
from paribus.data.prepare import prepare
from paribus.run_config import RunConfig

WORDS = {
    "a": ["ant", "bee", "cat", "dog", "elk", "fox"],
    "b": ["red", "blue", "green", "gold", "gray", "pink"],
    "c": ["one", "two", "six", "ten"],
}
TRAIN = {
    "batch_size": 8,
    "budget": {"steps": 6},
    "optimizer": {"kind": "adamw", "lr": 3e-3},
    "checkpoints": {"every": 4},
    "log_every": 1,
}
LAUNCH = {"threads": 1, "device": "cpu", "progress": False}
MODEL = {
    "kind": "architecture",
    "model_type": "gpt_neox",
    "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
}


def coins_run(folder, *overrides):
    """A run directory below `folder`, not yet written, and its config."""
    mapping = {
        "study": "small",
        "name": "coins",
        "data": {"kind": "coins", "num_components": 3, "window": 16},
        "model": MODEL,
        "train": TRAIN,
        "evals": {"optimum": {"kind": "bayes", "sequences": 30, "batch_size": 16}, "causality": {"kind": "causality"}},
        "launch": LAUNCH,
        "paths": {"runs": str(folder / "runs")},
    }
    return _resolved(mapping, folder, overrides)


def text_run(folder, *overrides, store=None, **data):
    """A run on the text store, made below `folder` unless given, on the category `a`."""
    store = store or text_store(folder / "store")
    mapping = {
        "study": "small",
        "name": "text",
        "data": {
            "kind": "text",
            "store": str(store),
            "window": 16,
            "start_token": True,
            "categories": {"kind": "explicit", "names": ["a"]},
            **data,
        },
        "model": MODEL,
        "train": TRAIN,
        "evals": {"test": {"kind": "loss", "split": "test", "categories": "all", "windows_per_category": 8}},
        "launch": LAUNCH,
        "paths": {"runs": str(folder / "runs")},
    }
    return _resolved(mapping, folder, overrides)


def token_run(folder, *overrides, **data):
    """A run on two token files below `folder`, 30 + 10 rows of 17 tokens and a tail each, ids below 40, end-of-text 0."""
    files = token_files(folder, {"a.npy": 30 * 17 + 5, "b.npy": 10 * 17 + 16})
    mapping = {
        "study": "small",
        "name": "tokens",
        "data": {
            "kind": "token_files",
            "files": [str(file) for file in files],
            "dtype": "uint16",
            "sequence_length": 17,
            "vocab_size": 40,
            "eos": 0,
            **data,
        },
        "model": MODEL,
        "train": TRAIN,
        "launch": LAUNCH,
        "paths": {"runs": str(folder / "runs")},
    }
    return _resolved(mapping, folder, overrides)


def token_files(folder, lengths, dtype="<u2", vocab_size=40, seed=0):
    """Headerless arrays: name -> tokens. Ids are random, every ninth or so is the separator 0; the paths, in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    for name, length in lengths.items():
        ids = np.where(draw.random(length) < 1 / 9, 0, draw.integers(1, vocab_size, length))
        ids.astype(dtype).tofile(folder / name)
    return [folder / name for name in lengths]


def text_store(path, seed=0):
    """A store of 3 categories x (20 train, 6 test) documents of 60 words each; the path it was written to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    files = {}
    for split, num in (("train", 20), ("test", 6)):
        file = path.with_name(f"{path.name}-{split}.jsonl")
        rows = [
            {"id": f"{split}-{name}-{i}", "category": name, "text": " ".join(rng.choices(words, k=60))}
            for name, words in WORDS.items()
            for i in range(num)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[split] = [str(file)]
    tokenizer = {"kind": "train_bpe", "vocab_size": 280}
    corpus = {"name": "toy", "store": str(path), "source": {"kind": "jsonl", "files": files}, "tokenizer": tokenizer}
    prepare(configs.from_mapping(corpus, CorpusConfig, "tiny_runs.py"), progress=False)
    return path


def _resolved(mapping, folder, overrides):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"asked-{os.getpid()}.yaml"  # every rank of a test makes the run for itself
    path.write_text(json.dumps(mapping))
    config = configs.load(path, RunConfig, list(overrides))
    path.unlink()
    return experiment.place(config), config
