"""Texts that occur twice: within a split they are counted, across splits the copy in the earlier split is left out."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar


class Content(Protocol):
    """A document as far as duplicates are concerned."""

    @property
    def id(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def content(self) -> bytes:
        """What makes two documents equal."""

    @property
    def is_empty(self) -> bool: ...


D = TypeVar("D", bound=Content)
Twins = dict[bytes, tuple[int, str]]  # digest -> the last split that holds the text, and who it is there


class Judged(NamedTuple, Generic[D]):
    """A document, and whether it is left out."""

    document: D
    skip: Literal["", "empty", "duplicate"]
    twin: str  # of a duplicate: the document of a later split that holds the same text
    is_repeated: bool  # the same split holds the same text already


def twins(splits: Sequence[str], read: Callable[[str], Iterator[D]]) -> Twins:
    """The texts of every split but the first, which holds no held-out copy; 16 bytes are kept of each text.

    What max_documents_per_split or min_tokens will leave out counts too: held-out text is held out."""
    return {
        digest(document): (place, f"{split} {document.id!r}")
        for place, split in enumerate(splits)
        if place > 0
        for document in read(split)
        if not document.is_empty
    }


def judge(documents: Iterable[D], place: int, held_out: Twins) -> Iterator[Judged[D]]:
    """Say of each document of the split at `place` whether it is empty, or in a later split as well."""
    seen: set[bytes] = set()
    for document in documents:
        if document.is_empty:
            yield Judged(document, "empty", "", False)
            continue
        key = digest(document)
        later, twin = held_out.get(key, (0, ""))
        yield Judged(document, "duplicate" if later > place else "", twin, key in seen)
        seen.add(key)


def digest(document: Content) -> bytes:
    """128 bits of BLAKE2b: two texts among 1e9 share one with probability 1e-21."""
    return hashlib.blake2b(document.content, digest_size=16).digest()
