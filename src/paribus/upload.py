"""`paribus push`: a folder to S3, or one checkpoint of a run to the hub, and what a person is told of it."""

from pathlib import Path

from paribus import remote
from paribus.data.store import MANIFEST, open_store
from paribus.errors import ConfigError


def push(
    folder: Path,
    url: str,
    *,
    endpoint_url: str | None = None,
    delete_local: bool = False,
    step: int | None = None,
    private: bool = False,
) -> list[str]:
    """Upload a store, which is verified first, a run directory or any folder to s3://, or a run's checkpoint to hf://.

    Returns lines: what was uploaded, and what uses it. Raises ConfigError for an option of the other place."""
    if url.startswith("hf://"):
        from paribus import hub
        from paribus.rundir import RunDir

        if endpoint_url is not None or delete_local:
            raise ConfigError(f"{url}: --endpoint-url and --delete-local are for s3:// only")
        pushed = hub.push_model(RunDir(folder), url, step=step, private=private)
        return [pushed.line(), f"next: a run with `model: {{kind: pretrained, path: {pushed.repository}}}`"]
    if step is not None or private:
        raise ConfigError(f"{url}: --step and --private are for hf:// only")
    if (folder / MANIFEST).is_file():
        open_store(folder, verify=True)
    done = remote.push(folder, url, endpoint_url=endpoint_url, delete_local=delete_local)
    return [done.line(), f"next: paribus pull {url} FOLDER"]
