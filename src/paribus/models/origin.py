"""Where a model's weights lie: which folder a `path` and a `step` name, in which form, and after how many steps."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from paribus.errors import CheckpointError, ConfigError
from paribus.models.config import Pretrained
from paribus.rundir import (
    RunDir,
    complete,
    folder_fingerprint,
    folder_of,
    listed_fingerprint,
    named_fingerprint,
    step_of,
)

if TYPE_CHECKING:
    from paribus.download import Download

OLMO_NAME = re.compile(r"step(\d+)-unsharded")
CHECKPOINT_NAME = re.compile(r"step-\d{6,}")
OLMO_CONFIG = "config.yaml"
MODEL_FILES, OPTIMIZER_FILES = (  # safetensors come before the file that PyTorch's reader must open
    ("model.safetensors", "model.pt"),
    ("optim.safetensors", "optim.pt"),
)


class Origin(NamedTuple):
    """Weights on this machine, or a repository of the hub."""

    kind: Literal["hub", "folder", "checkpoint", "olmo"]  # checkpoint: of a run; olmo: as OLMo's trainer writes it
    folder: Path | None  # None: of the hub
    step: int | None  # optimizer steps that the weights have taken, where the origin says so
    is_fetched: bool = False  # from a URL: each file has been compared with its digest

    def fingerprint(self, *, weights: bool) -> str | None:
        """The SHA-256 of what is read: the model's config and, with `weights`, those; None for the hub."""
        if self.folder is None:
            return None
        if self.kind == "olmo":
            return named_fingerprint([self.folder / OLMO_CONFIG, *([olmo_model(self.folder)] if weights else [])])
        if self.kind == "checkpoint" and self.is_fetched:  # some of it, and more once another run needs more
            return listed_fingerprint(_listed(self.folder), weights=weights)
        return folder_fingerprint(self.folder, weights=weights)

    def optimizer_files(self) -> list[Path]:
        """The files with the optimizer's state; none where the origin has no such thing."""
        if self.folder is None or self.kind == "folder":
            return []
        if self.kind == "olmo":
            return [path for name in OPTIMIZER_FILES if (path := self.folder / name).is_file()][:1]
        files = [self.folder / "optimizer.safetensors", *sorted((self.folder / "distributed").glob("*.safetensors"))]
        return [path for path in files if path.is_file()]


def locate(config: Pretrained, *, optimizer: bool = False) -> Origin:
    """Find what `path`, `step` and `revision` name; a URL is downloaded into the cache first, with the `optimizer` too.

    Raises ConfigError for what is not there, CheckpointError, with the steps that exist, for a step that was never
    reached, RemoteError for a URL that cannot be read."""
    where = f"model.path: {config.path}"
    if config.path.startswith(("http://", "https://")):
        _refuse(config, where, "revision")
        return _downloaded(config, optimizer)
    _refuse(config, where, "sha256")
    path = Path(config.path).expanduser()
    if not path.is_dir():
        if config.path.startswith((".", "/", "~")) or config.path.count("/") > 1:
            raise ConfigError(f"{where}: no such folder")
        _refuse(config, where, "step")
        return Origin("hub", None, None)
    _refuse(config, where, "revision")
    if (run := RunDir(path)).config_path.is_file() and run.checkpoints.is_dir():
        folder = checkpoint_of(run, config.step, "model.step")
        return Origin("checkpoint", folder, step_of(folder))
    if config.step is not None:
        path = _step_below(path, config.step)
    return read_folder(path, where)


def read_folder(path: Path, where: str) -> Origin:
    """What a folder with one model is. Raises ConfigError when it is none."""
    if CHECKPOINT_NAME.fullmatch(path.resolve().name) and (path / "state.json").is_file():
        return Origin("checkpoint", path, step_of(path.resolve()))
    if (path / "config.json").is_file():
        return Origin("folder", path, None)
    if (path / OLMO_CONFIG).is_file():
        match = OLMO_NAME.fullmatch(path.resolve().name)
        return Origin("olmo", path, int(match[1]) if match else None)
    raise ConfigError(
        f"{where}: the folder holds no config.json; a run directory, a folder that `save_pretrained` wrote, or OLMo's "
        f"step<N>-unsharded is expected"
    )


def checkpoint_of(run: RunDir, step: int | None, key: str) -> Path:
    """The checkpoint of a step; without one, the final checkpoint of a run that is done.

    Raises CheckpointError with the steps that exist. key: what named the step."""
    found = [step_of(folder) for folder in complete(run.checkpoints)]
    if not found:
        raise CheckpointError(f"{run.path}: no checkpoint yet; `paribus train {run.path}` writes one")
    steps = f"it has checkpoints of the steps {', '.join(map(str, found))}"
    if step is None and not run.is_done:
        raise CheckpointError(f"{run.path}: this run is not done; {steps}: name one ({key})")
    if step is not None and step not in found:
        raise CheckpointError(f"{run.path}: no checkpoint of step {step}; {steps} ({key})")
    return folder_of(run.checkpoints, found[-1] if step is None else step)


def olmo_model(folder: Path) -> Path:
    """The file with the weights of an OLMo folder. Raises ConfigError when there is none."""
    for name in MODEL_FILES:
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"model.path: {folder}: neither {' nor '.join(MODEL_FILES)}: the checkpoint is incomplete")


def _step_below(path: Path, step: int) -> Path:
    """OLMo's folder of a step. Raises CheckpointError with the steps that exist."""
    folder = path / f"step{step}-unsharded"
    if folder.is_dir():
        return folder
    found = sorted(int(match[1]) for child in path.iterdir() if (match := OLMO_NAME.fullmatch(child.name)))
    steps = f"those of the steps {', '.join(map(str, found))} are there" if found else "nor any other step<N>-unsharded"
    raise CheckpointError(f"model.step: {path}: no folder {folder.name}; {steps}")


def _refuse(config: Pretrained, where: str, key: Literal["step", "revision", "sha256"]) -> None:
    """An option that this kind of path has no use for is a mistake."""
    what = {
        "step": "a hub id has no steps; name a branch, a tag or a commit (model.revision)",
        "revision": "belongs to a hub id, and this is none",
        "sha256": "belongs to a URL, and this is none",
    }
    if getattr(config, key) not in (None, {}):
        raise ConfigError(f"{where}: model.{key}: {what[key]}")


def _downloaded(config: Pretrained, optimizer: bool) -> Origin:
    """Fetch what is read of a URL's folder, in the form that its name tells, or else the config that it has."""
    from paribus.download import Download

    url = config.path.rstrip("/") + ("" if config.step is None else f"/step{config.step}-unsharded")
    with Download(url, config.sha256) as remote:
        name = url.rpartition("/")[2]
        if CHECKPOINT_NAME.fullmatch(name):
            _fetch_checkpoint(remote, optimizer)
        elif OLMO_NAME.fullmatch(name) or not remote.find("config.json"):
            remote.fetch(OLMO_CONFIG)
            wanted: list[Sequence[str]] = [MODEL_FILES] if config.init == "weights" else []
            for names in [*wanted, *([OPTIMIZER_FILES] if optimizer else [])]:
                remote.fetch_one_of(names)
        elif config.init == "weights":
            _fetch_weights(remote)
        remote.finish()
        return read_folder(remote.folder, f"model.path: {config.path}")._replace(is_fetched=True)


def _fetch_checkpoint(remote: "Download", optimizer: bool) -> None:
    """The files that a checkpoint's manifest lists; those of the optimizer where it is continued."""
    remote.fetch("manifest.json")
    for name, digest in _listed(remote.folder).items():
        if optimizer or not name.startswith(("optimizer.", "distributed/")):
            remote.fetch(name, digest)


def _listed(checkpoint: Path) -> dict[str, str]:
    """The files of a checkpoint and their SHA-256, as its manifest has them."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: facts["sha256"] for name, facts in files.items()}


def _fetch_weights(remote: "Download") -> None:
    """One safetensors file, or those that an index names, and the tokenizer that goes with them."""
    if not remote.find("model.safetensors"):
        index = json.loads(remote.fetch("model.safetensors.index.json").read_text())
        for name in sorted(set(index["weight_map"].values())):
            remote.fetch(name)
    remote.find("tokenizer.json")
