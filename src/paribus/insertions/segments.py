"""What dynamic control decided, segment by segment, recorded before it is used.

RUNDIR/control/NAME/step-000100/   the segment of experiment NAME that begins at step 100: whole or absent
    a plan as `plan.py` writes it, for the steps of the segment alone; its manifest also holds
        base         what it was recorded for: plan of the run, experiment, steps, state in, the segments before it
        decision     the state that came out, the SHA-256 of the prompts, who decided
    prompts.jsonl    the texts, one {"text": ...} a line: `item` of the ledger is the line, `repetition` the segment
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus import config as configs
from paribus.errors import PlanError
from paribus.insertions.compile import compile_segment
from paribus.insertions.payloads import Alphabet, text_items
from paribus.insertions.plan import MANIFEST, Plan, Spans, fingerprint, open_plan, verify_plan, write_plan
from paribus.insertions.wanted import count_up

PROMPTS = "prompts.jsonl"


class Decision(NamedTuple):
    """What a controller returned for one segment."""

    state: Mapping[str, Any]  # JSON
    texts: Sequence[str]


class Segments:
    """The recorded segments of a run. `overlay` is the seam: the run's plan, then the segments of the step."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """plan: of the run; folder: RUNDIR/control, which need not exist."""
        self.plan, self.folder = plan, folder
        self.first_step = plan.geometry.first_step
        experiments = plan.manifest["experiments"]
        self.every = {name: int(facts["every"]) for name, facts in experiments.items() if facts["kind"] == "dynamic"}
        self._open: dict[str, tuple[int, Plan]] = {}  # the segment of each experiment that was used last

    def path(self, name: str, step: int) -> Path:
        """Where the segment that begins at this step is recorded."""
        return self.folder / name / f"step-{step:06d}"

    def overlay(self, step: int, rows_BS: NDArray[np.int32]) -> None:
        """Write all spans of a step over its rows, in place. Raises PlanError when a segment is not recorded."""
        self.plan.overlay(step, rows_BS)
        for name, every in self.every.items():
            self.segment(name, step - step % every).overlay(step, rows_BS)

    def segment(self, name: str, step: int) -> Plan:
        """The segment that begins at this step. Raises PlanError when it is not recorded, for something else,
        or altered."""
        known = self._open.get(name)
        if known is None or known[0] != step:
            known = self._open[name] = (step, self._read(name, step))
        return known[1]

    def record(
        self, name: str, step: int, decision: Decision, words: Alphabet, seed: int, *, add_eos: bool, by: Any
    ) -> None:
        """Place the texts in the segment and write it; by: who decided, as JSON.

        Raises PlanError when a text cannot be used, or there is no room for all."""
        base = self._base(name, step)
        items = text_items(decision.texts, words, self.plan.geometry.row_tokens, add_eos=add_eos)
        others = [self.segment(other, first) for other, first in self._before(name, step)]
        plan = compile_segment(name, step, self.plan, items, others, seed, base)
        prompts = "".join(json.dumps({"text": text}) + "\n" for text in decision.texts).encode()
        plan.manifest["decision"] = {
            "state": dict(decision.state),
            "num_prompts": len(decision.texts),
            "prompts": hashlib.sha256(prompts).hexdigest(),
            "controller": by,
        }
        write_plan(plan, self.path(name, step), {PROMPTS: prompts})

    def state(self, name: str, step: int) -> dict[str, Any]:
        """The state that the controller is given at this step."""
        if step == self.first_step:
            return dict(self.plan.manifest["experiments"][name]["initial_state"])
        return dict(self._manifest(name, step - self.every[name])["decision"]["state"])

    def metrics(self, name: str, step: int) -> dict[str, float]:
        """The number of texts, and every number of the new state."""
        decision = self.segment(name, step).manifest["decision"]
        numbers = {key: float(value) for key, value in decision["state"].items() if type(value) in (int, float)}
        return {"num_prompts": float(decision["num_prompts"]), **numbers}

    def verified(self, num_steps: int) -> Plan:
        """Everything that is written over the steps before `num_steps`, as one plan, every file checked by its hash.

        Raises PlanError when a segment of these steps is missing, or any was altered."""
        parts = [self.plan]
        for step, name in _in_order(self.every, range(self.first_step, num_steps)):
            segment, folder = self.segment(name, step), self.path(name, step)
            found = hashlib.sha256((folder / PROMPTS).read_bytes()).hexdigest()
            if found != segment.manifest["decision"]["prompts"]:
                raise PlanError(f"{folder / PROMPTS}: sha256 {found[:12]}... is not what was recorded; it was altered")
            parts.append(segment)
        return merged(parts) if self.every else self.plan

    def _read(self, name: str, step: int) -> Plan:
        folder = self.path(name, step)
        if not folder.exists():
            raise PlanError(
                f"{folder}: no such segment: what {name} decided at step {step:,} is not recorded; no batch is without it"
            )
        plan = open_plan(folder)
        differing = configs.difference(plan.manifest["base"], json.loads(json.dumps(self._base(name, step))))
        if differing:
            lines = "\n".join(f"  {key}: {old} in the record, {new} now" for key, old, new in differing)
            raise PlanError(f"{folder}: recorded for something else. It differs in\n{lines}")
        verify_plan(plan, folder)
        return plan

    def _base(self, name: str, step: int) -> dict[str, Any]:
        """What the segment is recorded for."""
        every = self.every[name]
        return {
            "plan": self.plan.fingerprint,
            "experiment": name,
            "steps": [step, min(step + every, self.plan.geometry.num_steps)],
            "state": self.state(name, step),
            "previous": fingerprint(self._manifest(name, step - every)) if step > self.first_step else None,
            "around": {other: fingerprint(self._manifest(other, first)) for other, first in self._before(name, step)},
        }

    def _before(self, name: str, step: int) -> Iterator[tuple[str, int]]:
        """The segments of other experiments that were there when this one was placed, and that reach into it.

        At one step experiments decide in the order of the config."""
        is_earlier = True
        for other, every in self.every.items():
            first = step - step % every
            if other == name:
                is_earlier = False
            elif first < step or is_earlier:
                yield other, first

    def _manifest(self, name: str, step: int) -> dict[str, Any]:
        try:
            return dict(json.loads((self.path(name, step) / MANIFEST).read_text()))
        except FileNotFoundError:
            raise PlanError(
                f"{self.path(name, step)}: no whole segment is recorded there, and a later one is"
            ) from None
        except ValueError as error:
            raise PlanError(f"{self.path(name, step)}: a damaged segment ({error})") from None


def _in_order(every: Mapping[str, int], steps: range) -> Iterator[tuple[int, str]]:
    """(first step, experiment) of all segments of these steps, as they were decided."""
    for step in steps:
        yield from ((step, name) for name, own in every.items() if step % own == 0)


def merged(plans: Sequence[Plan]) -> Plan:
    """Plans of one stream that overlap nowhere as one; the first names the experiments, and the stream."""
    first = plans[0]
    start = np.concatenate([plan.spans.start for plan in plans])
    order = np.argsort(start, kind="stable")
    length = np.concatenate([plan.spans.length for plan in plans])
    source = np.concatenate([[0], np.cumsum(length)])[:-1][order]
    offsets = np.concatenate([[0], np.cumsum(length[order])]).astype(np.int64)
    tokens = np.concatenate([plan.spans.tokens for plan in plans])[
        np.repeat(source, length[order]) + count_up(length[order])
    ]
    columns = {
        name: np.concatenate([getattr(plan.spans, name) for plan in plans])[order]
        for name in ("experiment", "item", "repetition")
    }
    manifest = {**first.manifest, "segments": [plan.fingerprint for plan in plans[1:]]}
    return Plan(Spans(start[order], offsets, tokens, **columns), first.geometry, manifest)
