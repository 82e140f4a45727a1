"""Which file is which: what a verb says of a file that another verb takes."""

from typing import Literal, NamedTuple

from paribus.tree import Broken, Node

FileKind = Literal["study", "sweep", "corpus", "run", "eval"]


class _File(NamedTuple):
    noun: str
    keys: tuple[frozenset[str], ...]  # those that tell it from the others: all of one set
    command: str


_FILES: dict[FileKind, _File] = {
    "study": _File("a study", (frozenset({"sweeps"}),), "paribus study NAME {}"),
    "sweep": _File("a sweep", (frozenset({"base"}),), "paribus sweep {}"),
    "corpus": _File("a corpus", (frozenset({"store", "source"}), frozenset({"folder", "out"})), "paribus prepare {}"),
    "run": _File("a run", (frozenset({"model", "train"}),), "paribus train {}"),
    "eval": _File("evaluations", (frozenset({"evals"}),), "paribus eval MODEL {}"),
}


def refuse_other(root: Node, wanted: FileKind) -> Node:
    """The tree of a file, or a broken one that says what it is where another kind of file is wanted."""
    found = next((file for file in _FILES.values() if _is(root, file)), None)
    if found is None or _is(root, _FILES[wanted]):
        return root
    told = f"found {found.noun}, expected {_FILES[wanted].noun}: `{found.command.format(root.where.origin)}` takes it"
    return Node(Broken(told), root.where._replace(line=None))


def _is(root: Node, file: _File) -> bool:
    return any(keys <= root.entries.keys() for keys in file.keys)
