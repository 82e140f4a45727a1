"""A checkpoint as others read it: a temporary Hugging Face folder, or a model of the hub with a card of its origin."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from paribus.data.stream import tokenizer_of
from paribus.errors import ConfigError, RemoteError
from paribus.experiment import load
from paribus.models.config import Pretrained
from paribus.models.origin import checkpoint_of, locate
from paribus.rundir import WHERE_AND_HOW, RunDir, step_of

PREFIX = "hf://"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)/?")


class Pushed(NamedTuple):
    """A commit on the hub."""

    url: str
    repository: str
    step: int

    def line(self) -> str:
        return f"{self.url}: step {self.step:,} of the run"


@contextmanager
def as_hf(path: Path, step: int | None = None) -> Iterator[Path]:
    """A temporary Hugging Face folder of any checkpoint on this machine; it is gone after the block.

    path: a run directory (step: as in `push_model`; with the tokenizer of its data), one of its checkpoints, OLMo's
    step<N>-unsharded, or what `save_pretrained` wrote. Raises ConfigError or CheckpointError for anything else."""
    from paribus.models.olmo import read_model
    from paribus.models.view import hf_view, whole_state
    from paribus.train.checkpoint import load_model
    from paribus.train.weights import load_weights

    origin = locate(Pretrained(path=str(path.absolute()), step=step))
    assert origin.folder is not None
    read = {"olmo": read_model, "checkpoint": load_model, "folder": load_weights}[origin.kind]
    run = RunDir(path)
    is_run = origin.kind == "checkpoint" and run.config_path.is_file()  # OLMo's folders hold a config.yaml too
    tokenizer, start_token_id = tokenizer_of(load(run).data) if is_run else (None, None)
    model = read(origin.folder)
    with hf_view(model, whole_state(model), tokenizer, start_token_id) as view:
        yield view


def push_model(run: RunDir, url: str, *, step: int | None = None, private: bool = False) -> Pushed:
    """Upload the Hugging Face form of a checkpoint to hf://USER/NAME as one commit; the repository is made where it is not.

    step: None takes the final checkpoint of a run that is done. Raises ConfigError for another address, CheckpointError
    for a step without a checkpoint, RemoteError without a token, or when the hub cannot be reached or refuses."""
    repository = _repository(url)
    folder = checkpoint_of(run, step, "--step")
    _refuse_without_token(url)
    from huggingface_hub import HfApi

    number = step_of(folder)
    known = json.loads(run.provenance_path.read_text())
    message = f"Step {number} of {run.path.name}"
    with as_hf(run.path, number) as view:
        (view / "README.md").write_text(card(run.path.name, number, known))
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repository, folder_path=view, commit_message=message)
        except Exception as error:  # httpx', the hub's own, OSError: all mean that it is not there
            words = " ".join(str(error).split())[:200] or type(error).__name__
            raise RemoteError(f"{url}: the hub did not take it (offline, or not yours to write?): {words}") from error
    return Pushed(str(commit.commit_url), repository, number)


def card(name: str, step: int, known: dict[str, Any]) -> str:
    """The model card: which run, which step, what it read and what it was made with. known: provenance.json."""
    last = known["attempts"][-1]
    code, packages = last.get("code", {}), last.get("packages", {})
    versions = ", ".join(f"{key} {packages[key]}" for key in ("paribus", "torch", "transformers") if key in packages)
    commit = f"commit {code['commit']}" + (", with local changes" if code.get("dirty") else "") if code else "no commit"
    config = {key: value for key, value in known["config"].items() if key not in WHERE_AND_HOW}
    front = yaml.safe_dump({"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["paribus"]})
    data = ", ".join(f"{key} `{value[:12]}`" for key, value in known["stores"].items()) or "a synthetic source"
    lines = [
        f"---\n{front}---\n# {name}, step {step:,}",
        f"A checkpoint of the run `{name}`, trained with paribus, after {step:,} of {known['data']['steps']:,} steps.",
        f"- code: {commit}; {versions}\n- what it read, by SHA-256: {data}",
        "The run's config, in which everything that it read is named by its content:",
        f"```yaml\n{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}```",
    ]
    return "\n\n".join(lines) + "\n"


def _repository(url: str) -> str:
    match = _NAME.fullmatch(url)
    if match is None:
        raise ConfigError(f"{url}: hf://USER/NAME is expected")
    return match[1]


def _refuse_without_token(url: str) -> None:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise RemoteError(f"{url}: HF_HUB_OFFLINE is set: nothing can be uploaded; unset it")
    if get_token() is None:
        raise RemoteError(f"{url}: no token of the hub: set HF_TOKEN, or type `hf auth login`")
