"""Replay a run's token stream, verify it against what the trainer consumed, and compare it with another run's."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paribus import config as configs
from paribus import experiment
from paribus.data.batches import Batch, Stream
from paribus.data.config import TextData
from paribus.data.places import categories_of, view_of
from paribus.data.store import Store, open_store
from paribus.data.stream import build_stream
from paribus.data.synthetic import windows
from paribus.errors import RunError
from paribus.rundir import RunDir, newest, step_of

Progress = Callable[[int, int], None]  # (steps replayed, steps in all)


class Verification(NamedTuple):
    """One run's stream, replayed from its config, against the hashes that its trainer logged."""

    run: Path
    steps: int
    altered: list[int]  # steps at which the trainer consumed something else than the replay gives
    expected_steps: int  # that the run has taken, by its checkpoints

    @property
    def holds(self) -> bool:
        return not self.altered and self.steps >= self.expected_steps

    def line(self) -> str:
        if self.steps < self.expected_steps:
            return (
                f"{self.run}: stream.u64 logs {self.steps:,} steps, but the run has taken {self.expected_steps:,}: "
                "it was cut, and proves nothing about the others"
            )
        if not self.altered:
            return f"{self.run}: {self.steps:,} steps replayed, every batch is the one that was consumed"
        return (
            f"{self.run}: {self.steps:,} steps replayed, {len(self.altered):,} consumed another batch than "
            f"the config gives, the first at step {self.altered[0]}"
        )


class Difference(NamedTuple):
    """One window of A that is not the window of B in the same place."""

    step: int
    row: int
    window_a: int
    window_b: int
    category_a: str
    category_b: str
    num_tokens: int  # targets that differ
    position: int  # of the first one
    cause: str  # another category | another window | other tokens in the same window


class Comparison(NamedTuple):
    """The token streams of two runs, over the steps that both have taken."""

    keys: list[tuple[str, Any, Any]]  # config keys that differ, with both values
    steps: int
    tokens: int  # targets compared
    tokens_differing: int
    windows_differing: int
    causes: dict[str, int]  # cause -> windows
    shares: dict[str, tuple[int, int]]  # category -> targets of A, targets of B
    first: Difference | None

    def lines(self) -> Iterator[str]:
        for key, a, b in self.keys:
            yield f"config {key}: {a} | {b}"
        if self.first is None:
            yield f"tokens: {self.tokens:,} compared over {self.steps:,} steps, nothing differs"
            return
        share = 100 * self.tokens_differing / self.tokens
        yield (
            f"tokens: {self.tokens:,} compared over {self.steps:,} steps, {self.tokens_differing:,} differ ({share:.2f} %), "
            f"in {self.windows_differing:,} windows; the first at step {self.first.step}, row {self.first.row}, "
            f"position {self.first.position}"
        )
        for cause, count in sorted(self.causes.items()):
            yield f"cause: {cause} in {count:,} windows"
        for category, (a, b) in self.shares.items():
            yield f"tokens of {category}: {a:,} | {b:,}"


class _Replay(NamedTuple):
    run: RunDir
    config: experiment.RunConfig
    stream: Stream
    store: Store | None
    consumed: np.ndarray

    def categories(self, batch: Batch) -> list[str]:
        """The category of each window, as the run saw it."""
        data, seeds = self.config.data, self.config.seeds
        if isinstance(data, TextData):
            assert self.store is not None
            return categories_of(self.store, batch.window_ids, view_of(data, seeds).labels_seed)
        first, last = int(batch.window_ids[0]), int(batch.window_ids[-1])
        _, component = windows(data, seeds)(first, last + 1)
        return [self.stream.categories[number] for number in component]


def _open(run: RunDir) -> _Replay:
    config = experiment.load(run)
    if not run.stream_path.exists():
        raise RunError(f"{run.path}: no stream.u64: the run has not begun; `paribus train {run.path}` starts it")
    consumed = np.fromfile(run.stream_path, dtype="<u8")
    store = open_store(Path(config.data.store), verify=True) if isinstance(config.data, TextData) else None
    return _Replay(run, config, build_stream(config.data, config.seeds, config.train.batch_size), store, consumed)


def verify(run: RunDir, progress: Progress = lambda done, total: None) -> Verification:
    """Regenerate every batch that the run has consumed and compare its hash with the one that was logged.

    The store is verified too.
    Raises RunError when the run has not begun."""
    replay = _open(run)
    altered = []
    for step, logged in enumerate(replay.consumed):
        if int.from_bytes(replay.stream.batches(step).digest(), "little") != int(logged):
            altered.append(step)
        progress(step + 1, len(replay.consumed))
    checkpoint = newest(run.checkpoints)
    return Verification(run.path, len(replay.consumed), altered, step_of(checkpoint) if checkpoint else 0)


def compare(a: RunDir, b: RunDir, out: Path | None = None, progress: Progress = lambda done, total: None) -> Comparison:
    """Replay two runs side by side; `out` gets one JSON line for every window that differs.

    Raises RunError when their batches have different shapes: then no token of one has a place in the other."""
    one, two = _open(a), _open(b)
    keys = [
        difference
        for difference in configs.difference(experiment.resolve(one.config), experiment.resolve(two.config))
        if difference[0].split(".")[0] not in ("name", "study", "track", "launch", "paths")
    ]
    steps = min(len(one.consumed), len(two.consumed))
    tokens, shares, causes = 0, Counter[tuple[str, int]](), Counter[str]()
    first, differing = None, 0
    with (out or Path("/dev/null")).open("w") as file:
        for step in range(steps):
            batch_a, batch_b = one.stream.batches(step), two.stream.batches(step)
            if batch_a.targets.shape != batch_b.targets.shape:
                shapes = f"{batch_a.targets.shape} and {batch_b.targets.shape} (windows, predictions)"
                raise RunError(
                    f"the batches of {a.path} and {b.path} have different shapes, {shapes}: nothing to compare"
                )
            tokens += batch_a.targets.size
            names = one.categories(batch_a), two.categories(batch_b)
            for side in (0, 1):
                shares.update((name, side) for name in names[side])
            for difference in _differences(step, batch_a, batch_b, *names):
                first = first or difference
                differing += difference.num_tokens
                causes[difference.cause] += 1
                file.write(json.dumps(difference._asdict()) + "\n")
            progress(step + 1, steps)
    window = one.stream.window
    by_category = {name: (shares[name, 0] * window, shares[name, 1] * window) for name, _ in sorted(shares)}
    return Comparison(keys, steps, tokens, differing, causes.total(), dict(causes), by_category, first)


def _differences(step: int, a: Batch, b: Batch, names_a: list[str], names_b: list[str]) -> Iterator[Difference]:
    changed = (a.targets != b.targets) | (a.tokens != b.tokens)
    for row in np.flatnonzero(changed.any(axis=1)):
        if names_a[row] != names_b[row]:
            cause = "another category"
        elif a.window_ids[row] != b.window_ids[row]:
            cause = "another window"
        else:
            cause = "other tokens in the same window"
        num_tokens, position = int((a.targets[row] != b.targets[row]).sum()), int(np.argmax(changed[row]))
        ids = int(a.window_ids[row]), int(b.window_ids[row])
        yield Difference(step, int(row), *ids, names_a[row], names_b[row], num_tokens, position, cause)


def print_audit(paths: list[Path], out: Path | None = None) -> int:
    """Verify one run, or verify two and compare them; findings on stdout, progress on stderr.

    Returns the exit code: 1 when a run consumed something else than its config gives, or its log was cut."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    runs = [RunDir(path) for path in paths]
    with Bar(console=Console(stderr=True), transient=True) as bar:

        def progress(what: str) -> Progress:
            task = bar.add_task(what, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        verified = [verify(run, progress(f"verifying {run.path.name}")) for run in runs]
        comparison = compare(runs[0], runs[1], out, progress("comparing")) if len(runs) == 2 else None
    for verification in verified:
        print(verification.line())
    if comparison is not None:
        print("\n".join(comparison.lines()))
    return 0 if all(verification.holds for verification in verified) else 1
