"""Corpora: JSONL, Parquet, folders of text, the hub and the shipped sample, each as a stream of documents."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paribus.data.bars import Advance
from paribus.data.config import Fields, Folder, Hub, Jsonl, Parquet, Sample
from paribus.data.jsonlines import json_lines
from paribus.errors import DataError

SAMPLE = Path(__file__).parent / "sample"
SAMPLE_SPLITS = ("train", "validation", "test")

TextSource = Jsonl | Parquet | Folder | Hub | Sample


class Document(NamedTuple):
    """A text and what it counts as."""

    id: str  # unique within its split
    text: str
    category: str
    split: str

    @property
    def content(self) -> bytes:
        return self.text.encode()

    @property
    def is_empty(self) -> bool:
        return not self.text.strip()


def splits(source: TextSource) -> tuple[str, ...]:
    """The splits of a corpus in the order in which they are stored: `train`, then the others as the source has them."""
    match source:
        case Jsonl() | Parquet():
            names = list(source.files)
        case Hub():
            names = source.splits
        case Sample():
            names = list(SAMPLE_SPLITS)
        case Folder():
            names = sorted(path.name for path in _folders(Path(source.path)))
    if len(set(names)) != len(names) or not names:
        raise DataError(f"source: the splits are {', '.join(names) or 'none'}: expected one or more, each once")
    return tuple(sorted(names, key=lambda name: name != "train"))


def documents(source: TextSource, split: str, advance: Advance = lambda _: None) -> Iterator[Document]:
    """Stream the documents of a split; only the current block of a file is in memory.

    Raises DataError, with file and line, for a record that cannot be understood; MissingExtra without `datasets`."""
    match source:
        case Jsonl():
            return _from_jsonl(
                matching_files(source.files[split], f"source.files.{split}"), source.fields, split, advance
            )
        case Parquet():
            return _from_parquet(
                matching_files(source.files[split], f"source.files.{split}"), source.fields, split, advance
            )
        case Folder():
            return _from_folder(Path(source.path) / split, split, advance)
        case Sample():
            return _from_jsonl([SAMPLE / f"{split}.jsonl.gz"], Fields(), split, advance)
        case Hub():
            return _from_hub(source, split, advance)


def input_files(source: TextSource) -> dict[str, list[Path]]:
    """The local files that a corpus is read from, split by split; none for the hub."""
    match source:
        case Jsonl() | Parquet():
            return {split: matching_files(source.files[split], f"source.files.{split}") for split in splits(source)}
        case Sample():
            return {split: [SAMPLE / f"{split}.jsonl.gz"] for split in SAMPLE_SPLITS}
        case Folder():
            return {split: _texts(Path(source.path) / split) for split in splits(source)}
        case Hub():
            return {}


def _from_jsonl(files: Sequence[Path], fields: Fields, split: str, advance: Advance) -> Iterator[Document]:
    number = 0
    for file in files:
        for line, record in json_lines(file, advance):
            yield _document(record, fields, split, number, f"{file}:{line}")
            number += 1


def _from_parquet(files: Sequence[Path], fields: Fields, split: str, advance: Advance) -> Iterator[Document]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    wanted = {field for field in (fields.id, fields.text, fields.category) if field is not None}
    for file in files:
        try:
            # a buffer, or each column of a row group is read whole
            with parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as table:
                known = table.schema_arrow.names
                columns = [
                    name for name in known if name in wanted or name in {field.split(".")[0] for field in wanted}
                ]
                row = 0
                for batch in table.iter_batches(32, columns=columns or None):
                    for record in batch.to_pylist():
                        row += 1
                        yield _document(record, fields, split, number, f"{file}: row {row}", known)
                        number += 1
                    advance(file.stat().st_size * batch.num_rows // max(table.metadata.num_rows, 1))
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file}: not a whole Parquet file: {str(error).splitlines()[0]}") from None


def _from_hub(source: Hub, split: str, advance: Advance) -> Iterator[Document]:
    from paribus.data.hub import hub_records

    for number, record in enumerate(hub_records(source, split)):
        document = _document(record, source.fields, split, number, f"{source.name} {split}: record {number + 1}")
        yield document
        advance(len(document.text))


def _from_folder(folder: Path, split: str, advance: Advance) -> Iterator[Document]:
    """The id is CATEGORY/NAME without .txt: names may repeat from category to category."""
    for file in _texts(folder):
        content = file.read_bytes()
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise DataError(f"{file}:{line}: not UTF-8: byte 0x{content[error.start]:02x}") from None
        yield Document(f"{file.parent.name}/{file.stem}", text, file.parent.name, split)
        advance(len(content))


def _texts(folder: Path) -> list[Path]:
    found = [file for category in _folders(folder) for file in sorted(category.glob("*.txt"))]
    if not found:
        raise DataError(f"{folder}: no texts here: expected CATEGORY/NAME.txt below it")
    return found


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"source.path: no folder {path}; expected SPLIT/CATEGORY/NAME.txt below it")
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def matching_files(patterns: Sequence[str], key: str) -> list[Path]:
    """The files that are meant: patterns in the given order, the matches of each sorted. `key` holds them in the config.

    Raises DataError for a pattern without a match, and for no pattern."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file():  # also a name that only looks like a pattern
            matches = [path]
        else:
            inside = pattern.removeprefix(path.anchor)
            matches = sorted(match for match in Path(path.anchor).glob(inside) if match.is_file())
        if not matches:
            raise DataError(f"{key}: {pattern} matches no file (from {Path.cwd()})")
        found += matches
    if not found:
        raise DataError(f"{key}: no files are named")
    return found


def _document(
    record: Any, fields: Fields, split: str, number: int, where: str, known: Sequence[str] | None = None
) -> Document:
    """`number`: of the record in its split, from 0; `known`: the names to show when one is missing."""
    if not isinstance(record, Mapping):
        raise DataError(f"{where}: found {_kind(record)}, expected an object with the field {fields.text!r}")
    text = _field(record, fields.text, "text", where, known)
    if text is None:
        text = ""  # counted as empty
    if not isinstance(text, str):
        raise DataError(f"{where}: field {fields.text!r} holds {_kind(text)}, expected text")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(f"{where}: field {fields.text!r} holds half of a surrogate pair, which is no character")
    name = f"{split}_{number}" if fields.id is None else _name(record, fields.id, "id", where, known)
    category = "all" if fields.category is None else _name(record, fields.category, "category", where, known)
    return Document(name, text, category, split)


def _name(record: Mapping[str, Any], field: str, role: str, where: str, known: Sequence[str] | None) -> str:
    """A string without surrounding white space, or a whole number."""
    value = _field(record, field, role, where, known)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise DataError(f"{where}: field {field!r} holds {_kind(value)}, expected a name or a whole number as the {role}")


def _field(record: Mapping[str, Any], field: str, role: str, where: str, known: Sequence[str] | None) -> Any:
    """The value of a field; when the record has no such key, a dot reaches into nested records."""
    if field in record:
        return record[field]
    value: Any = record
    for part in field.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = ", ".join(known or list(record)) or "nothing"
            null = ", or null" if role in ("id", "category") else ""
            raise DataError(f"{where}: no field {field!r} (found: {found}): name it under source.fields.{role}{null}")
        value = value[part]
    return value


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case str():
            return "an empty string" if not value.strip() else "a string"
        case bool():
            return str(value).lower()
        case list():
            return "a list"
        case Mapping():
            return "an object"
    return f"the {type(value).__name__} {value}"
