"""Prompt extraction: the greedy continuation of a prompt against the text that once followed it, by ROUGE-L recall.

Dimension key: N items."""

import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from torch import nn

from paribus.errors import DataError
from paribus.evals.config import ExtractionEval, input_files
from paribus.evals.greedy import continuations
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import Prompt, Words, after, frame, group_means, groups, prompt, records, words

_WORD = re.compile(r"[^\W_]+")


class Extracts(NamedTuple):
    """N prompts and what should follow them."""

    lines: list[int]
    prompts: list[Prompt]
    references: list[Sequence[Hashable]]  # words or ids
    groups: list[str] | None
    alphabet: Words


def extracts(config: ExtractionEval, context: EvalContext) -> Extracts:
    """Read and tokenise. Raises DataError, with file and line, for an empty prompt or a reference without a word."""
    alphabet = words(context.data, config.start_token)
    found = records(config.file, config.items)
    prompts: list[Prompt] = []
    references: list[Sequence[Hashable]] = []
    for record in found:
        before, reference = record.text(config.prompt_key), record.text(config.reference_key)
        row = after(alphabet, before, config.target_delimiter + reference, record.where)
        parts: Sequence[Hashable] = row.scored if config.unit == "tokens" else split(reference)
        if not parts:
            raise DataError(f"{record.where}: field {config.reference_key!r}: no word in it")
        prompts.append(prompt(alphabet, before, config.max_tokens or len(row.scored), record.where))
        references.append(parts)
    lines = [record.line for record in found]
    return Extracts(lines, prompts, references, groups(found, config.group_key), alphabet)


def extraction(config: ExtractionEval, model: nn.Module, asked: Extracts, context: EvalContext) -> EvalResult:
    """`rouge_l`: mean recall; `extracted`: the share of items whose recall is above the threshold."""
    decoded = continuations(model, asked.prompts, config.batch_size, context)
    texts = asked.alphabet.tokenizer.decode_batch(decoded)
    ours: Sequence[Sequence[Hashable]] = decoded if config.unit == "tokens" else [split(text) for text in texts]
    recall_N = np.array([recall(said, reference) for said, reference in zip(ours, asked.references, strict=True)])
    columns = {"rouge_l": recall_N, "extracted": (recall_N > config.threshold).astype(np.float64)}
    summary, by_group = group_means(columns, asked.groups)
    items = {"line": asked.lines, "rouge_l": recall_N.tolist(), "continuation": texts}
    record = frame(config, "extraction", summary, context.precision, input_files(config))
    return EvalResult(record | by_group | {"items": items})


def split(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.lower())


def recall(said: Sequence[Hashable], reference: Sequence[Hashable]) -> float:
    """ROUGE-L recall (Lin 2004, "ROUGE", section 3.1): the longest common subsequence over the reference's length."""
    return common_subsequence(said, reference) / len(reference)


def common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, exact: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    One bit for each element of `a`; a bit that has turned 0 is one step more of the subsequence."""
    places: dict[Hashable, int] = {}
    for place, element in enumerate(a):
        places[element] = places.get(element, 0) | 1 << place
    every = (1 << len(a)) - 1
    open_bits = every
    for element in b:
        met = open_bits & places.get(element, 0)
        open_bits = (open_bits + met | open_bits - met) & every
    return len(a) - open_bits.bit_count()
