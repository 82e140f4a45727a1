"""Dynamic control as actions of the training loop: ask, record, and only then go on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from paribus.control.call import python_controller
from paribus.control.controller import Controller, Now
from paribus.control.proportional import proportional_controller
from paribus.control.script import script_controller
from paribus.errors import ConfigError, DataError, RunFailed, named
from paribus.evals.scoring import EvalContext
from paribus.evals.script import from_rank_0
from paribus.insertions.dynamic import Dynamic, PythonController, ScriptController
from paribus.insertions.payloads import Alphabet
from paribus.insertions.segments import Segments
from paribus.train.engine import Host
from paribus.train.loop import Action


class Controlled(NamedTuple):
    """One experiment of dynamic control."""

    name: str
    config: Dynamic
    content: Mapping[str, Any]  # its controller as JSON, files named by content: recorded as who decided


def control_actions(
    experiments: Sequence[Controlled], segments: Segments, alphabet: Alphabet, engine: Host, context: EvalContext
) -> list[Action]:
    """An action for each experiment, in their order. Every rank calls it; rank 0 decides and writes.

    Raises ConfigError or DataError now for a controller that cannot be asked."""

    def action(experiment: Controlled) -> Action:
        with named(f"insertions.experiments.{experiment.name}"):
            controller = build_controller(experiment, alphabet, context)
        act = _Act(experiment, controller, segments, alphabet, engine, context)
        return Action(experiment.config.every, True, act.run)

    return [action(experiment) for experiment in experiments]


def build_controller(experiment: Controlled, alphabet: Alphabet, context: EvalContext) -> Controller:
    if alphabet.tokenizer is None:
        raise ConfigError(f"texts need a tokenizer, and the data, of kind {context.data.kind}, have none")
    if experiment.config.add_eos and alphabet.eos is None:
        raise ConfigError("add_eos: the tokenizer has no end-of-text token; name one (insertions.eos), or say false")
    with named("controller"):
        match experiment.config.controller:
            case ScriptController() as script:
                return script_controller(script, alphabet)
            case PythonController() as python:
                return python_controller(python, alphabet, context)
            case proportional:
                return proportional_controller(experiment.name, proportional, context)


class _Act(NamedTuple):
    """What happens at a step, on every rank: its metrics, or none where no segment begins."""

    experiment: Controlled
    controller: Controller
    segments: Segments
    alphabet: Alphabet
    engine: Host
    context: EvalContext

    def run(self, step: int) -> Mapping[str, float]:
        name, every = self.experiment.name, self.experiment.config.every
        if step % every or step >= self.segments.plan.geometry.num_steps:
            return {}
        if not self._is_recorded(step):
            seen = self.controller.look(self.engine.model)
            failure = self._decide(step, seen) if self.engine.rank == 0 else ""
            if failure := from_rank_0(failure, self.context):
                raise RunFailed(
                    f"insertions.experiments.{name}: step {step:,}: {failure}; once that is mended, `paribus train "
                    f"{self.segments.folder.parent}` goes on"
                )
        return {f"control/{name}/{key}": value for key, value in self.segments.metrics(name, step).items()}

    def _is_recorded(self, step: int) -> bool:
        """As rank 0 sees it: then no rank asks alone, and none is told of a folder that it cannot see yet."""
        own = self.engine.rank == 0 and self.segments.path(self.experiment.name, step).exists()
        return self.engine.any(own)

    def _decide(self, step: int, seen: Any) -> str:
        """Ask, place and write: empty, or one line that says what went wrong. Other ranks wait for an answer in any case."""
        name, config, segments = self.experiment.name, self.experiment.config, self.segments
        try:
            now = Now(step, segments.plan.geometry.num_steps, segments.state(name, step))
            decision = self.controller.decide(seen, now)
            seed, by = self.context.seeds.insertions, self.experiment.content
            segments.record(name, step, decision, self.alphabet, seed, add_eos=config.add_eos, by=by)
        except (RunFailed, DataError) as error:
            return str(error)
        except OSError as error:
            return f"no room for what a controller reads and writes: {error.strerror or error}"
        return ""
