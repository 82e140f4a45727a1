"""The exact optimum of a synthetic source: h_t = H(X_t | X_<t), what a known component would give, and the posterior.

Prefixes that no component tells apart are one class: for coins the number of ones, for chains of two symbols the first
and last symbol and the transition counts, else every sequence. Expectations are sums over classes.

Dimension key: J classes of prefixes, C components, V symbols, L positions."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paribus.data.synthetic import Floats, Source, log

MAX_SEQUENCES = 2**16  # that are enumerated where nothing better is known
MAX_CLASSES = 2**20  # of all lengths together, two seconds: chains of two symbols have fewer up to windows of 145


class Optimum(NamedTuple):
    """Exact expectations, in nats."""

    loss: Floats  # (L,): h_t, t = 1 .. L: the loss of Bayes' predictor
    known: Floats  # (L,): sum_c w_c H(X_t | X_<t, C = c): its loss if it were told the component
    posterior: Floats  # (L + 1,): E[H(C | X_1 .. X_t)], t = 0 .. L

    @property
    def excess(self) -> Floats:
        """(L,): E_t = I(C; X_t | X_<t) >= 0; sums to posterior[0] - posterior[t] (the chain rule of information)."""
        return self.loss - self.known


class _Prefixes(NamedTuple):
    """All prefixes of one length, in classes."""

    log_count: Floats  # (J,): sequences in the class
    log_prob: Floats  # (J, C): of one such sequence under each component
    prediction: Floats  # (J, C, V): of the next symbol under each component


def optimum(source: Source, length: int) -> Optimum | None:
    """The exact optimum for windows of `length`; None where only sampling could tell."""
    classes = _classes(source, length)
    if classes is None:
        return None
    rows = [_expect(prefixes, log(source.weights), source.weights) for prefixes in classes]
    loss, known, posterior = np.array(rows).T
    return Optimum(loss[:-1], known[:-1], posterior)


def _expect(prefixes: _Prefixes, log_weights: Floats, weights: Floats) -> tuple[float, float, float]:
    """(h, known, posterior entropy) after prefixes of one length."""
    joint = prefixes.log_count[:, None] + prefixes.log_prob + log_weights
    total = np.logaddexp.reduce(joint, axis=1, keepdims=True)
    posterior = np.exp(joint - np.where(np.isfinite(total), total, 0))
    mass = np.exp(total[:, 0])
    mixed = np.einsum("jc,jcv->jv", posterior, prefixes.prediction)
    by_component = np.exp(prefixes.log_count[:, None] + prefixes.log_prob)
    known = float((weights * by_component * _entropy(prefixes.prediction)).sum())
    return float(mass @ _entropy(mixed)), known, float(mass @ _entropy(posterior))


def _entropy(probabilities: Floats) -> Floats:
    """-sum p ln p over the last axis."""
    safe = np.where(probabilities > 0, probabilities, 1)
    return np.asarray(-(probabilities * np.log(safe)).sum(-1))


def _classes(source: Source, length: int) -> Iterator[_Prefixes] | None:
    shows_state = (
        source.emission.shape[1] == source.num_symbols and (source.emission == np.eye(source.num_symbols)).all()
    )
    if source.emission.shape[1] == 1 and source.num_symbols == 2:
        return (_coin_prefixes(source, t) for t in range(length + 1))
    if shows_state and source.num_symbols == 2 and length * (length + 1) * (length + 2) // 3 <= MAX_CLASSES:
        return (_chain_prefixes(source, t) for t in range(length + 1))
    if source.num_symbols**length <= MAX_SEQUENCES:
        return (_all_prefixes(source, t) for t in range(length + 1))
    return None


def _coin_prefixes(source: Source, t: int) -> _Prefixes:
    ones = np.arange(t + 1)
    log_p = log(source.emission[:, 0])
    log_prob = _times(ones[:, None], log_p[:, 1]) + _times((t - ones)[:, None], log_p[:, 0])
    prediction = np.broadcast_to(source.emission[:, 0], (t + 1, *source.emission[:, 0].shape))
    return _Prefixes(_log_binomial(np.full(t + 1, t), ones), log_prob, prediction)


def _chain_prefixes(source: Source, t: int) -> _Prefixes:
    """Sequences of two symbols by first symbol f, switches k, and repeats of 0: the runs alternate, so the number of
    sequences is that of ways to share the repeats among the runs of each symbol."""
    if t == 0:
        return _Prefixes(np.zeros(1), np.zeros((1, source.num_components)), source.start[None])
    first, switches, repeats = (
        values.ravel() for values in np.meshgrid(np.arange(2), np.arange(t), np.arange(t), indexing="ij")
    )
    keep = switches + repeats < t
    first, switches, repeats = first[keep], switches[keep], repeats[keep]
    last = (first + switches) % 2
    runs_of_first, runs_of_other = switches // 2 + 1, (switches + 1) // 2
    runs = np.where(first == 0, runs_of_first, runs_of_other), np.where(first == 1, runs_of_first, runs_of_other)
    repeated = repeats, t - 1 - switches - repeats
    log_count = sum(_log_shares(repeated[symbol], runs[symbol]) for symbol in (0, 1))
    leaves = (switches + (first == 0)) // 2, (switches + (first == 1)) // 2  # switches away from 0 and from 1
    log_t = log(source.transition)
    log_prob = log(source.start)[:, first].T
    for symbol in (0, 1):
        log_prob = log_prob + _times(repeated[symbol][:, None], log_t[:, symbol, symbol])
        log_prob = log_prob + _times(leaves[symbol][:, None], log_t[:, symbol, 1 - symbol])
    return _Prefixes(np.asarray(log_count), log_prob, source.transition[:, last].transpose(1, 0, 2))


def _all_prefixes(source: Source, t: int) -> _Prefixes:
    symbols = np.array(list(product(range(source.num_symbols), repeat=t)), np.int64).reshape(source.num_symbols**t, t)
    belief = np.repeat(source.start[None], len(symbols), axis=0)  # (J, C, S), each component on its own
    log_prob = np.zeros((len(symbols), source.num_components))
    for column in range(t):
        came = belief * source.emission.transpose(2, 0, 1)[symbols[:, column]]
        total = came.sum(2)
        log_prob += log(total)
        belief = np.einsum("jcs,csr->jcr", came / np.where(total > 0, total, 1)[..., None], source.transition)
    return _Prefixes(np.zeros(len(symbols)), log_prob, np.einsum("jcs,csv->jcv", belief, source.emission))


def _times(count: NDArray[np.integer], log_p: Floats) -> Floats:
    """count * log p, where nothing happens no times: 0 * -inf = 0."""
    with np.errstate(invalid="ignore"):
        return np.where(count == 0, 0.0, count * log_p)


def _log_factorials(most: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def _log_binomial(n: NDArray[np.integer], k: NDArray[np.integer]) -> Floats:
    table = _log_factorials(int(np.max(n, initial=0)))
    return np.asarray(table[n] - table[k] - table[n - k])


def _log_shares(items: NDArray[np.integer], bins: NDArray[np.integer]) -> Floats:
    """ln of the number of ways to share items among bins, (items + bins - 1 choose bins - 1); no bin takes no item."""
    possible = (bins > 0) | (items == 0)
    n, k = np.maximum(items + bins - 1, 0), np.maximum(bins - 1, 0)
    return np.where(possible, _log_binomial(n, k), -np.inf)
