"""Canaries: the likelihood of texts that may have been inserted, and their exposure.

Dimension key: N canaries."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paribus.data.generators import generator
from paribus.evals.config import CanaryEval, ReferenceDraws, ReferenceFile, input_files
from paribus.evals.likelihood import log_likelihoods
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import Row, Words, after, alone, frame, group_means, groups, records, words


class Canaries(NamedTuple):
    """What models are asked: read and tokenised once."""

    lines: list[int]
    rows: list[Row]
    groups: list[str] | None
    references: list[Row]


class Exposure(NamedTuple):
    """Of N canaries."""

    bits: NDArray[np.float64]  # (N,)
    rank: NDArray[np.int64]  # (N,): from 1
    candidates: NDArray[np.int64]  # (N,): references of another text, and the canary


def canaries(config: CanaryEval, context: EvalContext) -> Canaries:
    """Read the canaries and their references. Raises DataError, with file and line, for what cannot be scored."""
    alphabet = words(context.data, config.start_token)
    found = records(config.file, config.items)
    rows = [_row(alphabet, config.prefix, record.text(config.key), record.where) for record in found]
    match config.references:
        case ReferenceFile(file=file, key=key):
            references = [_row(alphabet, config.prefix, record.text(key), record.where) for record in records(file)]
        case ReferenceDraws() as draws:
            references = drawn(draws, rows, is_first_given=not (alphabet.start or config.prefix))
        case None:
            references = []
    return Canaries([record.line for record in found], rows, groups(found, config.group_key), references)


def _row(alphabet: Words, prefix: str, text: str, where: str) -> Row:
    return after(alphabet, prefix, text, where) if prefix else alone(alphabet, text, where)


def drawn(config: ReferenceDraws, rows: Sequence[Row], *, is_first_given: bool) -> list[Row]:
    """`num` token lists for each length that the canaries have, in their place after the same given tokens.

    is_first_given: nothing stands before a canary, so that a list's first token is drawn, and given, too. The lists of
    one length do not depend on the other lengths; they do depend on the set of the canaries' tokens."""
    own = [row.given + row.scored if is_first_given else row.scored for row in rows]
    tokens = np.array(sorted({token for ids in own for token in ids}), np.int64)
    before = {len(ids): [] if is_first_given else row.given for ids, row in zip(own, rows, strict=True)}
    references = []
    for length in sorted(before):
        picks = generator(config.seed, "exposure", length).integers(0, len(tokens), (config.num, length))
        for number, ids in enumerate(tokens[picks].tolist()):
            whole, first = before[length] + ids, len(before[length]) or 1
            references.append(Row(f"reference {number} of {length} tokens", whole[:first], whole[first:], 0))
    return references


def exposure(config: CanaryEval, asked: Canaries, own_N: NDArray[np.float64], others: NDArray[np.float64]) -> Exposure:
    """log2 |R| - log2 rank (Carlini et al. 2019, "The Secret Sharer", definition 4), the rank counted exactly.

    own_N, others: ln P of canaries and references. The candidates R of a canary are the references and itself; drawn
    references count for the canaries of their length. A reference of the same tokens is the canary, not a rival; one of
    the same likelihood ranks before it, so that a model that cannot tell them apart exposes nothing."""
    is_drawn = isinstance(config.references, ReferenceDraws)
    texts = [tuple(row.given + row.scored) for row in asked.references]
    sizes = np.array([len(text) for text in texts])
    rank_N, size_N = np.ones(len(own_N), np.int64), np.ones(len(own_N), np.int64)
    places: dict[tuple[int, ...], list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    for number, row in enumerate(asked.rows):
        own = tuple(row.given + row.scored)
        rivals = sizes == len(own) if is_drawn else np.ones(len(texts), bool)
        rivals[places.get(own, [])] = False
        rank_N[number] += int((others[rivals] >= own_N[number]).sum())
        size_N[number] += int(rivals.sum())
    return Exposure(np.log2(size_N) - np.log2(rank_N), rank_N, size_N)


def canary(config: CanaryEval, model: nn.Module, asked: Canaries, context: EvalContext) -> EvalResult:
    """Score canaries and references in one go. nll_sum, nll_token and nll_byte are nats; exposure is bits."""
    every = log_likelihoods(model, asked.rows + asked.references, config.batch_size, context)
    own_N, others = every[: len(asked.rows)], every[len(asked.rows) :]
    tokens_N = np.array([len(row.scored) for row in asked.rows])
    bytes_N = np.array([row.num_bytes for row in asked.rows])
    columns = {"nll_sum": -own_N, "nll_token": -own_N / tokens_N, "nll_byte": -own_N / bytes_N}
    items = {"line": asked.lines, "tokens": tokens_N.tolist(), "bytes": bytes_N.tolist(), "nll_sum": (-own_N).tolist()}
    if config.references is not None:
        found = exposure(config, asked, own_N, others)
        columns["exposure"] = found.bits
        items |= {"rank": found.rank.tolist(), "candidates": found.candidates.tolist()}
        items["exposure"] = found.bits.tolist()
    summary, by_group = group_means(columns, asked.groups)
    record = frame(config, "canary", summary, context.precision, input_files(config))
    return EvalResult(record | by_group | {"items": items})
