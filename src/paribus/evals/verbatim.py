"""Verbatim memorisation: greedy decoding of a text's first tokens, compared with its next ones.

Dimension key: N texts."""

from typing import NamedTuple

import numpy as np
from torch import nn

from paribus.errors import DataError
from paribus.evals.config import VerbatimEval, input_files
from paribus.evals.greedy import continuations
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import Prompt, frame, group_means, groups, records, words


class Excerpts(NamedTuple):
    """N texts, each cut into what is given and what should follow."""

    lines: list[int]
    prompts: list[Prompt]
    targets: list[list[int]]
    groups: list[str] | None


def excerpts(config: VerbatimEval, context: EvalContext) -> Excerpts:
    """Read and cut the texts. Raises DataError, with file and line, for one of fewer than k + l tokens."""
    alphabet = words(context.data, config.start_token)
    k, num = config.prompt_tokens, config.continuation_tokens
    found = records(config.file, config.items)
    prompts, targets = [], []
    for record in found:
        tokens = alphabet.encode(record.text(config.key))
        if len(tokens) < k + num:
            raise DataError(
                f"{record.where}: {len(tokens)} tokens, expected at least {k} + {num}; "
                "lower prompt_tokens or continuation_tokens"
            )
        prompts.append(Prompt(record.where, alphabet.start + tokens[:k], num))
        targets.append(tokens[k : k + num])
    return Excerpts([record.line for record in found], prompts, targets, groups(found, config.group_key))


def verbatim(config: VerbatimEval, model: nn.Module, asked: Excerpts, context: EvalContext) -> EvalResult:
    """`exact`: the share of texts whose l tokens all came; `matching`: tokens until the first wrong one, on average."""
    decoded = continuations(model, asked.prompts, config.batch_size, context)
    matching_N = np.array([matching(ours, truth) for ours, truth in zip(decoded, asked.targets, strict=True)])
    exact_N = matching_N == config.continuation_tokens
    columns = {"exact": exact_N.astype(np.float64), "matching": matching_N.astype(np.float64)}
    summary, by_group = group_means(columns, asked.groups)
    items = {"line": asked.lines, "matching": matching_N.tolist()}
    record = frame(config, "verbatim", summary, context.precision, input_files(config))
    return EvalResult(record | by_group | {"items": items})


def matching(ours: list[int], truth: list[int]) -> int:
    """How many tokens agree from the first on."""
    pairs = zip(ours, truth, strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(truth))
