"""What a run reads: its stream, and what its insertions do to it: plan, noise, controllers, and their texts elsewhere."""

import json
from typing import TYPE_CHECKING, Any

from paribus import rundir
from paribus.data.batches import Overlay, Stream
from paribus.errors import named
from paribus.identity import resolve
from paribus.insertions.config import InsertionsConfig, Watermark
from paribus.insertions.dynamic import Dynamic
from paribus.run_config import RunConfig
from paribus.rundir import RunDir
from paribus.start import start_of

if TYPE_CHECKING:
    from paribus.insertions.lint import Lint
    from paribus.insertions.payloads import Alphabet
    from paribus.insertions.plan import Geometry, Plan
    from paribus.insertions.segments import Segments
    from paribus.insertions.watermarks import Treatment
    from paribus.train.engine import Host
    from paribus.train.loop import Action


def plain_stream(config: RunConfig) -> tuple[Stream, int]:
    """The stream of a run before anything is inserted, and the number of its last step."""
    from paribus.data.stream import build_stream
    from paribus.train.budget import num_steps

    with named("data"):
        stream = build_stream(config.data, config.seeds, config.train.batch_size)
    start = start_of(config)
    return stream, start.first_step + num_steps(config.train, stream, start.schedule_steps)


def inserted_stream(config: RunConfig, plan: "Plan", overlay: Overlay | None = None) -> Stream:
    """The stream of a run with its insertions: tokens by the plan's overlay, or one around it, and noise."""
    from paribus.data.stream import build_stream
    from paribus.insertions.watermarks import with_noise

    stream = build_stream(config.data, config.seeds, config.train.batch_size, overlay or plan.overlay)
    return with_noise(stream, plan.noise) if plan.marks else stream


def open_insertions(directory: RunDir, config: RunConfig) -> "Plan":
    """The plan of a run, compiled and written the first time. Raises PlanError when it was made for something else or
    altered."""
    from paribus.insertions.build import prepare_plan

    return prepare_plan(directory.insertions, *_plan_inputs(config))


def compile_insertions(config: RunConfig) -> "Plan":
    """The plan of a run, compiled in memory; nothing is written."""
    from paribus.insertions.compile import compile_plan

    return compile_plan(*_plan_inputs(config))


def _plan_inputs(config: RunConfig) -> tuple[InsertionsConfig, "Geometry", "Alphabet", int, dict[str, Any]]:
    """What a plan is compiled from, and what it is for: all that decides which token stands where."""
    from paribus.insertions.build import alphabet, geometry

    assert config.insertions is not None
    stream, total = plain_stream(config)
    resolved = resolve(config)
    base = {key: resolved[key] for key in ("data", "seeds", "insertions")}
    base["seeds"] = {key: seed for key, seed in base["seeds"].items() if key != "weights"}
    for one in base["insertions"]["experiments"].values():
        one.pop("controller", None)  # of dynamic control: it decides later, and each of its segments says who did
    first = start_of(config).first_step
    base |= {"batch_size": config.train.batch_size, "num_steps": total} | ({"first_step": first} if first else {})
    words = alphabet(config.data, stream, config.insertions.eos)
    size = geometry(stream, config.train.batch_size, total, first)
    return config.insertions, size, words, config.seeds.insertions, base


def written(directory: RunDir, config: RunConfig, num_steps: int) -> "Plan | None":
    """All that a run writes over the steps before `num_steps`: its plan, and the recorded segments of dynamic control.

    Every file is checked by its hash. Raises PlanError when one was altered, or a segment of these steps is missing."""
    from paribus.insertions.segments import Segments

    if not config.insertions:
        return None
    return Segments(open_insertions(directory, config), directory.control).verified(num_steps)


def treatment(directory: RunDir, config: RunConfig, plan: "Plan | None" = None) -> "Treatment | None":
    """What evaluations of watermarks need to know of a run; None for a run without watermarks. Every rank may call it.

    plan: the run's own, where it is open already; it is then not verified again.
    Of a control, and of a run without a watermark that it names, the plan of the treated run is compiled in memory: its
    rows and noise are what this one never saw."""
    from paribus.insertions.watermarks import Treatment

    insertions = config.insertions
    named = (
        {name for name, one in insertions.experiments.items() if isinstance(one, Watermark)} if insertions else set()
    )
    if insertions is None or not named:
        return None
    unseen = frozenset(named if insertions.control else named & set(insertions.without))
    if not unseen:
        plan = plan or open_insertions(directory, config)
        return Treatment(inserted_stream(config, plan), plan.marks, unseen)
    without = [name for name in insertions.without if name not in named]
    treated = config.model_copy(
        update={"insertions": insertions.model_copy(update={"control": False, "without": without})}
    )
    plan = compile_insertions(treated)
    return Treatment(inserted_stream(treated, plan), plan.marks, unseen)


def control(config: RunConfig, segments: "Segments", stream: Stream, engine: "Host") -> list["Action"]:
    """The run's experiments of dynamic control as actions of the loop; what cannot be asked fails here."""
    if not segments.every:
        return []
    from paribus.control.actions import Controlled, control_actions
    from paribus.evals.scoring import EvalContext
    from paribus.insertions.build import alphabet

    assert config.insertions is not None
    content = resolve(config)["insertions"]["experiments"]
    experiments = [
        Controlled(name, one, content[name]["controller"])
        for name, one in config.insertions.experiments.items()
        if isinstance(one, Dynamic) and name in segments.every  # not in the control
    ]
    context = EvalContext(config.data, config.seeds, str(engine.device), rank=engine.rank, world=engine.world)
    return control_actions(experiments, segments, alphabet(config.data, stream, config.insertions.eos), engine, context)


def lint(config: RunConfig, plan: "Plan") -> "Lint":
    """What the run's insertions have in common with its evaluations and with one another; nothing is written."""
    from paribus.data.bars import bars
    from paribus.evals.items import item_texts
    from paribus.insertions.build import alphabet
    from paribus.insertions.lint import LONG_READ_TOKENS
    from paribus.insertions.lint import lint as compare

    assert config.insertions is not None
    stream, _ = plain_stream(config)
    words = alphabet(config.data, stream, config.insertions.eos)
    is_long = len(plan.spans.tokens) > LONG_READ_TOKENS
    with bars(config.launch.progress and is_long) as begin:
        return compare(config.insertions, plan, words, item_texts(config.evals), begin("comparing texts", None))


def write_lint(directory: RunDir, config: RunConfig, plan: "Plan") -> None:
    """Leave RUNDIR/insertions/lint.json, once for each `insertions.ngram`."""
    from paribus.insertions.lint import FILE

    path, ngram = directory.insertions / FILE, config.insertions and config.insertions.ngram
    if not path.exists() or json.loads(path.read_text())["ngram"] != ngram:
        rundir.write_json(path, lint(config, plan).to_json())
