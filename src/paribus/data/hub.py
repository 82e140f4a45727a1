"""Datasets of the Hugging Face hub, or local folders in their form, as a stream of records."""

from collections.abc import Iterator
from typing import Any

from paribus.data.config import Hub
from paribus.errors import DataError, MissingExtra

EXPORT = "refs/convert/parquet"  # the branch where the hub keeps its own Parquet copy: SUBSET/SPLIT/0000.parquet ..


def hub_records(source: Hub, split: str) -> Iterator[dict[str, Any]]:
    """Stream the records of a split; a ClassLabel comes as its name.

    Raises MissingExtra without `datasets`; DataError when the hub, the dataset or the split cannot be reached."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("source.kind: hub reads with the library `datasets`: pip install 'paribus[data]'") from None
    try:
        stream = _load(source, split)
        labels = {
            name: feature.names
            for name, feature in (stream.features or {}).items()
            if isinstance(feature, datasets.ClassLabel)
        }
        for record in stream:
            yield {key: _label(value, labels.get(key)) for key, value in record.items()}
    except Exception as error:  # the library raises whatever its layers raise
        words = " ".join(str(error).split()) or type(error).__name__
        subset = f", subset {source.subset}" if source.subset else ""
        raise DataError(f"source.name: {source.name}{subset}, split {split!r} cannot be read: {words[:300]}") from error


def _load(source: Hub, split: str) -> Any:
    import datasets

    if source.revision == EXPORT:
        stream = _copy(source, split)
    else:
        try:
            stream = datasets.load_dataset(
                source.name, source.subset, split=split, revision=source.revision, streaming=True
            )
        except RuntimeError as error:
            if "scripts" not in str(error) or source.revision is not None:
                raise
            stream = _copy(source, split)  # the repository holds a loading script, and the library runs none
    # streamed files reveal their features only when asked
    return stream if stream.features is not None else stream._resolve_features()


def _copy(source: Hub, split: str) -> Any:
    """The split in the hub's own copy, where the library does not find subsets by itself."""
    import datasets

    files = f"hf://datasets/{source.name}@{EXPORT}/{source.subset or 'default'}/{split}/*.parquet"
    return datasets.load_dataset("parquet", data_files={split: files}, split=split, streaming=True)


def _label(value: Any, names: list[str] | None) -> Any:
    if names is None or not isinstance(value, int) or isinstance(value, bool):
        return value
    return names[value] if 0 <= value < len(names) else None  # -1 stands for a missing label
