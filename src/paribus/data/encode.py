"""Documents to token ids, batch by batch, on several threads, in order."""

import contextlib
import os
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import local
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from paribus.data.corpus import Document
from paribus.data.duplicates import D, Judged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")
R = TypeVar("R")

_PARALLELISM = "TOKENIZERS_PARALLELISM"
BATCH_CHARS = 2**18  # long enough that handing it to a thread costs nothing, short enough that it stays in the cache


class Encoded(NamedTuple):
    """The tokens of some documents, end to end."""

    tokens: NDArray[np.uint32]
    lengths: NDArray[np.int64]  # tokens of each document
    num_bytes: NDArray[np.int64]  # UTF-8 bytes of each text


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def text_encoder(tokenizer: "Tokenizer") -> Callable[[Sequence[Document]], Encoded]:
    """A function from documents to their tokens that any thread may call; no special token is added.

    Threads, not processes: the library lets go of the interpreter while it works, and nothing needs to be pickled.
    Each thread has its own copy, since copies share no cache to wait for."""
    own, spare, description = local(), [tokenizer], tokenizer.to_str()

    def encode(documents: Sequence[Document]) -> Encoded:
        if not hasattr(own, "tokenizer"):
            try:
                own.tokenizer = spare.pop()
            except IndexError:
                own.tokenizer = type(tokenizer).from_str(description)
        encodings = own.tokenizer.encode_batch_fast([one.text for one in documents], add_special_tokens=False)
        tokens = array("I")  # four times as fast as numpy's own ways to read lists
        for encoding in encodings:
            tokens.fromlist(encoding.ids)
        lengths = np.array([len(encoding) for encoding in encodings], np.int64)
        num_bytes = np.array([len(one.content) for one in documents], np.int64)
        return Encoded(np.frombuffer(tokens, np.uint32), lengths, num_bytes)

    return encode


@contextlib.contextmanager
def one_thread_a_call() -> Iterator[None]:
    """Keep the library from spreading a call over threads of its own, beside ours.

    Then a thread asks for the interpreter once a batch, not once a text: it may wait five milliseconds each time."""
    before = os.environ.get(_PARALLELISM)
    os.environ[_PARALLELISM] = "false"  # read at every call
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PARALLELISM]
        else:
            os.environ[_PARALLELISM] = before


def encode_judged(
    encode: Callable[[Sequence[D]], Encoded], batch: Sequence[Judged[D]]
) -> tuple[Sequence[Judged[D]], Encoded]:
    """Encode the documents of a batch that are not left out; the others come back with no tokens."""
    is_kept = np.array([not judged.skip for judged in batch])
    lengths, num_bytes = np.zeros((2, len(batch)), np.int64)
    encoded = encode([judged.document for judged in batch if not judged.skip])
    lengths[is_kept], num_bytes[is_kept] = encoded.lengths, encoded.num_bytes
    return batch, Encoded(encoded.tokens, lengths, num_bytes)


def in_order(function: Callable[[T], R], items: Iterable[T], num_threads: int) -> Generator[R, None, None]:
    """`map` on several threads: results in order, and only a few items taken ahead of the one that is yielded."""
    if num_threads == 1:
        yield from map(function, items)
        return
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of items that together reach BATCH_CHARS."""
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item) + 1  # also empty items fill a batch
        if total >= BATCH_CHARS:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
