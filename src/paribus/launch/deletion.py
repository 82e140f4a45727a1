"""Deleting a run's directory when the run is done: for those who keep only what trackers sent."""

import shutil

from paribus.errors import RunError
from paribus.launch import torchrun
from paribus.rundir import RunDir


def refuse_existing(run: RunDir) -> None:
    """Raise RunError where the directory is there, or other ranks that were not started from here may write into it."""
    if torchrun.is_inside():
        raise RunError(
            "--delete-run-directory: other ranks may still write; let paribus start them (launch.num_processes)"
        )
    if run.path.exists():
        raise RunError(
            f"{run.path}: is there already, and --delete-run-directory deletes only what its own command made; "
            "leave the option out to go on with this run"
        )


def delete(run: RunDir) -> str:
    """Delete the directory of a run that is done; the line that says so. Raises RunError while another process holds it."""
    with run.lock():
        files = [path for path in run.path.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        shutil.rmtree(run.path)
    return f"deleted: {run.path} ({len(files):,} files, {size:,} bytes)"
