"""From ten zips of images, one a class, to an .npz with a training and a test set; or verify the one that is there.

images.npz      X_train, y_train, X_test, y_test: uint8, the classes taking turns, so that any beginning has all of them
manifest.json   the settings, the hashes of the zips and of images.npz
"""

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from paribus.config import Section, difference
from paribus.data.bars import Advance, bars
from paribus.data.encode import num_cores
from paribus.data.grey import SIDE, Batch, decoded, members_of
from paribus.data.inputs import input_facts
from paribus.data.part import is_free, part_folder, writing
from paribus.data.permutation import permute, shuffle_key
from paribus.data.store import MANIFEST, FileFacts
from paribus.data.supervised import ImageZips
from paribus.errors import DataError, MissingExtra, StoreError
from paribus.rundir import file_sha256, write_json

FILE = "images.npz"
NUM_CLASSES = 10  # of MNIST-1M
NOT_CONTENT = {"folder", "out", "num_workers"}  # settings that change no pixel
BATCH = 256  # images decoded at a time: some 30 ms
WORTH_PROCESSES = 64 * BATCH  # fewer are decoded before a process has started


class ImagesManifest(Section):
    """What was made, and from what."""

    format: Literal["paribus-images"] = "paribus-images"
    settings: dict[str, Any]
    num_train: int
    num_test: int
    file: FileFacts  # images.npz
    inputs: dict[str, FileFacts]  # name of a zip


class PreparedImages(NamedTuple):
    file: Path
    manifest: ImagesManifest


class _Split(NamedTuple):
    """How many images of each class are for training and for the test: (NUM_CLASSES,) each."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def prepare_images(config: ImageZips, progress: bool = True) -> PreparedImages:
    """Write the folder `out`, or verify the one that is there, which is made anew when its images are damaged.

    Raises DataError for zips that are missing or cannot be used; StoreError when what is there was made from other
    settings or other zips, or by others; MissingExtra without Pillow."""
    out = Path(config.out)
    if not is_free(out) and (found := _verified(config, out, progress)):
        return found
    _require_pillow()
    zips = _zips(config)
    with part_folder(out) as part, bars(progress) as begin:
        size = sum(path.stat().st_size for path in zips)
        inputs = input_facts({path.name: path for path in zips}, begin("hashing the zips", size))
        sizes = [[num_bytes for _, num_bytes in members_of(path)] for path in zips]
        split = _split(np.array([len(each) for each in sizes]), config)
        _write(config, zips, split, part, begin("decoding the images", sum(map(sum, sizes))))
        with writing(out):
            manifest = ImagesManifest(
                settings=_settings(config),
                num_train=int(split.train.sum()),
                num_test=int(split.test.sum()),
                file=_facts(part / FILE),
                inputs=inputs,
            )
            write_json(part / MANIFEST, manifest.model_dump(mode="json"))
    return PreparedImages(out / FILE, manifest)


def check(config: ImageZips) -> None:
    """Raise what `prepare_images` would, as far as it can be told without reading images.

    Once there is an .npz, the zips that it was made from may be gone."""
    out = Path(config.out)
    if not is_free(out):
        _manifest_of(config, out)
        return
    _require_pillow()
    if broken := [path.name for path in _zips(config) if not zipfile.is_zipfile(path)]:
        raise DataError(f"folder: {config.folder}: {', '.join(broken)} cannot be read as a zip; expected whole ones")


def _require_pillow() -> None:
    if find_spec("PIL") is None:
        raise MissingExtra("kind: image_zips decodes with the library `pillow`: pip install 'paribus[images]'")


def _zips(config: ImageZips) -> list[Path]:
    paths = [Path(config.folder) / f"class_{label}_images.zip" for label in range(NUM_CLASSES)]
    if missing := [path.name for path in paths if not path.is_file()]:
        found = f"no {', '.join(missing)}" if Path(config.folder).is_dir() else "no such folder"
        raise DataError(f"folder: {config.folder}: {found}; expected {paths[0].name} .. {paths[-1].name}")
    return paths


# --- what is there already ---------------------------------------------------------------------------------------------


def _manifest_of(config: ImageZips, out: Path) -> ImagesManifest:
    """The manifest of what is there. Raises StoreError when there is none, or it was made from other settings."""
    try:
        manifest = ImagesManifest.model_validate_json((out / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        raise StoreError(f"{out}: exists and holds no prepared images; remove it, or name another folder") from None
    if differing := difference(manifest.settings, _settings(config)):
        keys = "; ".join(f"{key}: made with {made!r}, found {found!r}" for key, made, found in differing)
        raise StoreError(f"{out}: made from other settings: {keys}; name another folder under `out`, or remove it")
    return manifest


def _verified(config: ImageZips, out: Path, progress: bool) -> PreparedImages | None:
    """What an earlier command made, or None when it was damaged since and has been cleared away."""
    manifest = _manifest_of(config, out)
    paths = [Path(config.folder) / name for name in manifest.inputs]
    there = {path.name: path for path in paths if path.is_file()}
    with bars(progress) as begin:
        advance = begin(f"verifying {out.name}", manifest.file.bytes + sum(p.stat().st_size for p in there.values()))
        found = input_facts(there, advance)  # zips that are gone cannot have changed
        if changed := [name for name in found if found[name] != manifest.inputs[name]]:
            raise StoreError(
                f"{out}: made from other zips: {', '.join(changed)} changed; name another folder under `out`, or remove it"
            )
        if (out / FILE).is_file() and _facts(out / FILE) == manifest.file:
            advance(manifest.file.bytes)
            return PreparedImages(out / FILE, manifest)
    _zips(config)  # without them nothing can be made: leave what is there
    with writing(out):
        for name in (FILE, MANIFEST):
            (out / name).unlink(missing_ok=True)
    return None


def _settings(config: ImageZips) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude=NOT_CONTENT)


def _facts(path: Path) -> FileFacts:
    return FileFacts(bytes=path.stat().st_size, sha256=file_sha256(path))


# --- which image goes where --------------------------------------------------------------------------------------------


def _split(counts: NDArray[np.int64], config: ImageZips) -> _Split:
    """Shares of the test set by largest remainders (of equal ones, the lower class first)."""
    total = int(counts.sum())
    exact = counts * config.num_test  # times total; whole numbers, so that nothing is rounded
    test = exact // total
    remainders = exact % total
    test[np.argsort(-remainders, kind="stable")[: config.num_test - int(test.sum())]] += 1
    if config.num_test >= total or (test >= counts).any():
        raise DataError(
            f"num_test: {config.num_test:,} of {total:,} images leave a class without training images; expected fewer"
        )
    return _Split(counts - test, test)


def _rows(label: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(counts[label],) where the images of a class stand when the classes take turns until each is used up."""
    rank = np.arange(counts[label])[:, None]
    is_before = np.arange(NUM_CLASSES) < label
    rows: NDArray[np.int64] = np.minimum(counts, rank + is_before).sum(1)
    return rows


def _batches(zips: Sequence[Path], split: _Split, seed: int) -> Iterator[Batch]:
    for label, path in enumerate(zips):
        members = members_of(path)
        num_test = int(split.test[label])
        is_test = np.zeros(len(members), bool)
        is_test[permute(np.arange(num_test), len(members), shuffle_key(seed, "test images", label))] = True
        rows = np.empty(len(members), np.int64)
        rows[is_test], rows[~is_test] = _rows(label, split.test), _rows(label, split.train)
        for first in range(0, len(members), BATCH):
            part = slice(first, first + BATCH)
            yield Batch(path, members[part], is_test[part], rows[part])


# --- decoding and writing ----------------------------------------------------------------------------------------------


def _write(config: ImageZips, zips: Sequence[Path], split: _Split, part: Path, advance: Advance) -> None:
    """Each image goes to its row of a plain file as soon as it is decoded; then both files go into the .npz."""
    raw = {"train": part / "train.raw", "test": part / "test.raw"}
    labels = {name: _labels(counts) for name, counts in (("train", split.train), ("test", split.test))}
    size = (len(labels["train"]) + len(labels["test"])) * SIDE**2
    num_workers = config.num_workers or (num_cores() if size > WORTH_PROCESSES * SIDE**2 else 1)
    batches = _batches(zips, split, config.seed)
    with (
        writing(part.parent / FILE, 0, size),
        raw["train"].open("wb") as train,
        raw["test"].open("wb") as test,
        closing(decoded(batches, config.resize, num_workers)) as done,
    ):
        for batch, images in done:
            for image, is_test, row in zip(images, batch.is_test, batch.rows.tolist(), strict=True):
                file = test if is_test else train
                file.seek(row * SIDE**2)
                file.write(image)
            advance(batch.num_bytes)
    with writing(part.parent / FILE, size, size), zipfile.ZipFile(part / FILE, "w") as archive:
        for name, path in raw.items():
            with _member(archive, f"X_{name}.npy") as member, path.open("rb") as pixels:
                _write_header(member, (len(labels[name]), SIDE, SIDE))
                shutil.copyfileobj(pixels, member, 2**20)
            with _member(archive, f"y_{name}.npy") as member:
                _write_header(member, labels[name].shape)
                member.write(labels[name].tobytes())
            path.unlink()


def _labels(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    labels = np.empty(int(counts.sum()), np.uint8)
    for label in range(NUM_CLASSES):
        labels[_rows(label, counts)] = label
    return labels


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Of a date that is always the same, so that the same images make the same bytes."""
    return archive.open(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "w", force_zip64=True)


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
