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
    "run": _File("a run", (frozenset({"model"}), frozenset({"train"})), "paribus train {}"),
    "eval": _File("evaluations", (frozenset({"evals"}),), "paribus eval MODEL {}"),
}


def refuse_other(file: Node, whole: Node, wanted: FileKind) -> Node:
    """The whole tree, overrides included; where the file is of another kind than is wanted, a broken one that says so."""
    found = next((kind for kind in _FILES.values() if _is(file, kind)), None)
    if found is None or _is(whole, _FILES[wanted]):
        return whole
    told = f"found {found.noun}, expected {_FILES[wanted].noun}: `{found.command.format(file.where.origin)}` takes it"
    return Node(Broken(told), file.where._replace(line=None))


def _is(root: Node, file: _File) -> bool:
    return any(keys <= root.entries.keys() for keys in file.keys)
