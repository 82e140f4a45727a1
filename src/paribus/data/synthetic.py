"""Synthetic sources whose optimum is known: mixtures of coins, Markov and hidden Markov chains, one component a window.

All three are hidden Markov chains: a coin has one state, a Markov chain shows its state. The mixture of C of them is one
hidden Markov chain with a block-diagonal transition matrix, and Bayes' predictor is its forward algorithm (Rabiner 1989).

Dimension key: N sequences, C components, S states of a component, V symbols, L positions."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.batches import Batch, Stream
from paribus.data.config import CoinsData, HiddenMarkovData, MarkovData, Seeds
from paribus.data.generators import generator
from paribus.data.numbered import by_step, uniform

Floats = NDArray[np.float64]
SyntheticData = CoinsData | MarkovData | HiddenMarkovData
_WINDOWS_AT_ONCE = 4096  # made together: numpy takes as long for a hundred


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
        if component is None:
            component = _invert(np.broadcast_to(self.weights, (len(numbers), self.num_components)), numbers[:, 0])
        length = numbers.shape[1] // 2
        symbols = np.empty((len(numbers), length), np.int32)
        ahead = self.start[component]
        for t in range(length):
            state = _invert(ahead, numbers[:, 1 + 2 * t])
            symbols[:, t] = _invert(self.emission[component, state], numbers[:, 2 + 2 * t])
            ahead = self.transition[component, state]
        return symbols, component.astype(np.int32)

    def predict(self, symbols: NDArray[np.integer]) -> Floats:
        """Bayes' prediction of each symbol from those before it: (N, L) -> (N, L, V), rows sum to 1."""
        predicted, _ = self.filter(symbols)
        return predicted

    def filter(self, symbols: NDArray[np.integer]) -> tuple[Floats, Floats]:
        """(predictions (N, L, V), posterior of the component after all L symbols (N, C)).

        Raises ValueError for a sequence that no component can have produced."""
        num, length = symbols.shape
        predicted = np.empty((num, length, self.num_symbols))
        belief = np.repeat((self.weights[:, None] * self.start)[None], num, axis=0)  # (N, C, S): of the next state
        posterior = np.broadcast_to(self.weights, (num, self.num_components))
        for t in range(length):
            predicted[:, t] = belief.reshape(num, -1) @ self.emission.reshape(-1, self.num_symbols)
            came = belief * self.emission.transpose(2, 0, 1)[symbols[:, t]]
            total = came.sum((1, 2), keepdims=True)
            if not total.all():
                raise ValueError(f"symbol {t} of a sequence is impossible under every component")
            came /= total
            posterior = came.sum(2)
            belief = np.einsum("ncs,csr->ncr", came, self.transition)
        return predicted, posterior


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


def component_names(source: Source) -> tuple[str, ...]:
    """`component-00`, `component-01`, ...: the categories of a synthetic source."""
    return tuple(f"component-{number:02d}" for number in range(source.num_components))


def synthetic_stream(config: SyntheticData, seeds: Seeds, batch_size: int) -> Stream:
    """An endless stream of fresh windows; window n of the run is the n-th, whatever the batch size."""
    source = synthetic_source(config)
    make = windows(config, seeds)
    rows = by_step(lambda first, stop: make(first, stop)[0], batch_size, _WINDOWS_AT_ONCE)

    def batches(step: int) -> Batch:
        ids = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
        return with_start(source, rows(step), ids)

    return Stream(
        batches=batches,
        window=config.window,
        vocab_size=source.vocab_size,
        categories=component_names(source),
        steps_per_epoch=None,
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


def _invert(probabilities: Floats, numbers: Floats) -> NDArray[np.int64]:
    """The outcome that each number of [0, 1) stands for: (N, K) rows of probabilities, (N,) numbers -> (N,)."""
    above = np.cumsum(probabilities[:, :-1], axis=1) <= numbers[:, None]
    return np.asarray(above.sum(1))


def _weights(weights: Floats | None, num: int) -> Floats:
    return np.full(num, 1 / num) if weights is None else np.asarray(weights, np.float64) / np.sum(weights)


def _dirichlet(config: MarkovData | HiddenMarkovData, purpose: str, rows: int, columns: int) -> Floats:
    draw = generator(config.tables_seed, purpose)
    return draw.dirichlet(np.full(columns, config.concentration), (config.num_components, rows))
