"""Perplexity of whole files, read in windows."""

import math
from typing import NamedTuple

import numpy as np
from torch import nn

from paribus.errors import ConfigError, DataError
from paribus.evals.config import PerplexityEval, input_files
from paribus.evals.likelihood import log_likelihoods, room
from paribus.evals.loss import perplexity
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import Row, Words, alone, documents_of, frame, words


class Windows(NamedTuple):
    """A file as rows: every token that something predicts is scored in exactly one of them."""

    rows: list[Row]
    tokens: int  # scored
    bytes: int  # of the text that they stand for


def file_windows(config: PerplexityEval, context: EvalContext) -> dict[str, Windows]:
    """Read and tokenise every file. Raises DataError for one that is no UTF-8 text, or has nothing to score."""
    alphabet = words(context.data, config.start_token)
    window = config.window or context.data.window
    stride = config.stride or window
    if stride > window:
        raise ConfigError(f"stride: {stride} tokens would leave gaps between windows of {window}")
    return {name: _windows(alphabet, path, config.key, (window, stride)) for name, path in config.files.items()}


def _windows(alphabet: Words, path: str, key: str, size: tuple[int, int]) -> Windows:
    documents = [alone(alphabet, found.text, found.where) for found in documents_of(path, key)]
    rows = [row for document in documents for row in cut(document, *size, starts_anew=bool(alphabet.start))]
    return Windows(rows, sum(len(row.scored) for row in rows), sum(document.num_bytes for document in documents))


def cut(document: Row, window: int, stride: int, *, starts_anew: bool) -> list[Row]:
    """Windows that start at tokens 0, stride, 2 stride, ... and hold `window` predictions, the last one fewer.

    Each scores the tokens that none before it scored: the first all of its own, every other one its last `stride`,
    after window - stride tokens of context or more. starts_anew: a start token stands before every window, as in
    training; otherwise the token before it in the text does."""
    whole, scored = document.given + document.scored, document.scored
    rows: list[Row] = []
    done = begin = 0
    while done < len(scored):
        stop = min(begin + window, len(scored))
        before = document.given if starts_anew else whole[begin : begin + 1]
        rows.append(Row(document.where, before + scored[begin:done], scored[done:stop], 0))
        done, begin = stop, begin + stride
    return rows


def file_perplexity(
    config: PerplexityEval, model: nn.Module, asked: dict[str, Windows], context: EvalContext
) -> EvalResult:
    """For each file: nll (nats a token), perplexity, bits_per_byte."""
    limit = room(model)
    longest = max(len(row.given) + len(row.scored) - 1 for windows in asked.values() for row in windows.rows)
    if limit is not None and longest > limit:
        raise DataError(
            f"window: {longest} predictions, but the model has {limit} positions; choose a shorter `window`"
        )
    rows = [row for windows in asked.values() for row in windows.rows]
    log_N = log_likelihoods(model, rows, config.batch_size, context)
    ends = np.cumsum([len(windows.rows) for windows in asked.values()])[:-1]
    nats = {name: -float(part.sum()) for name, part in zip(asked, np.split(log_N, ends), strict=True)}
    files = {
        name: {
            "nll": nats[name] / windows.tokens,
            "perplexity": perplexity(nats[name] / windows.tokens),
            "bits_per_byte": nats[name] / windows.bytes / math.log(2),
        }
        for name, windows in asked.items()
    }
    summary = {f"{metric}/{name}": value for name, found in files.items() for metric, value in found.items()}
    record = frame(config, "perplexity", summary, context.precision, input_files(config))
    counts = {
        name: {"tokens": windows.tokens, "bytes": windows.bytes, "windows": len(windows.rows)}
        for name, windows in asked.items()
    }
    return EvalResult(record | {"files": {name: found | counts[name] for name, found in files.items()}})
