"""Datasets of the Hugging Face hub, or local folders in their form, as a stream of records."""

from collections.abc import Iterator
from typing import Any

from paribus.data.config import Hub
from paribus.errors import DataError, MissingExtra

# where the hub keeps its own Parquet copy of a dataset whose repository holds a loading script
EXPORT = "hf://datasets/{name}@refs/convert/parquet/{subset}/{split}/*.parquet"


def hub_records(source: Hub, split: str) -> Iterator[dict[str, Any]]:
    """Stream the records of a split; a ClassLabel comes as its name, without surrounding white space.

    Raises MissingExtra without `datasets`; DataError when the hub, the dataset or the split cannot be reached."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("source.kind: hub reads with the library `datasets`: pip install 'paribus[data]'") from None
    try:
        stream = _load(source, split)
        labels = {
            name: [label.strip() for label in feature.names]
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

    try:
        stream = datasets.load_dataset(
            source.name, source.subset, split=split, revision=source.revision, streaming=True
        )
    except RuntimeError as error:  # a repository with a loading script, which the library no longer runs
        if "scripts" not in str(error) or source.revision is not None:
            raise
        files = EXPORT.format(name=source.name, subset=source.subset or "default", split=split)
        stream = datasets.load_dataset("parquet", data_files={split: files}, split=split, streaming=True)
    # streamed files reveal their features only when asked
    return stream if stream.features is not None else stream._resolve_features()


def _label(value: Any, names: list[str] | None) -> Any:
    if names is None or not isinstance(value, int) or isinstance(value, bool):
        return value
    return names[value] if 0 <= value < len(names) else None  # -1 stands for a missing label
