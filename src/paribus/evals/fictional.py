"""Fictional knowledge: does the model know a fact that it can only have from what was inserted?

Dimension key: N items."""

from typing import NamedTuple

import numpy as np
from torch import nn

from paribus.errors import DataError
from paribus.evals.config import FictionalEval, input_files
from paribus.evals.greedy import continuations
from paribus.evals.likelihood import log_likelihoods
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import Prompt, Row, Words, after, frame, group_means, groups, prompt, records, words


class Facts(NamedTuple):
    """N prompts with their targets."""

    lines: list[int]
    rows: list[Row]
    prompts: list[Prompt]
    targets: list[str]
    groups: list[str] | None
    alphabet: Words


def facts(config: FictionalEval, context: EvalContext) -> Facts:
    """Read and tokenise. Raises DataError, with file and line, for an empty prompt or target."""
    alphabet = words(context.data, config.start_token)
    found = records(config.file, config.items)
    rows, prompts, targets = [], [], []
    for record in found:
        before, target = record.text(config.prompt_key), record.text(config.target_key)
        if not target.strip():
            raise DataError(f"{record.where}: field {config.target_key!r}: an empty target")
        rows.append(after(alphabet, before, config.target_delimiter + target, record.where))
        prompts.append(prompt(alphabet, before, config.max_tokens, record.where))
        targets.append(target.strip())
    lines = [record.line for record in found]
    return Facts(lines, rows, prompts, targets, groups(found, config.group_key), alphabet)


def fictional(config: FictionalEval, model: nn.Module, asked: Facts, context: EvalContext) -> EvalResult:
    """`probability` and `log_probability` (nats) of the whole target; `contains`: the share of continuations that hold
    it, letter by letter."""
    log_N = log_likelihoods(model, asked.rows, config.batch_size, context)
    texts = asked.alphabet.tokenizer.decode_batch(continuations(model, asked.prompts, config.batch_size, context))
    contains_N = np.array([target in text for target, text in zip(asked.targets, texts, strict=True)], np.float64)
    columns = {"probability": np.exp(log_N), "log_probability": log_N, "contains": contains_N}
    summary, by_group = group_means(columns, asked.groups)
    items = {"line": asked.lines, "log_probability": log_N.tolist(), "continuation": texts}
    record = frame(config, "fictional", summary, context.precision, input_files(config))
    return EvalResult(record | by_group | {"items": items})
