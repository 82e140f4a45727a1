"""What a run reads, by content: the fingerprints that decide its identity, and the checks that they still hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paribus.data.config import TextData, TokenFilesData
from paribus.evals.config import LossEval, input_files, name_input
from paribus.models.config import Pretrained
from paribus.run_config import RunConfig
from paribus.rundir import files_fingerprint, folder_fingerprint, input_fingerprint

LONG_READ_BYTES = 2**30  # reading more than this shows a bar


def resolve(config: RunConfig, prints: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The config as a mapping in which everything that is read is named by its fingerprint: what decides the identity.

    The same run has the same identity wherever its stores, token files and pretrained weights lie. prints: those to use,
    when the files need not be at hand. Raises DataError when a store or a token file is missing."""
    mapping = config.model_dump(mode="json")
    for name, found in (fingerprints(config) if prints is None else prints).items():
        if name == "model":
            mapping["model"]["path"] = found
        elif name == "data":
            mapping["data"]["store"] = found
        elif name.startswith("data."):
            mapping["data"][name.removeprefix("data.")] = found
        elif name.startswith("evals.") and "/" in name:  # no name of an evaluation has a slash
            evaluation, _, key = name.removeprefix("evals.").partition("/")
            name_input(mapping["evals"][evaluation], key, found)
        elif name.startswith("evals."):
            mapping["evals"][name.removeprefix("evals.")]["store"] = found
        elif name.startswith("insertions."):
            mapping["insertions"]["experiments"][name.removeprefix("insertions.")]["file"] = found
    return mapping


def stores(config: RunConfig) -> dict[str, Path]:
    """Every store that the run reads: `data`, and `evals.NAME` where an evaluation has its own."""
    found = {"data": Path(config.data.store)} if isinstance(config.data, TextData) else {}
    own = {name: e.store for name, e in config.evals.items() if isinstance(e, LossEval) and e.store is not None}
    return found | {f"evals.{name}": Path(store) for name, store in own.items()}


def fingerprints(config: RunConfig) -> dict[str, str]:
    """The content of all that the run reads: stores or token files, files of insertions and evaluations, its model's folder.

    Raises DataError when a file is missing, RunError when it cannot be read."""
    from paribus.data.store import open_store

    prints = {name: open_store(path).fingerprint for name, path in stores(config).items()}
    if isinstance(config.data, TokenFilesData):
        prints |= _token_files(config.data)
    if isinstance(config.model, Pretrained) and Path(config.model.path).is_dir():
        prints["model"] = folder_fingerprint(Path(config.model.path), weights=config.model.init == "weights")
    for name, experiment in config.insertions.payloads.items() if config.insertions else ():
        prints[f"insertions.{name}"] = input_fingerprint(Path(experiment.file), f"insertions.experiments.{name}.file")
    for name, evaluation in config.evals.items():
        for key, path in input_files(evaluation).items():
            prints[f"evals.{name}/{key}"] = input_fingerprint(Path(path), f"evals.{name}.{key}")
    return prints


def _token_files(data: TokenFilesData) -> dict[str, str]:
    from paribus.data.corpus import matching_files
    from paribus.data.tokenizer import tokenizer_file

    prints = {"data.files": files_fingerprint(matching_files(data.files, "data.files"), "data.files")}
    if data.heldout_files:
        heldout = matching_files(data.heldout_files, "data.heldout_files")
        prints["data.heldout_files"] = files_fingerprint(heldout, "data.heldout_files")
    if data.tokenizer is not None:
        prints["data.tokenizer"] = input_fingerprint(tokenizer_file(Path(data.tokenizer)), "data.tokenizer")
    return prints


def verify_stores(config: RunConfig) -> None:
    """Read every store of the run once, about a second a gigabyte. Raises StoreError, naming the file that was altered."""
    from paribus.data.bars import bars
    from paribus.data.store import open_store

    for path in dict.fromkeys(stores(config).values()):
        size = sum(facts.bytes for facts in open_store(path).manifest.files.values())
        with bars(config.launch.progress and size > LONG_READ_BYTES) as begin:
            open_store(path, verify=True, advance=begin(f"verifying {path.name}", size))


def refuse_other_tokenizer(config: RunConfig) -> None:
    """Raise StoreError when a pretrained model's folder holds a tokenizer that gives other ids than the store's."""
    from paribus.data.store import open_store
    from paribus.data.tokenizer import read_tokenizer

    if (
        not isinstance(config.model, Pretrained)
        or config.model.init != "weights"
        or not isinstance(config.data, TextData)
    ):
        return
    file = Path(config.model.path) / "tokenizer.json"
    if file.is_file():
        open_store(config.data.store).check_tokenizer(read_tokenizer(file))


def hub_commit(config: RunConfig) -> dict[str, str]:
    """The commit of the hub's repository that the model was loaded from; pin `model.revision` to name it beforehand."""
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(config.model, Pretrained) or Path(config.model.path).is_dir():
        return {}
    cached = try_to_load_from_cache(config.model.path, "config.json", revision=config.model.revision)
    return {"model_commit": Path(cached).parent.name} if isinstance(cached, str) else {}
