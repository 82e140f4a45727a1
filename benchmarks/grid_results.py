"""The store of a whole experiment: 425 runs (17 batch sizes x 25 etas) of 1,000 steps, written and read back.

    python benchmarks/grid_results.py

Ours is what programs leave: Parquet parts with every fsync, configs, identities; read back as `paribus.load_runs` and
`losses`. The peer is one pickle of lists of floats, which the original study keeps: not durable, not columnar.
"""

import pickle
import tempfile
import time
from pathlib import Path

import numpy as np

from paribus import config as configs
from paribus import load_runs
from paribus.grid import programs
from paribus.grid.config import GridRun
from paribus.grid.results import Results, losses, runs_frame, write_frame

BATCH_SIZES, ETAS, STEPS, PARTS = [2**k for k in range(17)], [2.0**k for k in range(-12, 13)], 1000, 4


def main() -> None:
    curves = np.random.default_rng(0).random((len(BATCH_SIZES), len(ETAS), STEPS), np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        write(folder, curves)
        written = time.perf_counter()
        runs, found = load_runs(folder), losses(folder)
        read = time.perf_counter()
        assert (len(runs), len(found)) == (curves[..., 0].size, curves.size)
        ours = (written - began, read - written)
        size = sum(path.stat().st_size for path in folder.rglob("*.parquet"))
        began = time.perf_counter()
        path = folder / "all.pkl"
        path.write_bytes(
            pickle.dumps(
                {
                    (size, eta): {"loss_history": curves[i, j].tolist()}
                    for i, size in enumerate(BATCH_SIZES)
                    for j, eta in enumerate(ETAS)
                }
            )
        )
        written = time.perf_counter()
        pickle.loads(path.read_bytes())
        peer = (written - began, time.perf_counter() - written)
        print(f"425 runs of {STEPS:,} steps: written in {ours[0]:.2f} s, read in {ours[1]:.2f} s, {size / 1e6:.1f} MB")
        print(f"one pickle: written in {peer[0]:.2f} s, read in {peer[1]:.2f} s, {path.stat().st_size / 1e6:.1f} MB")
        print(f"together {sum(ours):.2f} s (at most 2 wanted); ratio to the pickle {sum(ours) / sum(peer):.1f}")


def write(folder: Path, curves: np.ndarray) -> None:
    base = {
        "study": "benchmark/results",
        "name": "base",
        "data": {"kind": "polynomial"},
        "model": {"kind": "mlp"},
        "paths": {"runs": str(folder)},
    }
    for i, size in enumerate(BATCH_SIZES):
        train = {"eta": 1.0, "batch_size": size, "budget": {"steps": STEPS}}
        run = configs.from_mapping({**base, "train": train}, GridRun, "grid_results.py")
        ((directory, config),) = programs.place_all(
            [programs.at(run, name=f"b{size}-eta{eta:g}", gamma=1.0, eta=eta) for eta in ETAS]
        )
        programs.hold(directory, config)
        directory.set_status("running", num_steps=STEPS, num_runs=len(ETAS))
        results, alive_R = Results(directory.path / "results"), np.ones(len(ETAS), bool)
        for part in range(PARTS):
            first, last = part * STEPS // PARTS, (part + 1) * STEPS // PARTS
            results.add_losses(0, first, curves[i, :, first:last], np.full(len(ETAS), last - first))
            results.add_evaluations(0, last, None, {"heldout_loss": curves[i, :, last - 1]}, alive_R)
            results.write(0, last)
        rows = [
            {"run": j, "round": 0, "id": one, "name": run.name, "model.gamma": 1.0, "train.eta": run.train.eta}
            | {"state": "done", "reason": "", "step": STEPS, "label": "stable", "final/loss": float(curves[i, j, -1])}
            for j, (one, run) in enumerate(zip(programs.ids_of(directory.path), config.runs(), strict=True))
        ]
        write_frame(directory.path / "results" / "runs.parquet", runs_frame(rows))
        directory.set_status("done")


if __name__ == "__main__":
    main()
