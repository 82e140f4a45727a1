"""What a store is made from: the local files of its source and tokenizer, with their hashes."""

import hashlib
from pathlib import Path

from paribus.data.bars import Advance
from paribus.data.config import CorpusConfig, Folder, OriginalFiles, Sample, TokenizerFile
from paribus.data.corpus import input_files
from paribus.data.original import NAMES as ORIGINAL
from paribus.data.store import FileFacts
from paribus.data.tokenizer import tokenizer_file
from paribus.rundir import file_sha256


def input_paths(config: CorpusConfig) -> dict[str, Path]:
    """Name -> file or folder, as the config names it; nothing for the hub. Raises DataError when one is missing."""
    match config.source:
        case OriginalFiles(path=path):
            paths = {str(Path(path) / name): Path(path) / name for name in ORIGINAL}
        case Folder(path=path):
            paths = {path: Path(path)}
        case source:
            files = [file for each in input_files(source).values() for file in each]
            # the sample lies wherever the package is installed: its place is no part of what it is
            paths = {f"sample/{file.name}" if isinstance(source, Sample) else str(file): file for file in files}
    if isinstance(config.tokenizer, TokenizerFile):
        file = tokenizer_file(Path(config.tokenizer.path))
        paths[str(file)] = file
    return paths


def input_facts(paths: dict[str, Path], advance: Advance) -> dict[str, FileFacts]:
    """Size and hash of each; of a folder, those of the list of its texts with their hashes."""
    facts = {}
    for name, path in paths.items():
        facts[name] = _folder(path) if path.is_dir() else FileFacts(bytes=path.stat().st_size, sha256=file_sha256(path))
        advance(facts[name].bytes)
    return facts


def _folder(path: Path) -> FileFacts:
    files = sorted(path.glob("*/*/*.txt"))
    listing = "".join(f"{file.relative_to(path)} {file_sha256(file)}\n" for file in files)
    return FileFacts(
        bytes=sum(file.stat().st_size for file in files), sha256=hashlib.sha256(listing.encode()).hexdigest()
    )
