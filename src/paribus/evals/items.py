"""What the items of an evaluation say, as text: what a training text may have in common with them. No torch here."""

from collections.abc import Iterator, Mapping

from paribus.errors import named
from paribus.evals.config import (
    CanaryEval,
    EvalConfig,
    ExtractionEval,
    FictionalEval,
    PerplexityEval,
    RankedEval,
    ReferenceFile,
    VerbatimEval,
)
from paribus.evals.texts import Record, documents_of, records

Items = Iterator[tuple[int, str]]  # (line of the file, text); an item of several texts has its line several times


def item_texts(evals: Mapping[str, EvalConfig]) -> dict[str, Items]:
    """The items of every evaluation that reads texts: by its name, and NAME/PART for a further file of it.

    Fields that a model reads one after another are one text; a question is one with each of its choices. Reading them
    raises DataError, with file and line, for a record without its field."""
    found: dict[str, Items] = {}
    for name, config in evals.items():
        match config:
            case CanaryEval() | VerbatimEval():
                found[name] = _texts(name, config.file, config.items, config.key)
            case (
                ExtractionEval(prompt_key=before, reference_key=after)
                | FictionalEval(prompt_key=before, target_key=after)
            ):
                found[name] = _texts(name, config.file, config.items, before, after, between=config.target_delimiter)
            case RankedEval():
                found[name] = _questions(name, config)
            case PerplexityEval():
                found |= {f"{name}/{file}": _documents(name, path, config.key) for file, path in config.files.items()}
        if isinstance(config, CanaryEval) and isinstance(config.references, ReferenceFile):
            found[f"{name}/references"] = _texts(name, config.references.file, None, config.references.key)
    return found


def _texts(name: str, file: str, items: tuple[int, int] | None, *keys: str, between: str = "") -> Items:
    with named(f"evals.{name}"):
        for record in records(file, items):
            yield record.line, between.join(record.text(key) for key in keys)


def _questions(name: str, config: RankedEval) -> Items:
    with named(f"evals.{name}"):
        for record in records(config.file, config.items):
            for choice in record.texts("choices"):
                yield record.line, _asked(record, choice)


def _asked(record: Record, choice: str) -> str:
    if "suffix" in record.fields:  # the choice stands in the middle
        return f"{record.text('context')}{choice}{record.text('suffix')}"
    return f"{record.text('context')} {choice}"


def _documents(name: str, path: str, key: str) -> Items:
    with named(f"evals.{name}"):
        for document in documents_of(path, key):
            yield document.line, document.text
