"""How a run begins: at step 0 from what `model` gives, or where another run, or OLMo's trainer, left off."""

import json
import shutil
from typing import TYPE_CHECKING, NamedTuple

from paribus.errors import ConfigError
from paribus.models.config import Pretrained
from paribus.models.origin import Origin, locate
from paribus.run_config import RunConfig
from paribus.rundir import RunDir

if TYPE_CHECKING:
    from paribus.train.engine import Engine
    from paribus.train.state import LoopState


class Start(NamedTuple):
    """Where a run begins."""

    origin: Origin | None = None  # of the weights; None: they are random, or nothing is asked of their origin
    first_step: int = 0  # the number of steps that come before its own
    schedule_steps: int = 0  # those before its own that the schedule counts


def start_of(config: RunConfig) -> Start:
    """Where the run of a config begins. Raises ConfigError when its weights' origin lacks what is to be continued."""
    start, model = config.start, config.model
    if not isinstance(model, Pretrained) or model.init == "scratch":
        return Start()
    origin = locate(model, optimizer=start.optimizer == "continued")
    steps = [key for key in start.continued if key != "optimizer"]
    if steps and origin.step is None:
        raise ConfigError(
            f"start.{steps[0]}: continued, but {model.path} does not say after how many steps its weights stand; a run "
            "directory or OLMo's step<N>-unsharded does"
        )
    if start.optimizer == "continued" and not origin.optimizer_files():
        raise ConfigError(
            f"start.optimizer: continued, but {model.path} holds no optimizer state; a run directory or OLMo's "
            "step<N>-unsharded with optim.safetensors or optim.pt does"
        )
    if start.data == "continued":
        _refuse_other_batches(config, origin)
    taken = origin.step or 0
    first = taken if start.data == "continued" else 0
    return Start(origin, first, taken if start.schedule == "continued" else 0)


def _refuse_other_batches(config: RunConfig, origin: Origin) -> None:
    """After N steps of another size the stream stands elsewhere than at batch N; only a checkpoint in its run tells it."""
    if origin.kind != "checkpoint" or origin.folder is None:
        return
    path = origin.folder.parent.parent / "provenance.json"
    asked = config.train.batch_size
    if path.is_file() and (took := json.loads(path.read_text())["config"]["train"]["batch_size"]) != asked:
        raise ConfigError(
            f"start.data: continued, but {path.parent} took {took} windows a step and train.batch_size is {asked}: its step "
            f"{origin.step} is another place in the stream; say {took}, or data: restarted"
        )


def verify(start: Start) -> None:
    """Read the checkpoint that the run begins with once. Raises CheckpointError when it is damaged.

    One behind a URL was verified when it was fetched, as far as it is needed."""
    from paribus.train import checkpoint

    origin = start.origin
    if origin is not None and origin.kind == "checkpoint" and origin.folder is not None and not origin.is_fetched:
        checkpoint.verify(origin.folder)


def first_state(config: RunConfig, start: Start) -> "LoopState":
    """The loop's state at the run's first step: what is continued is taken over, as far as the origin tells it.

    Early stopping, best losses and the retention of checkpoints are the run's own."""
    from paribus.train.checkpoint import load_state
    from paribus.train.state import LoopState

    state = LoopState(step=start.first_step)
    if start.origin is None or start.origin.kind != "checkpoint" or start.origin.folder is None:
        return state
    before = LoopState.from_json(load_state(start.origin.folder)["loop"])
    kept = {
        "data": ("tokens", "epoch_loss", "epoch_steps"),
        "schedule": ("plateau",),
        "optimizer": ("skipped",),
    }
    names = [name for key in config.start.continued for name in kept[key]]
    return state._replace(**{name: getattr(before, name) for name in names})


def load_optimizer(engine: "Engine", start: Start, run: RunDir) -> None:
    """Put the origin's optimizer state into a prepared engine that holds its weights; every rank calls this.

    OLMo's state is first written, by rank 0, in the form of a checkpoint."""
    from paribus.models import olmo

    assert start.origin is not None
    assert start.origin.folder is not None
    if start.origin.kind == "checkpoint":
        engine.load(start.origin.folder)
        return
    folder = run.path / "start.tmp"
    if engine.rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        olmo.write_training_state(start.origin.folder, folder)
    engine.barrier()
    engine.load(folder)
    engine.barrier()
    if engine.rank == 0:
        shutil.rmtree(folder)
