"""Replay a run's token stream, verify it against what the trainer consumed, and compare it with another run's."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from paribus import config as configs
from paribus import rundir
from paribus.data.batches import Batch
from paribus.errors import RunError
from paribus.identity import resolve
from paribus.insertions.trace import Change, changes
from paribus.replay import Replay
from paribus.rundir import RunDir, newest, step_of

Progress = Callable[[int, int], None]  # (steps replayed, steps in all)
UNEXPLAINED = "other tokens in the same window"
EXAMPLES = 200  # spans of each experiment that a run's own record of its audit lists, for the report


class Written(NamedTuple):
    """What a plan wrote over the steps that a run has taken."""

    spans: int
    tokens: int
    changed: int  # of these tokens, those that were other ones before
    watermarked: int = 0  # rows whose input embeddings got noise

    def line(self) -> str:
        noise = f"; noise on {self.watermarked:,} rows" if self.watermarked else ""
        return (
            f"insertions: {self.spans:,} spans, {self.tokens:,} tokens written, {self.changed:,} of them other than what "
            f"stood there; every other token is the base stream's{noise}"
        )


class Verification(NamedTuple):
    """One run's stream, replayed from its config, against the hashes that its trainer logged."""

    run: Path
    steps: int
    altered: list[int]  # steps at which the trainer consumed something else than the replay gives
    expected_steps: int  # that the run has taken, by its checkpoints
    written: Written | None = None  # what its plan wrote over the stream
    examples: Sequence[Mapping[str, Any]] = ()  # the first EXAMPLES spans of each experiment, with ids and texts

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
    cause: str  # another category | another window | another store | insertion | UNEXPLAINED


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
    noisy: tuple[int, int] = (0, 0)  # rows of A, and of B, whose input embeddings got noise
    other_noise: int = 0  # rows that did not get the same noise, or none, in both

    @property
    def holds(self) -> bool:
        """Whether every difference has a cause."""
        return UNEXPLAINED not in self.causes

    def lines(self) -> Iterator[str]:
        for key, a, b in self.keys:
            yield f"config {key}: {a} | {b}"
        if any(self.noisy):
            yield (
                f"rows with the noise of a watermark: {self.noisy[0]:,} | {self.noisy[1]:,}; "
                f"it differs in {self.other_noise:,} rows"
            )
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


def _writing(out: Path | None) -> TextIO:
    """Open the file of findings, and make its folder. Raises RunError when it cannot be written."""
    try:
        path = out or Path(os.devnull)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror}; --out names a file") from None


def verify(run: RunDir, out: Path | None = None, progress: Progress = lambda done, total: None) -> Verification:
    """Regenerate every batch that the run has consumed and compare its hash with the one that was logged.

    The store and the plan are verified too; `out` gets one JSON line for every span that the plan wrote: experiment, item,
    repetition, old and new ids and texts. Raises RunError when the run has not begun."""
    replay = Replay(run)
    altered, spans, tokens, changed, noisy = [], 0, 0, 0, 0
    examples: list[dict[str, Any]] = []
    listed = Counter[str]()
    with _writing(out) as file:
        for step in replay.steps:
            batch = replay.batch(step)
            if not replay.was_consumed(step, batch):
                altered.append(step)
            noisy += noisy_rows(batch)
            if replay.plan:
                some = replay.plan.of_step(step)
                spans += some.stop - some.start
                tokens += int(replay.plan.spans.offsets[some.stop] - replay.plan.spans.offsets[some.start])
                changed += int((replay.watch.before != replay.watch.after).sum())
                for change in _listed(replay, step, None if out else listed):
                    record = change.to_json(replay.tokenizer)
                    if listed[change.experiment] < EXAMPLES:
                        examples.append(record)
                    listed[change.experiment] += 1
                    if out:
                        file.write(json.dumps(record) + "\n")
            progress(step + 1 - replay.steps.start, len(replay.steps))
    checkpoint = newest(run.checkpoints)
    written = Written(spans, tokens, changed, noisy) if replay.plan else None
    taken = step_of(checkpoint) - replay.steps.start if checkpoint else 0
    return Verification(run.path, len(replay.steps), altered, taken, written, examples)


def _listed(replay: Replay, step: int, listed: Counter[str] | None) -> Iterable[Change]:
    """The spans of the step that was replayed last: all of them, or none where every experiment has been listed enough."""
    assert replay.plan is not None
    names = replay.plan.experiments
    if listed is not None and all(listed[name] >= EXAMPLES for name in names):
        return ()
    return changes(replay.plan, step, replay.watch.before)


def compare(a: RunDir, b: RunDir, out: Path | None = None, progress: Progress = lambda done, total: None) -> Comparison:
    """Replay two runs side by side; `out` gets one JSON line for every window that differs.

    Raises RunError when their batches have different shapes: then no token of one has a place in the other."""
    one, two = Replay(a), Replay(b)
    keys = [
        difference
        for difference in configs.difference(resolve(one.config), resolve(two.config))
        if difference[0].split(".")[0] not in ("name", "study", "track", "launch", "paths")
    ]
    steps = range(max(one.steps.start, two.steps.start), min(one.steps.stop, two.steps.stop))
    if not steps and one.steps and two.steps:
        ranges = " and ".join(f"{some.start:,} to {some.stop - 1:,}" for some in (one.steps, two.steps))
        raise RunError(f"{a.path} and {b.path} have no step in common ({ranges}): nothing to compare")
    tokens, shares, causes = 0, Counter[tuple[str, int]](), Counter[str]()
    first, differing, noisy, other_noise = None, 0, [0, 0], 0
    with _writing(out) as file:
        for step in steps:
            batches = batch_a, batch_b = one.batch(step), two.batch(step)
            if batch_a.targets.shape != batch_b.targets.shape:
                shapes = f"{batch_a.targets.shape} and {batch_b.targets.shape} (windows, predictions)"
                raise RunError(
                    f"the batches of {a.path} and {b.path} have different shapes, {shapes}: nothing to compare"
                )
            tokens += batch_a.targets.size
            names = one.categories(batch_a), two.categories(batch_b)
            for side in (0, 1):
                shares.update((name, side) for name in names[side])
                noisy[side] += noisy_rows(batches[side])
            other_noise += _other_noise(batch_a, batch_b)
            for difference in _differences(step, (one, two), batches, names):
                first = first or difference
                differing += difference.num_tokens
                causes[difference.cause] += 1
                file.write(json.dumps(difference._asdict()) + "\n")
            progress(step + 1 - steps.start, len(steps))
    window = one.stream.window
    by_category = {name: (shares[name, 0] * window, shares[name, 1] * window) for name, _ in sorted(shares)}
    counts = len(steps), tokens, differing, causes.total(), dict(causes), by_category
    return Comparison(keys, *counts, first, (noisy[0], noisy[1]), other_noise)


def noisy_rows(batch: Batch) -> int:
    """How many rows of a batch have noise on their input embeddings."""
    return 0 if batch.noise is None else batch.noise.of(len(batch.tokens))


def _other_noise(a: Batch, b: Batch) -> int:
    """How many rows did not get the same noise, or none, in both batches."""
    first, second = noisy_rows(a), noisy_rows(b)
    if a.noise is None or b.noise is None or a.noise._replace(num_rows=0) != b.noise._replace(num_rows=0):
        return max(first, second)
    return abs(first - second)


def _differences(
    step: int, replays: tuple[Replay, Replay], batches: tuple[Batch, Batch], names: tuple[list[str], list[str]]
) -> Iterator[Difference]:
    a, b = batches
    changed = (a.targets != b.targets) | (a.tokens != b.tokens)
    rows = np.flatnonzero(changed.any(axis=1))
    if not len(rows):
        return
    one, two = replays
    differ = one.watch.after != two.watch.after
    unexplained = (differ & ~(one.written(step) | two.written(step))).any(axis=1)
    for row in rows:
        if names[0][row] != names[1][row]:
            cause = "another category"
        elif a.window_ids[row] != b.window_ids[row]:
            cause = "another window"
        elif not unexplained[row]:
            cause = "insertion"
        else:
            cause = UNEXPLAINED if one.content == two.content else "another store"
        num_tokens, position = int((a.targets[row] != b.targets[row]).sum()), int(np.argmax(changed[row]))
        ids = int(a.window_ids[row]), int(b.window_ids[row])
        yield Difference(step, int(row), *ids, names[0][row], names[1][row], num_tokens, position, cause)


def record(run: RunDir, verification: Verification, comparison: Comparison | None = None, other: str = "") -> None:
    """Write what an audit found into RUNDIR/audit, where reports find it: verification.json, against-OTHER.json."""
    folder = run.audit
    folder.mkdir(exist_ok=True)
    written = verification.written
    facts = {"holds": verification.holds, "line": verification.line(), "steps": verification.steps}
    facts |= {"altered": verification.altered[:EXAMPLES], "written": written and written._asdict()}
    rundir.write_json(folder / "verification.json", facts | {"examples": list(verification.examples)})
    if comparison is not None:
        facts = {"other": other, "holds": comparison.holds, "lines": list(comparison.lines())}
        numbers = ("steps", "tokens", "tokens_differing", "windows_differing", "causes")
        facts |= {name: getattr(comparison, name) for name in numbers}
        rundir.write_json(folder / f"against-{other}.json", facts)


def print_audit(paths: list[Path], out: Path | None = None) -> int:
    """Verify one run, or verify two and compare them; findings on stdout and, for reports, in the runs' directories.

    Returns the exit code: 1 when a run consumed something else than its config gives, its log was cut, or a token
    differs for no known cause."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    runs = [RunDir(path) for path in paths]
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:

        def progress(what: str) -> Progress:
            task = bar.add_task(what, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        own = out if len(runs) == 1 else None
        verified = [verify(run, own, progress(f"verifying {run.path.name}")) for run in runs]
        comparison = compare(runs[0], runs[1], out, progress("comparing")) if len(runs) == 2 else None
    _record_all(runs, verified, comparison)
    for verification in verified:
        print(verification.line())
        if verification.written:
            print(verification.written.line())
    if comparison is not None:
        print("\n".join(comparison.lines()))
    holds = all(verification.holds for verification in verified) and (comparison is None or comparison.holds)
    return 0 if holds else 1


def _record_all(runs: Sequence[RunDir], verified: Sequence[Verification], comparison: Comparison | None) -> None:
    try:
        for run, verification in zip(runs, verified, strict=True):
            is_first = comparison is not None and run is runs[0]
            record(run, verification, comparison if is_first else None, runs[-1].path.name)
    except OSError as error:  # somebody else's runs: what was found is printed all the same
        print(
            f"paribus: warning: {error.filename}: {error.strerror}: reports will not show this audit", file=sys.stderr
        )
