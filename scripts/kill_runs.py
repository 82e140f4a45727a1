"""The runs that scripts/kill_test.py kills: one on coins, and one on text whose stream two controllers steer."""

import json
import random
from pathlib import Path
from typing import Any

from paribus import config as configs
from paribus.data.config import CorpusConfig
from paribus.data.prepare import prepare

CHECKPOINT_EVERY, EVALUATE_EVERY, CONTROL_EVERY, STEPS = 5, 10, 6, 40
COMMON = {
    "study": "kill-test",
    "model": {"kind": "preset", "name": "micro-neox"},
    "train": {
        "batch_size": 32,
        "micro_batch_size": 16,
        "budget": {"steps": STEPS},
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "schedule": {"kind": "cosine", "warmup_steps": 5},
        "log_every": 1,
        "checkpoints": {"every": CHECKPOINT_EVERY, "keep_last": 2, "initial": True},
    },
    "launch": {"threads": 1, "device": "cpu", "progress": False},
}
WORDS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen"]
# A decision that every bit of the weights changes: resumed from other weights, it would not be the same.
CONTROLLER = """
import argparse, hashlib, json, yaml
parser = argparse.ArgumentParser()
for flag in ("model", "current-step", "total-steps", "in-state-file", "out-state-file", "prompts-file"):
    parser.add_argument(f"--{flag}", required=True)
args = parser.parse_args()
state = yaml.safe_load(open(args.in_state_file)) or {}
digest = hashlib.sha256(open(args.model + "/model.safetensors", "rb").read()).hexdigest()
with open(args.prompts_file, "w") as file:
    file.writelines(json.dumps({"text": f"fox {digest[n : n + 3]}"}) + "\\n" for n in range(8))
yaml.safe_dump({"calls": state.get("calls", 0) + 1, "last": digest}, open(args.out_state_file, "w"))
"""


def coins(folder: Path) -> dict[str, Any]:
    """Synthetic data, judged by the exact predictor."""
    evaluation = {"kind": "bayes", "sequences": 320, "batch_size": 32, "every": EVALUATE_EVERY, "at_start": True}
    return {
        **COMMON,
        "name": "coins",
        "data": {"kind": "coins", "num_components": 5, "window": 32},
        "evals": {"optimum": evaluation},
    }


def dynamic(folder: Path) -> dict[str, Any]:
    """Canaries, and two controllers: a script that is called every few steps, and the proportional one."""
    evaluation = {"kind": "loss", "split": "test", "categories": "all", "windows_per_category": 64, "batch_size": 32}
    texts = [
        {"text": f"the {word} is {other}", "prompt": f"the {word} is", "target": other} for word, other in _pairs()
    ]
    file = _write(folder / "texts.jsonl", texts)
    (folder / "controller.py").write_text(CONTROLLER)
    experiments: dict[str, Any] = {
        "canaries": {"kind": "texts", "file": file, "repetitions": 4},
        "script": {
            "kind": "dynamic",
            "every": CONTROL_EVERY,
            "controller": {"kind": "script", "script": str(folder / "controller.py")},
        },
        "proportional": {
            "kind": "dynamic",
            "every": CONTROL_EVERY + 3,
            "controller": {"kind": "proportional", "probe": file, "texts": file, "target": 0.5},
            "initial_state": {"n": 4},
        },
    }
    return {
        **COMMON,
        "name": "dynamic",
        "data": {"kind": "text", "store": _store(folder), "window": 32, "start_token": True},
        "insertions": {"experiments": experiments},
        "evals": {"test": {**evaluation, "every": EVALUATE_EVERY, "at_start": True}},
    }


RUNS = {"coins": coins, "dynamic": dynamic}


def _pairs() -> list[tuple[str, str]]:
    return list(zip(WORDS, reversed(WORDS), strict=True))


def _store(folder: Path) -> str:
    draw = random.Random(0)
    files = {
        split: [
            _write(
                folder / f"{split}.jsonl",
                [
                    {"id": f"{split}-{n}", "category": "animals", "text": " ".join(draw.choices(WORDS, k=100))}
                    for n in range(num)
                ],
            )
        ]
        for split, num in (("train", 40), ("test", 10))
    }
    tokenizer = {"kind": "train_bpe", "vocab_size": 276}
    source = {"kind": "jsonl", "files": files}
    corpus = {"name": "animals", "store": str(folder / "store"), "source": source, "tokenizer": tokenizer}
    prepare(configs.from_mapping(corpus, CorpusConfig, "kill_runs.py"), progress=False)
    return str(folder / "store")


def _write(path: Path, records: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)
