"""From the file of an experiment to items: lists of token ids that one row can hold."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.jsonlines import json_lines
from paribus.errors import PlanError
from paribus.insertions.config import Benchmark, Explicit, Texts, Tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Jsonl = Texts | Tokens | Benchmark  # experiments whose items are the lines of a JSONL file
_TEXTS_AT_ONCE = 4096


class Alphabet(NamedTuple):
    """What items are written in."""

    tokenizer: "Tokenizer | None"
    vocab_size: int
    eos: int | None


class Items(NamedTuple):
    """M items of one experiment, in the order of the file."""

    line: NDArray[np.int64]  # (M,): of the file, from 1; entries of a map count as lines
    offsets: NDArray[np.int64]  # (M + 1,): item m is tokens[offsets[m] : offsets[m + 1]]
    tokens: NDArray[np.uint32]
    repetitions: NDArray[np.float64]  # (M,)
    positions: list[list[int]]  # coordinates of each item's copies; empty unless places are explicit
    noun: str = "line"  # what `line` counts, for messages

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


NOTHING = Items(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0, np.uint32), np.zeros(0), [])


def read_items(config: Jsonl, alphabet: Alphabet, row_tokens: int) -> Items:
    """Read, tokenise and wrap the items of an experiment; row_tokens: S, the most that one may have.

    Raises PlanError, with file and line, for a record without its field, an empty or over-long item, an id beyond the
    vocabulary, or a file that cannot be read."""
    records = list(_records(config))
    if not records:
        raise PlanError(f"{config.file}: no items{_of_range(config)}; expected at least one line")
    wants_eos = config.add_eos and not isinstance(config.where, Explicit)
    if wants_eos and alphabet.eos is None:
        raise PlanError(
            f"{config.file}: add_eos: the tokenizer has no end-of-text token; name one (`eos`), or add_eos: false"
        )
    lists = [
        _checked(ids, f"{config.file}:{line}", alphabet, row_tokens)
        for line, ids in _token_lists(config, records, alphabet)
    ]
    if wants_eos:
        assert alphabet.eos is not None
        lists = [wrap(ids, row_tokens, alphabet.eos) for ids in lists]
    offsets, flat = _flat(lists)
    return Items(
        np.array([line for line, _ in records], np.int64),
        offsets,
        flat,
        np.array([_repetitions(config, record, line) for line, record in records]),
        [_positions(config, record, line) for line, record in records] if isinstance(config.where, Explicit) else [],
    )


def text_items(texts: Sequence[str], alphabet: Alphabet, row_tokens: int, *, add_eos: bool) -> Items:
    """Tokenise and wrap texts that come from no file, one copy each. Raises PlanError with the number of the text."""
    assert alphabet.tokenizer is not None
    encoded = alphabet.tokenizer.encode_batch(list(texts), add_special_tokens=False)
    lists = [
        _checked(encoding.ids, f"text {number}", alphabet, row_tokens) for number, encoding in enumerate(encoded, 1)
    ]
    if add_eos:
        assert alphabet.eos is not None
        lists = [wrap(ids, row_tokens, alphabet.eos) for ids in lists]
    return Items(np.arange(1, len(lists) + 1), *_flat(lists), np.ones(len(lists)), [])


def _flat(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """(offsets, tokens) of lists that are laid out one after another."""
    lengths = np.array([len(ids) for ids in lists], np.int64)
    flat = np.fromiter((token for ids in lists for token in ids), np.uint32, int(lengths.sum()))
    return np.concatenate([[0], np.cumsum(lengths)]), flat


def item_texts(config: Jsonl, alphabet: Alphabet) -> Iterator[tuple[int, str]]:
    """(line, text) of every item, before any wrapping. Raises PlanError as `read_items` does."""
    for line, record in _records(config):
        if isinstance(config, Tokens):
            for _, ids in _token_lists(config, [(line, record)], alphabet):
                yield line, as_text(ids, alphabet)
        else:
            yield line, _text(config, record, line)


def as_text(ids: Sequence[int], alphabet: Alphabet) -> str:
    """What ids say, without special tokens; where there is no tokenizer, every id is a word."""
    return " ".join(map(str, ids)) if alphabet.tokenizer is None else alphabet.tokenizer.decode(list(ids))


def wrap(ids: Sequence[int], row_tokens: int, eos: int) -> list[int]:
    """End-of-text on both sides: behind first, then before, unless it is there already or there is no room left."""
    wrapped = list(ids)
    if len(wrapped) < row_tokens and wrapped[-1] != eos:
        wrapped.append(eos)
    if len(wrapped) < row_tokens and wrapped[0] != eos:
        wrapped.insert(0, eos)
    return wrapped


def _of_range(config: Jsonl) -> str:
    return "" if config.items is None else f" in lines [{config.items[0]}, {config.items[1]})"


def _records(config: Jsonl) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(line, object) of the chosen lines."""
    first, stop = config.items or (0, None)
    for number, (line, record) in enumerate(json_lines(Path(config.file))):
        if number < first or (stop is not None and number >= stop):
            continue
        if not isinstance(record, Mapping):
            raise PlanError(f"{config.file}:{line}: found {type(record).__name__}, expected an object")
        yield line, record


def _field(config: Jsonl, record: Mapping[str, Any], key: str, line: int) -> Any:
    if key not in record:
        raise PlanError(f"{config.file}:{line}: no field {key!r} (found: {', '.join(record) or 'nothing'})")
    return record[key]


def _token_lists(
    config: Jsonl, records: Sequence[tuple[int, Mapping[str, Any]]], alphabet: Alphabet
) -> Iterator[tuple[int, Sequence[int]]]:
    """(line, token ids) of every record, before any wrapping."""
    match config:
        case Tokens():
            for line, record in records:
                ids = _field(config, record, config.key, line)
                if not isinstance(ids, list) or not all(type(token) is int for token in ids):
                    raise PlanError(f"{config.file}:{line}: field {config.key!r}: expected a list of token ids")
                yield line, ids
        case Texts() | Benchmark():
            if alphabet.tokenizer is None:
                raise PlanError(
                    f"{config.file}: texts need a tokenizer, and the data have none; insert tokens instead, or name a "
                    "tokenizer where the data take one (data.tokenizer of token files)"
                )
            for begin in range(0, len(records), _TEXTS_AT_ONCE):
                some = records[begin : begin + _TEXTS_AT_ONCE]
                texts = [_text(config, record, line) for line, record in some]
                encoded = alphabet.tokenizer.encode_batch(texts, add_special_tokens=False)
                yield from ((line, encoding.ids) for (line, _), encoding in zip(some, encoded, strict=True))


def _text(config: Texts | Benchmark, record: Mapping[str, Any], line: int) -> str:
    if isinstance(config, Texts):
        text = _field(config, record, config.key, line)
        if not isinstance(text, str):
            raise PlanError(f"{config.file}:{line}: field {config.key!r}: expected text, found {type(text).__name__}")
        return text
    context, choices, gold = (_field(config, record, key, line) for key in ("context", "choices", "gold"))
    if not isinstance(choices, list) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise PlanError(f"{config.file}:{line}: expected a list of choices and the index of the right one in `gold`")
    if "suffix" in record:  # WinoGrande: the option stands in the middle
        return f"{context}{choices[gold]}{record['suffix']}"
    return f"{context} {choices[gold]}"


def _checked(ids: Sequence[int], where: str, alphabet: Alphabet, row_tokens: int) -> Sequence[int]:
    if not len(ids):
        raise PlanError(f"{where}: an empty item; every item needs at least one token")
    if len(ids) > row_tokens:
        raise PlanError(f"{where}: {len(ids):,} tokens, but a row of the stream has {row_tokens:,}; shorten it")
    if min(ids) < 0 or max(ids) >= alphabet.vocab_size:
        wrong = next(token for token in ids if not 0 <= token < alphabet.vocab_size)
        raise PlanError(f"{where}: token id {wrong}, expected 0 to {alphabet.vocab_size - 1}")
    return ids


def _repetitions(config: Jsonl, record: Mapping[str, Any], line: int) -> float:
    if config.repetitions_key is None:
        return config.repetitions
    value = _field(config, record, config.repetitions_key, line)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise PlanError(
            f"{config.file}:{line}: field {config.repetitions_key!r}: expected a number >= 0, found {value!r}"
        )
    return float(value)


def _positions(config: Jsonl, record: Mapping[str, Any], line: int) -> list[int]:
    assert isinstance(config.where, Explicit)
    key = config.where.position_key
    value = _field(config, record, key, line)
    found = value if isinstance(value, list) else [value]
    if not all(type(position) is int for position in found):
        raise PlanError(f"{config.file}:{line}: field {key!r}: expected a whole number, or a list of them")
    if beyond := [position for position in found if abs(position) > np.iinfo(np.int64).max]:
        raise PlanError(f"{config.file}:{line}: field {key!r}: {beyond[0]} is no coordinate of any run")
    return found
