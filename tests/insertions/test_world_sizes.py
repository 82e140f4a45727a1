"""Insertions on several ranks and in several micro-batches: the same global batches, and ranks that train on their rows."""

import json
import subprocess
import sys

import numpy as np
import pytest

from paribus import config as configs
from tiny_runs import text_run, text_store

WAYS = {
    "one": [],
    "accumulated": ["train.micro_batch_size=2"],
    "ddp-2": ["launch.engine=ddp", "launch.num_processes=2"],
    "ddp-4": ["launch.engine=ddp", "launch.num_processes=4"],
    "fsdp2-2": ["launch.engine=fsdp2", "launch.num_processes=2"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The same run, trained in each way by the command line: way -> (hashes of its batches, losses, its plan's manifest)."""
    folder = tmp_path_factory.mktemp("ways")
    store = text_store(folder / "store")
    canaries = folder / "canaries.jsonl"
    canaries.write_text("".join(json.dumps({"text": f"gold ant {n}"}) + "\n" for n in range(20)))
    wanted = {"canaries": {"kind": "texts", "file": str(canaries), "repetitions": 3}}
    found = {}
    for way, overrides in [*WAYS.items(), ("control", ["insertions.control=true"])]:
        base = [f"insertions={json.dumps({'experiments': wanted})}", "train.budget.steps=10"]
        run, config = text_run(folder / way, *base, *overrides, store=store, windows={"kind": "chunks"})
        file = folder / f"{way}.yaml"
        file.write_text(configs.dump(config))
        done = subprocess.run([sys.executable, "-m", "paribus", "train", str(file)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        manifest = (run.insertions / "manifest.json").read_bytes()
        found[way] = (np.fromfile(run.stream_path, "<u8"), losses, manifest)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "one"])
def test_another_way_to_share_a_step_trains_on_other_tokens(trained, way):
    """The losses tell what the models were fed, rank by rank: 1e-5 is rounding, another token moves them by 1e-2."""
    hashes, losses, manifest = trained[way]
    expected_hashes, expected_losses, expected_manifest = trained["one"]
    assert (hashes == expected_hashes).all()
    assert manifest == expected_manifest
    assert len(losses) == 10
    assert np.abs(np.subtract(losses, expected_losses)).max() < 1e-5


@pytest.mark.slow
def test_the_control_is_told_apart(trained):
    hashes, losses, _ = trained["control"]
    assert (hashes != trained["one"][0]).any()
    assert np.abs(np.subtract(losses, trained["one"][1])).max() > 1e-3
