"""Ranked classification: the choice whose likelihood is highest, by the conventions of lm-evaluation-harness.

Dimension key: N questions, M choices of all questions one after another."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paribus.errors import DataError
from paribus.evals.config import RankedEval, input_files
from paribus.evals.likelihood import log_likelihoods, room
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import Record, Row, Words, after, frame, group_means, groups, mean_error, records, words


class Questions(NamedTuple):
    """N questions with M choices in all."""

    lines: list[int]
    rows: list[Row]  # M
    sizes: NDArray[np.float64]  # (M, 3): 1, characters, UTF-8 bytes: what a likelihood is divided by
    first: NDArray[np.int64]  # (N,): each question's first choice
    gold: NDArray[np.int64]  # (N,): the right choice of each question, from 0
    groups: list[str] | None


METRICS = ("acc", "acc_char", "acc_bytes")


def questions(config: RankedEval, context: EvalContext) -> Questions:
    """Read and tokenise. Raises DataError, with file and line, for a line that is not of the form."""
    alphabet = words(context.data, config.start_token)
    found = records(config.file, config.items)
    rows: list[Row] = []
    sizes, first, gold = [], [], []
    for record in found:
        first.append(len(rows))
        gold.append(_gold(record))
        for choice, scored in _choices(record, alphabet):
            rows.append(choice)
            sizes.append((1, len(scored), len(scored.encode())))
    lines = [record.line for record in found]
    return Questions(
        lines, rows, np.array(sizes, np.float64), np.array(first), np.array(gold), groups(found, config.group_key)
    )


def _gold(record: Record) -> int:
    """The number of the right choice. Raises DataError unless it is one of a list of texts."""
    choices, gold = record.get("choices"), record.get("gold")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise DataError(f"{record.where}: field 'choices': expected a list of texts, none empty")
    if type(gold) is not int or not 0 <= gold < len(choices):
        raise DataError(f"{record.where}: field 'gold': expected 0 to {len(choices) - 1}, found {gold!r}")
    return gold


def _choices(record: Record, alphabet: Words) -> list[tuple[Row, str]]:
    """Each choice as a row, with the text that its likelihood is divided by the length of.

    " " + choice after the context; with a suffix, the suffix after context + choice (partial evaluation, Trinh & Le
    2018), and then the lengths are those of the suffix, the same for every choice."""
    context, choices = record.text("context"), record.get("choices")
    if "suffix" not in record.fields:
        return [(after(alphabet, context, f" {choice}", record.where), choice) for choice in choices]
    suffix = record.text("suffix")
    return [(after(alphabet, context + choice, suffix, record.where), suffix) for choice in choices]


def ranked(config: RankedEval, model: nn.Module, asked: Questions, context: EvalContext) -> EvalResult:
    """acc, acc_char (the harness's acc_norm) and acc_bytes: the likelihood as it is, by character, by UTF-8 byte.

    Of equal choices the first counts. `gold_bits_per_byte` is that of the right choice. What does not fit into the
    model's positions loses its first tokens, as in the harness."""
    limit = room(model)
    rows = [shortened(row, limit) for row in asked.rows]
    log_M = log_likelihoods(model, rows, config.batch_size, context)
    scores_M3 = log_M[:, None] / asked.sizes
    stops = [*asked.first[1:].tolist(), len(rows)]
    chosen_N3 = np.array(
        [scores_M3[first:stop].argmax(0) for first, stop in zip(asked.first.tolist(), stops, strict=True)]
    )
    right_N3 = (chosen_N3 == asked.gold[:, None]).astype(np.float64)
    columns = {metric: right_N3[:, place] for place, metric in enumerate(METRICS)}
    gold_M = asked.first + asked.gold
    columns["gold_bits_per_byte"] = -log_M[gold_M] / asked.sizes[gold_M, 2] / np.log(2)
    summary, by_group = group_means(columns, asked.groups)
    record = frame(config, "ranked", summary, context.precision, input_files(config))
    for metric, values_N in columns.items():
        mean, error = mean_error(values_N)
        record[metric] = {"mean": mean, "error": error}
    record["count"] = len(asked.gold)
    record["shortened"] = sum(len(a.given) < len(b.given) for a, b in zip(rows, asked.rows, strict=True))
    return EvalResult(record | by_group | {"items": _items(asked, chosen_N3, columns["gold_bits_per_byte"])})


def _items(asked: Questions, chosen_N3: NDArray[np.int64], bits_N: NDArray[np.float64]) -> dict[str, Any]:
    chosen = {f"choice_{metric}": chosen_N3[:, place].tolist() for place, metric in enumerate(METRICS)}
    return {"line": asked.lines, "gold": asked.gold.tolist()} | chosen | {"gold_bits_per_byte": bits_N.tolist()}


def shortened(row: Row, limit: int | None) -> Row:
    """Without the first given tokens, as many as are too many for `limit` positions; one stays."""
    excess = 0 if limit is None else len(row.given) + len(row.scored) - 1 - limit
    return row if excess <= 0 else row._replace(given=row.given[min(excess, len(row.given) - 1) :])
