"""Trained against optimal: how far a model is from the Bayes predictor of a synthetic source, position by position.

Dimension key: N sequences, C components, B sequences of one pass, T positions, S symbols, V entries of the vocabulary."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paribus.data.optimum import optimum
from paribus.data.synthetic import Source, SyntheticData, synthetic_source
from paribus.evals.config import BayesEval
from paribus.evals.frozen import FrozenSequences, source_sequences
from paribus.evals.loss import refuse_non_finite
from paribus.evals.results import EvalResult
from paribus.evals.scoring import EvalContext, score
from paribus.evals.statistics import entropy

ROUNDING = 1e-6  # of a KL divergence, nats: below, the two predictions are not what they claim to be
FALSE_ALARM = 1e-6  # the chance that an honest model is called a leak


class PositionMeans(NamedTuple):
    """Means by position, components weighted as the source weights them, with standard errors."""

    mean: NDArray[np.float64]  # (T,)
    error: NDArray[np.float64]  # (T,)


class Reference(NamedTuple):
    """What models are compared with: drawn and computed once."""

    source: Source
    sequences: FrozenSequences
    theory: dict[str, Any]


def reference(config: BayesEval, data: SyntheticData) -> Reference:
    """Draw the frozen sequences of a source, rounded up to the same number of each component."""
    source = synthetic_source(data)
    num_each = -(-config.sequences // source.num_components)
    sequences = source_sequences(source, range(source.num_components), num_each, data.window, config.seed)
    return Reference(source, sequences, theory(source, sequences, config.batch_size))


def bayes(config: BayesEval, model: nn.Module, against: Reference, context: EvalContext) -> EvalResult:
    """KL_t = E[sum_v P_Bayes ln(P_Bayes / P_model)] over the symbols v, and the losses of both on the same sequences.

    P_model is the softmax over the model's whole vocabulary: probability it wastes on ids that are no symbols (padding,
    the start token) counts against it. Raises Diverged if a number is not finite."""
    sequences = against.sequences

    def measure(logits_BTV: Tensor, rows: slice) -> Tensor:
        tokens_BT = sequences.symbols[rows]
        return divergences(logits_BTV, against.source.predict(tokens_BT), tokens_BT)

    numbers_NT3 = score(model, sequences.batch.tokens, config.batch_size, measure, context)
    refuse_non_finite(numbers_NT3, sequences.batch)
    return EvalResult(record(config, numbers_NT3.astype(np.float64), against, context))


def divergences(logits_BTV: Tensor, bayes_BTS: NDArray[np.float64], tokens_BT: NDArray[np.int32]) -> Tensor:
    """(B, T, 3) float64: the KL divergence of the predictions, and -ln P of the symbol that came, model's and Bayes'."""
    log_model_BTV = logits_BTV.double().log_softmax(-1)
    p_BTS = torch.from_numpy(np.ascontiguousarray(bayes_BTS)).to(logits_BTV.device)
    came_BT1 = torch.from_numpy(np.ascontiguousarray(tokens_BT)).to(logits_BTV.device).long()[..., None]
    log_model_BTS = log_model_BTV[..., : p_BTS.shape[-1]]
    kl_BT = (torch.xlogy(p_BTS, p_BTS) - p_BTS * log_model_BTS).sum(-1)
    model_BT = -log_model_BTS.gather(-1, came_BT1)[..., 0]
    best_BT = -p_BTS.gather(-1, came_BT1)[..., 0].log()
    return torch.stack([kl_BT, model_BT, best_BT], -1)


def record(
    config: BayesEval, numbers_NT3: NDArray[np.float64], against: Reference, context: EvalContext
) -> dict[str, Any]:
    """The JSON-able result, nats; positions count from 1 and lists follow them."""
    weights_C, component_N = against.source.weights, against.sequences.component
    kl, model, best, excess = (
        stratified(values_NT, component_N, weights_C)
        for values_NT in (*np.moveaxis(numbers_NT3, -1, 0), numbers_NT3[..., 1] - numbers_NT3[..., 2])
    )
    leak = leaks(numbers_NT3, component_N, weights_C)
    summary = {
        "kl": float(kl.mean.mean()),
        "kl_max": float(kl.mean.max()),
        "loss": float(model.mean.mean()),
        "bayes_loss": float(best.mean.mean()),
        "is_leak": float(leak["is_leak"]),
    }
    return {
        "kind": "bayes",
        "version": 1,
        "config": config.model_dump(mode="json"),
        "summary": summary,
        "precision": context.precision,
        "components": len(weights_C),
        "sequences": len(numbers_NT3),
        "predictions": numbers_NT3.shape[1],
        "kl": {
            "mean": summary["kl"],
            "max": summary["kl_max"],
            "max_at": int(kl.mean.argmax()) + 1,
            "min": float(kl.mean.min()),
            **_by_position(kl),
        },
        "loss": {"mean": summary["loss"], **_by_position(model)},
        "bayes_loss": {"mean": summary["bayes_loss"], **_by_position(best)},
        "excess": {"mean": float(excess.mean.mean()), **_by_position(excess)},
        "leak": leak,
        "theory": against.theory,
    }


def stratified(
    values_NT: NDArray[np.float64], component_N: NDArray[np.int32], weights_C: NDArray[np.float64]
) -> PositionMeans:
    """Mean over components, weighted, of the mean over each component's sequences."""
    mean_T, variance_T = np.zeros(values_NT.shape[1]), np.zeros(values_NT.shape[1])
    for component, weight in enumerate(weights_C):
        values_nT = values_NT[component_N == component]
        mean_T += weight * values_nT.mean(0)
        if len(values_nT) > 1:
            variance_T += weight**2 * values_nT.var(0, ddof=1) / len(values_nT)
    return PositionMeans(mean_T, np.sqrt(variance_T))


def leaks(
    numbers_NT3: NDArray[np.float64], component_N: NDArray[np.int32], weights_C: NDArray[np.float64]
) -> dict[str, Any]:
    """Does the model beat Bayes by more than luck? Then it sees what it should predict.

    For a model that does not look ahead, the ratio P_model / P_Bayes of what came, multiplied over independent sequences,
    has expectation at most 1, so that it exceeds 1 / alpha with a chance of at most alpha (Markov's inequality; no
    normal approximation). alpha is FALSE_ALARM shared among the positions. Drawing fixed numbers of each component,
    instead of random ones, multiplies chances by at most 1 / P(these numbers). A KL below -ROUNDING counts as well."""
    gain_T = (numbers_NT3[..., 2] - numbers_NT3[..., 1]).sum(0)
    counts_C = np.bincount(component_N, minlength=len(weights_C))
    ln_counts = math.lgamma(len(component_N) + 1) + math.fsum(
        n * math.log(w) - math.lgamma(n + 1) for n, w in zip(counts_C.tolist(), weights_C.tolist(), strict=True)
    )
    threshold = math.log(len(gain_T) / FALSE_ALARM) - ln_counts
    kl_T = stratified(numbers_NT3[..., 0], component_N, weights_C).mean
    positions = np.flatnonzero((gain_T > threshold) | (kl_T < -ROUNDING)) + 1
    warning = f"the model beats Bayes at {len(positions)} positions: it sees what it should predict"
    return {
        "is_leak": bool(len(positions)),
        "warning": warning if len(positions) else None,
        "positions": positions.tolist(),
        "gain": float(gain_T.max()),  # nats, over all sequences, at the position where it is largest
        "threshold": threshold,
    }


def theory(source: Source, sequences: FrozenSequences, batch_size: int) -> dict[str, Any]:
    """What is known of the source itself: its exact curves where they exist, and the conservation of information.

    `information` is I(C; X_1..T) = H(w) - E[H(C | X_1..T)], exact, or a mean over the frozen sequences; `excess` is E_t, and
    `conservation` is what its sum differs from `information` by: rounding, if all is well."""
    length, weights_C = sequences.symbols.shape[1], source.weights
    exact = optimum(source, length)
    known: dict[str, Any] = {"is_exact": exact is not None, "entropy": entropy(weights_C)}
    known["ceiling"] = known["entropy"] / length
    if exact is not None:
        known["information"] = float(exact.posterior[0] - exact.posterior[-1])
        known["information_error"] = 0.0
        known["conservation"] = float(exact.excess.sum()) - known["information"]
        return known | {
            "loss": exact.loss.tolist(),
            "known": exact.known.tolist(),
            "excess": exact.excess.tolist(),
        }
    left_N1 = np.concatenate(
        [
            _posterior_entropy(source, sequences.symbols[start : start + batch_size])
            for start in range(0, len(sequences.symbols), batch_size)
        ]
    )[:, None]
    left = stratified(left_N1, sequences.component, weights_C)
    known["information"] = known["entropy"] - float(left.mean[0])
    known["information_error"] = float(left.error[0])
    return known | {"conservation": None, "loss": None, "known": None, "excess": None}


def _posterior_entropy(source: Source, symbols_BT: NDArray[np.int32]) -> NDArray[np.float64]:
    """(B,) H(C | x_1 .. x_T), nats."""
    _, posterior_BC = source.filter(symbols_BT)
    safe_BC = np.where(posterior_BC > 0, posterior_BC, 1)
    return np.asarray(-(posterior_BC * np.log(safe_BC)).sum(1))


def _by_position(means: PositionMeans) -> dict[str, list[float]]:
    return {"by_position": means.mean.tolist(), "error": means.error.tolist()}
