"""What evaluations on texts share: records of a file, their tokens, means over groups, and the frame of a result."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.config import Section
from paribus.data.config import DataConfig, TextData, TokenFilesData
from paribus.data.jsonlines import json_lines
from paribus.data.store import open_store
from paribus.data.tokenizer import read_tokenizer
from paribus.errors import ConfigError, DataError
from paribus.rundir import input_fingerprint

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer


class Words(NamedTuple):
    """What turns texts into ids, and the ids that stand before each text."""

    tokenizer: "Tokenizer"
    start: list[int]  # the start token, or nothing

    def encode(self, text: str) -> list[int]:
        return list(self.encoding(text).ids)

    def encoding(self, text: str) -> "Encoding":
        return self.tokenizer.encode(text, add_special_tokens=False)


class Row(NamedTuple):
    """One text for a model: the tokens it is given, and those whose likelihood is asked for."""

    where: str  # file:line
    given: list[int]  # at least one
    scored: list[int]  # at least one
    num_bytes: int  # of UTF-8, of the text that `scored` stands for


class Prompt(NamedTuple):
    """One text to be continued."""

    where: str  # file:line
    tokens: list[int]  # at least one
    num_tokens: int  # to decode, at least one


def words(data: DataConfig, start_token: bool | None) -> Words:
    """The tokenizer of the run's store or token files, and what stands before every text.

    Token files have no start token of their own: asked for, it is their end-of-text token, which stands between their
    documents. Raises ConfigError when the data have no tokenizer, or no start token to put."""
    if isinstance(data, TokenFilesData):
        if data.tokenizer is None:
            raise ConfigError("texts need a tokenizer: name one in data.tokenizer")
        return Words(read_tokenizer(Path(data.tokenizer)), [data.eos] if start_token else [])
    if not isinstance(data, TextData):
        raise ConfigError(
            f"texts need a tokenizer, but data of kind {data.kind} have none; use data of kind text or token_files"
        )
    store = open_store(data.store)
    if not (data.start_token if start_token is None else start_token):
        return Words(store.tokenizer(), [])
    if store.start_token_id is None:
        raise ConfigError(f"start_token: the tokenizer of {store.path} has no special token; say start_token: false")
    return Words(store.tokenizer(), [store.start_token_id])


# --- records -----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """One line of a JSONL file."""

    where: str  # file:line
    line: int  # from 1
    fields: Mapping[str, Any]

    def get(self, key: str) -> Any:
        """Raises DataError, with file and line, when there is no such field."""
        if key not in self.fields:
            raise DataError(f"{self.where}: no field {key!r} (found: {', '.join(self.fields) or 'nothing'})")
        return self.fields[key]

    def text(self, key: str) -> str:
        """A field that holds text. Raises DataError, with file and line, when it holds anything else."""
        value = self.get(key)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: field {key!r}: expected text, found {type(value).__name__}")
        return value


def records(file: str, items: tuple[int, int] | None = None) -> list[Record]:
    """The chosen lines of a file; blank ones do not count. Raises DataError when there is none, or one is no object."""
    found = list(_chosen(file, items))
    if not found:
        raise DataError(f"{file}: no items{'' if items is None else f' in [{items[0]}, {items[1]})'}")
    return found


def _chosen(file: str, items: tuple[int, int] | None) -> Iterator[Record]:
    first, stop = items or (0, math.inf)
    for number, (line, value) in enumerate(json_lines(Path(file))):
        if number >= stop:
            return
        if number < first:
            continue
        if not isinstance(value, Mapping):
            raise DataError(f"{file}:{line}: found {type(value).__name__}, expected an object")
        yield Record(f"{file}:{line}", line, value)


def groups(found: Sequence[Record], key: str | None) -> list[str] | None:
    """Each record's group, a text, number or truth value as text; None: no grouping."""
    if key is None:
        return None
    for record in found:
        if not isinstance(value := record.get(key), str | int | float):
            raise DataError(f"{record.where}: field {key!r}: expected a text or a number, found {type(value).__name__}")
    return [str(record.get(key)) for record in found]


# --- tokens ------------------------------------------------------------------------------------------------------------


def alone(words: Words, text: str, where: str) -> Row:
    """A text on its own. Without a start token its first token is given, not scored: nothing predicts it.

    Raises DataError when no token is left to score."""
    encoding = words.encoding(text)
    given, scored, unscored = words.start, list(encoding.ids), ""
    if not given:
        given, scored = scored[:1], scored[1:]
        unscored = text[: encoding.offsets[0][1]] if given else ""
    if not scored:
        raise DataError(
            f"{where}: {'an empty text' if not text else 'one token, and nothing before it'}: nothing to score"
            f"{'' if not text else '; say start_token: true'}"
        )
    # a character of several tokens counts with its first: of such a character alone no byte would be left
    return Row(where, list(given), scored, max(1, len(text.encode()) - len(unscored.encode())))


def after(words: Words, before: str, text: str, where: str) -> Row:
    """A text after another, by lm-evaluation-harness's rule (`_encode_pair`): white space at the end of what comes
    before goes to the text, and the text's tokens are what encoding both together adds to those of `before` alone.

    Raises DataError when there is nothing before the text, or no token of its own."""
    num_bytes = len(text.encode())
    stem = before.rstrip()
    text, before = before[len(stem) :] + text, stem
    given = words.encode(before)
    scored = words.encode(before + text)[len(given) :]
    if not words.start and not given:
        raise DataError(f"{where}: nothing stands before {text[:20]!r}; say start_token: true")
    if not scored:
        raise DataError(f"{where}: {text[:20]!r} has no token of its own after what stands before it")
    return Row(where, [*words.start, *given], scored, num_bytes)


def prompt(words: Words, text: str, num_tokens: int, where: str) -> Prompt:
    """A text to be continued, without its white space at the end. Raises DataError when nothing is left of it."""
    tokens = [*words.start, *words.encode(text.rstrip())]
    if not tokens:
        raise DataError(f"{where}: an empty prompt; say start_token: true, or give it text")
    return Prompt(where, tokens, num_tokens)


# --- results -----------------------------------------------------------------------------------------------------------


def mean_error(values_N: NDArray[np.float64]) -> tuple[float, float | None]:
    """The mean and its standard error, s / sqrt(n) with n - 1 under s; None for a single value."""
    error = float(values_N.std(ddof=1) / math.sqrt(len(values_N))) if len(values_N) > 1 else None
    return float(values_N.mean()), error


def group_means(
    columns: Mapping[str, NDArray[np.float64]], groups: Sequence[str] | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """The summary {metric: mean, metric/GROUP: mean}, and a table by group: names, counts, means and standard errors.

    Groups stand in the order of their numbers, or of their names if they are no numbers."""
    summary = {metric: float(values_N.mean()) for metric, values_N in columns.items()}
    if groups is None:
        return summary, {}
    labels = np.array(groups)
    names = sorted(set(groups), key=_numbers_first)
    table: dict[str, Any] = {"groups": names, "count": [int((labels == name).sum()) for name in names]}
    for metric, values_N in columns.items():
        found = [mean_error(values_N[labels == name]) for name in names]
        table[metric] = {"mean": [mean for mean, _ in found], "error": [error for _, error in found]}
        summary |= {f"{metric}/{name}": mean for name, (mean, _) in zip(names, found, strict=True)}
    return summary, {"by_group": table}


def _numbers_first(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def frame(
    config: Section, kind: str, summary: Mapping[str, float], precision: str, files: Mapping[str, str]
) -> dict[str, Any]:
    """What every record of an evaluation on files begins with; files: key -> path, recorded by content."""
    return {
        "kind": kind,
        "version": 1,
        "config": config.model_dump(mode="json"),
        "inputs": {key: input_fingerprint(Path(path), key) for key, path in files.items()},
        "summary": dict(summary),
        "precision": precision,
    }
