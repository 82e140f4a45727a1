"""`paribus prepare`: what a file asks to have prepared, a corpus or zips of images, and what a person is told of it."""

from collections.abc import Sequence
from pathlib import Path

from paribus import config as configs
from paribus.data.config import CorpusConfig
from paribus.data.supervised import ImageZips
from paribus.mistakes import told_at


def prepare_file(file: Path, overrides: Sequence[str] = (), dry_run: bool = False) -> list[str]:
    """Prepare what CORPUS.yaml or ZIPS.yaml describes, or verify what is there; with `dry_run` check it and write nothing.

    Returns lines: what is there now, and the next command. Raises ConfigError, DataError and StoreError."""
    tree = configs.resolve(file, overrides, "corpus")
    is_images = "kind" in tree.entries  # a corpus has none
    config = configs.parse(tree, ImageZips) if is_images else configs.parse(tree, CorpusConfig)
    with told_at(tree):
        found = _images(config, dry_run) if isinstance(config, ImageZips) else _corpus(config, dry_run)
    return configs.dump(config).removesuffix("\n").split("\n") if dry_run else found


def _images(config: ImageZips, dry_run: bool) -> list[str]:
    from paribus.data.image_zips import check, prepare_images

    if dry_run:
        check(config)
        return []
    file, manifest = prepare_images(config)
    facts = f"{manifest.num_train:,} training and {manifest.num_test:,} test images, {manifest.file.sha256[:12]}"
    run = f"data.kind=images data.source.kind=npz data.source.file={file}"
    return [f"{file}: {facts}", f"next: paribus train RUN.yaml {run}"]


def _corpus(config: CorpusConfig, dry_run: bool) -> list[str]:
    from paribus.data.prepare import check, prepare

    if dry_run:
        check(config)
        return []
    store = prepare(config)
    facts = f"{len(store.documents.id):,} documents, {store.num_tokens:,} tokens, {store.fingerprint[:12]}"
    return [f"{store.path}: {facts}", f"next: paribus train RUN.yaml data.store={store.path}"]
