"""Synthetic sources whose optimum is known: mixtures of coins, Markov and hidden Markov chains, one component a window.

All three are hidden Markov chains: a coin has one state, a Markov chain shows its state. The mixture of C of them is one
hidden Markov chain with a block-diagonal transition matrix, and Bayes' predictor is its forward algorithm (Rabiner 1989).

Dimension key: N sequences, C components, S states of a component, V symbols, L positions."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import Batch, Overlay, Stream, untouched
from paribus.data.config import CoinsData, HiddenMarkovData, MarkovData, Seeds
from paribus.data.generators import generator
from paribus.data.numbered import by_step, uniform

Floats = NDArray[np.float64]
SyntheticData = CoinsData | MarkovData | HiddenMarkovData
_WINDOWS_AT_ONCE = 1024  # made together: numpy takes half as long for each as in batches of 128


class Source(NamedTuple):
    """A mixture of hidden Markov chains."""

    weights: Floats  # (C,), sum 1
    start: Floats  # (C, S)
    transition: Floats  # (C, S, S), rows sum to 1
    emission: Floats  # (C, S, V), rows sum to 1

    @property
    def num_components(self) -> int:
        return len(self.weights)

    @property
    def num_symbols(self) -> int:
        return int(self.emission.shape[-1])

    @property
    def vocab_size(self) -> int:
        """The symbols and the start token, whose id is num_symbols."""
        return self.num_symbols + 1

    def sample(
        self, draw: np.random.Generator, num: int, length: int, component: NDArray[np.integer] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Draw sequences: (N, L) symbols and (N,) components, those given or drawn by weight."""
        return self.from_uniform(draw.random((num, 1 + 2 * length)), component)

    def from_uniform(
        self, numbers: Floats, component: NDArray[np.integer] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The sequences that (N, 1 + 2 L) numbers of [0, 1) stand for, by inversion of each distribution."""
        num, length = len(numbers), numbers.shape[1] // 2
        of_component, *of_position = np.ascontiguousarray(numbers.T)
        if component is None:
            component = _inverse(_ends(self.weights[None]), np.zeros(num, np.int64), of_component)
        starts, steps, shows = _ends(self.start), _ends(self.transition), _ends(self.emission)
        symbols = np.empty((length, num), np.int32)
        first_row = component * self.start.shape[1]  # of the component's states among all
        row = first_row
        for t in range(length):
            law, of = (starts, component) if t == 0 else (steps, row)
            row = first_row + _inverse(law, of, of_position[2 * t])
            symbols[t] = _inverse(shows, row, of_position[2 * t + 1])
        return np.ascontiguousarray(symbols.T), component.astype(np.int32)

    def predict(self, symbols: NDArray[np.integer]) -> Floats:
        """Bayes' prediction of each symbol from those before it: (N, L) -> (N, L, V), rows sum to 1."""
        predicted, _ = self.filter(symbols)
        return predicted

    def filter(self, symbols: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """(predictions (N, L, V), posterior of the component after all L symbols (N, C)).

        Exact for evidence of any size: a component keeps its own belief and the logarithm of its weight, so that one that
        a thousand symbols speak against can come back. Raises ValueError for a sequence that none can have produced."""
        num, length = symbols.shape
        predicted = np.empty((num, length, self.num_symbols))
        belief = np.repeat(self.start[:, None], num, axis=1)  # (C, N, S): of the next state, each component on its own
        log_weights = np.repeat(log(self.weights)[:, None], num, axis=1)  # (C, N)
        posterior = _softmax(log_weights)
        for t in range(length):
            predicted[:, t] = np.einsum("cn,cnv->nv", posterior, belief @ self.emission)
            came = belief * self.emission[:, :, symbols[:, t]].transpose(0, 2, 1)
            evidence = came.sum(2, keepdims=True)
            log_weights += log(evidence[..., 0])
            if np.isneginf(log_weights).all(0).any():
                raise ValueError(f"symbol {t} of a sequence is impossible under every component")
            posterior = _softmax(log_weights)
            belief = (came / np.where(evidence > 0, evidence, 1)) @ self.transition
        return predicted, posterior.T


def coins(probabilities: Floats, weights: Floats | None = None) -> Source:
    """Coins that show 1 with these probabilities; equal weights unless given."""
    p = np.asarray(probabilities, np.float64)
    one = np.ones((len(p), 1))
    return Source(_weights(weights, len(p)), one, one[..., None], np.stack([1 - p, p], -1)[:, None])


def markov(transition: Floats, weights: Floats | None = None) -> Source:
    """Stationary Markov chains with these (C, V, V) transition matrices."""
    matrices = np.asarray(transition, np.float64)
    identity = np.broadcast_to(np.eye(matrices.shape[-1]), matrices.shape)
    return Source(_weights(weights, len(matrices)), np.stack([stationary(m) for m in matrices]), matrices, identity)


def hidden_markov(transition: Floats, emission: Floats, weights: Floats | None = None) -> Source:
    """Stationary hidden Markov chains: (C, S, S) transition and (C, S, V) emission matrices."""
    matrices = np.asarray(transition, np.float64)
    starts = np.stack([stationary(m) for m in matrices])
    return Source(_weights(weights, len(matrices)), starts, matrices, np.asarray(emission, np.float64))


def stationary(matrix: Floats) -> Floats:
    """The distribution that a transition matrix keeps: pi (P - 1) = 0, sum pi = 1, by least squares."""
    size = len(matrix)
    equations = np.vstack([matrix.T - np.eye(size), np.ones(size)])
    solution = np.linalg.lstsq(equations, np.append(np.zeros(size), 1.0), rcond=None)[0]
    kept = np.clip(solution, 0, None)
    return np.asarray(kept / kept.sum())


def synthetic_source(config: SyntheticData) -> Source:
    """The source of a `data:` section; matrices are drawn from symmetric Dirichlets by `tables_seed`."""
    match config:
        case CoinsData():
            return coins(np.arange(1, config.num_components + 1) / (config.num_components + 1))
        case MarkovData():
            return markov(_dirichlet(config, "transition", config.num_symbols, config.num_symbols))
        case HiddenMarkovData():
            transition = _dirichlet(config, "transition", config.num_states, config.num_states)
            return hidden_markov(transition, _dirichlet(config, "emission", config.num_states, config.num_symbols))


def log(values: Floats) -> Floats:
    """The natural logarithm; that of zero is -inf, without a warning."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(values))


def component_names(source: Source) -> tuple[str, ...]:
    """`component-00`, `component-01`, ...: the categories of a synthetic source."""
    return tuple(f"component-{number:02d}" for number in range(source.num_components))


def synthetic_stream(config: SyntheticData, seeds: Seeds, batch_size: int, overlay: Overlay = untouched) -> Stream:
    """An endless stream of fresh windows; window n of the run is the n-th, whatever the batch size."""
    source = synthetic_source(config)
    make = windows(config, seeds)
    rows = by_step(lambda first, stop: make(first, stop)[0], batch_size, _WINDOWS_AT_ONCE)

    def batches(step: int) -> Batch:
        ids = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
        symbols = rows(step).copy()
        overlay(step, symbols)
        return with_start(source, symbols, ids)

    return Stream(
        batches=batches,
        window=config.window,
        row_tokens=config.window,
        vocab_size=source.vocab_size,
        categories=component_names(source),
        windows_per_epoch=None,
        unique_tokens=None,
        facts={"num_symbols": source.num_symbols, "num_components": source.num_components},
    )


def windows(config: SyntheticData, seeds: Seeds) -> Callable[[int, int], tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """A function of (first, stop): the symbols and the component of the run's windows first .. stop - 1."""
    source = synthetic_source(config)

    def make(first: int, stop: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return source.from_uniform(uniform(seeds.order, "synthetic", first, stop, 1 + 2 * config.window))

    return make


def with_start(source: Source, symbols: NDArray[np.int32], ids: NDArray[np.int64]) -> Batch:
    """Every symbol is a target, the first one predicted from the start token alone."""
    start = np.full((len(symbols), 1), source.num_symbols, np.int32)
    return Batch(np.concatenate([start, symbols[:, :-1]], 1), symbols, ids)


def _softmax(log_weights: Floats) -> Floats:
    """Probabilities over the first axis, of which at least one is not zero."""
    shares = np.exp(log_weights - log_weights.max(0))
    return np.asarray(shares / shares.sum(0))


def _ends(laws: Floats) -> Floats:
    """Where the share of [0, 1) of each outcome but the last ends: (..., K) probabilities -> (K - 1, rows)."""
    *rows, outcomes = laws.shape
    ends = np.cumsum(laws, axis=-1)[..., :-1].reshape(math.prod(rows), outcomes - 1)
    return np.ascontiguousarray(ends.T)


def _inverse(ends: Floats, rows: NDArray[np.integer], numbers: Floats) -> NDArray[np.int64]:
    """The outcome that each number of [0, 1) stands for under the law of its row: (N,), (N,) -> (N,)."""
    return np.asarray((ends.take(rows, axis=1) <= numbers).sum(0))


def _weights(weights: Floats | None, num: int) -> Floats:
    return np.full(num, 1 / num) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)


def _dirichlet(config: MarkovData | HiddenMarkovData, purpose: str, rows: int, columns: int) -> Floats:
    draw = generator(config.tables_seed, purpose)
    return draw.dirichlet(np.full(columns, config.concentration), (config.num_components, rows))
