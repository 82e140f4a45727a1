"""Checkpoint folders: whole or absent, checked by sums, never a pickle.

checkpoints/step-000500/
    config.json, model.safetensors ...   the model, as `save_pretrained` writes it
    optimizer.safetensors | distributed/ the optimizer's state: whole, or in shards that fit any world size
    state.json                           the step and all that the loop needs to go on from it
    manifest.json                        size and SHA-256 of each file above: written last
"""

import errno
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from paribus.errors import CheckpointError
from paribus.rundir import complete, disk_error, file_sha256, folder_of, step_of, write_json
from paribus.train.engine import Host
from paribus.train.weights import load_weights

MANIFEST, STATE = "manifest.json", "state.json"


def save_checkpoint(host: Host, checkpoints: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step; every rank calls it. It appears under its name when all of it is on the device.

    Raises RunError when there is no space left: what was written is removed, older checkpoints stay as they are."""
    final = folder_of(checkpoints, step)
    temporary = final.with_name(final.name + ".tmp")
    try:
        if host.rank == 0:
            _remove(temporary)
            temporary.mkdir(parents=True)
        host.barrier()
        host.save(temporary)
        host.barrier()
        if host.rank == 0:
            _finish(temporary, final, state)
    except Exception as error:
        _remove(temporary)
        raise _explained(error, final) from error
    return final


def _finish(temporary: Path, final: Path, state: dict[str, Any]) -> None:
    """Add the state and the manifest, make all of it durable, then give it its name."""
    write_json(temporary / STATE, state)
    names = sorted(str(path.relative_to(temporary)) for path in temporary.rglob("*") if path.is_file())
    mode = (temporary / STATE).stat().st_mode
    for name in names:
        (temporary / name).chmod(mode)  # safetensors writes files that only their owner can read
        _fsync(temporary / name)
    files = {
        name: {"bytes": (temporary / name).stat().st_size, "sha256": file_sha256(temporary / name)} for name in names
    }
    write_json(temporary / MANIFEST, {"format": 1, "files": files})
    _fsync(temporary)
    temporary.rename(final)
    _fsync(final.parent)


def verify(folder: Path) -> None:
    """Raise CheckpointError, naming the file, unless each file of the checkpoint is as it was written."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {MANIFEST}: this is no checkpoint, or an incomplete one") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{folder / MANIFEST}: damaged; delete this checkpoint to resume from an older one"
        ) from None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            found = "missing"
        elif (size := path.stat().st_size) != expected["bytes"]:
            found = f"damaged: {size} bytes found, {expected['bytes']} expected"
        elif (digest := file_sha256(path)) != expected["sha256"]:
            found = f"damaged: sha256 {digest[:12]}... found, {expected['sha256'][:12]}... expected"
        else:
            continue
        raise CheckpointError(f"{path}: {found}; delete {folder.name} to resume from an older checkpoint")


def load_state(folder: Path) -> dict[str, Any]:
    """The loop's state in a verified checkpoint."""
    return dict(json.loads((folder / STATE).read_text()))


def load_model(folder: Path | str) -> PreTrainedModel:
    """The model of a checkpoint, after verifying it: fp32, on the CPU, in evaluation mode.

    Raises CheckpointError when a file is missing or not what was written."""
    folder = Path(folder)
    verify(folder)
    return load_weights(folder).eval()


def prune(checkpoints: Path, keep: Iterable[int]) -> None:
    """Delete the checkpoints of all other steps, except the newest, and what was left unfinished."""
    found, kept = complete(checkpoints), set(keep)
    for folder in found[:-1]:
        if step_of(folder) not in kept:
            _remove(folder)
    for unfinished in checkpoints.glob("step-*.tmp"):
        _remove(unfinished)


def _remove(folder: Path) -> None:
    """Delete a folder. It loses its name first, so that a checkpoint is never half there."""
    if folder.suffix != ".tmp" and folder.exists():
        folder = folder.rename(folder.with_name(folder.name + ".old.tmp"))
    shutil.rmtree(folder, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: Exception, final: Path) -> Exception:
    """Errors of a full device come as OSError, or as text from safetensors' own writer."""
    if isinstance(error, OSError):
        return disk_error(error, final)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        if f"os error {code}" in str(error):
            return disk_error(OSError(code, os.strerror(code)), final)
    return error
