"""Specification 5.7: trained models come as near to the Bayes predictor as theory lets one hope, and never beat it.

The bounds are the specification's for 3,000 and 4,000 steps of 128 windows; the coins are held to theirs after 600."""

import pytest

from paribus.config import from_mapping
from paribus.evals.results import read_result, result_path
from paribus.experiment import place, run
from paribus.run_config import RunConfig

pytestmark = pytest.mark.slow  # 2 and 12 CPU-minutes

COINS = {
    "data": {"kind": "coins", "num_components": 11, "window": 64},
    "model": {"kind": "preset", "name": "micro-neox"},
    "steps": 600,
    "lr": 2e-3,
    "warmup_steps": 50,
}
# A chain's evidence is in pairs of symbols: attention must fetch the symbol before, then a layer must combine the two,
# then attention must add the pairs up. In two layers only a sequential residual stream leaves room for that: with
# GPT-NeoX's parallel one, and rotary positions on a quarter of each head, the mean KL stayed near .1 after 2,000 steps.
CHAINS = {
    "data": {"kind": "markov", "num_components": 8, "num_symbols": 8, "window": 64},
    "model": {
        "kind": "architecture",
        "model_type": "gpt_neox",
        "config": {
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "intermediate_size": 256,
            "use_parallel_residual": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0},
        },
    },
    "steps": 4000,
    "lr": 3e-3,
    "warmup_steps": 200,
}


@pytest.mark.parametrize(
    ("case", "mean", "highest"), [(COINS, 5e-4, 1e-3), (CHAINS, 0.02, 0.06)], ids=["coins", "chains"]
)
def test_a_trained_model_is_as_near_to_bayes_as_the_specification_demands(tmp_path, case, mean, highest):
    config = {
        "name": "optimum",
        "data": case["data"],
        "model": case["model"],
        "train": {
            "batch_size": 128,
            "budget": {"steps": case["steps"]},
            "optimizer": {"kind": "adamw", "lr": case["lr"], "weight_decay": 0.1},
            "schedule": {"kind": "cosine", "warmup_steps": case["warmup_steps"], "final_fraction": 0.02},
        },
        "evals": {"bayes": {"kind": "bayes", "sequences": 4096}, "causality": {"kind": "causality"}},
        "launch": {"threads": 1, "device": "cpu", "progress": False},
        "paths": {"runs": str(tmp_path)},
    }
    settings = from_mapping(config, RunConfig)
    directory = place(settings)
    assert run(directory, settings).state == "done"
    found = {name: read_result(result_path(directory.evals, name, case["steps"])).record for name in config["evals"]}
    kl = found["bayes"]["kl"]
    print(f"mean KL {kl['mean']:.2e}, max {kl['max']:.2e} at position {kl['max_at']}, min {kl['min']:.2e}")
    assert found["bayes"]["sequences"] >= 4096
    assert kl["mean"] <= mean
    assert kl["max"] <= highest
    assert kl["min"] >= -1e-6
    assert not found["bayes"]["leak"]["is_leak"]
    assert found["causality"]["is_causal"]
