"""From a corpus to a token store: read, leave out, encode, write; or verify the store that is there."""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.config import MISSING, difference
from paribus.data import corpus as corpora
from paribus.data import original as originals
from paribus.data.bars import Advance, Begin, bars
from paribus.data.config import CorpusConfig, Folder, OriginalFiles, TrainBpe
from paribus.data.duplicates import Judged, Twins, judge, twins
from paribus.data.encode import Encoded, batched, encode_judged, in_order, num_cores, one_thread_a_call, text_encoder
from paribus.data.inputs import input_facts, input_paths
from paribus.data.part import is_free
from paribus.data.store import MANIFEST, Manifest, Skipped, Store, open_store, read_manifest
from paribus.data.tokenizer import load_tokenizer, start_token_id
from paribus.data.writer import Entry, Recipe, StoreWriter
from paribus.errors import DataError, StoreError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NOT_CONTENT = ("name", "store", "num_threads")  # settings that change no token
LARGE = 2**30  # bytes that take a second to hash


class _Corpus(NamedTuple):
    """A source, opened."""

    splits: tuple[str, ...]
    read: Callable[[str, Advance], Iterator[Any]]  # the documents of a split
    sizes: dict[str, int | None]  # bytes of a split's files, where they are known
    extent: Callable[[Any], int]  # characters or tokens of a document
    encoder: Callable[["Tokenizer"], Callable[[Sequence[Any]], Encoded]]


class _Job(NamedTuple):
    """What the steps of one preparation share."""

    config: CorpusConfig
    corpus: _Corpus
    held_out: Twins
    begin: Begin

    def judged(self, split: str, title: str) -> Iterator[Judged[Any]]:
        documents = self.corpus.read(split, self.begin(title, self.corpus.sizes[split]))
        return judge(documents, self.corpus.splits.index(split), self.held_out)


def prepare(config: CorpusConfig, progress: bool = True) -> Store:
    """Write the store of a corpus, or verify the one that is there; `progress` draws bars on stderr.

    Raises DataError for a corpus that cannot be read; StoreError when the store that is there is damaged, or was made
    from other settings or other files."""
    path = Path(config.store)
    if not is_free(path):
        return _verified(config, path, progress)
    with bars(progress) as begin:
        inputs = input_facts(input_paths(config), begin("hashing the input", None))
        corpus = _open(config)
        held_out = twins(
            corpus.splits, lambda split: corpus.read(split, begin(f"reading {split}", corpus.sizes[split]))
        )
        job = _Job(config, corpus, held_out, begin)
        tokenizer = load_tokenizer(config.tokenizer, lambda: _training_texts(job))
        start = start_token_id(tokenizer, config.beginning_of_document)
        recipe = Recipe(config.name, _settings(config), inputs, start, config.shard_tokens)
        with StoreWriter(path, tokenizer, recipe) as writer, one_thread_a_call():
            encode = partial(encode_judged, corpus.encoder(tokenizer))
            for split in corpus.splits:
                batches = batched(job.judged(split, f"tokenising {split}"), lambda one: corpus.extent(one.document))
                with contextlib.closing(in_order(encode, batches, config.num_threads or num_cores())) as encoded:
                    _take(job, writer, split, encoded)
    return open_store(path)


def check(config: CorpusConfig) -> None:
    """Raise what `prepare` would, as far as it can be told from the names of files: no document is read.

    Once there is a store, what it was made from may be gone."""
    path = Path(config.store)
    if not is_free(path):
        _manifest_of(config, path)
        return
    input_paths(config)
    match config.source:
        case OriginalFiles(path=folder):
            _refuse_training(config, folder)
            originals.check_files(Path(folder))
        case source:
            _check_split(config, corpora.splits(source))
            if isinstance(source, Folder):  # of which input_paths is the folder itself
                corpora.input_files(source)


def _manifest_of(config: CorpusConfig, path: Path) -> Manifest:
    """The manifest of the store that is there. Raises StoreError when there is none, or it was made from other settings."""
    if not (path / MANIFEST).exists():
        raise StoreError(f"{path}: exists and is no store; remove it, or name another folder under `store`")
    manifest = read_manifest(path)
    if differing := difference(manifest.corpus, _settings(config)):
        keys = "; ".join(f"{key}: made with {_shown(made)}, found {_shown(found)}" for key, made, found in differing)
        raise StoreError(f"{path}: made from other settings: {keys}; name another folder under `store`, or remove it")
    return manifest


def _verified(config: CorpusConfig, path: Path, progress: bool) -> Store:
    manifest = _manifest_of(config, path)
    size = sum(facts.bytes for facts in (*manifest.files.values(), *manifest.inputs.values()))
    with bars(progress and size > LARGE) as begin:
        advance = begin(f"verifying {path.name}", size)
        store = open_store(path, True, advance)
        try:
            paths = input_paths(config)
        except DataError:
            return store  # what it was made from is gone; the store stands for itself
        found = input_facts(paths, advance)
    if changed := sorted(name for name in found if found[name] != manifest.inputs.get(name)):
        raise StoreError(
            f"{path}: made from other input: {', '.join(changed)} changed or came later; "
            "name another folder under `store`, or remove it"
        )
    return store


def _settings(config: CorpusConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=set(NOT_CONTENT))


def _shown(value: Any) -> str:
    return "nothing" if value is MISSING else repr(value)


def _open(config: CorpusConfig) -> _Corpus:
    match config.source:
        case OriginalFiles(path=path):
            _refuse_training(config, path)
            original = originals.read_original(Path(path))
            return _Corpus(
                tuple(original.splits),
                original.documents,
                {split: original.num_bytes(split) for split in original.splits},
                lambda document: len(document.tokens),
                originals.token_encoder,
            )
        case source:
            splits = corpora.splits(source)
            files = corpora.input_files(source)
            return _Corpus(
                splits,
                partial(corpora.documents, source),
                {split: sum(file.stat().st_size for file in files[split]) if files else None for split in splits},
                lambda document: len(document.text),
                text_encoder,
            )


def _refuse_training(config: CorpusConfig, folder: str) -> None:
    if isinstance(config.tokenizer, TrainBpe):
        raise DataError(f"{folder}: tokenised already: tokenizer.kind must be file or hub, found train_bpe")


def _check_split(config: CorpusConfig, splits: Sequence[str]) -> None:
    """Raise DataError when a tokenizer is to be trained on a split that there is not."""
    if isinstance(config.tokenizer, TrainBpe) and config.tokenizer.split not in splits:
        raise DataError(f"tokenizer.split: no split {config.tokenizer.split!r}; the corpus has {', '.join(splits)}")


def _training_texts(job: _Job) -> Iterator[str]:
    """What a tokenizer is trained on: the texts of a split that will be kept, as far as that is known before."""
    assert isinstance(job.config.tokenizer, TrainBpe)
    split = job.config.tokenizer.split
    _check_split(job.config, job.corpus.splits)
    room = job.config.max_documents_per_split or sys.maxsize
    for one in job.judged(split, "training the tokenizer"):
        _check(job, one)
        if not one.skip:
            yield one.document.text
            room -= 1
        if not room:
            return


def _take(job: _Job, writer: StoreWriter, split: str, encoded: Iterator[tuple[Sequence[Judged[Any]], Encoded]]) -> None:
    """Write what is kept of a split, and account for the rest."""
    start = None if job.config.beginning_of_document is None else writer.recipe.start_token_id
    room = job.config.max_documents_per_split or sys.maxsize
    account: Counter[str] = Counter()
    for batch, (tokens, lengths, num_bytes) in encoded:
        short = lengths < max(job.config.min_tokens, 1)
        kept = np.array([not one.skip for one in batch]) & ~short
        # the batches that were read ahead, and the rest of this one, are as if they had never been read
        stop = min(int(np.searchsorted(np.cumsum(kept), room)) + 1, len(batch))
        for one, is_short in zip(batch[:stop], short[:stop].tolist(), strict=True):
            _check(job, one)
            account[one.skip or ("short" if is_short else "kept")] += 1
            account["repeated"] += one.is_repeated and not one.skip and not is_short
        kept[stop:] = False
        entries = [
            Entry(one.document.id, one.document.category, split, size)
            for one, is_kept, size in zip(batch, kept.tolist(), num_bytes.tolist(), strict=True)
            if is_kept
        ]
        writer.extend(entries, *_joined(tokens, lengths, kept, start))
        room -= len(entries)
        if not room:
            break
    writer.skipped[split] = Skipped(empty=account["empty"], short=account["short"], duplicate=account["duplicate"])
    writer.repeated[split] = account["repeated"]


def _joined(
    tokens: NDArray[np.uint32], lengths: NDArray[np.int64], kept: NDArray[np.bool_], start: int | None
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The tokens of the documents that are kept, end to end, each with the start token before it."""
    tokens, lengths = tokens[np.repeat(kept, lengths)], lengths[kept]
    if start is None:
        return tokens, lengths
    return np.insert(tokens, np.cumsum(lengths) - lengths, start), lengths + 1


def _check(job: _Job, judged: Judged[Any]) -> None:
    """Raise DataError for a document that a later split holds too, unless such documents are to be dropped."""
    if judged.skip != "duplicate" or job.config.duplicates == "drop":
        return
    count = sum(
        one.skip == "duplicate" for split in job.corpus.splits for one in job.judged(split, "counting duplicates")
    )
    document = judged.document
    raise DataError(
        f"{job.config.name}: {document.split} {document.id!r} and {judged.twin} are the same text; so it is with {count:,} "
        f"document{'s' * (count != 1)} in all: `duplicates: drop` leaves out the copy in the earlier split"
    )
