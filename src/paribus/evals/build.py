"""From an `evals:` section to something that scores models, and the one call that does both."""

from collections.abc import Callable

from torch import nn

from paribus.data.config import TextData, TokenFilesData
from paribus.data.store import open_store
from paribus.data.synthetic import synthetic_source
from paribus.errors import ConfigError
from paribus.evals.bayes import bayes, reference
from paribus.evals.canary import canaries, canary
from paribus.evals.causality import causality
from paribus.evals.config import (
    BayesEval,
    CanaryEval,
    CausalityEval,
    EvalConfig,
    ExtractionEval,
    FictionalEval,
    LossEval,
    PerplexityEval,
    RankedEval,
    ScriptEval,
    TextEval,
    VerbatimEval,
    WatermarkEval,
)
from paribus.evals.extraction import extraction, extracts
from paribus.evals.fictional import facts, fictional
from paribus.evals.frozen import loss_windows
from paribus.evals.loss import loss
from paribus.evals.perplexity import file_perplexity, file_windows
from paribus.evals.ranked import questions, ranked
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext
from paribus.evals.script import command, script
from paribus.evals.verbatim import excerpts, verbatim
from paribus.evals.watermark import watermark, watermarked_rows

__all__ = ["EvalContext", "Evaluation", "build_evaluation", "evaluate"]

Evaluation = Callable[[nn.Module, int], EvalResult]  # a model, and the steps that it was trained for


def build_evaluation(config: EvalConfig, context: EvalContext) -> Evaluation:
    """Draw or read what models are scored on, once; the function returned scores one model after another on it.

    Scoring changes neither the model nor any random state, and is deterministic for a batch size, device and thread count.
    Raises DataError if the windows cannot be drawn, ConfigError if the evaluation does not fit the data."""
    if isinstance(config, WatermarkEval):
        rows = watermarked_rows(config, context)
        return lambda model, step: watermark(config, model, rows, step, context)
    score = _of_weights(config, context)
    return lambda model, step: score(model)


def _of_weights(
    config: LossEval | BayesEval | CausalityEval | TextEval | ScriptEval, context: EvalContext
) -> Callable[[nn.Module], EvalResult]:
    """The evaluations that depend on a model's weights alone."""
    match config:
        case LossEval():
            windows = loss_windows(config, context.data, context.seeds)
            return lambda model: loss(config, model, windows, context)
        case BayesEval():
            if isinstance(context.data, TextData | TokenFilesData):
                raise ConfigError(
                    f"an evaluation of kind bayes needs a synthetic source, found data of kind {context.data.kind}; "
                    "use kind loss"
                )
            against = reference(config, context.data)
            return lambda model: bayes(config, model, against, context)
        case CausalityEval():
            vocab_size = _vocab_size(context)
            return lambda model: causality(config, model, vocab_size, context)
        case ScriptEval():
            called = command(config, context)
            return lambda model: script(config, model, called, context)
        case texts:
            return _of_texts(texts, context)


def _of_texts(config: TextEval, context: EvalContext) -> Callable[[nn.Module], EvalResult]:
    match config:
        case CanaryEval():
            secrets = canaries(config, context)
            return lambda model: canary(config, model, secrets, context)
        case VerbatimEval():
            cut = excerpts(config, context)
            return lambda model: verbatim(config, model, cut, context)
        case ExtractionEval():
            prompts = extracts(config, context)
            return lambda model: extraction(config, model, prompts, context)
        case FictionalEval():
            known = facts(config, context)
            return lambda model: fictional(config, model, known, context)
        case RankedEval():
            quiz = questions(config, context)
            return lambda model: ranked(config, model, quiz, context)
        case PerplexityEval():
            files = file_windows(config, context)
            return lambda model: file_perplexity(config, model, files, context)


def evaluate(config: EvalConfig, model: nn.Module, context: EvalContext, step: int = 0) -> EvalResult:
    """Score one model once."""
    return build_evaluation(config, context)(model, step)


def _vocab_size(context: EvalContext) -> int:
    match context.data:
        case TextData(store=store):
            return open_store(store).vocab_size
        case TokenFilesData(vocab_size=vocab_size):
            return vocab_size
        case data:
            return synthetic_source(data).vocab_size
